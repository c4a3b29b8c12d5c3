"""What tells the runtime how a method is to be run: ``@coro``, ``@when``, ``async def``."""

from __future__ import annotations

import inspect
from typing import Any, Callable, TypeVar, Union

F = TypeVar("F", bound=Callable[..., Any])

#: More arguments than any method has: it takes as many as it is given.
MANY = 1 << 30
#: Names that a call's keywords have taken.
RESERVED = frozenset({"ret", "awaitable"})


def coro(function: F) -> F:
    """Lets a method wait: for futures, channels, conditions, time. Other methods of the chare run meanwhile."""
    function._charm_coro = True  # type: ignore[attr-defined]
    return function


def coro_ext(event_notify: bool = False) -> Callable[[F], F]:
    """As :func:`coro`. ``event_notify`` is accepted and not needed."""
    return coro


def when(condition: Union[str, Callable[..., bool]]) -> Callable[[F], F]:
    """Lets a call wait, in the order of arrival, until ``condition`` holds.

    The condition is an expression over ``self``, the method's parameters and its module's globals, or a callable that takes
    what the method takes.
    """

    def decorate(function: F) -> F:
        function._charm_when = condition  # type: ignore[attr-defined]
        return function

    return decorate


class Entry:
    """A method that the package runs itself."""

    __slots__ = ("condition", "function", "is_async", "is_coro", "name")

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function)
        self.is_coro = bool(getattr(function, "_charm_coro", False))
        condition = getattr(function, "_charm_when", None)
        self.condition = compiled(condition, function) if isinstance(condition, str) else condition


def compiled(expression: str, function: Callable[..., Any]) -> Callable[..., bool]:
    """A condition as a function of what the method takes."""
    parameters = ", ".join(str(p.replace(annotation=p.empty)) for p in without_defaults(function))
    where = f"<@when of {function.__qualname__} in {function.__code__.co_filename}>"
    code = compile(f"lambda {parameters}: ({expression})", where, "eval")
    return eval(code, function.__globals__)  # type: ignore[no-any-return]


def without_defaults(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters, with ``None`` for whatever default they have: values are bound before."""
    return [
        p if p.default is p.empty else p.replace(default=None) for p in inspect.signature(function).parameters.values()
    ]


def row(name: str, attribute: Any) -> tuple[str, Any, bool, int, int] | None:
    """How the engine is told of a method: name, function, whether it is called as it stands, least and most arguments.

    ``None``: the attribute is no method.
    """
    if isinstance(attribute, staticmethod):
        function = dropping_self(attribute.__func__)
    elif inspect.isfunction(attribute):
        function = attribute
    else:
        return None
    least, most = arity(name, function)
    plain = not (
        inspect.iscoroutinefunction(function) or hasattr(function, "_charm_coro") or hasattr(function, "_charm_when")
    )
    return name, function if plain else Entry(name, function), plain, least, most


def dropping_self(function: Callable[..., Any]) -> Callable[..., Any]:
    """A static method as one that has a chare."""

    def method(_chare: Any, /, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    signature = inspect.signature(function)
    first = inspect.Parameter("_chare", inspect.Parameter.POSITIONAL_ONLY)
    method.__signature__ = signature.replace(parameters=[first, *signature.parameters.values()])  # type: ignore[attr-defined]
    method.__qualname__ = function.__qualname__
    return method


def arity(name: str, function: Callable[..., Any]) -> tuple[int, int]:
    """How many positional arguments it needs and takes, without ``self``; least above most: always ask Python."""
    try:
        parameters = list(inspect.signature(function).parameters.values())[1:]
    except (TypeError, ValueError):
        return 0, MANY
    least = most = 0
    for parameter in parameters:
        if parameter.name in RESERVED:
            raise TypeError(
                f"{function.__qualname__}: a parameter cannot be called {parameter.name!r}, which every call takes itself"
            )
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            most += 1
            least += parameter.default is parameter.empty
        elif parameter.kind is parameter.VAR_POSITIONAL:
            most = MANY
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            return 1, 0
    return least, most


def parameter(function: Any, position: int) -> str:
    """The name of the parameter that takes the positional argument at this position, ``self`` not counted."""
    function = getattr(function, "function", function)
    parameters = list(inspect.signature(function).parameters.values())[1:]
    if position < len(parameters) and parameters[position].kind is not inspect.Parameter.VAR_POSITIONAL:
        return parameters[position].name
    return f"number {position + 1}"


def bind(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call's arguments by Python's rules, or the error that they break; called by the engine where it is not plain."""
    function = getattr(function, "function", function)
    bound = inspect.signature(function).bind(None, *args, **(kwargs or {}))
    return bound.args[1:], bound.kwargs
