"""The results of a type checker for programs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import charm4py
import pytest
from conftest import WATCHDOG_S

CELL = """
from charm4py import Array, Chare, CollectionProxy, ElementProxy, Future, Group, Proxy, Reducer, charm, coro, when

class Cell(Chare):
    def __init__(self, neighbours: "list[ElementProxy[Cell]] | None" = None) -> None:
        self.edge = 1.0

    def twice(self, x: int, more: str = "") -> int:
        return 2 * x

    @coro
    def name(self) -> str:
        return self.thisProxy[0].title(ret=True).get()

    @when("self.edge > 0")
    async def later(self, *parts: float) -> "list[float]":
        return list(parts)

    @staticmethod
    def title(**kwargs: int) -> str:
        return "cell"

    def untyped(self, a, b=1):  # type: ignore[no-untyped-def]
        return a

class Plain(Chare): ...
"""
MAIN = """
def main(args: list[str]) -> None:
    cell, cells, grid = Chare(Cell, onPE=0), Group(Cell), Array(Cell, (2, 2))
"""
#: The error of mypy for the class without the plugin: `Cell.name` returns the result of a proxy's method.
UNTYPED = 'Returning Any from function declared to return "str"  [no-any-return]'


def check(path: Path, program: str, *options: str) -> list[str]:
    """The output of mypy for a program: errors, and the types that `reveal_type` shows."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    path.write_text(program)
    package = Path(charm4py.__file__).parent.parent
    environment = dict(os.environ)
    if package.name != "site-packages":
        environment["MYPYPATH"] = str(package)
        environment["PYTHONPATH"] = str(package)
    ended = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(path.parent / "cache"), *options, str(path)],
        capture_output=True,
        text=True,
        timeout=2 * WATCHDOG_S,
        cwd=path.parent,
        env=environment,
    )
    assert ended.stderr == ""
    said = [line for line in ended.stdout.splitlines() if "error: " in line or "Revealed type" in line]
    return [line.partition("error: ")[2] or line.partition('Revealed type is "')[2].rstrip('"') for line in said]


def with_plugin(tmp_path: Path, body: str) -> list[str]:
    (tmp_path / "mypy.ini").write_text("[mypy]\nplugins = charm4py.mypy\n")
    return check(tmp_path / "prog.py", CELL + MAIN + textwrap.indent(textwrap.dedent(body), "    "))


def test_programs_have_types_as_far_as_they_go_without_the_plugin(tmp_path: Path) -> None:
    body = """
    later: Future[int] = cell.twice(1, ret=True)
    part: CollectionProxy[Cell] = cells[1:]
    print(later.get() + 1, cells[0].name(ret=True).get(), grid[0, 1].twice(2), part, Cell.name)
    grid.ckLocalBranch().twice(1).nothing
    """
    assert check(tmp_path / "prog.py", CELL + MAIN + textwrap.indent(textwrap.dedent(body), "    ")) == [
        UNTYPED,
        '"int" has no attribute "nothing"  [attr-defined]',
    ]


def test_what_has_a_type_is_checked(tmp_path: Path) -> None:
    body = """
    def wrong(self: Cell) -> None:
        self.nothing
    later: Future[int] = Future()
    later.get().upper()
    """
    assert check(tmp_path / "prog.py", CELL + textwrap.dedent(body)) == [
        UNTYPED,
        '"Cell" has no attribute "nothing"  [attr-defined]',
        '"int" has no attribute "upper"  [attr-defined]',
    ]


def test_the_plugin_knows_what_proxies_and_their_calls_give(tmp_path: Path) -> None:
    body = """
    reveal_type(cell)
    reveal_type(grid)
    reveal_type(grid[0, 1])
    reveal_type(grid[0, :])
    reveal_type(charm.split(cells, 2)[0])
    reveal_type(cell.twice(1, ret=True))
    reveal_type(cells[0].twice(1, ret=True))
    reveal_type(cells.twice(x=1, more="", ret=True))
    reveal_type(cells[1:].name(ret=True))
    reveal_type(cells.name(awaitable=True))
    reveal_type(cell.later(1, 2.5, ret=True))
    reveal_type(cell.title(a=1, ret=True))
    reveal_type(cell.untyped(1, ret=True))
    asked = bool(args)
    reveal_type(cell.name(ret=asked))
    ended: Future[int] = Future()
    either: Proxy[Cell] = cell
    reveal_type(either.twice(1, ret=True))
    cell.twice(1)
    cell.title()
    cells.ckLocalBranch().reduce(cell.twice, 1, Reducer.sum)
    reveal_type(Chare(Plain))
    """
    where, futures = "charm4py_proxies", "charm4py.threads.Future"
    expected = [
        f"{where}.ElementProxy[prog.Cell]",
        f"{where}.CollectionProxy[prog.Cell]",
        f"{where}.ElementProxy[prog.Cell]",
        f"{where}.CollectionProxy[prog.Cell]",
        f"{where}.CollectionProxy[prog.Cell]",
        f"{futures}[int]",
        f"{futures}[int]",
        f"{futures}[list[int]]",
        f"{futures}[list[str]]",
        f"{futures}[None]",
        f"{futures}[list[float]]",
        f"{futures}[str]",
        f"{futures}[Any]",
        f"{futures}[Any] | None",
        f"{futures}[Any]",
        f"{where}.ElementProxy[prog.Plain]",
    ]
    assert [line.replace("builtins.", "") for line in with_plugin(tmp_path, body)] == expected


def test_the_plugin_refuses_calls_that_would_fail(tmp_path: Path) -> None:
    body = """
    cell.nothing()
    cells.edge()
    cells[0].allreduce()
    cell.twice("1")
    cells.twice(1, 2)
    cells.twice()
    grid.title(a="1")
    cells.twice(1, ret=True).get().upper()
    kept: Future[int] = cell.name(ret=True)
    cell.twice(1).get()
    """
    assert with_plugin(tmp_path, body) == [
        '"Cell" has no entry method "nothing"  [misc]',
        '"Cell" has no entry method "edge"  [misc]',
        '"Cell" has no entry method "allreduce"  [misc]',
        'Argument 1 to "twice" of "Cell" has incompatible type "str"; expected "int"  [arg-type]',
        'Argument 2 to "twice" of "Cell" has incompatible type "int"; expected "str"  [arg-type]',
        'Missing positional argument "x" in call to "twice" of "Cell"  [call-arg]',
        'Argument "a" to "title" of "Cell" has incompatible type "str"; expected "int"  [arg-type]',
        '"list[int]" has no attribute "upper"  [attr-defined]',
        'Incompatible types in assignment (expression has type "Future[str]", variable has type "Future[int]")  [assignment]',
        '"None" has no attribute "get"  [attr-defined]',
    ]


def test_annotations_of_proxies_can_be_evaluated() -> None:
    assert charm4py.Proxy[int].__origin__ is charm4py.Proxy  # type: ignore[attr-defined]
    assert charm4py.ElementProxy is charm4py.CollectionProxy is charm4py.Proxy


def test_a_parameter_that_is_annotated_as_a_chare_gets_a_proxy(tmp_path: Path) -> None:
    body = """
    class Pair(Cell):
        def play(self, other: "Cell", *, more: "Optional[Cell]" = None) -> int:
            reveal_type(other.twice(1, awaitable=True))
            return other.twice(1, ret=True).get() + other.twice(2)
        def all(self, others: "list[Cell]") -> None: pass
        def plain(self, x: int) -> None: pass
    pairs = Array(Pair, 2)
    parts: list[ElementProxy[Cell]] = [cells[1]]
    pairs.play(cells[1])
    pairs[0].play(pairs, more=cell)
    pairs[0].all([pairs[1]])
    pairs[0].all(parts)
    pairs.plain(cell)
    pairs.play(3)
    pairs.play(cell, more="no")
    def wrong(cell: Cell) -> None:
        cell.twice("", ret=True)
        cell.twice(1, rte=True)
    """
    (tmp_path / "mypy.ini").write_text("[mypy]\nplugins = charm4py.mypy\n")
    program = "from typing import Optional\n" + CELL + MAIN + textwrap.indent(textwrap.dedent(body), "    ")
    assert check(tmp_path / "prog.py", program) == [
        "charm4py.threads.Future[None]",
        'Argument 1 to "plain" of "Pair" has incompatible type "ElementProxy[Cell]"; expected "int"  [arg-type]',
        'Argument 1 to "play" of "Pair" has incompatible type "int"; expected "Cell | Proxy[Cell]"  [arg-type]',
        'Argument "more" to "play" of "Pair" has incompatible type "str"; expected "Cell | Proxy[Cell] | None"  [arg-type]',
        'Argument 1 to "twice" of "Cell" has incompatible type "str"; expected "int"  [arg-type]',
        'Unexpected keyword argument "rte" for "twice" of "Cell"  [call-arg]',
    ]
