"""Functions as they travel: by name if another PE finds them so, otherwise with their code and what they hold."""

from __future__ import annotations

import importlib
import io
import marshal
import pickle
import sys
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any, Callable

#: Modules whose contents other PEs have not got: what functions use of them travels too.
local_modules: set[str] = set()


def dumps(function: Callable[..., Any]) -> bytes:
    """A function, or anything else that can be called, as bytes."""
    try:
        buffer = io.BytesIO()
        Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(function)
        return buffer.getvalue()
    except Exception as error:
        raise TypeError(f"{function!r} cannot be sent to other PEs: {error}") from error


loads: Callable[[bytes], Callable[..., Any]] = pickle.loads


class Pickler(pickle.Pickler):
    """Pickles functions that have no name elsewhere by value: lambdas, closures, and those that another function defines."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, ModuleType):
            return importlib.import_module, (obj.__name__,)
        if not isinstance(obj, FunctionType) or is_found_by_name(obj):
            return NotImplemented
        made = (marshal.dumps(obj.__code__), obj.__module__, obj.__name__, len(obj.__closure__ or ()))
        # What it holds comes after it: it may hold itself.
        return make, made, contents(obj), None, None, fill


def is_found_by_name(function: FunctionType) -> bool:
    """Whether a function is what its module has under its name, and other PEs have that module."""
    found: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function and function.__module__ not in local_modules


def contents(function: FunctionType) -> dict[str, Any]:
    """What is in a function beside its code."""
    used = names(function.__code__) if function.__module__ in local_modules else set()
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
    """The variables of the functions around it, which have to have values by now."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        try:
            cell.cell_contents
        except ValueError:
            raise ValueError(f"its variable {name} has no value yet") from None
    return function.__closure__ or ()


def names(code: CodeType) -> set[str]:
    """The global names that code may use, that of functions inside it too."""
    inner = (names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)


def make(code: bytes, module: str, name: str, cells: int) -> FunctionType:
    """A function that is still empty."""
    known = sys.modules.get(module)
    names_there = {"__builtins__": __builtins__} if known is None else known.__dict__
    return FunctionType(marshal.loads(code), names_there, name, None, tuple(CellType() for _ in range(cells)))


def fill(function: FunctionType, state: dict[str, Any]) -> None:
    """Puts in what it holds."""
    function.__defaults__ = state["defaults"]
    function.__kwdefaults__ = state["kwdefaults"]
    function.__dict__.update(state["attributes"])
    function.__qualname__ = state["qualname"]
    for cell, value in zip(function.__closure__ or (), state["cells"]):
        cell.cell_contents = value
    if function.__module__ not in local_modules:
        function.__globals__.update(state["globals"])
