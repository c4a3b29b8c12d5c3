"""charm4py's programming model on the engine of charm4rs.

A program consists of many objects, *chares*, on processing elements (PEs). They call each other's methods asynchronously through
proxies, wait for futures, and contribute to reductions::

    from charm4py import charm, Chare, Group

    class Hello(Chare):
        def greet(self, whom):
            print("hello", whom, "from PE", charm.myPe())

    def main(args):
        hello = Group(Hello)
        hello.greet("world", awaitable=True).get()
        exit()

    charm.start(main)

Run it with ``charmrun +p4 hello.py``.
"""

from ._engine import CollectionProxy, ElementProxy, Method, Proxy  # noqa: F401  # `Method` is for annotations
from .chare import Array, ArrayMap, Chare, Group, register
from .channel import Channel
from .charm import charm, charm4py_version
from .entry_method import coro, coro_ext, when
from .object_store import ObjectStore
from .options import Options
from .reduction import Reducer
from .runtime import readonlies
from .threads import Future
# help() on proxies.
from . import proxy_help  # noqa: F401
# They define chares, which every process must know even if a program imports them later.
from . import liveviz, ray  # noqa: F401

threaded = coro
__version__ = charm4py_version

__all__ = [
    "Array",
    "ArrayMap",
    "Channel",
    "Chare",
    "CollectionProxy",
    "ElementProxy",
    "Future",
    "Group",
    "ObjectStore",
    "Options",
    "Proxy",
    "Reducer",
    "charm",
    "charm4py_version",
    "coro",
    "coro_ext",
    "readonlies",
    "register",
    "threaded",
    "when",
]
