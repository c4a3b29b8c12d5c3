"""Runs what is typed at a prompt or in a notebook: on PE 0, one statement or cell after another. Sends definitions to the other PEs.

Each statement runs in its own coroutine, so it may wait. An interrupt (SIGINT) cancels the statement, even where it waits, and nothing else on the
PE. A second interrupt ends the job if the PE has not handled the first: the launcher passes the next interrupt to this process only if it was
asked to.
"""

from __future__ import annotations

import ast
import os
import signal
import sys
import threading
import time
from contextvars import Context
from types import FrameType
from typing import Any, Callable, Coroutine, TypeVar

from greenlet import getcurrent

from . import _engine, functions, state, threads

T = TypeVar("T")

#: The interval, in seconds, at which PE 0 polls for results of other threads: at first, and after a while.
LOOK_S = (0.001, 0.02)
DEFINITIONS = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Statement(threads.Coroutine):
    """The coroutine of one statement. It is not reused, so that a late event for a cancelled statement resumes no other one."""

    #: The running statement.
    present: Statement | None = None
    value: Any = None
    raised: BaseException | None = None

    def run(self, function: Callable[[], Any], done: Callable[[], None]) -> None:  # type: ignore[override]
        try:
            self.value = function()
        except BaseException as error:
            self.raised = error
        Statement.present = None
        _engine.call_soon(done)


def run(function: Callable[[], T], context: Context | None = None) -> T:
    """Runs a statement and returns its value. The caller is a coroutine that runs one statement after another."""
    waiting = getcurrent()
    assert isinstance(waiting, threads.Coroutine)
    statement = Statement(parent=threads.Hub.greenlet)
    statement.gr_context = context
    Statement.present = statement
    _engine.call_soon(lambda: statement.switch(function, waiting.resume))
    threads.pause("a statement")
    if statement.raised is not None:
        raise statement.raised
    value: T = statement.value
    return value


# Interrupts


class Interrupts:
    """The handling of SIGINT."""

    #: An interrupt has arrived that the statement has not got yet.
    pending = False
    #: Called if no statement runs.
    idle: Callable[[], None] = staticmethod(lambda: None)

    @staticmethod
    def handle(_signal: int, _frame: FrameType | None) -> None:
        """The signal handler: Python calls it between any two operations of the PE's thread."""
        statement = Statement.present
        if Interrupts.pending:
            raise KeyboardInterrupt
        if statement is None or getcurrent() is statement:
            _engine.take_interrupt()
        if statement is None:
            Interrupts.idle()
            return
        if getcurrent() is statement:
            raise KeyboardInterrupt
        Interrupts.pending = True
        _engine.call_soon(lambda: Interrupts.deliver(statement))

    @staticmethod
    def deliver(statement: Statement) -> None:
        """Interrupts a waiting statement."""
        if not statement and not statement.dead:  # it is about to begin
            _engine.call_soon(lambda: Interrupts.deliver(statement))
            return
        Interrupts.pending = False
        _engine.take_interrupt()
        if statement:
            statement.throw(KeyboardInterrupt)


def take_interrupts(idle: Callable[[], None] = lambda: None) -> None:
    """Lets interrupts cancel the running statement from now on. ``idle`` is called if no statement runs."""
    Interrupts.idle = staticmethod(idle)
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    signal.signal(signal.SIGURG, lambda *_: None)
    threading.Thread(target=rouse, args=(heard, threading.get_ident()), daemon=True).start()
    signal.signal(signal.SIGINT, Interrupts.handle)
    _engine.take_interrupt()


def rouse(heard: int, sleeper: int) -> None:
    """In a thread: wakes the PE's thread after an interrupt. A signal just before a sleep does not prevent the sleep, so several follow."""
    while True:
        if signal.SIGINT in os.read(heard, 64):
            for _ in range(5):
                signal.pthread_kill(sleeper, signal.SIGURG)
                time.sleep(0.01)


# Waiting


def wait_until(holds: Callable[[], object]) -> None:
    """Waits for a result of another thread. The engine sees only its own thread, so this polls."""
    delay, most = LOOK_S
    while not holds():
        later: threads.Future[None] = threads.Future()
        _engine.after(delay, later.send)
        later.get()
        delay = min(2 * delay, most)


def run_awaitable(awaitable: Coroutine[Any, Any, T]) -> T:
    """Runs an awaitable that awaits futures, in a coroutine."""
    coroutine = getcurrent()
    assert isinstance(coroutine, threads.Coroutine)
    error: BaseException | None = None
    while True:
        try:
            awaited = awaitable.send(None) if error is None else awaitable.throw(error)
        except StopIteration as end:
            value: T = end.value
            return value
        error = None
        if not isinstance(awaited, threads.Future):
            error = TypeError(f"only futures of charm4py can be awaited here, not {awaited!r}")
            continue
        awaited._resumes(coroutine, coroutine.chare)
        try:
            threads.pause("await")
        except BaseException as interrupt:
            awaited._forget(coroutine)
            error = interrupt


# Definitions


def definitions(statements: list[ast.stmt]) -> list[ast.stmt]:
    """The statements that every PE must run."""
    if state.pes == 1:
        return []
    wanted = [node for node in statements if isinstance(node, DEFINITIONS)]
    if not state.options.interactive.broadcast_imports:
        wanted = [node for node in wanted if not isinstance(node, (ast.Import, ast.ImportFrom))]
    return list(wanted)


def tell_all(source: str) -> None:
    """Runs definitions on the other PEs, and waits for them."""
    state.runtime._define(source, awaitable=True).get()
    for node in ast.parse(source).body:
        known = sys.modules["__main__"].__dict__.get(node.name) if isinstance(node, ast.ClassDef) else None
        if isinstance(known, type):
            functions.told.add(known)
    if state.options.interactive.verbose > 0:
        firsts = (ast.unparse(node).partition("\n")[0] for node in ast.parse(source).body)
        print("charm4py: on every PE now:", "; ".join(firsts))


def define(source: str) -> None:
    """Runs definitions, on a PE other than PE 0."""
    exec(compile(source, "<definitions>", "exec"), sys.modules["__main__"].__dict__)
