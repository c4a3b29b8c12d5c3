"""Chares for unit tests, without a job: their methods are called like those of other objects, and what they send is kept for the test.

::

    def test_a_cell_tells_its_neighbour():
        cell = unit(Cell, 10, index=(2,))
        cell.step(0.5)
        assert sent(cell) == [Call(Cell, (3,), "edge", (9.5,))]

A call of a chare is only recorded; ``answer``, a function of the test, gives the values of its futures. A method that would wait (``@coro``, channels, its
own futures) needs a job: see :mod:`charm4py.testing`.
"""

from __future__ import annotations

import weakref
from typing import Any, Callable, Generator, NamedTuple, Optional, Union

from . import _engine
from .chare import C, Chare, entry_names, no_method, origin
from .entry_method import bind


class Call(NamedTuple):
    """A call that a chare has made through a proxy. ``index`` is ``None`` for all elements, and a slice for a section."""

    cls: Any
    index: Any
    method: str
    args: "tuple[Any, ...]" = ()
    kwargs: "dict[str, Any]" = {}
    ret: bool = False
    awaitable: bool = False


class Reduction(NamedTuple):
    """A contribution of a chare. An ``allreduce`` has no ``callback``, and a barrier no ``data``."""

    callback: Any
    data: Any = None
    reducer: Any = None
    section: Any = None


Sent = Union[Call, Reduction]
Answer = Callable[[Any], Any]


def unit(cls: type[C], *args: Any, index: Any = 0, answer: Optional[Answer] = None, **kwargs: Any) -> C:
    """Creates a chare as ``cls(*args, **kwargs)`` would, with this index: a number in groups, a tuple in arrays.

    ``answer`` is called with each :class:`Call` with ``ret`` or ``awaitable``, and with the :class:`Reduction` of each ``allreduce``. It returns the value of
    the future.
    """
    if not (isinstance(origin(cls), type) and issubclass(origin(cls), Chare)):
        raise TypeError(f"{cls!r} is not a class of chares: derive it from Chare")
    job = Unit(cls, index, answer)
    _engine.begin_unit(job)
    try:
        # Like the engine: a metaclass may do something else when its class is called.
        chare: C = type.__call__(origin(cls), *args, **kwargs)
    finally:
        _engine.begin_unit(None)
    job.chare = weakref.ref(chare)
    return chare


def proxy(cls: type[Any], index: Any = None, answer: Optional[Answer] = None) -> Any:
    """Creates a proxy for chares of unit tests: of one element, or of a whole collection. :func:`sent` of it lists the calls through it."""
    return UnitProxy(Unit(cls, index, answer), index)


def sent(of: Any) -> list[Sent]:
    """What a chare of a unit test has sent, or what was sent through a proxy of one, in order. Arguments are not copied."""
    job = of._unit if isinstance(of, UnitProxy) else _engine.unit_of(of) if isinstance(of, Chare) else None
    if job is None:
        raise TypeError(f"{of!r} is no chare of a unit test: charm4py.testing.unit creates one")
    sent: list[Sent] = job.sent
    return sent


class Unit:
    """Takes the place of the job for one chare. The engine asks it for the chare's index and proxy."""

    def __init__(self, cls: Any, index: Any, answer: Optional[Answer]) -> None:
        self.cls, self.thisIndex, self.answer = cls, index, answer
        self.chare: Callable[[], Any] = lambda: None
        self.sent: list[Sent] = []

    @property
    def thisProxy(self) -> UnitProxy:
        return UnitProxy(self, None)

    def reduce(self, callback: Any, data: Any, reducer: Any, section: Any) -> None:
        self.sent.append(Reduction(callback, data, reducer, section))

    def allreduce(self, data: Any, reducer: Any, section: Any) -> Answered:
        return self.ask(Reduction(None, data, reducer, section))

    def calls_itself(self, method: str, *args: Any) -> None:
        """The chare has called a method of the runtime."""
        self.sent.append(Call(self.cls, self.thisIndex, method, args))

    def ask(self, what: Sent) -> Answered:
        self.sent.append(what)
        return Answered(self.answer, what)


class Answered:
    """The future of a call. The test gives its value."""

    def __init__(self, answer: Optional[Answer], what: Sent) -> None:
        self.value = None if answer is None else answer(what)
        self.is_there, self.what = answer is not None, what

    def get(self, timeout: Optional[float] = None) -> Any:
        """Returns the value, or raises it if it is an exception."""
        if not self.is_there:
            raise LookupError(f"{self.what} has no value: pass unit() a function, answer=…")
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value

    def ready(self) -> bool:
        """Whether there is a value."""
        return self.is_there

    def __await__(self) -> Generator[Any, None, Any]:
        return self.get()
        yield  # makes this a generator, which never waits


class UnitProxy:
    """A proxy that records the calls through it."""

    def __init__(self, unit: Unit, index: Any) -> None:
        self._unit, self._index = unit, index

    def __getattr__(self, name: str) -> UnitMethod:
        cls = origin(self._unit.cls)
        if name not in entry_names(cls):
            raise AttributeError(no_method(cls, name))
        return UnitMethod(self, name)

    def __getitem__(self, index: Any) -> UnitProxy:
        return UnitProxy(self._unit, index)

    def ckInsert(self, index: Any, args: Any = (), onPE: int = -1) -> None:
        """Recorded as a call."""
        self._unit.sent.append(Call(self._unit.cls, index, "ckInsert", tuple(args)))

    def ckDoneInserting(self) -> None:
        """Recorded as a call."""
        self._unit.sent.append(Call(self._unit.cls, None, "ckDoneInserting"))

    def ckDestroy(self) -> None:
        """Recorded as a call."""
        self._unit.sent.append(Call(self._unit.cls, self._index, "ckDestroy"))

    def ckLocalBranch(self) -> Any:
        """The chare itself."""
        return self._unit.chare()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnitProxy) and (self._unit, self._index) == (other._unit, other._index)

    def __hash__(self) -> int:
        return hash(id(self._unit))

    def __repr__(self) -> str:
        return f"<{self._unit.cls.__name__}{'' if self._index is None else f'[{self._index}]'} of a unit test>"


class UnitMethod:
    """A method of such a proxy."""

    def __init__(self, proxy: UnitProxy, name: str) -> None:
        self._proxy, self.__name__ = proxy, name

    def __call__(self, *args: Any, ret: bool = False, awaitable: bool = False, **kwargs: Any) -> Any:
        unit, name = self._proxy._unit, self.__name__
        cls = origin(unit.cls)
        bind(f"{cls.__name__}.{name}", getattr(cls, name), args, kwargs)  # raises for arguments that do not fit
        call = Call(unit.cls, self._proxy._index, name, args, kwargs, ret, awaitable)
        if ret or awaitable:
            return unit.ask(call)
        unit.sent.append(call)
        return None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnitMethod) and (self._proxy, self.__name__) == (other._proxy, other.__name__)

    def __hash__(self) -> int:
        return hash((self._proxy, self.__name__))

    def __repr__(self) -> str:
        return f"{self._proxy!r}.{self.__name__}"
