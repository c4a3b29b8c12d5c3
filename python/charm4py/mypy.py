"""A plugin for mypy: the types of proxies' methods.

A proxy has a method for each entry method of its class, with ``ret`` and ``awaitable`` in addition, and with another result. Python's types cannot
express "all methods of a class, each changed like this". With this plugin in mypy's configuration such calls are checked like calls of the methods::

    [tool.mypy]
    plugins = ["charm4py.mypy"]

How it works: ``proxy.m`` is a ``Method[the method's type, the proxy's type]``. A call of it has the method's own parameters, and its result
follows from the values of ``ret`` and ``awaitable`` in the call.
"""

from __future__ import annotations

from functools import partial
from typing import Callable, Optional, Sequence

from mypy.checker import TypeChecker
from mypy.maptype import map_instance_to_supertype
from mypy.nodes import ARG_NAMED_OPT, ARG_STAR2, CallExpr, Expression, TypeInfo
from mypy.plugin import AttributeContext, FunctionContext, MethodSigContext, Plugin
from mypy.types import (
    AnyType,
    CallableType,
    FunctionLike,
    Instance,
    LiteralType,
    NoneType,
    Overloaded,
    Type,
    TypeOfAny,
    TypeType,
    TypeVarType,
    UnionType,
    get_proper_type,
)

ENGINE = "charm4py._engine"
#: The module with the types of proxies.
PROXIES = "charm4py_proxies"
#: The classes with the runtime's own names, which are no entry methods.
RUNTIMES = frozenset({f"{ENGINE}.ChareBase", "charm4py.chare.Chare", "builtins.object"})


def plugin(version: str) -> type[Plugin]:
    """The entry point of the plugin: mypy calls it."""
    return Proxies


class Proxies(Plugin):
    """The hooks."""

    def get_attribute_hook(self, fullname: str) -> Optional[Callable[[AttributeContext], Type]]:
        proxy, _, name = fullname.rpartition(".")
        return partial(entry_method, name) if proxy == f"{PROXIES}.Proxy" else None

    def get_method_signature_hook(self, fullname: str) -> Optional[Callable[[MethodSigContext], FunctionLike]]:
        if fullname == f"{PROXIES}.Method.__call__":
            return call
        # A parameter that is annotated as a chare gets a proxy, so its methods may be called with ret.
        cls = self.lookup_fully_qualified(fullname.rpartition(".")[0]) if not fullname.startswith("builtins.") else None
        return called_as_proxy if cls is not None and isinstance(cls.node, TypeInfo) and is_chare(cls.node) else None

    def get_function_hook(self, fullname: str) -> Optional[Callable[[FunctionContext], Type]]:
        return single if fullname == "charm4py.chare.Chare" else None


def instance(context: AttributeContext | FunctionContext | MethodSigContext, module: str, name: str, args: list[Type]) -> Type:
    """A type of this package."""
    assert isinstance(context.api, TypeChecker)
    found = context.api.modules[module].names[name].node
    assert isinstance(found, TypeInfo)
    return Instance(found, args)


def single(context: FunctionContext) -> Type:
    """``Chare(cls, ...)`` is a proxy, not a chare."""
    chare: Type = AnyType(TypeOfAny.special_form)
    if context.arg_types and context.arg_types[0]:
        made = get_proper_type(context.arg_types[0][0])
        if isinstance(made, CallableType) and made.is_type_obj():
            chare = made.ret_type
        elif isinstance(made, Overloaded) and made.is_type_obj():  # no constructor of its own
            chare = made.items[-1].ret_type
        elif isinstance(made, TypeType):
            chare = made.item
    return instance(context, PROXIES, "ElementProxy", [chare])


def entry_method(name: str, context: AttributeContext) -> Type:
    """``proxy.name``, for names that ``Proxy`` itself does not have."""
    proxy, api = get_proper_type(context.type), context.api
    if not isinstance(proxy, Instance) or not isinstance(api, TypeChecker):
        return context.default_attr_type
    chare = chare_of(proxy)
    if chare is None or any(name in base.names for base in proxy.type.mro):
        return context.default_attr_type
    found = chare.type.get_containing_type_info(name)
    if found is None and chare.type.fallback_to_any:
        return context.default_attr_type
    method: Type = AnyType(TypeOfAny.from_error)
    if found is not None and found.fullname not in RUNTIMES:
        method = get_proper_type(api.expr_checker.analyze_external_member_access(name, chare, context.context))
        if isinstance(method, AnyType):
            return context.default_attr_type
    if not isinstance(method, (CallableType, Overloaded)):
        api.fail(f'"{chare.type.name}" has no entry method "{name}"', context.context)
        return AnyType(TypeOfAny.from_error)
    return instance(context, PROXIES, "Method", [method, proxy])


def chare_of(proxy: Instance) -> Instance | None:
    """The class of a proxy's chares, if it is known."""
    for base in proxy.type.mro:
        if base.fullname == f"{PROXIES}.Proxy":
            chare = get_proper_type(map_instance_to_supertype(proxy, base).args[0])
            if isinstance(chare, TypeVarType):
                chare = get_proper_type(chare.upper_bound)
            return chare if isinstance(chare, Instance) else None
    return None


def call(context: MethodSigContext) -> FunctionLike:
    """``proxy.m(...)``: the method's own parameters, and the result of this call."""
    called = get_proper_type(context.type)
    if not isinstance(called, Instance) or len(called.args) != 2:
        return context.default_signature
    method, proxy = (get_proper_type(arg) for arg in called.args)
    # The parameters of `Method.__call__`: what is positional, `ret`, `awaitable`, the other keywords.
    wants = [is_true(context, exprs) for exprs in context.args[1:3]]
    if isinstance(method, CallableType):
        return as_called(context, method, proxy, wants)
    if isinstance(method, Overloaded):
        return Overloaded([as_called(context, item, proxy, wants) for item in method.items])
    return context.default_signature


def is_chare(cls: TypeInfo) -> bool:
    """Whether it is a class of chares."""
    return any(base.fullname == f"{ENGINE}.ChareBase" for base in cls.mro)


def called_as_proxy(context: MethodSigContext) -> FunctionLike:
    """``chare.m(..., ret=True)``: only a proxy takes this keyword, so the object is one."""
    method = context.default_signature
    if not isinstance(context.context, CallExpr) or not isinstance(method, CallableType):
        return method
    given = dict(zip(context.context.arg_names, context.context.args))
    if not {"ret", "awaitable"} & (given.keys() - set(method.arg_names)):
        return method
    wants = [is_true(context, [given[name]] if name in given else []) for name in ("ret", "awaitable")]
    proxy = instance(context, PROXIES, "ElementProxy", [context.type])
    return as_called(context, method, proxy, wants)


def or_proxy(context: MethodSigContext, parameter: Type) -> Type:
    """The type that a parameter accepts: also a proxy, if it is annotated as a chare. Inside lists and other containers, any type."""
    parameter = get_proper_type(parameter)
    if isinstance(parameter, UnionType):
        return UnionType.make_union([or_proxy(context, item) for item in parameter.items])
    if not isinstance(parameter, Instance):
        return parameter
    if is_chare(parameter.type):
        return UnionType([parameter, instance(context, PROXIES, "Proxy", [parameter])])
    unknown = AnyType(TypeOfAny.special_form)
    inside = [get_proper_type(arg) for arg in parameter.args]
    if not any(isinstance(arg, Instance) and is_chare(arg.type) for arg in inside) or parameter.type.module_name.startswith("charm4py."):
        return parameter
    return parameter.copy_modified(args=[unknown if isinstance(arg, Instance) and is_chare(arg.type) else arg for arg in inside])


def is_true(context: MethodSigContext, exprs: Sequence[Expression]) -> bool | None:
    """Whether an argument is true; ``None`` if that is only known at run time."""
    if not exprs:
        return False
    given = get_proper_type(context.api.get_expression_type(exprs[0]))
    if isinstance(given, Instance) and given.last_known_value is not None:
        given = given.last_known_value
    return given.value is True if isinstance(given, LiteralType) else None


def as_called(context: MethodSigContext, method: CallableType, proxy: Type, wants: list[bool | None]) -> CallableType:
    """A method as a proxy has it."""
    at = method.arg_kinds.index(ARG_STAR2) if ARG_STAR2 in method.arg_kinds else len(method.arg_kinds)
    types = [or_proxy(context, parameter) for parameter in method.arg_types]
    truth = context.api.named_generic_type("builtins.bool", [])
    return method.copy_modified(
        arg_types=[*types[:at], truth, truth, *types[at:]],
        arg_kinds=[*method.arg_kinds[:at], ARG_NAMED_OPT, ARG_NAMED_OPT, *method.arg_kinds[at:]],
        arg_names=[*method.arg_names[:at], "ret", "awaitable", *method.arg_names[at:]],
        ret_type=result(context, method, proxy, wants),
    )


def result(context: MethodSigContext, method: CallableType, proxy: Type, wants: list[bool | None]) -> Type:
    """The type of a call's result: ``None`` or a future."""
    ret, awaitable = wants
    unknown = AnyType(TypeOfAny.special_form)

    def future(of: Type) -> Type:
        return instance(context, "charm4py.threads", "Future", [of])

    if ret:
        value = get_proper_type(method.ret_type)
        if isinstance(value, Instance) and value.type.fullname == "typing.Coroutine":
            value = get_proper_type(value.args[2])
        kind = proxy.type.name if isinstance(proxy, Instance) else ""
        if kind == "CollectionProxy":
            return future(context.api.named_generic_type("builtins.list", [value]))
        return future(value if kind == "ElementProxy" else unknown)
    if ret is False and awaitable:
        return future(NoneType())
    if ret is False and awaitable is False:
        return NoneType()
    return UnionType([future(unknown), NoneType()])
