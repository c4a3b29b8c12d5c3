"""Decorators of entry methods (``@coro``, ``@when``), the table of a class's methods, and how arguments are bound."""

from __future__ import annotations

import difflib
import inspect
from types import FunctionType
from typing import Any, Callable, Iterable, Iterator, TypeVar, Union

F = TypeVar("F", bound=Callable[..., Any])

#: More arguments than any call has: the method takes any number.
MANY = 1 << 30
#: Keywords that every call has.
RESERVED = frozenset({"ret", "awaitable"})


def coro(function: F) -> F:
    """Decorates an entry method that may wait: for futures, channels, conditions or time. Other methods of the chare run meanwhile."""
    function._charm_coro = True  # type: ignore[attr-defined]
    return function


def coro_ext(event_notify: bool = False) -> Callable[[F], F]:
    """The same as :func:`coro`. ``event_notify`` is accepted without effect."""
    return coro


def when(condition: Union[str, Callable[..., bool]]) -> Callable[[F], F]:
    """Decorates an entry method whose calls wait until ``condition`` is true. Waiting calls run in the order of arrival.

    The condition is an expression over ``self``, the method's parameters and its module's globals, or a callable with the parameters of
    the method.
    """

    def decorate(function: F) -> F:
        function._charm_when = condition  # type: ignore[attr-defined]
        return function

    return decorate


class Entry:
    """A method that the package runs itself."""

    __slots__ = ("condition", "function", "is_async", "is_coro", "name")

    def __init__(self, name: str, function: FunctionType) -> None:
        self.name = name
        self.is_coro = bool(getattr(function, "_charm_coro", False))
        self.is_async = not self.is_coro and is_async(function)
        self.function = awaited(function) if self.is_async else function
        condition = getattr(function, "_charm_when", None)
        self.condition = compiled(condition, function) if isinstance(condition, str) else condition


def is_async(function: FunctionType) -> bool:
    """Whether a function is an ``async def``, or wraps one (``functools.wraps``)."""
    return any(inspect.iscoroutinefunction(each) for each in layers(function))


def awaited(function: FunctionType) -> Callable[..., Any]:
    """The ``async def`` itself, or one that awaits the result of a plain function around it."""
    if inspect.iscoroutinefunction(function):
        return function

    async def method(*args: Any, **kwargs: Any) -> Any:
        value = function(*args, **kwargs)
        return await value if inspect.isawaitable(value) else value

    return method


# What is called


def layers(function: Any) -> Iterator[FunctionType]:
    """A decorated function and the functions inside it, from the outermost to the innermost."""
    seen: set[int] = set()
    while isinstance(function, FunctionType) and id(function) not in seen:
        seen.add(id(function))
        yield function
        function = function.__dict__.get("__wrapped__")


def signature(function: FunctionType) -> inspect.Signature:
    """The function's own signature, also if ``functools.wraps`` gives it that of another one."""
    static = function.__dict__.get("_charm_static")
    if static is not None:
        chare = inspect.Parameter("_chare", inspect.Parameter.POSITIONAL_ONLY)
        return inspect.Signature([chare, *signature(static).parameters.values()])
    bare = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    bare.__kwdefaults__ = function.__kwdefaults__
    return inspect.signature(bare)


def method_parameters(function: Any) -> list[inspect.Parameter]:
    """The parameters of an entry method without the chare."""
    function = getattr(function, "function", function)
    parameters = list(signature(function).parameters.values())
    takes_chare = parameters and parameters[0].kind in POSITIONAL
    return parameters[1:] if takes_chare else parameters


def compiled(expression: str, function: FunctionType) -> Callable[..., bool]:
    """Compiles a condition to a function with the parameters of the method."""
    outer, inner = condition_layers(expression, function)
    parameters = [p.replace(annotation=p.empty) for p in signature(outer).parameters.values()]
    given = [p for p in parameters if p.default is not p.empty]
    # The code has None for each default; the values are set below.
    written = ", ".join(str(p.replace(default=None) if p.default is not p.empty else p) for p in parameters)
    where = f"<@when of {inner.__qualname__} in {inner.__code__.co_filename}>"
    code = compile(f"lambda {written}: ({expression})", where, "eval")
    holds: FunctionType = eval(code, inner.__globals__)
    holds.__defaults__ = tuple(p.default for p in given if p.kind in POSITIONAL)
    holds.__kwdefaults__ = {p.name: p.default for p in given if p.kind is p.KEYWORD_ONLY}
    return holds


def condition_layers(expression: str, function: FunctionType) -> tuple[FunctionType, FunctionType]:
    """The layer of a function whose parameters a condition names, and the innermost layer, whose module has the condition."""
    all_layers = list(layers(function))
    used = set(compile(expression, "<@when>", "eval").co_names)
    taken = [used & set(signature(layer).parameters) for layer in all_layers]
    most = max(taken, key=len)
    return all_layers[taken.index(most)], all_layers[-1]


def row(name: str, attribute: Any) -> tuple[str, Any, bool, int, int] | None:
    """A method's row in the engine's table: name, function, whether the engine calls it directly, least and most arguments.

    ``None`` if the attribute is no method.
    """
    if not is_method(attribute):
        return None
    function: FunctionType = dropping_self(attribute) if isinstance(attribute, staticmethod) else attribute
    least, most = arity(method_parameters(function))
    plain = not (is_async(function) or hasattr(function, "_charm_coro") or hasattr(function, "_charm_when"))
    return name, function if plain else Entry(name, function), plain, least, most


def is_method(attribute: Any) -> bool:
    """Whether an attribute of a class is an entry method: a Python function or a static method."""
    return isinstance(attribute.__func__ if isinstance(attribute, staticmethod) else attribute, FunctionType)


def dropping_self(static: staticmethod[Any, Any]) -> FunctionType:
    """A static method as a function that takes the chare and ignores it."""
    function = static.__func__

    def method(_chare: Any, /, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    assert isinstance(method, FunctionType)
    method.__dict__.update(function.__dict__, _charm_static=function, __wrapped__=function)
    method.__qualname__ = function.__qualname__
    return method


def arity(parameters: list[inspect.Parameter]) -> tuple[int, int]:
    """The least and the most positional arguments of a method. If least exceeds most, :func:`bind` must always be called."""
    for parameter in parameters:
        needed = parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        if needed or parameter.name in RESERVED:
            return 1, 0
    return positional(parameters)


def positional(parameters: Iterable[inspect.Parameter]) -> tuple[int, int]:
    """The least and the most positional arguments."""
    least = most = 0
    for parameter in parameters:
        if parameter.kind in POSITIONAL:
            most += 1
            least += parameter.default is parameter.empty
        elif parameter.kind is parameter.VAR_POSITIONAL:
            most = MANY
    return least, most


POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def parameter(function: Any, position: int) -> str:
    """The name of the parameter at this position, without counting ``self``."""
    parameters = method_parameters(function)
    if position < len(parameters) and parameters[position].kind is not inspect.Parameter.VAR_POSITIONAL:
        return parameters[position].name
    return f"number {position + 1}"


# Calls that are not plain


def bind(
    callee: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Binds a call's arguments by Python's rules, or raises. The engine calls this where the arguments are not simply positional."""
    parameters = method_parameters(function)
    keywords = kwargs or {}
    refuse_reserved(callee, parameters, len(args))
    try:
        bound = inspect.Signature(parameters).bind(*args, **keywords)
    except TypeError as error:
        raise TypeError(f"{callee}() {misfit(parameters, args, keywords, str(error))}") from None
    return bound.args, bound.kwargs


def refuse_reserved(callee: str, parameters: list[inspect.Parameter], given: int) -> None:
    """Raises if a parameter with the name of a reserved keyword would get its value by keyword."""
    for position, parameter in enumerate(parameters):
        if parameter.name in RESERVED and (position >= given or parameter.kind not in POSITIONAL):
            raise TypeError(
                f"{callee}() has a parameter {parameter.name!r}, a keyword that every call takes itself: pass it by position, or rename it"
            )


def misfit(parameters: list[inspect.Parameter], args: tuple[Any, ...], keywords: dict[str, Any], why: str) -> str:
    """The error text for arguments that do not fit, with a suggestion."""
    takes = f"it takes {inspect.Signature(parameters)}"
    _, most = positional(parameters)
    if len(args) > most:
        return f"takes {most} positional argument{'s' * (most != 1)}, and was given {len(args)}: {takes}"
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    unknown = [] if takes_any else [name for name in keywords if name not in names]
    if unknown:
        return f"got an unexpected keyword argument {unknown[0]!r}{meant(unknown[0], [*names, *RESERVED])}: {takes}"
    return f"{'is' if why.startswith('missing') else 'cannot be called so:'} {why}: {takes}"


def meant(name: str, names: Iterable[str]) -> str:
    """A suggestion of a similar name, if there is one."""
    close = difflib.get_close_matches(name, names, 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
