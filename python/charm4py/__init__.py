"""charm4py's programming model on the engine of charm4rs.

A program is many objects, *chares*, that live on processing elements (PEs), call each other's methods asynchronously through
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
# Every process has their chares, wherever a program imports them.
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
