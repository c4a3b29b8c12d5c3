"""Chares, and how they are made: single ones, groups, arrays."""

from __future__ import annotations

import functools
import inspect
import zlib
from typing import TYPE_CHECKING, Any, Callable, Iterable, Sequence, TypeVar

from . import _engine, functions, sections, threads
from .entry_method import row
from .errors import Charm4PyError
from .hooks import NobodysAnswer
from .threads import Future
from .wait import wait

C = TypeVar("C")

#: The number of each class in the engine's table.
numbers: dict[type, int] = {}
#: How many classes there have been of each name.
names: dict[str, int] = {}
#: The collections that this PE has made, and what becomes ready when all of their chares are there, if that was asked.
made: dict[Any, Future[None] | None] = {}
#: Classes that have not been registered yet, in the order of their definition.
defined: list[type] = []


class ChareType(type):
    """The class of chare classes: notes each of them, and makes single chares of a call of ``Chare`` itself."""

    #: Whether classes are registered as they are defined: the program has started.
    started = False

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> None:
        super().__init__(name, bases, namespace, **options)
        if name != "Chare" or cls.__module__ != __name__:
            if hasattr(namespace.get("__init__"), "_charm_coro"):
                let_constructor_wait(cls)
            defined.append(cls)
            if ChareType.started:
                register_defined()

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is Chare:
            return single(*args, **kwargs)
        raise TypeError(f"chares are made by Chare(), Group() and Array(), not by calling {cls.__name__}")


def let_constructor_wait(cls: type) -> None:
    """Makes a coroutine of ``__init__``. The chare is there, and takes calls, when it waits for the first time."""
    function: Callable[..., None] = cls.__init__  # type: ignore[misc]

    @functools.wraps(function)
    def __init__(self: Chare, *args: Any, **kwargs: Any) -> None:
        if threads.can_wait():  # called by the constructor of a class derived from this one
            function(self, *args, **kwargs)
        else:
            index = list(self.thisIndex) if isinstance(self.thisIndex, tuple) else [self.thisIndex]
            place = f"{type(self).__name__}.__init__, index {index}"
            threads.start(self, function, (self, *args), kwargs, NobodysAnswer(place))

    cls.__init__ = __init__  # type: ignore[misc]


def register(cls: type) -> type:
    """Registers a class of chares. All are, wherever they are defined: this is for programs that say so."""
    return cls


def register_defined() -> None:
    """Registers what has been defined since the last time."""
    new = sorted(defined, key=lambda cls: (cls.__module__, cls.__qualname__))
    defined.clear()
    for cls in new:
        # Those that are defined while the program runs may be in another order on other PEs: their names number them, and
        # how often there were such names.
        name = f"{cls.__module__}.{cls.__qualname__}"
        names[name] = names.get(name, 0) + 1
        name += f" {names[name]}"
        late = zlib.crc32(name.encode()) & 0x7FFFFFFF if ChareType.started else None
        numbers[cls] = _engine.register(cls, cls.__name__, rows(cls), late)


def defined_by(module: str) -> bool:
    """Whether a module has defined classes of chares that are not registered yet."""
    return any(cls.__module__ == module for cls in defined)


def rows(cls: type) -> list[tuple[str, Any, bool, int, int]]:
    """The entry methods of a class, inherited ones too."""
    found = []
    for name in sorted(dir(cls)):
        if name in OWN or name.startswith("__"):
            continue
        entry = row(name, inspect.getattr_static(cls, name))
        if entry is not None:
            found.append(entry)
    return found


def number(cls: type) -> int:
    """The engine's number of a class of chares."""
    if cls not in numbers:
        if not (isinstance(cls, type) and issubclass(cls, Chare)):
            raise TypeError(f"{cls!r} is not a class of chares: derive it from Chare")
        raise RuntimeError("chares are made after charm.start()")
    return numbers[cls]


class Chare(_engine.ChareBase, metaclass=ChareType):
    """An object that lives on a PE and is called through proxies. Derive from it.

    Every method is an entry method, but those whose names begin with two underscores and the ones defined here.
    ``Chare(cls, args=[], onPE=-1)`` makes a single chare and gives its proxy.
    """

    #: Whether the chare may be migrated.
    migratable = True

    if TYPE_CHECKING:

        # What the metaclass's call gives: proxies.
        def __new__(cls, *args: Any, **kwargs: Any) -> Any: ...

    def wait(self, condition: str) -> None:
        """Waits until an expression over ``self`` and the caller's globals and locals holds."""
        frame = inspect.currentframe()
        assert frame is not None and frame.f_back is not None
        wait(self, condition, frame.f_back)

    def _present(self) -> Any:
        """Called to learn that the chare is there, and who it is."""
        return self.thisIndex

    def _sections_by(self, section_func: bytes) -> tuple[Any, list[int]]:
        """Called to learn in which sections the chare is to be."""
        return self.thisIndex, sections.numbers(functions.loads(section_func)(self))

    def _channel(self, key: Any, number: int, turn: int, *args: Any) -> None:
        from .channel import arrived

        arrived(self, key, number, turn, args)

    def AtSync(self) -> None:
        """Says that the chare can be migrated now. Nothing migrates yet: it goes on at once."""
        resume = getattr(self, "resumeFromSync", None)
        if resume is not None:
            _engine.call_soon(resume)

    def setMigratable(self, migratable: bool) -> None:
        """Says whether the chare may be migrated."""
        self.migratable = bool(migratable)

    def migrate(self, toPe: int) -> None:
        """Moves the chare to another PE. Not there yet."""
        raise NotImplementedError("chares cannot migrate yet")

    def migrated(self) -> None:
        """Called after a migration, for chares to override."""


#: The runtime's own names: no entry methods, except those that it calls itself.
OWN = frozenset(name for name in dir(Chare) if name not in {"_channel", "_present", "_sections_by"})


def arguments(args: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(args)


def single(cls: type[C], args: Sequence[Any] = (), onPE: int = -1) -> _engine.ElementProxy[C]:
    """A single chare; on the PE whose turn it is, unless ``onPE`` says which."""
    return _engine.single(number(cls), arguments(args), onPE)


def Group(cls: type[C], args: Sequence[Any] = (), onPEs: Iterable[int] | None = None) -> _engine.CollectionProxy[C]:
    """One chare on every PE; on those of ``onPEs``, if given. Gives the proxy of all."""
    pes = None if onPEs is None else list(onPEs)
    return noted(_engine.group(number(cls), arguments(args), pes, issubclass(cls, ArrayMap)))


def Array(
    cls: type[C],
    dims: int | Sequence[int] | None = None,
    ndims: int = -1,
    args: Sequence[Any] = (),
    map: Any = None,
    useAtSync: bool = False,
) -> _engine.CollectionProxy[C]:
    """Chares with indices below ``dims``; none, to be inserted, if only their number of dimensions is given.

    Gives the proxy of all. ``map`` is a group of :class:`ArrayMap`.
    """
    if dims is None and ndims < 1:
        raise TypeError("an array needs dims, or ndims if its elements are to be inserted")
    extent = dims if dims is None or hasattr(dims, "__index__") else tuple(dims)
    return noted(_engine.array(number(cls), extent, arguments(args), map))


def noted(collection: _engine.CollectionProxy[C]) -> _engine.CollectionProxy[C]:
    made[collection] = None
    return collection


def creation(proxy: Any) -> Future[None]:
    """What becomes ready when a chare is there; of a collection that this PE has made, when all of its chares are."""
    if proxy._index is not None:
        present: Future[None] = proxy._present(awaitable=True)
        return present
    if proxy not in made:
        raise Charm4PyError("charm.awaitCreation() waits for collections that this PE has made")
    future = made[proxy]
    if future is None:
        future = made[proxy] = Future()
        _engine.created(proxy, future.send)
    return future


class ArrayMap(Chare):
    """Says where the elements of an array are made: derive from it, and make a group of it."""

    def procNum(self, index: Any) -> int:
        """The PE for an index, which is a tuple."""
        raise NotImplementedError
