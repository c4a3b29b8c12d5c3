"""The PE's event loop of asyncio: the standard loop, driven by the engine.

*A turn* is one round of the standard loop that does not wait: it polls sockets and timers, and runs the callbacks that are ready. The engine runs a
turn when there is a reason:

- a callback was scheduled on the PE's thread (``call_soon``): the engine calls soon;
- the first timer is due: the engine has a timer, which quiescence ignores;
- another thread has scheduled a callback (``call_soon_threadsafe``): that thread calls the engine;
- a socket is ready: a thread, started with the first socket, waits for the selector's own descriptor, which is readable when any of its
  sockets is. It calls the engine, and does not poll again before the turn has ended. Only the PE's thread uses the selector.

So an idle loop costs nothing and delays nothing. An entry method that awaits something of the loop keeps the job from being quiescent for that
time; a background task (``asyncio.create_task``) does not.

The loop always reports that it runs, but it is the *running loop* of the thread only during turns and the steps of tasks: other methods
may call ``asyncio.run``. This module is imported only if the program has imported asyncio.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import select
import sys
import threading
import warnings
from asyncio import CancelledError, TimerHandle, events
from asyncio.tasks import _enter_task, _leave_task
from typing import Any

from . import _engine
from .tasks import Task

#: How many turns tasks get to end in, at the end of the job.
LAST_TURNS = 100


class Loop(asyncio.SelectorEventLoop):
    """See the module's text."""

    CancelledError = CancelledError

    def __init__(self) -> None:
        self._watch: Watch | None = None
        self._asked = False
        self._turning = False
        self._entered: Task | None = None
        self._outside: Any = None
        self._awaiting = 0
        self._timer: _engine.Timer | None = None
        self._due = float("inf")
        self._over = False
        self._process = os.getpid()
        super().__init__()
        # The standard loop sets these while it runs: it reports that it runs, and a round never waits.
        self._thread_id: int | None = threading.get_ident()
        self._stopping = True
        sys.set_asyncgen_hooks(
            firstiter=self._asyncgen_firstiter_hook,  # type: ignore[attr-defined]
            finalizer=self._asyncgen_finalizer_hook,  # type: ignore[attr-defined]
        )
        atexit.register(self._end)

    # Steps of tasks

    def enter(self, task: Task) -> None:
        """A task's step begins."""
        self._outside = events._get_running_loop()
        events._set_running_loop(self)
        _enter_task(self, task)  # type: ignore[arg-type]
        self._entered = task

    def leave(self, task: Task) -> None:
        """A task's step ends."""
        if self._entered is task:
            self._entered = None
            _leave_task(self, task)  # type: ignore[arg-type]
            events._set_running_loop(self._outside)

    def runs(self, task: Task) -> bool:
        """Whether the task itself runs, rather than a task of asyncio inside its step."""
        return asyncio.current_task(self) is task  # type: ignore[comparison-overlap]

    def bring(self, task: Task, future: Any) -> None:
        """Resumes a task when a future of asyncio is ready."""
        future._asyncio_future_blocking = False
        if future.get_loop() is not self:
            error = RuntimeError(f"{future!r} belongs to another event loop than the PE's")
            _engine.call_soon(lambda: task._again(error))
            return
        task._fut_waiter = future
        self._awaiting += 1
        if self._awaiting == 1:
            _engine.hold(True)

        def ready(_: Any) -> None:
            task._fut_waiter = None
            self._awaiting -= 1
            if self._awaiting == 0:
                # Only after the step, which may begin new work.
                _engine.call_soon(self._let_go)
            task._again()

        future.add_done_callback(ready)
        if task._must_cancel and future.cancel(msg=task._cancel_message):
            task._must_cancel = False

    def _let_go(self) -> None:
        if self._awaiting == 0:
            _engine.hold(False)

    def may_act(self) -> bool:
        """Whether it has timers or sockets, which may cause events."""
        return bool(self._scheduled) or self._watch is not None  # type: ignore[attr-defined]

    # Turns

    def _ask(self) -> None:
        if not (self._asked or self._over):
            self._asked = True
            _engine.call_soon(self._turn)

    def _turn(self) -> None:
        self._asked = False
        if self._over:
            return
        outside = events._get_running_loop()
        events._set_running_loop(self)
        self._turning = True
        try:
            self._run_once()  # type: ignore[attr-defined]
        finally:
            self._turning = False
            events._set_running_loop(outside)
        if self._ready:  # type: ignore[attr-defined]
            self._ask()
        self._set_timer()
        if self._watch is not None:
            self._watch.go_on()

    def _set_timer(self) -> None:
        timers: list[TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        due = timers[0].when() if timers else float("inf")
        if due == self._due:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = due
        if timers and not self._over:
            self._timer = _engine.timer(due - self.time(), self._timer_is_due, True)

    def _timer_is_due(self) -> None:
        self._timer, self._due = None, float("inf")
        self._turn()

    # What the standard loop calls

    def call_soon(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        handle = super().call_soon(*args, **kwargs)
        self._ask()
        return handle

    def call_at(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        handle = super().call_at(*args, **kwargs)
        if not self._turning:
            self._set_timer()
        return handle

    def _write_to_self(self) -> None:
        """Another thread or a signal has scheduled a callback."""
        if self._over:
            return
        if threading.get_ident() == self._thread_id:
            self._ask()
            return
        try:
            _engine.call_from_thread(self._turn)
        except RuntimeError:
            pass  # the PE has ended

    def _add_reader(self, *args: Any) -> Any:
        handle = super()._add_reader(*args)  # type: ignore[misc]
        self._watch_sockets()
        return handle

    def _add_writer(self, *args: Any) -> Any:
        handle = super()._add_writer(*args)  # type: ignore[misc]
        self._watch_sockets()
        return handle

    def add_signal_handler(self, *args: Any) -> None:  # type: ignore[override]
        super().add_signal_handler(*args)
        self._watch_sockets()

    def _watch_sockets(self) -> None:
        if self._watch is None and hasattr(self, "_thread_id") and self._thread_id is not None:
            self._watch = Watch(self)

    # The end

    def _end(self) -> None:
        """The job and the engine have ended: cancels what still runs, as ``asyncio.run`` does."""
        self._over = True
        if os.getpid() != self._process:
            return  # a forked child, which shares the selector
        events._set_running_loop(self)
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        for _ in range(LAST_TURNS):
            if all(task.done() for task in tasks):
                break
            self._run_once()  # type: ignore[attr-defined]
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        events._set_running_loop(None)
        sys.set_asyncgen_hooks(None, None)
        if self._watch is not None:
            self._watch.end()
        self._thread_id = None
        self._timer = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            self.close()


class Watch:
    """The thread that waits for sockets; see the module's text."""

    def __init__(self, loop: Loop) -> None:
        self.looked = threading.Event()
        self.stopped, self.stop = os.pipe()
        sockets = loop._selector.fileno()  # type: ignore[attr-defined]
        thread = threading.Thread(target=self.run, args=(sockets, loop._turn), name="asyncio sockets", daemon=True)
        thread.start()

    def run(self, sockets: int, turn: Any) -> None:
        poll = select.poll()
        poll.register(sockets, select.POLLIN)
        poll.register(self.stopped, select.POLLIN)
        while all(ready != self.stopped for ready, _ in poll.poll()):
            self.looked.clear()
            try:
                _engine.call_from_thread(turn)
            except RuntimeError:
                return  # the PE has ended
            self.looked.wait()

    def go_on(self) -> None:
        """The loop has run a turn."""
        self.looked.set()

    def end(self) -> None:
        """Ends the thread."""
        os.write(self.stop, b"x")
        self.looked.set()
