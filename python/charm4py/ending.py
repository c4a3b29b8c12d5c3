"""The end of a process: what is written before, and how long it may take."""

from __future__ import annotations

import atexit
import gc
import io
import os
import stat
import sys
import threading
from typing import Any, NoReturn

from . import _engine

#: How long a process may take to end by itself after its job. The launcher waits a little longer.
LIMIT_S = 8.0
#: Packages below a program: their classes are among the bases of its classes.
BELOW = frozenset({"abc", "builtins", "charm4py", "typing"})


def flush() -> None:
    """Writes what has been printed, and what is kept in the buffers of files: the process may end without ending its objects."""
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
    """Only files of the file system: whatever is behind a pipe or a socket may never read."""
    try:
        if not file.closed and file.writable() and stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.flush()
    except (OSError, ValueError):
        pass


def leave(code: int) -> NoReturn:
    """Ends this process, whose job is over, as programs end: by SystemExit, so that all that is to run at an end runs."""
    from . import hooks

    flush()
    # Of modules that are kept the interpreter empties the last one first: what a program uses is to be there when its objects end.
    for name in hooks.Hooks.modules:
        if name.split(".")[0] not in BELOW and name in sys.modules:
            sys.modules[name] = sys.modules.pop(name)

    def limit() -> None:
        _engine.end_within(LIMIT_S, code)

    # Before threads are waited for; the handlers of atexit come after them.
    getattr(threading, "_register_atexit", atexit.register)(limit)
    # The interpreter remembers that an interrupt has left an exec, though it was caught later, and would end by SIGINT; this makes it forget.
    exec("")
    sys.exit(code)
