"""What the engine calls: the package's part of a call."""

from __future__ import annotations

import atexit
import os
import sys
import traceback
from types import ModuleType
from typing import Any, NoReturn

from . import _engine, combined, entry_method, errors, program, reduction, sections, threads, wait, waits
from .ending import flush


class Hooks:
    """The engine finds these by their names. It keeps this class until the process ends."""

    #: Modules whose functions the engine keeps: only of modules that are there does the interpreter end all objects.
    modules: dict[str, ModuleType] = {}

    Charm4PyError = errors.Charm4PyError
    Future = threads.Future
    bind = staticmethod(entry_method.bind)
    contribution = staticmethod(reduction.contribution)
    cut = staticmethod(sections.cut)
    differences = staticmethod(program.differences)
    finish = staticmethod(reduction.finish)
    merge = staticmethod(reduction.merge)
    parameter = staticmethod(entry_method.parameter)
    pack_error = staticmethod(errors.pack)
    program = staticmethod(program.described)
    recheck = staticmethod(wait.recheck)
    reduce_over_several = staticmethod(combined.reduce)
    reducer = staticmethod(reduction.kind_of)
    run_special = staticmethod(wait.run)
    unpack_error = staticmethod(errors.unpack)
    waits = staticmethod(waits.waits)

    @classmethod
    def keep(cls, name: str) -> None:
        """Keeps a module."""
        if name in sys.modules:
            cls.modules[name] = sys.modules[name]

    @staticmethod
    def no_method(cls: type, name: str) -> str:
        """What is said of a name that a proxy does not have."""
        from .chare import no_method

        return no_method(cls, name)

    @staticmethod
    def enter() -> None:
        """The engine runs on this PE."""
        from .charm import charm

        charm._enter()

    @staticmethod
    def ending(error: BaseException, place: str) -> tuple[int, str | None]:
        """How the job ends because of an exception: its status, and the message, if it is a failure."""
        if forked:
            leave_fork(error)
        flush()
        if isinstance(error, SystemExit):
            code = error.code
            if code is None or isinstance(code, int):
                return (code or 0) & 0xFF, None
            print(code, file=sys.stderr)
            return 1, None
        if isinstance(error, KeyboardInterrupt):
            return 130, f"KeyboardInterrupt in {place}\n{errors.story(error).rstrip()}"
        return 1, f"{type(error).__name__}: {error} in {place}\n{errors.story(error).rstrip()}"


def fatal(error: BaseException, place: str) -> None:
    """Ends the job because of an exception."""
    code, text = Hooks.ending(error, place)
    if text is None:
        _engine.exit(code)
    else:
        abort(code, text)


def abort(code: int, text: str) -> NoReturn:
    """Ends the job because of a failure, and this process at once."""
    flush()
    _engine.abort(code, text)
    os._exit(code)


#: This process is a child that a process of the job has forked: no part of the job.
forked = False


def note_fork() -> None:
    global forked
    forked = True


os.register_at_fork(after_in_child=note_fork)


def leave_fork(error: BaseException) -> NoReturn:
    """Ends such a child because of an exception, as a program ends because of it."""
    status = 1
    if not isinstance(error, SystemExit):
        traceback.print_exception(type(error), error, error.__traceback__)
    elif error.code is None or isinstance(error.code, int):
        status = (error.code or 0) & 0xFF
    else:
        print(error.code, file=sys.stderr)
    atexit._run_exitfuncs()
    flush()
    os._exit(status)


class NobodysAnswer:
    """Of what nobody waits for: an exception ends the job."""

    def __init__(self, place: str) -> None:
        self.place = place

    def value(self, value: Any) -> None:
        pass

    def error(self, error: BaseException) -> None:
        fatal(error, self.place)
