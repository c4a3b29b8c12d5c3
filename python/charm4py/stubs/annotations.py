"""Translates expressions of a module for the stub: names are resolved in the module, not in the stub."""

from __future__ import annotations

import ast
import builtins
from typing import Callable, Collection, Optional

from .classes import Chares
from .modules import Class, Module, Thing

ANY = "Any"
TYPINGS = ("typing", "typing_extensions")
#: Subscripts that do not mean a container of values.
OPAQUE = frozenset({"type", "typing.Type", "typing.Callable", "collections.abc.Callable", "typing.Literal", "typing_extensions.Literal"})


def name_node(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


class Said(ast.NodeTransformer):
    """Translates the annotations and defaults of a class's methods.

    ``alias`` returns the stub's name of a module. ``taken`` are names of methods in the stub, so that built-in names need a prefix there.
    """

    def __init__(self, chares: Chares, cls: Class, home: Class, alias: Callable[[Module], str], taken: Collection[str]) -> None:
        #: The class whose proxies have the methods, and the class that defines them.
        self.of, self.home = cls, home
        self.chares, self.alias, self.taken = chares, alias, taken
        self.variables: set[str] = {parameter.name for parameter in getattr(home.node, "type_params", [])}
        self.is_literal = False

    # Whole expressions

    def cls(self) -> str:
        """The class whose proxies have the method."""
        name = f"{self.alias(self.of.module)}.{self.of.qualname}"
        said = Said(self.chares, self.of, self.of, self.alias, self.taken)
        parameters = [ast.unparse(said.visit(node)) for node in self.chares.parameters(self.of)]
        return f"{name}[{', '.join(parameters)}]" if parameters else name

    def annotation(self, node: Optional[ast.expr]) -> str:
        """A type, or ``Any`` if there is none."""
        return ANY if node is None else ast.unparse(self.visit(unquoted(node)))

    def parameter(self, node: ast.expr) -> str:
        """The type of a parameter: one that is annotated as a chare accepts a proxy too."""
        return self.or_proxy(unquoted(node))

    def default(self, node: ast.expr) -> str:
        """A default if it is a literal, otherwise ``...``."""
        plain = (ast.Constant, ast.Name, ast.Attribute, ast.UnaryOp, ast.USub, ast.UAdd, ast.Invert, ast.Not, ast.Tuple, ast.Load)
        if not all(isinstance(inner, plain) for inner in ast.walk(node)):
            return "..."
        self.is_literal = True
        try:
            return ast.unparse(self.visit(node))
        finally:
            self.is_literal = False

    def or_proxy(self, node: ast.expr) -> str:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return f"{self.or_proxy(unquoted(node.left))} | {self.or_proxy(unquoted(node.right))}"
        if isinstance(node, ast.Subscript):
            head = self.full(node.value)
            if head in [f"{typing}.{name}" for typing in TYPINGS for name in ("Optional", "Union")]:
                items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
                none = ["None"] if str(head).endswith("Optional") else []
                return " | ".join([self.or_proxy(unquoted(item)) for item in items] + none)
            if self.is_chare(node.value):
                said = ast.unparse(self.visit(node))
                return f"{said} | Proxy[{said}]"
            return ast.unparse(self.visit(self.with_proxies_inside(node)))
        said = ast.unparse(self.visit(node))
        return f"{said} | Proxy[{said}]" if self.is_chare(node) else said

    def with_proxies_inside(self, node: ast.Subscript) -> ast.Subscript:
        """``list[Cell]`` may contain chares or proxies, and lists are invariant, so it becomes ``list[Any]``."""
        head = self.full(node.value)
        if head in OPAQUE or isinstance(head, Class) or str(head).startswith("charm4py."):
            return node
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        items = [unquoted(item) for item in items]
        if not any(self.is_chare(item) for item in items):
            return node
        said = [name_node("__Any__") if self.is_chare(item) else item for item in items]
        return ast.Subscript(node.value, ast.Tuple(said, ast.Load()) if len(said) > 1 else said[0], ast.Load())

    # Names

    def full(self, node: ast.expr) -> Thing:
        """Resolves a name."""
        found = self.chares.modules.look_up_expression(self.home.module, node, scope=self.home)
        if found is None and isinstance(node, ast.Name) and node.id not in self.home.module.bound:
            return node.id
        return found

    def is_chare(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Subscript):
            node = node.value
        found = self.full(node) if isinstance(node, (ast.Name, ast.Attribute)) else None
        return isinstance(found, Class) and found in self.chares.chares

    def visit_Name(self, node: ast.Name) -> ast.expr:
        name, module = node.id, self.home.module
        if name == "__Any__":
            return ast.Name(ANY)
        if name in self.variables:
            return node
        if name in self.home.bound and name not in self.method_names():
            return name_node(f"{self.alias(module)}.{self.home.qualname}.{name}")
        if self.full(node) in [f"{typing}.Self" for typing in TYPINGS]:
            return name_node(self.cls())
        known = name in module.bound or (bool(module.stars) and self.chares.modules.look_up(module, name) is not None)
        if not known and hasattr(builtins, name):
            return name_node(f"_builtins.{name}") if name in self.taken else node
        return name_node(f"{self.alias(module)}.{name}")

    def method_names(self) -> set[str]:
        return {name for name, bound in self.home.bound.items() if isinstance(bound, (ast.FunctionDef, ast.AsyncFunctionDef))}

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if self.is_literal or not isinstance(node.value, str):
            return node
        found: ast.expr = self.visit(unquoted(node))
        return found

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if self.full(node) in [f"{typing}.Self" for typing in TYPINGS]:
            return name_node(self.cls())
        return ast.Attribute(self.visit(node.value), node.attr, ast.Load())

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        head = str(self.full(node.value)).rpartition(".")[2] if isinstance(self.full(node.value), str) else ""
        if head == "Annotated" and isinstance(node.slice, ast.Tuple):
            said: ast.expr = self.visit(unquoted(node.slice.elts[0]))
            return said
        before, self.is_literal = self.is_literal, self.is_literal or head == "Literal"
        try:
            return ast.Subscript(self.visit(node.value), self.visit(node.slice), ast.Load())
        finally:
            self.is_literal = before


def unquoted(node: ast.expr) -> ast.expr:
    """Parses an annotation that is a string."""
    if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        return node
    try:
        return unquoted(ast.parse(node.value.strip(), mode="eval").body)
    except (SyntaxError, ValueError):
        return name_node("__Any__")
