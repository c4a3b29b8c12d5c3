"""Ray's core API on charm4py: remote functions, actors, and objects that PEs pass by reference.

    from charm4py import charm, ray

    @ray.remote
    def add(a, b):
        return a + b

    @ray.remote
    class Counter:
        def __init__(self):
            self.count = 0
        def increment(self):
            self.count += 1
            return self.count

    def main(args):
        ray.init()
        counter = Counter.remote()
        print(ray.get(add.remote(counter.increment.remote(), 41)))
        exit()

    charm.start(main)
"""

from .api import free, get, get_object_store, init, is_initialized, put, remote, shutdown, wait
from .refs import GetTimeoutError, ObjectRef

__all__ = [
    "GetTimeoutError",
    "ObjectRef",
    "free",
    "get",
    "get_object_store",
    "init",
    "is_initialized",
    "put",
    "remote",
    "shutdown",
    "wait",
]
