"""Help on proxies: ``help``, ``inspect.signature`` and ``__doc__`` of a proxy and its methods show those of the class of chares.

This module adds the attributes for it to the engine's types. Calls do not use them.
"""

from __future__ import annotations

import inspect
from typing import Any, Callable

from . import _engine
from .chare import class_numbered, entry_names
from .entry_method import POSITIONAL

#: The keywords that every call has.
KEYWORDS = tuple(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool) for name in ("ret", "awaitable"))
#: The text between a class's own text and its methods.
ALSO = "Entry methods. With ``ret=True`` a call returns a future of the value, with ``awaitable=True`` a future that is ready when the call has run:"


class Of:
    """An attribute that has one value on a type and another on its objects."""

    def __init__(self, of_type: Any, of_object: Callable[[Any], Any]) -> None:
        self.of_type = of_type
        self.of_object = of_object

    def __get__(self, thing: Any, cls: type | None = None) -> Any:
        return self.of_type if thing is None else self.of_object(thing)


def own_signature(cls: type, name: str) -> inspect.Signature:
    """The signature of an entry method without the chare."""
    attribute = inspect.getattr_static(cls, name)
    signature = inspect.signature(attribute.__func__ if isinstance(attribute, staticmethod) else attribute)
    parameters = list(signature.parameters.values())
    takes_chare = not isinstance(attribute, staticmethod) and parameters and parameters[0].kind in POSITIONAL
    return signature.replace(parameters=parameters[1:] if takes_chare else parameters)


def signature_of(method: Any) -> inspect.Signature | None:
    """The signature of a proxy's method."""
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
    """The help text of a proxy: that of the class of chares, with its entry methods."""
    cls = class_numbered(_engine.class_of(proxy))
    if cls is None:
        return None
    parts = [text for text in [own_doc(cls)] if text]
    methods = [described(cls, name) for name in entry_names(cls)]
    return "\n\n".join([*parts, *([ALSO, *methods] if methods else [])])


def own_doc(cls: type) -> str | None:
    """The docstring of the program's class, not that of :class:`Chare`."""
    for base in cls.__mro__:
        if base.__module__.startswith("charm4py."):
            return None
        text = base.__dict__.get("__doc__")
        if text:
            return inspect.cleandoc(text)
    return None


def described(cls: type, name: str) -> str:
    """The help text of an entry method."""
    text = inspect.getdoc(getattr(cls, name)) or ""
    lines = [f"{name}{own_signature(cls, name)}", *text.splitlines()]
    return "\n    ".join(lines).replace("\n    \n", "\n\n")


def document() -> None:
    """Adds the attributes to the engine's types."""
    proxy: Any = _engine.Proxy
    method: Any = _engine.Method
    proxy.__doc__ = Of(proxy.__doc__, doc_of_proxy)
    method.__doc__ = Of(method.__doc__, doc_of_method)
    method.__signature__ = Of(None, signature_of)
    # With this, pydoc shows it like a function.
    method.__get__ = lambda self, chare, cls=None: self
    method.__repr__ = lambda self: f"<entry method {self.__qualname__} of {_engine.proxy_of(self)!r}>"
    for each in (proxy, method):
        each.__module__ = "charm4py"  # where programs find them


document()
