"""What waits on this PE, for reports of deadlocks.

A report reads the frames of the coroutines. Waiting itself records nothing for it but the time.
"""

from __future__ import annotations

import gc
import inspect
from threading import active_count
from pathlib import Path
from types import FrameType
from typing import Any, Iterator

from . import _engine, tasks, threads
from .threads import Coroutine, Hub

#: Frames of files in this directory are the package's.
PACKAGE = str(Path(__file__).parent)
#: What a coroutine waits for, by the function of the package in which it waits.
WHAT = {"get": "a future", "recv": "a message of a channel", "_wait": "a future", "iwait": "futures or channels"}
#: Whether the entry point has returned, on PE 0.
main_is_over = False


def waits() -> tuple[list[str], bool]:
    """A line for each wait, and whether an event from outside of the job may end one."""
    lines = []
    # Another thread may send to a future, or call a chare.
    outside = active_count() > 1 or (tasks.running.loop is not None and tasks.running.loop.may_act())
    for coroutine in suspended():
        line = line_of(coroutine)
        if line is None:  # a prompt, which waits for input
            outside = True
        else:
            lines.append(line)
    lines += map(line_of_task, tasks.suspended)
    if main_is_over:
        lines.append("main has returned without a call of exit(): nothing else ends the job")
    return lines, outside


def suspended() -> Iterator[Coroutine]:
    idle = {id(coroutine) for coroutine in Hub.idle}
    for thing in gc.get_objects():
        if isinstance(thing, Coroutine) and thing.gr_frame is not None and id(thing) not in idle:
            yield thing


def line_of(coroutine: Coroutine) -> str | None:
    """The line of a coroutine: its method, what it waits for, and where. ``None`` if it runs no code of the program."""
    below: FrameType | None = None
    frame: FrameType | None = coroutine.gr_frame
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
        below, frame = frame, frame.f_back
    if frame is None:
        return None
    place, first = f"{frame.f_code.co_filename}:{frame.f_lineno}", frame
    while frame is not None:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            first = frame
        frame = frame.f_back
    return f"{name_of(coroutine.chare)}{first.f_code.co_name} waits for {what_of(below)} at {place}{since(waited(coroutine))}"


def waited(coroutine: Coroutine) -> float:
    """The seconds that a coroutine has waited."""
    frame: FrameType | None = coroutine.gr_frame
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
        future = frame.f_locals.get("self")
        if isinstance(future, _engine.FutureBase):
            known = future._waited(coroutine)
            if known is not None:
                return known
        frame = frame.f_back
    return _engine.coarse_now() - coroutine.since


def since(seconds: float) -> str:
    """The text for the length of a wait."""
    return f", for {seconds:.0f} s"


def line_of_task(task: tasks.Task) -> str:
    """The line of an ``async def`` method."""
    frame = task.awaitable.cr_frame
    what = "a future" if task.awaited is not None else "what asyncio brings"
    length = None if task.awaited is None else task.awaited._waited(task.go_on)
    length = _engine.coarse_now() - task.since if length is None else length
    place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return f"{name_of(task.chare)}{task.awaitable.__name__} waits for {what} at {place}{since(length)}"


def name_of(chare: Any) -> str:
    if chare is None:
        return ""
    index = chare.thisIndex
    if isinstance(index, tuple) and len(index) == 1:
        index = index[0]
    return f"{type(chare).__name__}[{index}]."


def what_of(frame: FrameType | None) -> str:
    if frame is None:
        return "something"
    if "condition" in frame.f_locals:
        return f"the condition {frame.f_locals['condition']!r}"
    return WHAT.get(frame.f_code.co_name, frame.f_code.co_name)


class MainAnswer:
    """Notes that the entry point has returned. An entry point that is an ``async def`` only begins to run then."""

    def __init__(self, unawaited: Any) -> None:
        self.unawaited = unawaited

    def value(self, value: Any) -> None:
        global main_is_over
        if inspect.iscoroutine(value):
            # It must not run in the greenlet that ends here.
            _engine.call_soon(lambda: threads.run_async(None, value, self))
        else:
            main_is_over = True

    def error(self, error: BaseException) -> None:
        self.unawaited.error(error)
