"""How the job and its processes end: exceptions that end the job, buffers that are written before the end, and the time limit of a process."""

from __future__ import annotations

import atexit
import gc
import io
import os
import stat
import sys
import threading
import traceback
from types import ModuleType
from typing import Any, NoReturn

from . import _engine, errors

#: How long a process may take to end by itself after its job. The launcher waits a little longer.
LIMIT_S = 8.0
#: Packages below the program: its classes derive from theirs.
BELOW = frozenset({"abc", "builtins", "charm4py", "typing"})
#: Modules whose functions the engine holds. The interpreter ends all objects only of modules that still exist.
kept_modules: dict[str, ModuleType] = {}


def keep_module(name: str) -> None:
    """Keeps a module until the process ends."""
    if name in sys.modules:
        kept_modules[name] = sys.modules[name]


# The job


def ending(error: BaseException, place: str) -> tuple[int, str | None]:
    """How the job ends because of an exception: its status, and the message if it is a failure."""
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
    code, text = ending(error, place)
    if text is None:
        _engine.exit(code)
    else:
        abort(code, text)


def abort(code: int, text: str) -> NoReturn:
    """Ends the job because of a failure, and this process at once."""
    flush()
    _engine.abort(code, text)
    os._exit(code)


class UnawaitedAnswer:
    """Takes the result of code for which no caller waits: a value is dropped, an exception ends the job."""

    def __init__(self, place: str) -> None:
        self.place = place

    def value(self, value: Any) -> None:
        pass

    def error(self, error: BaseException) -> None:
        fatal(error, self.place)


# Children that a process of the job has forked

#: Whether this process is such a child, which is no part of the job.
forked = False


def note_fork() -> None:
    global forked
    forked = True


os.register_at_fork(after_in_child=note_fork)


def leave_fork(error: BaseException) -> NoReturn:
    """Ends a forked child because of an exception, as Python ends a program."""
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


# The process


def flush() -> None:
    """Flushes standard output and error, and open files: the process may end without finalizing its objects."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # None, if it was closed from the beginning
            pass
    kept = [thing for thing in gc.get_objects() if type(thing) in (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)]
    # Text first: it goes to the buffers below.
    for file in sorted(kept, key=lambda file: type(file) is not io.TextIOWrapper):
        flush_file(file)


def flush_file(file: Any) -> None:
    """Flushes a regular file. The reader of a pipe or a socket may never read, so those are left out."""
    try:
        if not file.closed and file.writable() and stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.flush()
    except (OSError, ValueError):
        pass


def leave(code: int) -> NoReturn:
    """Ends this process after its job, by SystemExit, so that exit handlers run."""
    flush()
    # The interpreter clears kept modules from the last to the first. What the program uses must still exist when its objects end.
    for name in kept_modules:
        if name.split(".")[0] not in BELOW and name in sys.modules:
            sys.modules[name] = sys.modules.pop(name)

    def limit() -> None:
        _engine.end_within(LIMIT_S, code)

    # This runs before the interpreter waits for threads; the handlers of atexit run after that.
    getattr(threading, "_register_atexit", atexit.register)(limit)
    # The interpreter remembers that an interrupt has left an exec, even if it was caught later, and would end by SIGINT. This clears that state.
    exec("")
    sys.exit(code)
