"""Chares, and how they are created: single chares, groups, arrays."""

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
#: How many classes each name has had.
names: dict[str, int] = {}
#: The numbers of classes that are defined while the program runs begin here (src/classes.rs).
LATE = 1 << 31
#: Classes that are not registered yet, in the order of their definition.
defined: list[type] = []

#: Whether a class is registered when it is defined: the program has started.
registers_at_once = False


def start_registering() -> None:
    """Registers what the program has defined, and from now on each class as it is defined."""
    global registers_at_once
    register_defined()
    registers_at_once = True


#: The class of the entry point, if it is a class: its constructor is the program, so calls do not wait for the constructor.
program: list[type] = []


class Creation(UnawaitedAnswer):
    """Ends a constructor that is a coroutine: calls of the chare wait until then."""

    def __init__(self, chare: Chare, place: str) -> None:
        super().__init__(place)
        self.chare = chare

    def value(self, value: Any) -> None:
        _engine.construction_ends(self.chare)

    def opens(self) -> None:
        """The constructor waits for a condition of the chare: calls must pass, since only they can make it true."""
        _engine.construction_ends(self.chare, True)


def is_coroutine(function: Any) -> bool:
    return hasattr(function, "_charm_coro") or inspect.iscoroutinefunction(function)


def waits_in_constructor(cls: type) -> bool:
    return any(is_coroutine(base.__dict__.get("__init__")) for base in origin(cls).__mro__)


def let_constructor_wait(cls: type) -> None:
    """Makes ``__init__`` a coroutine. Calls of the chare wait until it has ended."""
    function: Callable[..., Any] = cls.__init__  # type: ignore[misc]
    is_async = inspect.iscoroutinefunction(function)

    @functools.wraps(function)
    def __init__(self: Chare, *args: Any, **kwargs: Any) -> Any:
        is_unit = _engine.unit_of(self) is not None
        if not _engine.construction_begins(self) and (is_async or is_unit or threads.can_wait()):
            return function(self, *args, **kwargs)  # the constructor of a derived class calls it
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
    """Ends the constructor of a chare of a unit test."""
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
    """Accepted without effect: every class of chares is registered when it is defined."""
    return cls


def register_defined() -> None:
    """Registers the classes that were defined since the last call."""
    note_unseen(Chare)
    new = sorted(defined, key=lambda cls: (cls.__module__, cls.__qualname__))
    defined.clear()
    for cls in new:
        # PEs may define classes in different orders while the program runs. The number of such a class follows from its name, and from how
        # many classes have had that name.
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
    """Notes classes for which a base has not passed ``__init_subclass__`` on to :class:`Chare`."""
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
    """Whether a module has defined classes of chares that are not yet registered."""
    return any(cls.__module__ == module for cls in defined)


def rows(cls: type) -> list[tuple[str, Any, bool, int, int]]:
    """The entry methods of a class with inherited ones, and the methods that the runtime calls."""
    found = [row(name, inspect.getattr_static(cls, name)) for name in (*entry_names(cls), *sorted(CALLED))]
    return [entry for entry in found if entry is not None]


def entry_names(cls: type) -> list[str]:
    """The names of a class's entry methods."""
    names = (name for name in sorted(dir(cls)) if name not in OWN and not name.startswith("__"))
    return [name for name in names if is_method(inspect.getattr_static(cls, name))]


def class_numbered(number: int) -> type | None:
    """The class with this number; on any thread."""
    return next((cls for cls, own in list(numbers.items()) if own == number), None)


def names_of(number: int) -> list[str]:
    """The names of the entry methods of the class with this number, for ``dir(proxy)``; on any thread."""
    cls = class_numbered(number)
    return [] if cls is None else entry_names(cls)


def no_method(cls: type, name: str) -> str:
    """The error text for a name that a proxy does not have."""
    if name in OWN:
        return f"{cls.__name__}.{name} is a method of the runtime, not an entry method: call it on the chare itself"
    if inspect.getattr_static(cls, name, None) is not None:
        return f"{cls.__name__}.{name} is not a method, so proxies do not have it"
    return f"{cls.__name__} has no entry method {name}" + ("" if name.startswith("__") else meant(name, entry_names(cls)))


def number(cls: Any, pe: int = -1) -> int:
    """The engine's number of a class, for chares on all PEs or on one."""
    found = numbers.get(cls)
    if found is None or found >= LATE or cls.__flags__ & ABSTRACT:
        return number_of_another(cls, pe)
    return found


def number_of_another(cls: Any, pe: int) -> int:
    """The number of a class in a less common form: ``Cell[int]``, or a class that is not registered. Raises if it can have no chares."""
    made = origin(cls)
    if not (isinstance(made, type) and issubclass(made, Chare)):
        raise TypeError(f"{cls!r} is not a class of chares: derive it from Chare")
    if made.__flags__ & ABSTRACT:
        missing = ", ".join(sorted(getattr(made, "__abstractmethods__", ())))
        raise TypeError(f"chares of {made.__qualname__} cannot be created: the class is abstract and lacks {missing}")
    if not registers_at_once:
        raise RuntimeError("chares can be created only after charm.start()")
    if made not in numbers:
        register_defined()
    found = numbers[made]
    own, pes = _engine.place()[:2]
    if found >= LATE and "<locals>" in made.__qualname__ and pes > 1 and pe != own:
        where = "is defined inside a function, so other PEs do not know it: define it at module level"
        raise Charm4PyError(f"{made.__qualname__} {where}")
    return found


def origin(cls: Any) -> Any:
    """The class of ``Cell[int]``, or the class itself."""
    return typing.get_origin(cls) or cls


class Chare(_engine.ChareBase):
    """The base class of chares: objects that live on a PE and are called through proxies.

    Every method of a derived class is an entry method, except the methods defined here and those whose names begin with two underscores.
    ``Chare(cls, args=[], onPE=-1)`` creates a single chare and returns its proxy.
    """

    # What the runtime keeps in a chare. Slots cannot collide with the program's attributes.
    __slots__ = ("__charm_channels__", "__charm_ends__", "__charm_held__", "__charm_rechecking__")
    __charm_held__: list[tuple[Callable[[], bool], Callable[[], None]]]
    __charm_rechecking__: bool

    #: Whether the chare may migrate.
    migratable = True

    @overload
    def __new__(cls, made: type[C], /, args: Sequence[Any] = (), onPE: int = -1) -> _engine.ElementProxy[C]: ...  # type: ignore[misc]

    @overload
    def __new__(cls, *args: Any, **kwargs: Any) -> Self: ...

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """The proxy of a single chare, if ``Chare`` itself is called."""
        return single(*args, **kwargs) if cls is Chare else _engine.ChareBase.__new__(cls)

    # Without a metaclass, so that a class with another metaclass (an abstract class, a protocol) can be a class of chares too.
    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        note(cls)
        if registers_at_once:
            register_defined()

    def wait(self, condition: str) -> None:
        """Waits until an expression is true. It may use ``self``, and the caller's globals and locals."""
        frame = inspect.currentframe()
        assert frame is not None and frame.f_back is not None
        wait(self, condition, frame.f_back)

    def __charm_present__(self) -> Any:
        """The runtime calls this to learn that the chare exists, and its index."""
        return self.thisIndex

    def __charm_sections__(self, section_func: bytes) -> tuple[Any, list[int]]:
        """The runtime calls this to learn the sections of the chare."""
        return self.thisIndex, sections.numbers(functions.loads(section_func)(self))

    def __charm_channel__(self, key: Any, number: int, turn: int, *args: Any) -> None:
        arrived(self, key, number, turn, args)

    def AtSync(self) -> None:
        """Says that the chare can migrate now. Migration is not implemented: ``resumeFromSync`` is called at once."""
        unit = _engine.unit_of(self)
        if unit is not None:
            return unit.calls_itself("AtSync")  # type: ignore[no-any-return]
        resume = getattr(self, "resumeFromSync", None)
        if resume is not None:
            _engine.call_soon(resume)

    def setMigratable(self, migratable: bool) -> None:
        """Sets whether the chare may migrate."""
        self.migratable = bool(migratable)

    def migrate(self, toPe: int) -> None:
        """Moves the chare to another PE. Not implemented yet."""
        unit = _engine.unit_of(self)
        if unit is not None:
            return unit.calls_itself("migrate", toPe)  # type: ignore[no-any-return]
        raise NotImplementedError("chares cannot migrate yet")

    def migrated(self) -> None:
        """Called after a migration. Override it."""


#: Methods that the runtime calls by messages.
CALLED = frozenset({"__charm_channel__", "__charm_present__", "__charm_sections__"})
#: The runtime's own names, which are no entry methods.
OWN = frozenset(dir(Chare)) - CALLED
#: The flag of abstract classes (``Py_TPFLAGS_IS_ABSTRACT``).
ABSTRACT = 1 << 20


def arguments(args: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(args)


def single(cls: type[C], args: Sequence[Any] = (), onPE: int = -1) -> _engine.ElementProxy[C]:
    """Creates a single chare, on ``onPE`` or, if that is negative, on the next PE round-robin."""
    return _engine.single(number(cls, onPE), arguments(args), onPE)


def Group(cls: type[C], args: Sequence[Any] = (), onPEs: Iterable[int] | None = None) -> _engine.CollectionProxy[C]:
    """Creates a group: one chare on every PE, or on each of ``onPEs``. Returns the proxy of all.

    ``group[pe]`` is the proxy of one element.
    """
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
    """Creates an array of chares with indices below ``dims``. With ``ndims`` instead, it is empty, and ``ckInsert`` adds elements.

    Returns the proxy of all; ``array[i]`` or ``array[i, j]`` is the proxy of one element. ``map``, a group of :class:`ArrayMap`, says on which PE
    each element is created.
    """
    if dims is None and ndims < 1:
        raise TypeError("an array needs dims, or ndims if elements are inserted later")
    extent = dims if dims is None or hasattr(dims, "__index__") else tuple(dims)
    return noted(cls, _engine.array(number(cls), extent, arguments(args), map))


class Made:
    """A collection that this PE has created: whether its constructors may wait, and a future that is ready when all its chares exist."""

    __slots__ = "present", "slowly"

    def __init__(self, slowly: bool) -> None:
        self.slowly = slowly
        self.present: Future[None] | None = None


def noted(cls: type[C], collection: _engine.CollectionProxy[C]) -> _engine.CollectionProxy[C]:
    _engine.note(collection, Made(waits_in_constructor(cls)))
    return collection


def creation(proxy: Any) -> Future[None]:
    """A future that is ready when a chare exists; for a collection that this PE has created, when all its chares do."""
    if _engine.index(proxy) is not None:
        present: Future[None] = proxy.__charm_present__(awaitable=True)
        return present
    made: Made | None = _engine.noted(proxy)
    if made is None:
        raise Charm4PyError("charm.awaitCreation() waits for collections that this PE has created")
    future = made.present
    if future is None:
        future = made.present = Future()
        if made.slowly:
            # This call waits for the constructors.
            _engine.created(proxy, lambda: proxy.__charm_present__(awaitable=True)._when_ready(lambda _: future.send()))
        else:
            _engine.created(proxy, future.send)
    return future


class ArrayMap(Chare):
    """Says on which PE each element of an array is created. Derive from it, create a group of it, and pass that as ``map``."""

    def procNum(self, index: Any) -> int:
        """The PE for an index. The index is a tuple."""
        raise NotImplementedError
