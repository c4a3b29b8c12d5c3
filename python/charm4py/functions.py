"""How functions and classes travel: by name if other PEs can import them, otherwise by value, with their code and what they refer to."""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import io
import marshal
import os
import pickle
import sys
from types import CellType, CodeType, FunctionType, MappingProxyType, ModuleType
from typing import Any, Callable
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

from . import _engine

#: Modules whose contents other PEs do not have: what functions use of them travels too.
local_modules: set[str] = set()
#: Classes of those modules that other PEs do have.
told: WeakSet[Any] = WeakSet()

#: Classes that have travelled by value, and their names in the whole job: a class that comes back is the same object.
class_names: WeakKeyDictionary[type, bytes] = WeakKeyDictionary()
classes: WeakValueDictionary[bytes, type] = WeakValueDictionary()
#: Classes that were created and have no contents yet.
empty: WeakSet[type] = WeakSet()

#: Attributes of a class that the program has not set, or that must exist from the beginning.
NOT_FILLED = frozenset({"__dict__", "__weakref__", "__module__", "__qualname__", "__slots__", "_abc_impl"})
#: Objects of dataclasses that are compared by identity.
MARK_NAMES = ("MISSING", "KW_ONLY", "_HAS_DEFAULT_FACTORY", "_EMPTY_METADATA", "_FIELD", "_FIELD_CLASSVAR", "_FIELD_INITVAR")
MARKS = {id(getattr(dataclasses, name)): name for name in MARK_NAMES if hasattr(dataclasses, name)}
#: The flag of classes that are created at run time (``Py_TPFLAGS_HEAPTYPE``).
HEAP_TYPE = 1 << 9


def dumps(function: Any) -> bytes:
    """Pickles a function, or another object."""
    try:
        buffer = io.BytesIO()
        Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(function)
        return buffer.getvalue()
    except Exception as error:
        raise TypeError(f"{function!r} cannot be sent to other PEs: {error}") from error


loads: Callable[[bytes], Callable[..., Any]] = pickle.loads


def as_they_travel(arguments: list[tuple[Any, ...]]) -> Any:
    """Arguments of tasks, ready to send. If ``__main__`` exists only on this PE, values that may have its classes travel by value."""
    if not local_modules or all(is_plain(argument) for each in arguments for argument in each):
        return arguments
    return len(arguments), dumps(arguments)


def is_plain(value: Any) -> bool:
    """Whether a value and its parts surely have no such class."""
    kind = type(value)
    if kind.__module__ == "numpy":
        return not getattr(getattr(value, "dtype", None), "hasobject", True)
    return kind in (int, float, complex, bool, str, bytes, bytearray, type(None))


class Pickler(pickle.Pickler):
    """Pickles by value the functions and classes that other PEs cannot import: lambdas, closures, and those defined inside a function."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, ModuleType):
            return importlib.import_module, (obj.__name__,)
        if isinstance(obj, type):
            return NotImplemented if is_found_by_name(obj) or not obj.__flags__ & HEAP_TYPE else class_by_value(obj)
        if not isinstance(obj, FunctionType):
            return part_of_class(obj)
        if is_found_by_name(obj):
            return NotImplemented
        made = (marshal.dumps(obj.__code__), obj.__module__, obj.__name__, len(obj.__closure__ or ()))
        # Its references come after it, since it may refer to itself.
        return make, made, contents(obj), None, None, fill


def is_found_by_name(function: FunctionType | type) -> bool:
    """Whether a function or class can be imported by name, also on other PEs."""
    return is_in_module(function) and (function.__module__ not in local_modules or function in told)


def is_in_module(function: Any) -> bool:
    """Whether its module has it under its name."""
    found: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function


def contents(function: FunctionType) -> dict[str, Any]:
    """The state of a function besides its code."""
    own = function.__module__ in local_modules or function.__module__ not in sys.modules
    used = names(function.__code__) if own else set()
    package = sys.modules[__package__].__dict__
    return {
        "defaults": function.__defaults__,
        "kwdefaults": function.__kwdefaults__,
        "attributes": function.__dict__,
        "qualname": function.__qualname__,
        "cells": [cell.cell_contents for cell in filled(function)],
        "globals": {name: value for name, value in function.__globals__.items() if name in used and package.get(name) is not value},
    }


def filled(function: FunctionType) -> tuple[CellType, ...]:
    """The closure variables, which must have values."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        try:
            cell.cell_contents
        except ValueError:
            raise ValueError(f"its variable {name} has no value yet") from None
    return function.__closure__ or ()


def names(code: CodeType) -> set[str]:
    """The global names that code may use, with the functions inside it."""
    inner = (names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)


def make(code: bytes, module: str, name: str, cells: int) -> FunctionType:
    """A function without its state."""
    known = sys.modules.get(module)
    names_there = {"__builtins__": __builtins__} if known is None else known.__dict__
    return FunctionType(marshal.loads(code), names_there, name, None, tuple(CellType() for _ in range(cells)))


def fill(function: FunctionType, state: dict[str, Any]) -> None:
    """Sets the state of a function."""
    function.__defaults__ = state["defaults"]
    function.__kwdefaults__ = state["kwdefaults"]
    function.__dict__.update(state["attributes"])
    function.__qualname__ = state["qualname"]
    for cell, value in zip(function.__closure__ or (), state["cells"]):
        cell.cell_contents = value
    if function.__module__ not in local_modules:
        function.__globals__.update(state["globals"])


# Classes


def class_by_value(cls: type) -> Any:
    """How to rebuild a class: first without contents, since those may refer to it."""
    if issubclass(cls, enum.Enum):
        raise TypeError(f"{cls.__qualname__} is an enumeration, which other PEs can only import by name: define it in a module")
    if issubclass(cls, _engine.ChareBase):
        if is_in_module(cls):
            return NotImplemented
        raise TypeError(f"{cls.__qualname__} is a class of chares, which other PEs can only import by name: define it in a module")
    if cls not in class_names:
        name_class(cls, os.urandom(16))
    first = {name: cls.__dict__[name] for name in ("__module__", "__slots__") if name in cls.__dict__}
    first["__qualname__"] = cls.__qualname__
    slots = slots_of(cls)
    later = {name: value for name, value in cls.__dict__.items() if name not in NOT_FILLED and name not in slots}
    made = (class_names[cls], type(cls), cls.__name__, cls.__bases__, first)
    return make_class, made, later, None, None, fill_class


def slots_of(cls: type) -> tuple[str, ...]:
    slots = cls.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def name_class(cls: type, name: bytes) -> None:
    class_names[cls] = name
    classes[name] = cls


def make_class(name: bytes, kind: type, title: str, bases: tuple[type, ...], first: dict[str, Any]) -> type:
    """A class without contents, or the one that this process has under that name."""
    cls = classes.get(name)
    if cls is None:
        cls = kind(title, bases, dict(first))
        name_class(cls, name)
        empty.add(cls)
    return cls


def fill_class(cls: type, later: dict[str, Any]) -> None:
    """Sets the contents of a class if it is new."""
    if cls not in empty:
        return
    empty.discard(cls)
    for name, value in later.items():
        setattr(cls, name, value)
        if hasattr(type(value), "__set_name__"):
            value.__set_name__(cls, name)


def part_of_class(obj: Any) -> Any:
    """How to rebuild contents of classes that cannot be pickled."""
    if isinstance(obj, (staticmethod, classmethod)):
        return type(obj), (obj.__func__,)
    if type(obj) is property:
        return property, (obj.fget, obj.fset, obj.fdel, obj.__doc__)
    if type(obj) is functools.cached_property:
        return functools.cached_property, (obj.func,)
    if id(obj) in MARKS:
        return getattr, (dataclasses, MARKS[id(obj)])
    if isinstance(obj, MappingProxyType):
        return read_only, (dict(obj),)
    return NotImplemented


def read_only(values: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    """A mapping proxy, whose class cannot be imported."""
    return MappingProxyType(values)
