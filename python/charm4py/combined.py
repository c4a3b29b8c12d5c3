"""Parts of several collections under one proxy: calls go to all of them, and so do reductions.

Each part is reduced first, by a reduction of the runtime that carries the program's callback. PE 0 merges the results of the parts. The
results of a part arrive in the order of its reductions, so the first results of all parts belong together.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Callable, NamedTuple

from . import _engine, reduction, state, threads

#: An element's index as the engine takes it.
Index = tuple[int, ...]


def tupled(index: Any) -> Index:
    return index if isinstance(index, tuple) else (index,)


class Combined:
    """Parts of several collections, which may have different classes."""

    # No method of a program has this name.
    __slots__ = ("__charm_parts__",)
    __charm_parts__: list[Any]

    def __init__(self, parts: list[Any]) -> None:
        self.__charm_parts__ = parts

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return CombinedMethod(self, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Combined) and self.__charm_parts__ == other.__charm_parts__

    def __hash__(self) -> int:
        return hash(tuple(self.__charm_parts__))

    def __reduce__(self) -> Any:
        return Combined, (self.__charm_parts__,)

    def issec(self) -> bool:
        """Whether the proxy names a section."""
        return True


class CombinedMethod:
    """The methods of one name of all parts."""

    def __init__(self, of: Combined, name: str) -> None:
        self.of = of
        self.name = name
        self.methods = [getattr(part, name) for part in of.__charm_parts__]

    def __call__(self, *args: Any, ret: bool = False, awaitable: bool = False, **kwargs: Any) -> Any:
        if not (ret or awaitable):
            for method in self.methods:
                method(*args, **kwargs)
            return None
        result: threads.Future[Any] = threads.Future()
        answers = [method(*args, ret=ret, awaitable=not ret, **kwargs) for method in self.methods]
        # The list of values is in the order of the indices, across the collections.
        indices = present(self.of) if ret else []
        when_all([*answers, *indices], lambda: give(result, gathered(answers, indices)))
        return result

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CombinedMethod) and (self.of, self.name) == (other.of, other.name)

    def __hash__(self) -> int:
        return hash((self.of, self.name))

    def __reduce__(self) -> Any:
        return CombinedMethod, (self.of, self.name)


def present(combined: Combined) -> list[threads.Future[Any]]:
    """Futures of the indices of each part."""
    return [part.__charm_present__(ret=True) for part in combined.__charm_parts__]


def gathered(answers: list[threads.Future[Any]], indices: list[threads.Future[Any]]) -> Any:
    """The result of the calls of several collections: their values, the first exception, or ``None``."""
    if not indices:
        return next((error for error in map(outcome, answers) if isinstance(error, Exception)), None)
    found: list[tuple[Index, Any]] = []
    for answer, index in zip(answers, indices):
        values, there = outcome(answer), outcome(index)
        for value in (values, there):
            if isinstance(value, Exception):
                return value
        found += zip([tupled(at) for at in there], values)
    return [value for _, value in sorted(found, key=lambda pair: pair[0])]


def give(future: threads.Future[Any], value: Any) -> None:
    """Gives a future of this PE a value without a copy, or an exception."""
    if isinstance(value, Exception):
        future.send(value)
    else:
        future._settle(value)


def outcome(future: threads.Future[Any]) -> Any:
    """A future's value or exception."""
    try:
        return future._result()
    except Exception as error:
        return error


def when_all(futures: list[threads.Future[Any]], then: Callable[[], None]) -> None:
    """Calls ``then`` when all futures are ready."""
    missing = len(futures)

    def ready(_: Any) -> None:
        nonlocal missing
        missing -= 1
        if missing == 0:
            then()

    for future in futures:
        future._when_ready(ready)


class Partial(NamedTuple):
    """A contribution of one part to a reduction, and the part's result."""

    over: Combined
    part: int
    reducer: int
    callbacks: tuple[Any, ...]
    data: Any


def merge(a: Partial, b: Partial) -> Partial:
    # All contributors have the same callback, except in an allreduce, where each has its own.
    callbacks = a.callbacks if a.callbacks == b.callbacks else a.callbacks + b.callbacks
    return a._replace(callbacks=callbacks, data=reduction.merge(a.reducer, a.data, b.data))


#: The reducer that merges contributions of a part.
PARTS = reduction.Reducer._add("_parts", merge)


def reduce(chare: Any, callback: Any, data: Any, reducer: Any, section: Any, all: bool) -> None:
    """Contributes to a reduction over parts of several collections, or to one whose callback is a method of several."""
    if not (callback is None or isinstance(callback, (_engine.FutureBase, _engine.Method, CombinedMethod))):
        raise TypeError(f"a callback is a future or a method of a proxy, not {callback}")
    own = _engine.whole(chare.thisProxy)
    if isinstance(section, Combined):
        part = next((n for n, part in enumerate(section.__charm_parts__) if _engine.whole(part) == own), None)
        if part is None:
            raise ValueError("the section has no part of this chare's collection")
        over, within = section, section.__charm_parts__[part]
    elif section is None or isinstance(section, _engine.Proxy):
        part, over, within = 0, Combined([section or own]), section
    else:
        raise TypeError(f"{section!r} is no section")
    number, value = reduction.given(chare, data, reducer)
    partial = Partial(over, part, number, (callback,), value)
    chare.reduce(state.runtime[0]._reduced_part, partial, PARTS, None if within == own else within)


class Reductions:
    """The reductions over one proxy, on the PE that merges its parts."""

    def __init__(self, over: Combined) -> None:
        self.arrived: list[deque[Partial]] = [deque() for _ in over.__charm_parts__]
        #: The parts that have elements, once known. The others contribute nothing.
        self.contributing: list[deque[Partial]] = []
        there = present(over)
        when_all(there, lambda: self.begin([future._result() for future in there]))

    def begin(self, there: list[list[Any]]) -> None:
        self.contributing = [values for values, indices in zip(self.arrived, there) if indices]
        self.go_on()

    def go_on(self) -> None:
        while self.contributing and all(self.contributing):
            first, *others = [values.popleft() for values in self.contributing]
            for other in others:
                first = merge(first, other)
            deliver(first)


def deliver(result: Partial) -> None:
    """Gives a result to its callbacks."""
    args = [reduction.finish(result.reducer, result.data)] if result.reducer != reduction.Reducer.nop.number else []
    for callback in result.callbacks:
        if callback is not None:
            callback(*args)


#: By proxy.
reductions: dict[Combined, Reductions] = {}


def reduced(partial: Partial) -> None:
    """A part's result has arrived."""
    found = reductions.get(partial.over)
    if found is None:
        found = reductions[partial.over] = Reductions(partial.over)
    found.arrived[partial.part].append(partial)
    found.go_on()
