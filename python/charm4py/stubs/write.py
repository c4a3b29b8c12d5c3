"""Writes the stub: the package's own stub of proxies, with the methods of a program."""

from __future__ import annotations

import ast
from typing import Iterator, Optional

from .annotations import Said
from .classes import Chares, Method
from .modules import PACKAGE, Class, Function, Module

#: The package of the stub.
NAME = "charm4py_proxies"
#: The line of the package's stub for all methods.
ANY_METHOD = "    def __getattr__(self, name: str) -> Method[Any, Any]: ...\n"
#: The class of methods, which the stub makes a protocol, so that any function is one.
METHOD = "class Method(Generic[F, P]):\n"
PROTOCOL = "@runtime_checkable\nclass Method(Protocol[F, P]):\n"
#: The keywords of its call, which the stub takes from the function.
OWN_KEYWORDS = " ret: bool = False, awaitable: bool = False,"
PROXY = "class Proxy(Generic[C]):\n"

TRUE, FALSE = "Literal[True]", "Literal[False] = False"
EITHER = "bool = False"


HEAD = """\
# Made by `{command}`: to change it, run that again.
# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportInconsistentOverload=false
# pyright: reportInvalidTypeArguments=false, reportInvalidTypeForm=false, reportMissingImports=false, reportOverlappingOverload=false
# pyright: reportPrivateImportUsage=false
# mypy: ignore-errors

import builtins as _builtins
from typing import Literal, Protocol, overload as _overload, runtime_checkable

from typing_extensions import Never

from charm4py.threads import Future
{imports}

"""


def stub(chares: Chares, command: str) -> str:
    """The stub of a program's proxies."""
    text = (PACKAGE.parent / NAME / "__init__.pyi").read_text("utf-8")
    writer = Writer(chares)
    methods = "\n".join(writer.lines())
    derived = f"class Methods(Generic[C]):\n{methods}\n\nclass Proxy(Methods[C]):\n"
    for before, after in ((ANY_METHOD, ""), (METHOD, PROTOCOL), (OWN_KEYWORDS, ""), (PROXY, derived)):
        assert before in text, f"{NAME} lacks {before!r}"
        text = text.replace(before, after)
    imports = "\n".join(f"import {module} as {alias}" for module, alias in sorted(writer.aliases.items()))
    return HEAD.format(command=command, imports=imports) + text.partition("\n\n")[2]


class Writer:
    """Writes the methods, and records the modules that they need."""

    def __init__(self, chares: Chares) -> None:
        self.chares = chares
        self.methods = chares.methods()
        #: The stub's names of modules, distinct from all methods.
        self.aliases: dict[str, str] = {}
        self.list = "_builtins.list" if "list" in self.methods else "list"

    def alias(self, module: Module) -> str:
        if module.name not in self.aliases:
            alias = "_" + module.name.replace(".", "_")
            while alias in self.aliases.values() or alias in self.methods or alias in ("_builtins", "_overload"):
                alias += "_"
            self.aliases[module.name] = alias
        return self.aliases[module.name]

    def said(self, owner: Class, home: Class) -> Said:
        return Said(self.chares, owner, home, self.alias, self.methods.keys())

    def lines(self) -> Iterator[str]:
        """The methods by name. Among methods of one name, those of derived classes come before those of their bases."""
        for cls in self.chares.wanted():
            self.alias(cls.module)
        for _, methods in sorted(self.methods.items()):
            for method in methods:
                for function in method.variants:
                    yield from self.overloads(method, function)
        unread = [cls for cls in self.chares.wanted() if cls in self.chares.open]
        for cls in unread:
            yield from self.anything(cls)
        if unread:
            yield "    @_overload"
            yield "    def __getattr__(self, name: Never) -> Any: ..."
        elif not self.methods:
            yield "    ..."

    def anything(self, cls: Class) -> Iterator[str]:
        """The fallback for a class with a base that cannot be read."""
        yield "    @_overload"
        yield f"    def __getattr__(self: Proxy[{self.said(cls, cls).cls()}], name: str) -> Any: ..."

    def overloads(self, method: Method, function: Function) -> Iterator[str]:
        """A method in the form that proxies have."""
        said = self.said(method.owner, method.home)
        said.variables |= {parameter.name for parameter in getattr(function, "type_params", [])}
        cls, value = said.cls(), said.annotation(function.returns)
        brackets = scoped(said, method.owner, function)
        for proxy, ret, awaitable, result in (
            ("ElementProxy", TRUE, EITHER, f"Future[{value}]"),
            ("CollectionProxy", TRUE, EITHER, f"Future[{self.list}[{value}]]"),
            ("Proxy", TRUE, EITHER, "Future[Any]"),
            ("Proxy", FALSE, TRUE, "Future[None]"),
            ("Proxy", FALSE, FALSE, "None"),
        ):
            parameters = self.parameters(said, method, function, f"{proxy}[{cls}]", ret, awaitable)
            yield "    @_overload"
            yield f"    def {method.name}{brackets}({', '.join(parameters)}) -> {result}: ..."

    def parameters(self, said: Said, method: Method, function: Function, proxy: str, ret: str, awaitable: str) -> Iterator[str]:
        """The parameters of a call: the proxy, the method's own parameters without the chare, and the keywords of every call."""
        given = function.args
        positional = [*given.posonlyargs, *given.args]
        defaults = [None] * (len(positional) - len(given.defaults)) + list(given.defaults)
        own = list(zip(positional, defaults))
        skipped = 0 if method.static or not own else 1
        yield f"self: {proxy}"
        for at, (arg, default) in enumerate(own):
            if at >= skipped:
                yield written(said, arg, default)
            if at + 1 == len(given.posonlyargs):
                yield "/"
        if given.vararg is not None:
            yield "*" + written(said, given.vararg, None)
        else:
            yield "*"
        for arg, default in zip(given.kwonlyargs, given.kw_defaults):
            if arg.arg not in ("ret", "awaitable"):
                yield written(said, arg, default)
        yield f"ret: {ret}"
        yield f"awaitable: {awaitable}"
        if given.kwarg is not None:
            yield "**" + written(said, given.kwarg, None)


def scoped(said: Said, owner: Class, function: Function) -> str:
    """The type parameters of a method: those of the class and of the function."""
    found = [*getattr(owner.node, "type_params", []), *getattr(function, "type_params", [])]
    return f"[{', '.join(ast.unparse(said.visit(node)) for node in found)}]" if found else ""


def written(said: Said, arg: ast.arg, default: Optional[ast.expr]) -> str:
    """A parameter. It cannot have the name of a keyword of every call."""
    name = f"_{arg.arg}" if arg.arg in ("ret", "awaitable", "self") else arg.arg
    text = name if arg.annotation is None else f"{name}: {said.parameter(arg.annotation)}"
    if default is None:
        return text
    return f"{text} = {said.default(default)}" if arg.annotation is not None else f"{text}={said.default(default)}"
