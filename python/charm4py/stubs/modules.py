"""Modules in source code: finds and reads them without an import, and resolves names."""

from __future__ import annotations

import ast
import os
import sysconfig
import warnings
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Iterable, Iterator, Optional, Sequence, Union

PACKAGE = Path(__file__).resolve().parents[1]
STDLIB = Path(sysconfig.get_path("stdlib")).resolve()
#: Packages whose modules are not read.
NAMES_ONLY = frozenset({"typing_extensions"})
#: Functions that create type variables.
VARIABLES = frozenset({"TypeVar", "ParamSpec", "TypeVarTuple"})

Function = Union[ast.FunctionDef, ast.AsyncFunctionDef]


class Refused(Exception):
    """The error for which the command writes no stub, with its exit code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Imported:
    """The target of an import: a module, or a name of one. ``level`` counts the dots of a relative import."""

    level: int
    module: str
    name: Optional[str] = None


@dataclass(eq=False)
class Class:
    """A class statement."""

    module: Module
    node: ast.ClassDef
    qualname: str
    #: The class that contains it.
    outer: Optional[Class] = None
    bound: dict[str, Bound] = field(default_factory=dict)

    @property
    def fullname(self) -> str:
        return f"{self.module.name}.{self.qualname}"


@dataclass(eq=False)
class Module:
    """A module's source, and the bindings of its names."""

    name: str
    path: Path
    #: Whether it belongs to the program, not to a library.
    local: bool
    tree: ast.Module
    bound: dict[str, Bound] = field(default_factory=dict)
    #: Modules of which it imports all names.
    stars: list[Imported] = field(default_factory=list)
    classes: list[Class] = field(default_factory=list)
    #: The classes that are defined inside functions.
    hidden: list[tuple[int, str]] = field(default_factory=list)


#: The binding of a name: an import, a class, a value (its expression), a function, or something else.
Bound = Union[Imported, Class, ast.expr, Function, None]
#: A resolved name: a class, a module, the expression of a value with its module, or a full name if its module is not read.
Thing = Union[Class, Module, "Value", str, None]


@dataclass(frozen=True)
class Value:
    """The expression of a value, with its module."""

    module: Module
    node: ast.expr


def statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of one scope, including those inside ``if``, ``try``, ``with`` and loops."""
    for statement in body:
        yield statement
        for part in ("body", "orelse", "finalbody", "handlers"):
            inner = getattr(statement, part, [])
            if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                for each in inner:
                    yield from statements(each.body if isinstance(each, ast.ExceptHandler) else [each])


def imports(statement: ast.stmt) -> Iterator[tuple[str, Imported]]:
    """The names that an import binds, ``*`` for all of a module's."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            first = alias.name.partition(".")[0]
            yield (alias.asname, Imported(0, alias.name)) if alias.asname else (first, Imported(0, first))
    elif isinstance(statement, ast.ImportFrom):
        for alias in statement.names:
            yield alias.asname or alias.name, Imported(statement.level, statement.module or "", alias.name)


def bind(module: Module, body: Sequence[ast.stmt], bound: dict[str, Bound], outer: Optional[Class] = None) -> None:
    """Records the bindings of a scope."""
    for statement in statements(body):
        for name, imported in imports(statement):
            if name == "*":
                module.stars.append(imported)
            else:
                bound[name] = imported
        if isinstance(statement, ast.ClassDef):
            made = Class(module, statement, f"{outer.qualname}.{statement.name}" if outer is not None else statement.name, outer)
            bound[statement.name] = made
            module.classes.append(made)
            bind(module, statement.body, made.bound, made)
        elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            bound[statement.name] = statement
            inner = (node for node in ast.walk(statement) if isinstance(node, ast.ClassDef))
            module.hidden += [(node.lineno, node.name) for node in inner]
        elif isinstance(statement, ast.Assign):
            for target in statement.targets:
                for node in ast.walk(target):
                    if isinstance(node, ast.Name):
                        bound[node.id] = statement.value if node is target else None
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            bound[statement.target.id] = statement.value
        elif type(statement).__name__ == "TypeAlias":
            bound[statement.name.id] = None  # type: ignore[attr-defined]


def parsed(path: Path, shown: str) -> ast.Module:
    """Parses a file."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise Refused(74, f"{shown}: {error.strerror or error}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except SyntaxError as error:
        raise Refused(65, f"{shown}:{error.lineno or 1}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise Refused(65, f"{shown}: {error}") from None


def file_of(directory: Path, dotted: str) -> Optional[Path]:
    """The file of a module below a directory."""
    base = directory.joinpath(*dotted.split(".")) if dotted else directory
    files = (base / "__init__.py", base.with_suffix(".py"))
    return next((file.resolve() for file in files[: 2 if dotted else 1] if file.is_file()), None)


class Modules:
    """The modules of a program, each read once. ``root`` is where the checker runs."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        #: Where the program's own modules are.
        self.places = [self.root, self.root / "src"]
        self.read: dict[Path, Module] = {}

    def given(self, argument: str) -> Module:
        """The module of an argument, which is a file or a module's name."""
        path = Path(argument)
        if path.suffix == ".py" or path.is_file() or os.sep in argument:
            if not path.exists():
                raise Refused(78, f"{argument}: no such file")
            if not path.is_file():
                raise Refused(64, f"{argument} is no file: name the modules in it")
            path = path.resolve()
            self.places.append(top_of(path))
            return self.module(path, argument, True)
        if not all(part.isidentifier() for part in argument.split(".")):
            raise Refused(64, f"{argument} is neither a file nor the name of a module")
        found = self.find(argument)
        if found is None:
            raise Refused(78, f"{argument}: no such module")
        return self.module(found, argument, True)

    def find(self, dotted: str) -> Optional[Path]:
        """The file of a module, by its absolute name."""
        if dotted.partition(".")[0] == "charm4py":
            return file_of(PACKAGE.parent, dotted)
        for place in self.places:
            found = file_of(place, dotted)
            if found is not None:
                return found
        first, _, others = dotted.partition(".")
        spec = PathFinder.find_spec(first)
        if spec is None:
            return None
        if not others:
            return Path(spec.origin).resolve() if spec.origin and spec.origin.endswith(".py") else None
        places = [file_of(Path(place), others) for place in spec.submodule_search_locations or ()]
        return next((place for place in places if place is not None), None)

    def is_local(self, path: Path) -> bool:
        return any(place in path.parents for place in self.places) and not {"site-packages", "dist-packages"} & set(path.parts)

    def module(self, path: Path, shown: str, local: bool) -> Module:
        if path not in self.read:
            module = Module(self.name(path, shown), path, local, parsed(path, shown))
            self.read[path] = module
            bind(module, module.tree.body, module.bound)
        return self.read[path]

    def name(self, path: Path, shown: str) -> str:
        """The name by which the stub imports a file: the checker searches from the root."""
        top = top_of(path)
        for place in (top,) if PACKAGE in path.parents else (self.root / "src", self.root, top):
            if place in path.parents and not (place.name == "src" and (place / "__init__.py").exists()):
                relative = path.relative_to(place).with_suffix("")
                parts = relative.parts[:-1] if relative.name == "__init__" else relative.parts
                if parts and all(part.isidentifier() for part in parts):
                    return ".".join(parts)
        raise Refused(65, f"{shown}: this is no valid module name, so it cannot be imported: rename the file")

    # Resolution of names

    def imported(self, module: Module, what: Imported, foreign: bool) -> Optional[Module]:
        """The module of an import, if it can be read. Modules of libraries are read only with ``foreign``."""
        if what.level:
            places = [*module.path.parents][what.level - 1]
            path = file_of(places, what.module)
        elif what.module.partition(".")[0] in NAMES_ONLY:
            return None
        else:
            path = self.find(what.module)
        if path is None or (STDLIB in path.parents and "site-packages" not in path.parts and not self.is_local(path)):
            return None
        local = self.is_local(path)
        if not (local or foreign or PACKAGE in path.parents):
            return None
        try:
            return self.module(path, shown(path, self.root), local and PACKAGE not in path.parents)
        except Refused:
            if local:
                raise
            return None

    def look_up(self, module: Module, name: str, foreign: bool = False, seen: frozenset[tuple[Path, str]] = frozenset()) -> Thing:
        """Resolves a name of a module; ``None`` if the module does not have it, or its binding does not matter."""
        if (module.path, name) in seen:
            return None
        seen |= {(module.path, name)}
        if name not in module.bound:
            for star in module.stars:
                target = self.imported(module, star, foreign)
                found = self.look_up(target, name, foreign, seen) if target is not None else None
                if found is not None:
                    return found
                if target is None and star.module in ("typing", "typing_extensions") and name[0].isupper():
                    return f"{star.module}.{name}"
            return None
        bound = module.bound[name]
        if isinstance(bound, Imported):
            return self.look_up_import(module, bound, foreign, seen)
        if isinstance(bound, (ast.Name, ast.Attribute)):
            return self.look_up_expression(module, bound, foreign, seen) or Value(module, bound)
        return Value(module, bound) if isinstance(bound, ast.expr) else bound if isinstance(bound, Class) else None

    def look_up_import(self, module: Module, bound: Imported, foreign: bool, seen: frozenset[tuple[Path, str]]) -> Thing:
        target = self.imported(module, bound, foreign)
        full = f"{bound.module}.{bound.name}" if bound.name and bound.module else bound.name or bound.module
        named = ".".join([*package_of(module)[: 1 - bound.level or None], full]) if bound.level else full
        if bound.name is None:
            return target or named
        if target is not None and bound.name in target.bound:
            return self.look_up(target, bound.name, foreign, seen)
        submodule = self.imported(module, Imported(bound.level, full), foreign)
        if submodule is not None:
            return submodule
        return named if target is None else self.look_up(target, bound.name, foreign, seen)

    def look_up_expression(
        self, module: Module, node: ast.expr, foreign: bool = False, seen: frozenset[tuple[Path, str]] = frozenset(), scope: Optional[Class] = None
    ) -> Thing:
        """Resolves ``a.b.c``."""
        if isinstance(node, ast.Name):
            own = scope.bound.get(node.id) if scope is not None else None
            return own if isinstance(own, Class) else self.look_up(module, node.id, foreign, seen)
        if not isinstance(node, ast.Attribute):
            return None
        of = self.look_up_expression(module, node.value, foreign, seen, scope)
        if isinstance(of, str):
            return f"{of}.{node.attr}"
        if isinstance(of, Class):
            inner = of.bound.get(node.attr)
            return inner if isinstance(inner, Class) else None
        if isinstance(of, Module):
            found = self.look_up(of, node.attr, foreign, seen)
            return found if found is not None else self.submodule(of, node.attr, foreign)
        return None

    def submodule(self, package: Module, name: str, foreign: bool) -> Optional[Module]:
        return self.imported(package, Imported(1, name), foreign) if package.path.name == "__init__.py" else None

    def is_variable(self, thing: Thing) -> bool:
        """Whether it is a type variable."""
        if not isinstance(thing, Value) or not isinstance(thing.node, ast.Call):
            return False
        maker = self.look_up_expression(thing.module, thing.node.func)
        return isinstance(maker, str) and maker.rpartition(".")[2] in VARIABLES

    def follow(self, module: Module) -> None:
        """Reads the program's modules that a module imports, directly or indirectly."""
        for statement in ast.walk(module.tree):
            if not isinstance(statement, (ast.Import, ast.ImportFrom)):
                continue
            level, base = (statement.level, statement.module or "") if isinstance(statement, ast.ImportFrom) else (0, "")
            names = [alias.name for alias in statement.names]
            dotted = [base, *(f"{base}.{name}".lstrip(".") for name in names)] if isinstance(statement, ast.ImportFrom) else names
            for name in dotted:
                known = len(self.read)
                found = self.imported(module, Imported(level, name), False) if name or level else None
                if found is not None and found.local and len(self.read) > known:
                    self.follow(found)


def package_of(module: Module) -> list[str]:
    """The parts of the name of a module's package."""
    parts = module.name.split(".")
    return parts if module.path.name == "__init__.py" else parts[:-1]


def top_of(path: Path) -> Path:
    """The directory from which a file is imported: the parent of its outermost package."""
    place = path.parent
    while (place / "__init__.py").is_file() and place != place.parent:
        place = place.parent
    return place


def shown(path: Path, root: Path) -> str:
    """A path for messages."""
    return str(path.relative_to(root)) if root in path.parents else str(path)
