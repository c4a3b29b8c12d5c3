"""What a type checker says of programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import charm4py
import pytest
from conftest import WATCHDOG_S

PROGRAM = """
from charm4py import Array, Chare, Future, Group, charm, coro

class Cell(Chare):
    def twice(self, x: int) -> int:
        return 2 * x

    @coro
    def name(self) -> str:
        return "cell"

def main(args: list[str]) -> None:
    cell, cells, grid = Chare(Cell, onPE=0), Group(Cell), Array(Cell, (2, 2))
    later: Future[int] = cell.twice(1, ret=True)
    print(later.get() + 1, cells[0].name(ret=True).get(), grid[0, 1].twice(2), Cell.name)
    charm.exit()

charm.start(main)
"""
WRONG = """
from charm4py import Chare, Future, coro

class Cell(Chare):
    @coro
    def name(self) -> None:
        self.nothing

later: Future[int] = Future()
later.get().upper()
"""


def check(path: Path, program: str) -> list[str]:
    pytest.importorskip("mypy", reason="mypy is not installed")
    path.write_text(program)
    package = Path(charm4py.__file__).parent.parent
    environment = dict(os.environ)
    if package.name != "site-packages":
        environment["MYPYPATH"] = str(package)
    ended = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(path.parent / "cache"), str(path)],
        capture_output=True,
        text=True,
        timeout=2 * WATCHDOG_S,
        cwd=path.parent,
        env=environment,
    )
    assert ended.stderr == ""
    return [line.partition("error: ")[2] for line in ended.stdout.splitlines() if "error: " in line]


def test_programs_have_types_as_far_as_proxies_can(tmp_path: Path) -> None:
    assert check(tmp_path / "prog.py", PROGRAM) == []


def test_what_has_a_type_is_checked(tmp_path: Path) -> None:
    assert check(tmp_path / "prog.py", WRONG) == [
        '"Cell" has no attribute "nothing"  [attr-defined]',
        '"int" has no attribute "upper"  [attr-defined]',
    ]
