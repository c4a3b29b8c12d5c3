"""Classes of chares in source code: their bases, in Python's order, and their entry methods."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Iterable, Iterator, Optional

from ..chare import OWN
from .modules import PACKAGE, Class, Function, Imported, Module, Modules, statements

#: Names that a proxy has itself: methods with these names cannot be called through it.
PROXYS = frozenset({"issec", "ckInsert", "ckDoneInserting", "ckDestroy", "ckLocalBranch"})
#: Bases without methods that a proxy would have.
EMPTY = frozenset(
    f"{module}.{name}"
    for module, names in {"typing": ("Generic", "Protocol"), "typing_extensions": ("Generic", "Protocol"), "abc": ("ABC",)}.items()
    for name in names
) | {"object"}
#: Decorators whose result is no function, and so no entry method.
NO_METHODS = frozenset(
    {"property", "classmethod", "abc.abstractproperty", "abc.abstractclassmethod"}
    | {f"functools.{name}" for name in ("cached_property", "lru_cache", "cache", "singledispatchmethod", "partialmethod")}
)


@dataclass(frozen=True)
class Method:
    """An entry method of the proxies of ``owner``, defined in ``home``. ``variants`` has the function, or its overloads."""

    name: str
    owner: Class
    home: Class
    variants: tuple[Function, ...]
    static: bool


@dataclass(eq=False)
class Chares:
    """The classes of chares of a program."""

    modules: Modules
    #: The base classes of each class, itself first, without those of the runtime.
    order: dict[Class, list[Class]] = field(default_factory=dict)
    chares: set[Class] = field(default_factory=set)
    #: Classes with a base that cannot be read.
    open: set[Class] = field(default_factory=set)
    pending: set[Class] = field(default_factory=set)

    def add(self, cls: Class) -> bool:
        """Adds a class; returns whether it is a class of chares."""
        if cls in self.order or cls in self.pending:
            return cls in self.chares
        self.pending.add(cls)
        chains, is_chare = [], False
        for base in cls.node.bases:
            found = self.base(cls, base)
            if isinstance(found, Class) and is_runtimes(found):
                is_chare = True
            elif isinstance(found, Class):
                is_chare |= self.add(found)
                chains.append(self.order.get(found, [found]))
                if found in self.open:
                    self.open.add(cls)
            elif found not in EMPTY:
                self.open.add(cls)
        self.pending.discard(cls)
        self.order[cls] = [cls, *linear([*map(list, chains), [chain[0] for chain in chains]])]
        if is_chare:
            self.chares.add(cls)
        return is_chare

    def base(self, cls: Class, node: ast.expr) -> Class | str | None:
        """A base of a class, of any module; only its name if it cannot be read."""
        node = node.value if isinstance(node, ast.Subscript) else node
        found = self.modules.look_up_expression(cls.module, node, foreign=True, scope=cls.outer)
        if found is None and isinstance(node, ast.Name) and node.id not in cls.module.bound:
            return node.id
        return found if isinstance(found, (Class, str)) else None

    def add_used(self, module: Module) -> None:
        """Adds the classes of this package that a module uses: a program may create a group of them."""
        for node in ast.walk(module.tree):
            if isinstance(node, (ast.Name, ast.Attribute)):
                name = node.id if isinstance(node, ast.Name) else node.attr
                if isinstance(node, ast.Attribute) or isinstance(module.bound.get(name), Imported) or module.stars:
                    found = self.modules.look_up_expression(module, node)
                    if isinstance(found, Class) and PACKAGE in found.module.path.parents and not is_runtimes(found):
                        self.add(found)

    def wanted(self) -> list[Class]:
        """The classes of chares, and the classes from which they inherit methods. Derived classes come before their bases."""
        found = {base for cls in self.chares for base in self.order[cls]}
        return sorted(found, key=lambda cls: (-len(self.order[cls]), cls.fullname))

    def methods(self) -> dict[str, list[Method]]:
        """The entry methods of all classes, by name."""
        found: dict[str, list[Method]] = {}
        own = {cls: {method.name: method for method in self.own_methods(cls)} for cls in self.wanted()}
        for cls, methods in own.items():
            for name, method in methods.items():
                found.setdefault(name, []).append(method)
        for cls in own:
            for method in inherited_otherwise(self.order[cls], own, found):
                found[method.name].insert(0, method)
        return found

    def own_methods(self, cls: Class) -> Iterator[Method]:
        """The entry methods that a class defines itself."""
        defined: dict[str, list[Function]] = {}
        for statement in statements(cls.node.body):
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                defined.setdefault(statement.name, []).append(statement)
            elif isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Name) and statement.value.id in defined:
                for target in statement.targets:
                    if isinstance(target, ast.Name):
                        defined[target.id] = defined[statement.value.id]
        for name, functions in defined.items():
            if name.startswith("__") or name in OWN or name in PROXYS:
                continue
            decorators = [set(self.decorators(cls, function)) for function in functions]
            if decorators[-1] & NO_METHODS:
                continue
            overloads = [f for f, said in zip(functions, decorators) if said & {"typing.overload", "typing_extensions.overload"}]
            yield Method(name, cls, cls, tuple(overloads or functions[-1:]), "staticmethod" in decorators[-1])

    def decorators(self, cls: Class, function: Function) -> Iterator[str]:
        """The full names of a method's decorators. ``@name.setter`` counts as ``property``."""
        for node in function.decorator_list:
            node = node.func if isinstance(node, ast.Call) else node
            if isinstance(node, ast.Attribute) and node.attr in ("setter", "getter", "deleter"):
                yield "property"
            found = self.modules.look_up_expression(cls.module, node)
            if isinstance(found, str):
                yield found
            elif found is None and isinstance(node, ast.Name) and node.id not in cls.module.bound:
                yield node.id

    def parameters(self, cls: Class) -> list[ast.expr]:
        """The type variables of a generic class, in the order of its subscript."""
        own = [ast.Name(parameter.name) for parameter in getattr(cls.node, "type_params", [])]
        if own:
            return list(own)
        found: dict[str, ast.expr] = {}
        for base in cls.node.bases:
            if isinstance(base, ast.Subscript):
                used = [node for node in ast.walk(base.slice) if isinstance(node, (ast.Name, ast.Attribute))]
                used = [node for node in used if self.modules.is_variable(self.modules.look_up_expression(cls.module, node))]
                if self.base(cls, base) in ("typing.Generic", "typing_extensions.Generic"):
                    return list(used)
                found.update((ast.unparse(node), node) for node in used)
        return list(found.values())


def is_runtimes(cls: Class) -> bool:
    """Whether it is :class:`Chare` itself."""
    return cls.qualname == "Chare" and cls.module.path == PACKAGE / "chare.py"


def linear(chains: list[list[Class]]) -> list[Class]:
    """Python's method resolution order of a class, from those of its bases; some order if there is none."""
    found: list[Class] = []
    while any(chains):
        heads = [chain[0] for chain in chains if chain]
        good = (head for head in heads if not any(head in chain[1:] for chain in chains))
        head: Optional[Class] = next(good, None)
        found.append(head or heads[0])
        chains = [[cls for cls in chain if cls is not found[-1]] for chain in chains]
    return found


def inherited_otherwise(order: list[Class], own: dict[Class, dict[str, Method]], found: dict[str, list[Method]]) -> Iterable[Method]:
    """The methods that a class with several bases inherits from another base than the first one in the stub."""
    cls = order[0]
    names = {name for base in order[1:] for name in own[base]} - own[cls].keys()
    for name in sorted(names):
        owners = [base for base in order if name in own[base]]
        first = next(method for method in found[name] if method.owner in owners)
        if first.owner is not owners[0]:
            method = own[owners[0]][name]
            yield Method(name, cls, method.home, method.variants, method.static)
