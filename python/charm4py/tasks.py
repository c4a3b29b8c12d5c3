"""Tasks: running ``async def`` methods; and the context variables of coroutines and tasks.

A task runs in the hub until it awaits something, and resumes when that is ready. It drives its method itself, so that a program that awaits only
futures of charm4py pays for nothing else. Once ``asyncio`` is imported, each task is also the *current task* of the PE's event loop
(:mod:`charm4py.aio`) while it runs, and may await futures of that loop. For this it has the methods of :class:`asyncio.Task` that libraries call on the
current task, and can be cancelled.

The first step of a task after the import of ``asyncio`` creates the loop. A method may itself import it: so the first step before that
installs a hook in ``sys.meta_path``, which creates the loop in the middle of that step.
"""

from __future__ import annotations

import importlib.util
import sys
from contextvars import Context, copy_context
from importlib.machinery import ModuleSpec
from threading import get_ident
from typing import TYPE_CHECKING, Any, Callable, Generator

from . import _engine
from .conditions import recheck

if TYPE_CHECKING:
    from .aio import Loop
    from .chare import Chare

modules = sys.modules


# Context variables


def context() -> Context:
    """A copy of the current context for a new coroutine, so that its changes are its own."""
    copied = copy_context()
    if "decimal" in modules:
        copy_decimal(copied)
    return copied


def copy_decimal(copied: Context) -> None:
    """Copies the object in the context variable of ``decimal``: programs modify it, so each context needs its own."""
    import decimal

    if not decimal_variable:
        probe = Context()
        probe.run(decimal.getcontext)
        decimal_variable.extend(probe)
    for variable in decimal_variable:
        if variable in copied:
            copied.run(decimal.setcontext, copied[variable].copy())


decimal_variable: list[Any] = []


# Tasks


class Running:
    """The task and the event loop of the PE."""

    __slots__ = ("loop", "make_loop", "task")
    #: Creates the PE's event loop. ``charm`` sets it: ``aio`` imports this module, and only programs that use asyncio need it.
    make_loop: Callable[[], Loop]

    def __init__(self) -> None:
        #: The task whose step runs.
        self.task: Task | None = None
        #: The PE's event loop, once it exists.
        self.loop: Loop | None = None


running = Running()
#: Tasks that wait. This keeps them alive.
suspended: set[Task] = set()


class Task:
    """One ``async def`` method; see the module's text."""

    #: The future of charm4py that it awaits. `_fut_waiter` is that of asyncio; names with one underscore are those of `asyncio.Task`, which libraries use.
    awaited: Any = None
    #: When it began to wait. A future of charm4py has the time itself.
    since = 0.0
    _fut_waiter: Any = None
    _must_cancel = False
    _cancel_message: Any = None
    _cancels_requested = 0
    _ended = False
    _was_cancelled = False
    _name = ""
    _when_done: list[tuple[Callable[[Any], Any], Context | None]] | None = None

    def __init__(self, chare: Chare | None, awaitable: Any, answer: Any) -> None:
        self.chare = chare
        self.awaitable = awaitable
        self.answer = answer
        self.context = context()

    def step(self, error: BaseException | None = None) -> None:
        """Runs it until it awaits something or ends. ``error``, if given, is raised where it waits."""
        if self._must_cancel:
            error = self._cancellation(error)
        running.task = self
        loop = running.loop
        if loop is not None:
            loop.enter(self)
        elif "asyncio" in modules:
            make_loop().enter(self)
        elif not Watcher.thread:
            watch_for_asyncio()
        try:
            if error is None:
                awaited = self.context.run(self.awaitable.send, None)
            else:
                awaited = self.context.run(self.awaitable.throw, error)
        except StopIteration as end:
            self._leave()
            self._end()
            self.answer.value(end.value)
        except BaseException as failure:
            self._leave()
            self._end(failure)
            self.answer.error(failure)
            error = None  # its traceback refers to this frame
        else:
            running.task = None
            if running.loop is not None:
                running.loop.leave(self)
            if isinstance(awaited, _engine.FutureBase):
                self.awaited = awaited
                suspended.add(self)
                awaited._when_ready(self.go_on)
                if self._must_cancel:
                    self._wake_up()
            else:
                self._wait(awaited)

    def _leave(self) -> None:
        running.task = None
        if running.loop is not None:
            running.loop.leave(self)

    def _wait(self, awaited: Any) -> None:
        """It awaits something other than a future of charm4py."""
        suspended.add(self)
        self.since = _engine.coarse_now()
        if awaited is None:  # it yields to others
            _engine.call_soon(self._again)
        elif running.loop is not None and getattr(awaited, "_asyncio_future_blocking", None):
            running.loop.bring(self, awaited)
        else:
            error = TypeError(f"an entry method can await futures and what asyncio's loop brings, not {awaited!r}")
            _engine.call_soon(lambda: self._again(error))

    def go_on(self, future: Any) -> None:
        """The future that it awaited is ready. It is ignored if the task was cancelled meanwhile."""
        if future is self.awaited:
            self.awaited = None
            self.step()
            chare = self.chare
            if chare is not None and chare.__charm_watched__:
                recheck(chare)

    def _again(self, error: BaseException | None = None) -> None:
        self.step(error)
        chare = self.chare
        if chare is not None and chare.__charm_watched__:
            recheck(chare)

    def _end(self, failure: BaseException | None = None) -> None:
        suspended.discard(self)
        self._ended = True
        if running.loop is not None:
            self._was_cancelled = isinstance(failure, running.loop.CancelledError)
            for callback, context in self._when_done or ():
                running.loop.call_soon(callback, self, context=context)

    # What libraries call on `asyncio.current_task()`

    def cancel(self, msg: Any = None) -> bool:
        """Raises ``asyncio.CancelledError`` where it waits, or where it waits next. Returns false if it has ended."""
        if self._ended:
            return False
        self._cancels_requested += 1
        if self._fut_waiter is not None and self._fut_waiter.cancel(msg=msg):
            return True
        self._must_cancel, self._cancel_message = True, msg
        self._wake_up()
        return True

    def _wake_up(self) -> None:
        """Stops waiting for a future of charm4py."""
        awaited, self.awaited = self.awaited, None
        if awaited is not None:
            awaited._forget(self.go_on)
            _engine.call_soon(self._again)

    def _cancellation(self, error: BaseException | None) -> BaseException:
        assert running.loop is not None  # code that cancels has imported asyncio
        kind, message = running.loop.CancelledError, self._cancel_message
        self._must_cancel, self._cancel_message = False, None
        if isinstance(error, kind):
            return error
        return kind() if message is None else kind(message)

    def cancelling(self) -> int:
        """How often it was cancelled, less how often that was undone."""
        return self._cancels_requested

    def uncancel(self) -> int:
        """Undoes one cancellation."""
        self._cancels_requested = max(0, self._cancels_requested - 1)
        if self._cancels_requested == 0:
            self._must_cancel = False
        return self._cancels_requested

    def done(self) -> bool:
        """Whether it has ended."""
        return self._ended

    def cancelled(self) -> bool:
        """Whether it has ended by cancellation."""
        return self._was_cancelled

    def add_done_callback(self, callback: Callable[[Any], Any], *, context: Context | None = None) -> None:
        """Calls ``callback(task)`` from the loop when it has ended."""
        if self._when_done is None:
            self._when_done = []
        self._when_done.append((callback, context))

    def remove_done_callback(self, callback: Callable[[Any], Any]) -> int:
        """Removes a callback; returns how often it was there."""
        before = self._when_done or []
        self._when_done = [each for each in before if each[0] != callback]
        return len(before) - len(self._when_done)

    def get_loop(self) -> Any:
        """The PE's event loop."""
        return running.loop

    _loop = property(get_loop)

    def get_coro(self) -> Any:
        """The coroutine object that it runs."""
        return self.awaitable

    def get_context(self) -> Context:
        """Its context variables."""
        return self.context

    def get_name(self) -> str:
        """Its name: that of the method, unless it was set."""
        return self._name or getattr(self.awaitable, "__qualname__", "a task")

    def set_name(self, name: object) -> None:
        """Sets its name."""
        self._name = str(name)

    def get_stack(self, *, limit: int | None = None) -> list[Any]:
        """The frame where it waits."""
        frame = getattr(self.awaitable, "cr_frame", None)
        return [] if frame is None else [frame]


def bridge(future: Any) -> Generator[Any, None, None]:
    """Waits for a future of charm4py in other code than one of these tasks: in a task of asyncio on the PE's loop."""
    loop = modules["asyncio"]._get_running_loop() if "asyncio" in modules else None
    if loop is None:  # the code that drives the coroutine may support charm4py's futures
        yield future
        return
    own = running.loop
    if own is None or loop is not own:
        raise RuntimeError("a future of charm4py can be awaited only in the event loop of its PE, in which `async def` methods run")
    waiter = own.create_future()

    def ready(_: Any) -> None:
        if not waiter.done():
            waiter.set_result(None)

    future._when_ready(ready)
    try:
        yield from waiter
    finally:
        future._forget(ready)


# asyncio


def make_loop() -> Loop:
    """Creates the PE's event loop."""
    running.loop = loop = running.make_loop()
    return loop


class Watcher:
    """An import hook that notices when a step imports ``asyncio``."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "asyncio" or Watcher not in sys.meta_path:
            return None
        sys.meta_path.remove(Watcher)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute, thread = spec.loader.exec_module, get_ident()

            def exec_module(module: Any) -> None:
                execute(module)
                if running.task is not None and thread == Watcher.thread:
                    make_loop().enter(running.task)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    #: The PE's.
    thread = 0


def watch_for_asyncio() -> None:
    """Creates the loop as soon as a step imports asyncio."""
    Watcher.thread = get_ident()
    sys.meta_path.insert(0, Watcher)
