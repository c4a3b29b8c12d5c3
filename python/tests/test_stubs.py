"""Stubs of a program's proxies, and the results of a type checker with them."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import charm4py
import pytest
from charm4py.stubs.__main__ import main
from conftest import WATCHDOG_S

#: A project: modules, a package, names that only type checkers import. A line says after `#=` what its `reveal_type` shows, or that it is an error.
PROJECT = {
    "grid/__init__.py": "",
    "grid/shapes.py": """
        from dataclasses import dataclass
        from typing import TypeVar
        V = TypeVar("V")
        @dataclass
        class Edge:
            length: float = 0.0
    """,
    "grid/base.py": """
        from __future__ import annotations
        from typing import Generic, Optional, TYPE_CHECKING
        from charm4py import Chare, coro
        from .shapes import V
        if TYPE_CHECKING:
            from .shapes import Edge
        class Named:
            def named(self, name: str) -> str: return name
        class Base(Chare, Named):
            def edge(self, of: Edge | None = None) -> Edge: raise NotImplementedError
            @coro
            def meet(self, other: Optional[Base], *others: "Base", all: "list[Base]" = []) -> bool: return True
        class Store(Chare, Generic[V]):
            def set(self, value: V) -> set[V]: return {value}
            def kept(self, more: dict[str, V]) -> "list[V]": return []
    """,
    "prog.py": """
        from __future__ import annotations
        import typing as t
        from typing import Literal, overload
        from charm4py import *  # pyright: ignore
        from charm4py import Group as EachPe, ray
        from grid import base
        from grid.base import Base, Store

        class Cell(Base):
            class Kind: ...
            size = property(lambda self: 1)
            @property
            def width(self) -> int: return 1
            def twice(self, x: int, more: str = "") -> int:
                reveal_type(self.thisProxy[0].twice(1, ret=True)) #= Future[int]
                self.thisProxy.twice(x="1") #= error
                return 2 * x
            double = twice
            @coro
            def name(self) -> "str": return ""
            @when("self.size > 0")
            async def later(self, *parts: float) -> t.List[float]: return list(parts)
            @staticmethod
            def title(**kwargs: int) -> str: return "cell"
            def untyped(self, a, b=1): return a
            def kind(self, kind: Kind, /, mode: Literal["a", "b"] = "a") -> Kind: return kind
            def myself(self) -> t.Any: ...
            def list(self, ret: int, *, step: float) -> t.Tuple[int, ...]: return ()
            @overload
            def either(self, x: int) -> int: ...
            @overload
            def either(self, x: str) -> str: ...
            def either(self, x): return x
            def _hidden(self) -> None: ...
            def __private(self) -> None: ...

        class Pair(Cell):
            def only(self) -> None: ...
            def twice(self, x: int, more: str = "", most: int = 0) -> bool: return True
            class Outmost(Chare): ...
            class Inner(Outmost):
                def inside(self) -> Pair.Inner: return self

        class Left(Chare):
            def side(self) -> int: return 1
        class Right(Chare):
            def side(self) -> str: return ""
            def more(self) -> int: return 1
            def most(self) -> int: return 1
        class Both(Right, Left): ... # pyright: ignore

        def use(one: ElementProxy[Cell], all: CollectionProxy[Cell], any: Proxy[Cell]) -> None:
            reveal_type(one.twice(1, ret=True)) #= Future[int]
            reveal_type(all.twice(1, ret=True)) #= Future[list[int]]
            reveal_type(any.twice(1, ret=True)) #= Future[Any]
            reveal_type(any[1:].twice(1, ret=True)) #= Future[list[int]]

        def main(args: list[str]) -> None:
            cell, cells, grid = Chare(Cell, onPE=0), EachPe(Cell), Array(Cell, (2, 2))
            pairs, both, inner = Array(Pair, 8, args=[1]), Array(Both, 2), Chare(Pair.Inner)
            reveal_type(cell) #= ElementProxy[Cell]
            reveal_type(grid[0, 1]) #= ElementProxy[Cell]
            reveal_type(grid[0, :]) #= CollectionProxy[Cell]
            reveal_type(charm.split(cells, 2)[0].name(ret=True)) #= Future[list[str]]
            reveal_type(cells.ckLocalBranch()) #= Cell
            reveal_type(cells.twice(x=1, more="", ret=True)) #= Future[list[int]]
            reveal_type(cell.double(1, ret=True)) #= Future[int]
            reveal_type(cells[3].name(ret=True)) #= Future[str]
            reveal_type(cells.name(awaitable=True)) #= Future[None]
            reveal_type(cells.name()) #= None
            reveal_type(cell.twice(1, ret=bool(args))) #= Future[int] | None
            reveal_type(cell.later(1, 2.5, ret=True)) #= Future[List[float]]
            reveal_type(cell.title(a=1, ret=True)) #= Future[str]
            reveal_type(cell.untyped(1, ret=True)) #= Future[Any]
            reveal_type(cell.kind(Cell.Kind(), "b", ret=True)) #= Future[Kind]
            reveal_type(cells.list(1, step=0.5, ret=True)) #= Future[list[Tuple[int, ...]]]
            reveal_type(cell.either("", ret=True)) #= Future[str]
            reveal_type(cell.edge(ret=True)) #= Future[Edge]
            reveal_type(pairs[1].named("a", ret=True)) #= Future[str]
            reveal_type(pairs.twice(1, most=2, ret=True)) #= Future[list[bool]]
            reveal_type(pairs[1].name(ret=True)) #= Future[str]
            reveal_type(both[0].side(ret=True)) #= Future[str]
            reveal_type(inner.inside(ret=True)) #= Future[Inner]
            store: CollectionProxy[Store[int]] = Array(Store[int], 2)
            reveal_type(store[0].set(1, ret=True)) #= Future[set[int]]
            reveal_type(store.kept({"a": 1}, ret=True)) #= Future[list[list[int]]]
            pairs.meet(cell, cells, pairs[1], all=[cell])
            pairs.meet(None)
            use(pairs[0], pairs, pairs)
            cell._hidden()
            cells.ckLocalBranch().reduce(cell.twice, 1, Reducer.sum)
            Chare(ObjectStore).lookup_object(1)
            cells.twcie(1) #= error
            cell.only() #= error
            cell.twice("1") #= error
            cell.twice(1, 2) #= error
            cell.twice() #= error
            cell.twice(1, rte=True) #= error
            cells.twice(1, ret=True).get().upper() #= error
            cells[0][0].twice(1, ret=True).get().append(1) #= error
            kept: Future[int] = cell.name(ret=True) #= error
            cell.twice(1).get() #= error
            cell.title(a="1") #= error
            cell.kind(kind=Cell.Kind()) #= error
            cell.kind(Cell.Kind(), "c") #= error
            cell.list(1) #= error
            cell.size() #= error
            cell.width() #= error
            cell.thisIndex() #= error
            cell.allreduce() #= error
            cell.edge(1) #= error
            cell.__private() #= error
            store.set("") #= error
            pairs.meet(1) #= error
            pairs.meet(store) #= error
            use(pairs, pairs, pairs) #= error
            use(both[0], cells, cells) #= error
            for _ in cell.twice(1, ret=True).get(): pass #= error
            for _ in cells.twice(1, ret=True).get(): pass
    """,
}
CELL = {
    "prog.py": """
        from charm4py import Array, Chare, charm
        class Cell(Chare):
            def twice(self, x: int) -> int:
                return 2 * x
        cells = Array(Cell, 2)
        if __name__ == "__main__":
            raise SystemExit("the program runs")
    """,
    "other.py": """
        from prog import Cell
        class Pair(Cell):
            def only(self) -> None: ...
    """,
}
STUB = Path("typings", "charm4py_proxies.pyi")


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def stubs(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in this process, since the tests run it often."""
    here, out, err = os.getcwd(), io.StringIO(), io.StringIO()
    os.chdir(root)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
    finally:
        os.chdir(here)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def made(root: Path, *arguments: str) -> str:
    """The stub that the command writes."""
    ended = stubs(root, *arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    return (root / STUB).read_text()


def basedpyright(root: Path, *files: str) -> dict[tuple[str, int], list[str]]:
    """The checker's output by file and line: errors, and the types that `reveal_type` shows."""
    if importlib.util.find_spec("basedpyright") is None:
        pytest.skip("basedpyright is not installed")
    (root / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, *files]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=2 * WATCHDOG_S, cwd=root)
    found: dict[tuple[str, int], list[str]] = {}
    for said in json.loads(ended.stdout)["generalDiagnostics"]:
        where = str(Path(said["file"]).relative_to(root.resolve())), said["range"]["start"]["line"] + 1
        shown = re.search(r'^Type of ".*" is "(.*)"$', said["message"], re.DOTALL)
        found.setdefault(where, []).append(shown[1] if shown else f"{said['severity']}: {said['message']}")
    return found


def check(root: Path) -> None:
    """Checks that the checker's output for each line is that of the line's comment, and that other lines have none."""
    said, differ = basedpyright(root), []
    for file in [*root.glob("*.py"), *root.glob("*/*.py"), root / STUB]:
        for number, line in enumerate(file.read_text().splitlines(), 1):
            expected = line.partition("#= ")[2]
            found = said.pop((str(file.relative_to(root)), number), [])
            agrees = [text.startswith("error: ") for text in found] == [True] if expected == "error" else found == [expected] * bool(expected)
            if not agrees:
                differ.append((file.name, number, line.strip(), found))
    assert not differ and not said, "\n".join(map(str, [*differ, *said.items()]))


def test_a_checker_knows_the_methods_of_proxies(tmp_path: Path) -> None:
    write(tmp_path, PROJECT)
    command = [sys.executable, "-m", "charm4py.stubs", "prog.py"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=WATCHDOG_S, cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{STUB}: 10 classes of chares\n", "")
    check(tmp_path)


def test_mypy_and_its_plugin_say_the_same_with_and_without_the_stub(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    write(tmp_path, CELL)
    (tmp_path / "prog.py").write_text((tmp_path / "prog.py").read_text() + "cells.twcie(1)\nreveal_type(cells.twice(1, ret=True))\nreveal_type(Chare(Cell))\n")
    package = Path(charm4py.__file__).parent.parent
    searched = "" if package.name == "site-packages" else f"mypy_path = {package}\n"
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nplugins = charm4py.mypy\n{searched}")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "cache", "prog.py"]
    environment = {**os.environ, "PYTHONPATH": str(package)} if searched else dict(os.environ)

    def mypy() -> str:
        return subprocess.run(command, capture_output=True, text=True, timeout=2 * WATCHDOG_S, cwd=tmp_path, env=environment).stdout

    before = mypy()
    assert 'has no entry method "twcie"' in before and "charm4py.threads.Future[" in before and "ElementProxy[prog.Cell]" in before
    made(tmp_path, "prog.py")
    assert mypy() == before


def test_the_stub_is_the_same_each_time_and_checked_against_the_program(tmp_path: Path) -> None:
    write(tmp_path, CELL)
    missing = stubs(tmp_path, "--check", "prog.py")
    assert (missing.returncode, missing.stdout) == (1, "") and missing.stderr.startswith(f"{STUB} is not there: run python -m charm4py.stubs prog.py")
    first = made(tmp_path, "prog.py")
    assert first.startswith("# Made by `python -m charm4py.stubs prog.py`")
    assert "def only" not in first and str(tmp_path) not in first
    written = (tmp_path / STUB).stat().st_mtime_ns
    assert made(tmp_path, "prog.py") == first and (tmp_path / STUB).stat().st_mtime_ns == written
    assert stubs(tmp_path, "--check", "prog.py").returncode == 0
    # The imports of a module are read too; a module may be given by its name.
    assert "def only" in made(tmp_path, "other") and "def twice" in (tmp_path / STUB).read_text()
    outdated = stubs(tmp_path, "--check", "prog.py")
    assert (outdated.returncode, outdated.stderr) == (1, f"{STUB} is out of date: run python -m charm4py.stubs prog.py\n")
    elsewhere = stubs(tmp_path, "--output", "my stubs", "prog.py")
    assert elsewhere.returncode == 0
    assert "`python -m charm4py.stubs --output 'my stubs' prog.py`" in (tmp_path / "my stubs" / STUB.name).read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("", 64, "error: the following arguments are required: MODULE"),
        ("--verbose prog.py", 64, "error: unrecognized arguments: --verbose"),
        ("nothing.py", 78, "error: nothing.py: no such file"),
        ("nothing", 78, "error: nothing: no such module"),
        ("some/", 64, "error: some/ is no file: name the modules in it"),
        ("pro-g", 64, "error: pro-g is neither a file nor the name of a module"),
        ("some/none.py", 65, "error: no class of chares in some/none.py"),
        ("some/wrong.py", 65, "error: some/wrong.py:2: "),
        ("some/imports.py", 65, "error: some/wrong.py:2: "),
        ("some/zero.py", 65, "error: some/zero.py"),
        ("some/no-name.py", 65, "error: some/no-name.py: this is no valid module name, so it cannot be imported: rename the file"),
        ("--output prog.py prog.py", 74, "error: prog.py/charm4py_proxies.pyi: "),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(tmp_path: Path, arguments: str, code: int, said: str) -> None:
    files = {"none.py": "x = 1", "wrong.py": "x = 1\ndef f(:", "imports.py": "import wrong", "zero.py": "x\0", "no-name.py": ""}
    write(tmp_path, {**CELL, **{f"some/{name}": text for name, text in files.items()}})
    ended = stubs(tmp_path, *arguments.split())
    assert (ended.returncode, ended.stdout) == (code, "")
    assert ended.stderr.startswith(said) and ended.stderr.count("\n") == 1


def lines(root: Path, program: str) -> list[str]:
    """The stub's overloads for calls without a result."""
    write(root, {"prog.py": program})
    text = made(root, "prog.py")
    compile(text, STUB.name, "exec", ast.PyCF_ONLY_AST)
    no = re.escape("Literal[False] = False")
    calls = rf"^    def (\w+(?:\[.*?\])?\(self: Proxy\[.*), ret: {no}, awaitable: {no}(.*)\) -> None: \.\.\.$"
    found = re.findall(calls, text, re.MULTILINE)
    found += re.findall(r"^    def (__getattr__\(.*)(\)) -> Any: \.\.\.$", text, re.MULTILINE)
    return [(call + more.rstrip(")") + ")").replace("_prog.", "") for call, more in found]


def test_parameters_are_those_of_the_method(tmp_path: Path) -> None:
    program = """
        import charm4py
        from typing import Annotated, Dict, List, Optional, Union
        from typing_extensions import Self
        List = List
        class Cell(charm4py.Chare):
            Size = int
            async def a(this, x, /, y: "Size" = -1, *, z: Self, **more: 'Dict[str, Cell]') -> None: ...
            def b(self, ret, awaitable=(1, 2), *, ret_: int = len("a")): ...
            @staticmethod
            def c(self: Optional["Cell"], x: Union["Cell", int, None]): ...
            def d(self, x: Annotated[int, "ret"], y: "no type", z: List["Cell"], of: type["Cell"], all: "charm4py.Proxy[Cell]"): ...
            if True:
                def e(*args): ...
            @classmethod
            def f(cls): ...
            def migrated(self): ...
            def ckDestroy(self): ...
    """
    assert lines(tmp_path, program) == [
        "a(self: Proxy[Cell], x, /, y: Cell.Size = -1, *, z: Cell, **more: Dict[str, Any])",
        "b(self: Proxy[Cell], _ret, _awaitable=(1, 2), *, ret_: int = ...)",
        "c(self: Proxy[Cell], _self: Cell | Proxy[Cell] | None, x: Cell | Proxy[Cell] | int | None, *)",
        "d(self: Proxy[Cell], x: int, y: Any, z: List[Any], of: type[Cell], all: charm4py.Proxy[Cell], *)",
        "e(self: Proxy[Cell], *args)",
    ]


def test_a_class_with_a_base_that_cannot_be_read_has_any_method(tmp_path: Path) -> None:
    program = """
        from charm4py import Chare
        from nowhere import Base
        class Odd(Base, Chare):
            def own(self): ...
        class Odder(Odd): ...
    """
    assert lines(tmp_path, program) == [
        "own(self: Proxy[Odd], *)",
        "__getattr__(self: Proxy[Odder], name: str)",
        "__getattr__(self: Proxy[Odd], name: str)",
        "__getattr__(self, name: Never)",
    ]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax is that of Python 3.12")
def test_variables_of_types_may_be_in_brackets(tmp_path: Path) -> None:
    program = """
        from charm4py import Chare
        class Box[T](Chare):
            def put[U: int](self, x: T, y: U): ...
    """
    assert lines(tmp_path, program) == ["put[T, U: int](self: Proxy[Box[T]], x: T, y: U, *)"]


def test_classes_inside_of_functions_are_named_in_a_warning(tmp_path: Path) -> None:
    program = textwrap.dedent(CELL["prog.py"]) + "def f():\n    class Hidden(Cell): ...\n"
    write(tmp_path, {"prog.py": program})
    ended = stubs(tmp_path, "prog.py")
    assert ended.returncode == 0 and "Hidden" not in (tmp_path / STUB).read_text()
    assert ended.stderr == "prog.py:10: warning: Hidden is defined inside a function, where no stub can name it\n"
