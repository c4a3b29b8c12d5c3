"""Chares of unit tests, without a job."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import weakref
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import pytest

from charm4py import Array, Channel, Chare, Future, Group, Reducer, charm, coro, when
from charm4py.testing import Call, Reduction, proxy, sent, unit

T = TypeVar("T")


class Cell(Chare):
    def __init__(self, scale: float = 1.0) -> None:
        self.value = self.thisIndex[0] * scale
        self.steps = 0

    def get(self) -> float:
        return self.value

    def total(self, done: Any) -> None:
        self.reduce(done, self.value, Reducer.sum)

    def step(self, half: float, *, far: bool = False) -> None:
        self.value -= half
        self.thisProxy[self.thisIndex[0] + 1].edge(self.value)
        self.thisProxy.edge(from_=self.value)
        self.steps += 1

    def edge(self, from_: float) -> None:
        self.value += from_

    @coro
    def ask(self, other: Any) -> float:
        there = other.get(ret=True)
        everywhere = self.allreduce(self.value, Reducer.max)
        self.wait("self.steps == 0")
        return there.get() + everywhere.get()

    async def fetch(self, other: Any) -> float:
        return await other.get(ret=True) + 1

    @when("self.steps == n")
    def late(self, n: int) -> int:
        return n

    @coro
    def waits(self) -> None:
        self.wait("self.steps == 9")

    def ends(self) -> None:
        self.AtSync()
        self.migrate(1)
        self.contribute(None, None, self.thisProxy.ends)
        self.thisProxy[self.thisIndex].ckDestroy()


def test_a_chare_s_methods_are_called_and_what_it_sends_is_kept() -> None:
    cell = unit(Cell, 10, index=(2,))
    assert type(cell) is Cell and cell.thisIndex == (2,) and cell.get() == 20 and sent(cell) == []
    cell.step(0.5, far=True)
    assert sent(cell) == [Call(Cell, 3, "edge", (19.5,)), Call(Cell, None, "edge", (), {"from_": 19.5})]
    assert cell.late(3) == 3  # a call of one's own waits for nothing
    done = object()
    sent(cell).clear()
    cell.total(done)
    cell.ends()
    assert sent(cell) == [
        Reduction(done, 19.5, Reducer.sum),
        Call(Cell, (2,), "AtSync"),
        Call(Cell, (2,), "migrate", (1,)),
        Reduction(cell.thisProxy.ends),
        Call(Cell, (2,), "ckDestroy"),
    ]
    assert (charm.myPe(), charm.numPes()) == (0, 1)


def test_what_it_asks_for_the_test_answers() -> None:
    cell = unit(Cell, index=(1,), answer=lambda asked: 7.0 if isinstance(asked, Reduction) else 100.0)
    other = proxy(Cell, index=(5,), answer=lambda asked: {"get": 30.0}[asked.method])
    assert cell.ask(other) == 37.0
    assert (sent(other), sent(cell)) == ([Call(Cell, (5,), "get", ret=True)], [Reduction(None, 1.0, Reducer.max)])
    assert asyncio.run(cell.fetch(other)) == 31.0
    failing = proxy(Cell, answer=lambda asked: ZeroDivisionError("there"))
    with pytest.raises(ZeroDivisionError, match="there"):
        cell.ask(failing)
    with pytest.raises(LookupError, match="Call.*'get'.*has no value.*answer="):
        cell.ask(proxy(Cell))


def test_calls_are_refused_as_proxies_refuse_them() -> None:
    cell = unit(Cell, index=(0,))
    with pytest.raises(AttributeError, match="Cell has no entry method egde .did you mean 'edge'"):
        cell.thisProxy.egde(1)
    with pytest.raises(AttributeError, match="Cell.reduce is a method of the runtime"):
        cell.thisProxy.reduce
    with pytest.raises(TypeError, match="takes 1 positional argument, and was given 2"):
        cell.thisProxy[3].edge(1, 2)
    assert sent(cell) == []
    assert cell.thisProxy.edge == cell.thisProxy.edge != cell.thisProxy[0].edge
    assert cell.thisProxy[1] == cell.thisProxy[1] != cell.thisProxy[2]


def test_what_needs_a_job_says_so() -> None:
    cell = unit(Cell, index=(0,))
    with pytest.raises(Exception, match="self.wait.. waits, which only coroutines can"):
        cell.waits()
    with pytest.raises(RuntimeError, match="after charm.start"):
        Future()
    for make in (lambda: Group(Cell), lambda: Array(Cell, 3), lambda: Chare(Cell), lambda: Channel(cell, cell.thisProxy[1])):
        with pytest.raises((RuntimeError, TypeError)):
            make()
    with pytest.raises(TypeError, match="not by calling Cell .in a unit test: charm4py.testing.unit.Cell.."):
        Cell()
    with pytest.raises(TypeError, match="is no chare of a unit test"):
        sent(object())
    with pytest.raises(TypeError, match="is not a class of chares"):
        unit(int)


class Base(Chare, ABC, Generic[T]):
    @coro
    def __init__(self, value: T) -> None:
        self.value = value

    @abstractmethod
    def shown(self) -> str: ...


class Derived(Base[int]):
    async def __init__(self, value: int) -> None:  # type: ignore[misc]
        super().__init__(value)
        self.thisProxy.shown()

    def shown(self) -> str:
        return f"{self.value} on {self.thisIndex}"


class Waits(Chare):
    async def __init__(self, value: Any) -> None:  # type: ignore[misc]
        await asyncio.sleep(0)


def test_constructors_and_classes_of_all_kinds() -> None:
    derived = unit(Derived, 5, index=3)
    assert derived.shown() == "5 on 3" and sent(derived) == [Call(Derived, None, "shown")]
    with pytest.raises(TypeError, match="abstract"):
        unit(Base, 5)
    with pytest.raises(RuntimeError, match="a constructor that waits needs a job"):
        unit(Waits, 1)
    with pytest.raises(TypeError, match="not by calling Cell"):
        Cell()  # what has failed leaves nothing behind
    with pytest.raises(TypeError, match="unexpected keyword argument 'scele'"):
        unit(Cell, scele=3)


def test_a_chare_of_a_unit_test_is_freed() -> None:
    cell: Any = unit(Cell, index=(0,))
    cell.step(1.0)
    gone = weakref.ref(cell)
    del cell
    gc.collect()
    assert gone() is None


def test_a_unit_test_leaves_a_later_job_alone() -> None:
    program = """
from charm4py import charm, Chare, Group
from charm4py.testing import unit, sent
class Cell(Chare):
    def get(self): return self.thisIndex
    def tell(self): self.thisProxy.get()
cell = unit(Cell, index=7)
cell.tell()
def main(args):
    print(cell.get(), len(sent(cell)), Group(Cell).get(ret=True).get())
    exit()
charm.start(main)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "7 1 [0]\n"), ended.stderr
