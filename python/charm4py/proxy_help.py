"""What ``help``, ``inspect.signature`` and the like say of proxies and their methods: what the class of the chares says.

The engine's types get the attributes for it here. Calls know nothing of them.
"""

from __future__ import annotations

import inspect
from typing import Any, Callable

from . import _engine
from .chare import class_numbered, entry_names
from .entry_method import POSITIONAL

#: What every entry method takes besides its own parameters.
KEYWORDS = tuple(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool) for name in ("ret", "awaitable"))
#: What stands between a class's text and its methods.
ALSO = "Entry methods. Each takes ``ret=True``, for a future of the value, and ``awaitable=True``, for one that says when the call has run:"


class Of:
    """An attribute of a type that is something else on its objects."""

    def __init__(self, of_type: Any, of_object: Callable[[Any], Any]) -> None:
        self.of_type = of_type
        self.of_object = of_object

    def __get__(self, thing: Any, cls: type | None = None) -> Any:
        return self.of_type if thing is None else self.of_object(thing)


def own_signature(cls: type, name: str) -> inspect.Signature:
    """What an entry method takes, without the chare."""
    attribute = inspect.getattr_static(cls, name)
    signature = inspect.signature(attribute.__func__ if isinstance(attribute, staticmethod) else attribute)
    parameters = list(signature.parameters.values())
    takes_chare = not isinstance(attribute, staticmethod) and parameters and parameters[0].kind in POSITIONAL
    return signature.replace(parameters=parameters[1:] if takes_chare else parameters)


def signature_of(method: Any) -> inspect.Signature | None:
    """What the method of a proxy takes and gives."""
    proxy = _engine.proxy_of(method)
    cls = class_numbered(_engine.class_of(proxy))
    if cls is None:
        return None
    signature = own_signature(cls, method.__name__)
    own = list(signature.parameters.values())
    at = len(own) - (bool(own) and own[-1].kind is inspect.Parameter.VAR_KEYWORD)
    own[at:at] = [parameter for parameter in KEYWORDS if parameter.name not in signature.parameters]
    gives = signature.return_annotation
    if gives is not inspect.Signature.empty:
        value = gives if isinstance(gives, str) else inspect.formatannotation(gives)
        is_element = _engine.index(proxy) is not None
        gives = f"Future[{value if is_element else f'list[{value}]'}] | None"
    return signature.replace(parameters=own, return_annotation=gives)


def doc_of_method(method: Any) -> str | None:
    cls = class_numbered(_engine.class_of(_engine.proxy_of(method)))
    return None if cls is None else inspect.getdoc(getattr(cls, method.__name__))


def doc_of_proxy(proxy: Any) -> str | None:
    """The text of its class, and its methods with their own."""
    cls = class_numbered(_engine.class_of(proxy))
    if cls is None:
        return None
    parts = [text for text in [own_doc(cls)] if text]
    methods = [described(cls, name) for name in entry_names(cls)]
    return "\n\n".join([*parts, *([ALSO, *methods] if methods else [])])


def own_doc(cls: type) -> str | None:
    """What the program says of a class, and not the runtime of all of them."""
    for base in cls.__mro__:
        if base.__module__.startswith("charm4py."):
            return None
        text = base.__dict__.get("__doc__")
        if text:
            return inspect.cleandoc(text)
    return None


def described(cls: type, name: str) -> str:
    """An entry method, with its text below."""
    text = inspect.getdoc(getattr(cls, name)) or ""
    lines = [f"{name}{own_signature(cls, name)}", *text.splitlines()]
    return "\n    ".join(lines).replace("\n    \n", "\n\n")


def document() -> None:
    """Gives the engine's types what is said of their objects."""
    proxy: Any = _engine.Proxy
    method: Any = _engine.Method
    proxy.__doc__ = Of(proxy.__doc__, doc_of_proxy)
    method.__doc__ = Of(method.__doc__, doc_of_method)
    method.__signature__ = Of(None, signature_of)
    # With this pydoc takes it for a function, and shows it as one.
    method.__get__ = lambda self, chare, cls=None: self
    method.__repr__ = lambda self: f"<entry method {self.__qualname__} of {_engine.proxy_of(self)!r}>"
    for each in (proxy, method):
        each.__module__ = "charm4py"  # where programs find them


document()
