"""Chares, and how they are made: single ones, groups, arrays."""

from __future__ import annotations

import functools
import inspect
import typing
import zlib
from typing import TYPE_CHECKING, Any, Callable, Coroutine, Iterable, Sequence, TypeVar, overload

from . import _engine, functions, sections, threads
from .channel import arrived
from .entry_method import is_method, meant, row
from .errors import Charm4PyError
from .ending import UnawaitedAnswer, keep_module
from .program import registered
from .threads import Future
from .wait import wait

if TYPE_CHECKING:
    from typing_extensions import Self

C = TypeVar("C")

#: The number of each class in the engine's table.
numbers: dict[type, int] = {}
#: How many classes there have been of each name.
names: dict[str, int] = {}
#: Numbers from here on are of classes that were defined while the program runs (src/classes.rs).
LATE = 1 << 31
#: Classes that have not been registered yet, in the order of their definition.
defined: list[type] = []

#: Whether classes are registered as they are defined: the program has started.
registers_at_once = False


def start_registering() -> None:
    """Registers what the program has defined, and from now on each class as it is defined."""
    global registers_at_once
    register_defined()
    registers_at_once = True


#: The class of the entry point, if it is one: its constructor is the program, and calls do not wait for it.
program: list[type] = []


class Creation(UnawaitedAnswer):
    """Of a constructor that is a coroutine: the chare is there when it has ended, and calls wait for that."""

    def __init__(self, chare: Chare, place: str) -> None:
        super().__init__(place)
        self.chare = chare

    def value(self, value: Any) -> None:
        _engine.construction_ends(self.chare)

    def opens(self) -> None:
        """It waits for a condition of the chare, which calls make true."""
        _engine.construction_ends(self.chare, True)


def is_coroutine(function: Any) -> bool:
    return hasattr(function, "_charm_coro") or inspect.iscoroutinefunction(function)


def waits_in_constructor(cls: type) -> bool:
    return any(is_coroutine(base.__dict__.get("__init__")) for base in origin(cls).__mro__)


def let_constructor_wait(cls: type) -> None:
    """Makes a coroutine of ``__init__``. Calls of the chare wait until it has ended."""
    function: Callable[..., Any] = cls.__init__  # type: ignore[misc]
    is_async = inspect.iscoroutinefunction(function)

    @functools.wraps(function)
    def __init__(self: Chare, *args: Any, **kwargs: Any) -> Any:
        is_unit = _engine.unit_of(self) is not None
        if not _engine.construction_begins(self) and (is_async or is_unit or threads.can_wait()):
            return function(self, *args, **kwargs)  # called by the constructor of a class derived from this one
        if is_unit:
            return construct_unit(self, function(self, *args, **kwargs))
        index = list(self.thisIndex) if isinstance(self.thisIndex, tuple) else [self.thisIndex]
        creation = Creation(self, f"{type(self).__name__}.__init__, index {index}")
        if type(self) in program:
            creation.opens()
        if is_async:
            threads.run_async(self, function(self, *args, **kwargs), creation)
        else:
            threads.start(self, function, (self, *args), kwargs, creation)
        return None

    __init__._charm_coro = True  # type: ignore[attr-defined]
    cls.__init__ = __init__  # type: ignore[misc]


def construct_unit(chare: Chare, made: Any) -> None:
    """Ends the constructor of a chare that is no part of a job."""
    if inspect.iscoroutine(made):
        finish(made)
    _engine.construction_ends(chare)


def finish(constructor: Coroutine[Any, Any, Any]) -> None:
    """Runs an ``async def __init__`` to its end, without a job."""
    try:
        constructor.send(None)
    except StopIteration:
        return
    raise RuntimeError("a constructor that waits needs a job: charm4py.testing.run")


def register(cls: type) -> type:
    """Registers a class of chares. All are, wherever they are defined: this is for programs that say so."""
    return cls


def register_defined() -> None:
    """Registers what has been defined since the last time."""
    note_unseen(Chare)
    new = sorted(defined, key=lambda cls: (cls.__module__, cls.__qualname__))
    defined.clear()
    for cls in new:
        # Those that are defined while the program runs may be in another order on other PEs: their names number them, and
        # how often there were such names.
        name = f"{cls.__module__}.{cls.__qualname__}"
        names[name] = names.get(name, 0) + 1
        table = rows(cls)
        if not registers_at_once:
            registered[name if names[name] == 1 else f"{name} (number {names[name]})"] = table
        late = zlib.crc32(f"{name} {names[name]}".encode()) & 0x7FFFFFFF if registers_at_once else None
        numbers[cls] = _engine.register(cls, cls.__name__, table, late)
        for base in cls.__mro__:
            keep_module(base.__module__)


def note_unseen(cls: type) -> None:
    """Notes classes whose bases keep ``__init_subclass__`` from being passed on to :class:`Chare`."""
    derived: type
    for derived in type.__subclasses__(cls):
        if derived not in numbers and derived not in defined:
            note(derived)
        note_unseen(derived)


def note(cls: type) -> None:
    """A class of chares has been defined."""
    if is_coroutine(cls.__dict__.get("__init__")):
        let_constructor_wait(cls)
    defined.append(cls)


def defined_by(module: str) -> bool:
    """Whether a module has defined classes of chares that are not registered yet."""
    return any(cls.__module__ == module for cls in defined)


def rows(cls: type) -> list[tuple[str, Any, bool, int, int]]:
    """The entry methods of a class, inherited ones too, and those that the runtime calls itself."""
    found = [row(name, inspect.getattr_static(cls, name)) for name in (*entry_names(cls), *sorted(CALLED))]
    return [entry for entry in found if entry is not None]


def entry_names(cls: type) -> list[str]:
    """The names of a class's entry methods."""
    names = (name for name in sorted(dir(cls)) if name not in OWN and not name.startswith("__"))
    return [name for name in names if is_method(inspect.getattr_static(cls, name))]


def class_numbered(number: int) -> type | None:
    """The class of this number, on any thread."""
    return next((cls for cls, own in list(numbers.items()) if own == number), None)


def names_of(number: int) -> list[str]:
    """The names of the entry methods of the class of this number; for ``dir(proxy)``, on any thread."""
    cls = class_numbered(number)
    return [] if cls is None else entry_names(cls)


def no_method(cls: type, name: str) -> str:
    """What is said of a name that a proxy does not have."""
    if name in OWN:
        return f"{cls.__name__}.{name} is the runtime's, and no entry method: it is called on the chare itself"
    if inspect.getattr_static(cls, name, None) is not None:
        return f"{cls.__name__}.{name} is no method, so that proxies do not have it"
    return f"{cls.__name__} has no entry method {name}" + ("" if name.startswith("__") else meant(name, entry_names(cls)))


def number(cls: Any, pe: int = -1) -> int:
    """The engine's number of a class of chares that are to be made on all PEs, or on one."""
    found = numbers.get(cls)
    if found is None or found >= LATE or cls.__flags__ & ABSTRACT:
        return number_of_another(cls, pe)
    return found


def number_of_another(cls: Any, pe: int) -> int:
    """The number of what is not simply a class that can be made: ``Cell[int]``, or one that has not been noted."""
    made = origin(cls)
    if not (isinstance(made, type) and issubclass(made, Chare)):
        raise TypeError(f"{cls!r} is not a class of chares: derive it from Chare")
    if made.__flags__ & ABSTRACT:
        missing = ", ".join(sorted(getattr(made, "__abstractmethods__", ())))
        raise TypeError(f"chares of {made.__qualname__} cannot be made: it is abstract, and lacks {missing}")
    if not registers_at_once:
        raise RuntimeError("chares are made after charm.start()")
    if made not in numbers:
        register_defined()
    found = numbers[made]
    own, pes = _engine.place()[:2]
    if found >= LATE and "<locals>" in made.__qualname__ and pes > 1 and pe != own:
        where = "is defined inside of a function, so other PEs do not know it: define it at its module's level"
        raise Charm4PyError(f"{made.__qualname__} {where}")
    return found


def origin(cls: Any) -> Any:
    """The class of ``Cell[int]``, or the class itself."""
    return typing.get_origin(cls) or cls


class Chare(_engine.ChareBase):
    """An object that lives on a PE and is called through proxies. Derive from it.

    Every method is an entry method, but those whose names begin with two underscores and the ones defined here.
    ``Chare(cls, args=[], onPE=-1)`` makes a single chare and gives its proxy.
    """

    # What the runtime keeps of a chare: where a program's attributes cannot meet it, whatever their names are.
    __slots__ = ("__charm_channels__", "__charm_ends__", "__charm_held__", "__charm_rechecking__")
    __charm_held__: list[tuple[Callable[[], bool], Callable[[], None]]]
    __charm_rechecking__: bool

    #: Whether the chare may be migrated.
    migratable = True

    @overload
    def __new__(cls, made: type[C], /, args: Sequence[Any] = (), onPE: int = -1) -> _engine.ElementProxy[C]: ...  # type: ignore[misc]

    @overload
    def __new__(cls, *args: Any, **kwargs: Any) -> Self: ...

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """A single chare's proxy, of a call of ``Chare`` itself."""
        return single(*args, **kwargs) if cls is Chare else _engine.ChareBase.__new__(cls)

    # No metaclass does this: then a class that has one (abstract classes, protocols) can be a chare's class, too.
    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        note(cls)
        if registers_at_once:
            register_defined()

    def wait(self, condition: str) -> None:
        """Waits until an expression over ``self`` and the caller's globals and locals holds."""
        frame = inspect.currentframe()
        assert frame is not None and frame.f_back is not None
        wait(self, condition, frame.f_back)

    def __charm_present__(self) -> Any:
        """Called to learn that the chare is there, and who it is."""
        return self.thisIndex

    def __charm_sections__(self, section_func: bytes) -> tuple[Any, list[int]]:
        """Called to learn in which sections the chare is to be."""
        return self.thisIndex, sections.numbers(functions.loads(section_func)(self))

    def __charm_channel__(self, key: Any, number: int, turn: int, *args: Any) -> None:
        arrived(self, key, number, turn, args)

    def AtSync(self) -> None:
        """Says that the chare can be migrated now. Nothing migrates yet: it goes on at once."""
        unit = _engine.unit_of(self)
        if unit is not None:
            return unit.calls_itself("AtSync")  # type: ignore[no-any-return]
        resume = getattr(self, "resumeFromSync", None)
        if resume is not None:
            _engine.call_soon(resume)

    def setMigratable(self, migratable: bool) -> None:
        """Says whether the chare may be migrated."""
        self.migratable = bool(migratable)

    def migrate(self, toPe: int) -> None:
        """Moves the chare to another PE. Not there yet."""
        unit = _engine.unit_of(self)
        if unit is not None:
            return unit.calls_itself("migrate", toPe)  # type: ignore[no-any-return]
        raise NotImplementedError("chares cannot migrate yet")

    def migrated(self) -> None:
        """Called after a migration, for chares to override."""


#: What the runtime calls by messages.
CALLED = frozenset({"__charm_channel__", "__charm_present__", "__charm_sections__"})
#: The runtime's own names: no entry methods.
OWN = frozenset(dir(Chare)) - CALLED
#: A flag of classes that lack methods.
ABSTRACT = 1 << 20


def arguments(args: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(args)


def single(cls: type[C], args: Sequence[Any] = (), onPE: int = -1) -> _engine.ElementProxy[C]:
    """A single chare; on the PE whose turn it is, unless ``onPE`` says which."""
    return _engine.single(number(cls, onPE), arguments(args), onPE)


def Group(cls: type[C], args: Sequence[Any] = (), onPEs: Iterable[int] | None = None) -> _engine.CollectionProxy[C]:
    """One chare on every PE; on those of ``onPEs``, if given. Gives the proxy of all."""
    pes = None if onPEs is None else list(onPEs)
    return noted(cls, _engine.group(number(cls), arguments(args), pes, issubclass(origin(cls), ArrayMap)))


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
    return noted(cls, _engine.array(number(cls), extent, arguments(args), map))


class Made:
    """A collection that this PE has made: whether its constructors wait, and what becomes ready when all of its chares are there."""

    __slots__ = "present", "slowly"

    def __init__(self, slowly: bool) -> None:
        self.slowly = slowly
        self.present: Future[None] | None = None


def noted(cls: type[C], collection: _engine.CollectionProxy[C]) -> _engine.CollectionProxy[C]:
    _engine.note(collection, Made(waits_in_constructor(cls)))
    return collection


def creation(proxy: Any) -> Future[None]:
    """What becomes ready when a chare is there; of a collection that this PE has made, when all of its chares are."""
    if _engine.index(proxy) is not None:
        present: Future[None] = proxy.__charm_present__(awaitable=True)
        return present
    made: Made | None = _engine.noted(proxy)
    if made is None:
        raise Charm4PyError("charm.awaitCreation() waits for collections that this PE has made")
    future = made.present
    if future is None:
        future = made.present = Future()
        if made.slowly:
            # This question waits for the constructors.
            _engine.created(proxy, lambda: proxy.__charm_present__(awaitable=True)._when_ready(lambda _: future.send()))
        else:
            _engine.created(proxy, future.send)
    return future


class ArrayMap(Chare):
    """Says where the elements of an array are made: derive from it, and make a group of it."""

    def procNum(self, index: Any) -> int:
        """The PE for an index, which is a tuple."""
        raise NotImplementedError
