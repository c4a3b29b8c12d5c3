"""Reducers: how contributions of chares become one result."""

from __future__ import annotations

import zlib
from array import array
from typing import Any, Callable

import numpy

from ._engine import ReducerKind
from .errors import Charm4PyError

#: Numbers of reducers, in the order of :class:`Reducers`: those that count truth values, and those that combine them.
COUNTS = frozenset({1, 2})
LOGICAL = frozenset({5, 6, 7})
#: Sequences that become arrays if their items are numbers.
SEQUENCES = (list, tuple, array, range, memoryview)
#: A sequence class with one of these operations is reduced by them, not element by element.
OPERATIONS = ("__add__", "__mul__", "__lt__", "__gt__")


def is_sequence(data: Any) -> bool:
    """Whether a value is merged element by element, rather than by operations of its class."""
    kind = next((kind for kind in SEQUENCES if isinstance(data, kind)), None)
    return kind is not None and all(getattr(type(data), name, None) is getattr(kind, name, None) for name in OPERATIONS)


def contribution(number: int, data: Any) -> Any:
    """Converts data for a reducer that merges element by element: sequences of numbers become arrays."""
    if isinstance(data, (numpy.ndarray, numpy.generic)):
        found = numpy.asarray(data)
    elif is_sequence(data):
        try:
            found = numpy.asarray(data)
        except ValueError:  # rows of different lengths
            return data
        if found.dtype.kind in "SU":
            return data
    elif number in LOGICAL:
        return bool(data)
    else:
        return int(data) if isinstance(data, bool) and number in COUNTS else data
    if number in LOGICAL:
        found = found.astype(bool)
    elif number in COUNTS and found.dtype == bool:
        found = found.astype(int)
    # Without dimensions it is a NumPy scalar.
    return found if found.ndim else found[()]


def elementwise(ufunc: Any, scalar: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Merges numbers, arrays of any shape, and sequences that no array can hold, element by element."""

    def merge(a: Any, b: Any) -> Any:
        if isinstance(a, numpy.ndarray) or isinstance(b, numpy.ndarray):
            if numpy.shape(a) != numpy.shape(b):
                raise ValueError(f"contributions have different shapes: {numpy.shape(a)} and {numpy.shape(b)}")
            # The result goes into the first array, which only this reduction uses, if it fits there.
            if isinstance(a, numpy.ndarray) and a.flags.writeable and a.dtype == numpy.result_type(a, b):
                return ufunc(a, b, out=a) if ufunc(a[:0].ravel(), b[:0].ravel()).dtype == a.dtype else ufunc(a, b)
            return ufunc(a, b)
        if is_sequence(a):
            if len(a) != len(b):
                raise ValueError(f"contributions have different lengths: {len(a)} and {len(b)}")
            merged = [merge(x, y) for x, y in zip(a, b)]
            return tuple(merged) if isinstance(a, tuple) else merged
        return scalar(a, b)

    return merge


def gathered(data: Any, chare: Any) -> list[tuple[Any, Any]]:
    return [(chare.thisIndex, data)]


def sorted_values(pairs: list[tuple[Any, Any]]) -> list[Any]:
    # If groups and arrays are combined, some indices are numbers and others tuples.
    return [value for _, value in sorted(pairs, key=lambda pair: pair[0] if isinstance(pair[0], tuple) else (pair[0],))]


#: The reducers of this process by number. A number means the same reducer in all processes.
kinds: dict[int, ReducerKind] = {}
#: How many reducers were added with each name and place in the program.
places: dict[str, int] = {}


class Reducers:
    """The reducers by name: ``Reducer.sum`` and others, and those that the program adds."""

    nop: ReducerKind
    gather: ReducerKind

    def __init__(self) -> None:
        # src/reduce.rs repeats the numbers of those before gather: it merges plain numbers itself.
        self._add("nop", lambda a, b: a)
        self._add("sum", elementwise(numpy.add, lambda a, b: a + b))
        self._add("product", elementwise(numpy.multiply, lambda a, b: a * b))
        self._add("min", elementwise(numpy.minimum, min))
        self._add("max", elementwise(numpy.maximum, max))
        self._add("logical_and", elementwise(numpy.logical_and, lambda a, b: bool(a) and bool(b)))
        self._add("logical_or", elementwise(numpy.logical_or, lambda a, b: bool(a) or bool(b)))
        self._add("logical_xor", elementwise(numpy.logical_xor, lambda a, b: bool(a) != bool(b)))
        self._add("gather", lambda a, b: a + b, gathered, sorted_values)

    def _add(
        self,
        name: str,
        merge: Callable[[Any, Any], Any],
        pre: Callable[[Any, Any], Any] | None = None,
        post: Callable[[Any], Any] | None = None,
        number: int | None = None,
    ) -> ReducerKind:
        kind = ReducerKind(len(kinds) if number is None else number, name, merge, pre, post)
        kinds[kind.number] = kind
        setattr(self, name, kind)
        return kind

    def addReducer(
        self,
        func: Callable[[list[Any]], Any],
        pre: Callable[[Any, Any], Any] | None = None,
        post: Callable[[Any], Any] | None = None,
    ) -> ReducerKind:
        """Adds a reducer with the name of ``func``, which makes one value of a list of values. Call it on all PEs, before ``charm.start``.

        ``pre(data, chare)`` converts what a chare gives into its contribution, and ``post(value)`` the last value into the result. If several
        reducers have one name, ``Reducer.<name>`` is the newest, and the returned reducer is always the one that was added.
        """
        name = getattr(func, "__name__", type(func).__name__)
        if name in Reducers.__dict__:
            raise ValueError(f"a reducer cannot be called {name}: rename its function")
        number = number_of(func, name)
        if number in kinds:
            raise ValueError(f"{name} cannot have the number of the reducer {kinds[number].name}: rename one of them")
        return self._add(name, Folded(func), pre, post, number)

    def __getattr__(self, name: str) -> ReducerKind:
        raise AttributeError(f"there is no reducer {name!r}; Reducer.addReducer adds one")


class Folded:
    """Makes a function of two values from one of a list."""

    def __init__(self, func: Callable[[list[Any]], Any]) -> None:
        self.func = func

    def __call__(self, a: Any, b: Any) -> Any:
        return self.func([a, b])


def number_of(func: Any, name: str) -> int:
    """The number of a new reducer. It follows from the name, the place in the program and a count, so that all processes compute the same number
    in any order."""
    line = getattr(getattr(func, "__code__", None), "co_firstlineno", 0)
    place = f"{name} {getattr(func, '__module__', '')}:{line}"
    places[place] = places.get(place, 0) + 1
    return 1 << 31 | zlib.crc32(f"{place} {places[place]}".encode())


Reducer = Reducers()


def kind_of(reducer: Any) -> ReducerKind:
    """The reducer that was made from this function."""
    for kind in kinds.values():
        if isinstance(kind.merge, Folded) and kind.merge.func is reducer:
            return kind
    named = Reducer.__dict__.get(getattr(reducer, "__name__", ""))
    if not isinstance(named, ReducerKind):
        raise TypeError(f"{reducer!r} is no reducer: Reducer.addReducer makes one")
    return named


def given(chare: Any, data: Any, reducer: Any) -> tuple[int, Any]:
    """The number of the reducer, and the chare's contribution for it."""
    if reducer is None:
        if data is not None:
            raise TypeError("data without a reducer: which one?")
        return Reducer.nop.number, None
    kind = reducer if isinstance(reducer, ReducerKind) else kind_of(reducer)
    if kind.pre is not None:
        return kind.number, kind.pre(data, chare)
    return kind.number, contribution(kind.number, data) if 0 < kind.number < Reducer.gather.number else data


def numbered(number: int, name: str) -> ReducerKind:
    """The reducer with a number that another process has sent."""
    kind = kinds.get(number)
    if kind is None:
        raise Charm4PyError(f"Reducer.{name} is not known on this PE: add it at module level, where every PE does so")
    return kind


def merge(number: int, a: Any, b: Any) -> Any:
    return numbered(number, f"<number {number}>").merge(a, b)


def finish(number: int, value: Any) -> Any:
    post = numbered(number, f"<number {number}>").post
    return value if post is None else post(value)
