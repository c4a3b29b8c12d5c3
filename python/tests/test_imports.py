"""Modules of the packages import each other without a circle: any one can be read, changed and tested without those that build on it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Iterator

ROOT = Path(__file__).parent.parent
PACKAGES = ("charm4py", "charmrun")
#: Imports that may close a circle, and why.
ALLOWED = {
    (
        "charm4py.charm",
        "charm4py.interactive",
    ): "charm.start(interactive=True) runs the prompt, and the prompt is a program: it starts, waits and ends by charm",
}

#: Modules of the native part that form a circle, since in Python they are one thing; ARCHITECTURE.md has the reasons. The list may only become shorter.
NATIVE_CIRCLE = """
    arguments array_map chare codec element future gate handles insertion outcome part proxy reduce
""".split()


def modules() -> dict[str, Path]:
    """The packages' modules by their names; ``charm4py._engine`` is compiled, and imports none of them."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports of a module, those inside functions too; not those that only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from (each for other in child.orelse for each in statements(ast.Module([other], [])))
        else:
            yield from statements(child)


def imported(module: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Which of the known modules a module imports."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for statement in statements(ast.parse(path.read_text())):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
            continue
        above = package.split(".")[: len(package.split(".")) + 1 - statement.level] if statement.level else []
        base = ".".join([*above, *filter(None, [statement.module])])
        for alias in statement.names:
            name = f"{base}.{alias.name}"
            found.add(name if name in known or name == "charm4py._engine" else base)
    return (found & known.keys()) - {module}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of a circle, or of what leads into one; none if there is no circle."""
    left = dict(graph)
    while True:
        done = [module for module, targets in left.items() if not targets & left.keys()]
        if not done:
            return sorted(left)
        for module in done:
            del left[module]


def graph() -> dict[str, set[str]]:
    known = modules()
    return {module: imported(module, path, known) for module, path in known.items()}


def test_modules_import_each_other_without_a_circle() -> None:
    imports = graph()
    for importer, target in ALLOWED:
        imports[importer].discard(target)
    left = circle(imports)
    arrows = [f"{module} -> {target}" for module in left for target in sorted(imports[module] & set(left))]
    assert not left, "these imports are part of circles, or lead to them:\n" + "\n".join(arrows)


def test_every_exception_is_needed() -> None:
    imports = graph()
    for importer, target in ALLOWED:
        assert target in imports[importer], f"{importer} does not import {target} any more: take the exception out"
        others = ALLOWED.keys() - {(importer, target)}
        assert circle({module: {to for to in targets if (module, to) not in others} for module, targets in imports.items()})


def test_a_circle_is_found_also_inside_a_function(tmp_path: Path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("def f():\n    from .two import g\n")
    two.write_text("from typing import TYPE_CHECKING\nfrom . import one\nif TYPE_CHECKING:\n    from .three import T\n")
    known = {"p.one": one, "p.two": two, "p.three": tmp_path / "three.py"}
    found = {module: imported(module, path, known) for module, path in known.items() if module != "p.three"}
    assert found == {"p.one": {"p.two"}, "p.two": {"p.one"}}
    assert circle(found) == ["p.one", "p.two"]


def test_the_native_part_has_one_circle_which_is_named() -> None:
    sources = {path.stem: re.sub(r"//.*", "", path.read_text()) for path in (ROOT / "src").glob("*.rs")}
    uses = {}
    for module, text in sources.items():
        groups = re.findall(r"use crate::\{([^}]*)\}", text)
        names = {*re.findall(r"crate::(\w+)", text), *re.findall(r"\w+", " ".join(groups))}
        uses[module] = (names & sources.keys()) - {module}
    assert sorted(module for module in uses if module in closure(module, uses)) == NATIVE_CIRCLE


def closure(module: str, graph: dict[str, set[str]]) -> set[str]:
    """All that a module uses, and what that uses."""
    found: set[str] = set()
    new = set(graph[module])
    while new:
        found |= new
        new = {target for each in new for target in graph[each]} - found
    return found
