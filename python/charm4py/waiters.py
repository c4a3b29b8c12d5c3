"""Who waits on this PE, for reports of deadlocks.

All of it is found out when somebody asks, from the frames of the coroutines: waiting itself keeps nothing for it.
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

#: Frames of files in here are the package's.
PACKAGE = str(Path(__file__).parent)
#: What is waited for, by the package's function that waits.
WHAT = {"get": "a future", "recv": "a message of a channel", "_wait": "a future", "iwait": "futures or channels"}
#: The entry point has returned, on PE 0.
main_is_over = False


def waits() -> tuple[list[str], bool]:
    """Who waits and for what, a line each; and whether something may come from outside of the job."""
    lines = []
    # Another thread may send to a future, or call a chare.
    outside = active_count() > 1 or (tasks.running.loop is not None and tasks.running.loop.may_act())
    for coroutine in suspended():
        line = line_of(coroutine)
        if line is None:  # a prompt, which waits for who types
            outside = True
        else:
            lines.append(line)
    lines += map(line_of_task, tasks.suspended)
    if main_is_over:
        lines.append("main has returned, and nobody has called exit(): nothing else ends the job")
    return lines, outside


def suspended() -> Iterator[Coroutine]:
    idle = {id(coroutine) for coroutine in Hub.idle}
    for thing in gc.get_objects():
        if isinstance(thing, Coroutine) and thing.gr_frame is not None and id(thing) not in idle:
            yield thing


def line_of(coroutine: Coroutine) -> str | None:
    """Who waits where and for what; ``None`` if no code of the program's is in it."""
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
    """For how many seconds a coroutine has waited."""
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
    """What is said of a wait's length."""
    return f", for {seconds:.0f} s"


def line_of_task(task: tasks.Task) -> str:
    """The same, of an ``async def`` method."""
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
    """Notes that the entry point has returned. That of an ``async def`` function has yet to run then."""

    def __init__(self, unawaited: Any) -> None:
        self.unawaited = unawaited

    def value(self, value: Any) -> None:
        global main_is_over
        if inspect.iscoroutine(value):
            # Not in the greenlet that ends here.
            _engine.call_soon(lambda: threads.run_async(None, value, self))
        else:
            main_is_over = True

    def error(self, error: BaseException) -> None:
        self.unawaited.error(error)
