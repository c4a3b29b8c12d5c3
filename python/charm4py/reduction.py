"""Reducers: how the parts that chares contribute become one result."""

from __future__ import annotations

import zlib
from typing import Any, Callable

import numpy

from ._engine import ReducerKind

def elementwise(ufunc: Any, scalar: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Numbers, arrays of any shape, and lists, element by element."""

    def merge(a: Any, b: Any) -> Any:
        if isinstance(a, numpy.ndarray) or isinstance(b, numpy.ndarray):
            if numpy.shape(a) != numpy.shape(b):
                raise ValueError(f"contributions have different shapes: {numpy.shape(a)} and {numpy.shape(b)}")
            # Into the memory of the first, which is this reduction's alone, if the result fits there.
            if isinstance(a, numpy.ndarray) and a.flags.writeable and a.dtype == numpy.result_type(a, b):
                return ufunc(a, b, out=a) if ufunc(a[:0].ravel(), b[:0].ravel()).dtype == a.dtype else ufunc(a, b)
            return ufunc(a, b)
        if isinstance(a, (list, tuple)):
            if len(a) != len(b):
                raise ValueError(f"contributions have different lengths: {len(a)} and {len(b)}")
            return type(a)(merge(x, y) for x, y in zip(a, b))
        return scalar(a, b)

    return merge


def gathered(data: Any, chare: Any) -> list[tuple[Any, Any]]:
    return [(chare.thisIndex, data)]


def sorted_values(pairs: list[tuple[Any, Any]]) -> list[Any]:
    return [value for _, value in sorted(pairs, key=lambda pair: pair[0])]


class Reducers:
    """The reducers of a program, by name: ``Reducer.sum``, and those that it adds itself."""

    nop: ReducerKind

    def __init__(self) -> None:
        self.kinds: dict[int, ReducerKind] = {}
        # Up to logical_xor they are known to the engine's part by their numbers (src/reduce.rs), which merges plain numbers itself.
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
        kind = ReducerKind(len(self.kinds) if number is None else number, name, merge, pre, post)
        self.kinds[kind.number] = kind
        setattr(self, name, kind)
        return kind

    def addReducer(
        self,
        func: Callable[[list[Any]], Any],
        pre: Callable[[Any, Any], Any] | None = None,
        post: Callable[[Any], Any] | None = None,
    ) -> ReducerKind:
        """Adds a reducer, named like ``func``, which makes one value of a list of them; on all PEs, before ``charm.start``.

        ``pre(data, chare)`` makes a contribution of what a chare gives, ``post(value)`` the result of the last value.
        """
        # Numbered by its name: PEs may add theirs in whatever order.
        name = func.__name__
        number = 1 << 31 | zlib.crc32(name.encode())
        if number in self.kinds and self.kinds[number].name != name:
            raise ValueError(f"reducers cannot be called both {name} and {self.kinds[number].name}: rename one")
        return self._add(name, lambda a, b: func([a, b]), pre, post, number)

    def __getattr__(self, name: str) -> ReducerKind:
        raise AttributeError(f"there is no reducer {name!r}; Reducer.addReducer adds one")


Reducer = Reducers()


def kind_of(reducer: Any) -> ReducerKind:
    """A reducer that was given as the function that it is made of."""
    kind = Reducer.__dict__.get(getattr(reducer, "__name__", ""))
    if not isinstance(kind, ReducerKind):
        raise TypeError(f"{reducer!r} is no reducer: Reducer.addReducer makes one")
    return kind


def merge(number: int, a: Any, b: Any) -> Any:
    return Reducer.kinds[number].merge(a, b)


def finish(number: int, value: Any) -> Any:
    post = Reducer.kinds[number].post
    return value if post is None else post(value)
