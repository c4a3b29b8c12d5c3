"""Waiting for conditions: calls (``@when``) and coroutines (``self.wait``). :mod:`charm4py.conditions` keeps what waits."""

from __future__ import annotations

from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Callable

from greenlet import getcurrent

from . import _engine, threads
from .conditions import hold, recheck

if TYPE_CHECKING:
    from .chare import Chare
    from .entry_method import Entry

codes: dict[str, CodeType] = {}


def wait(chare: Chare, condition: str, frame: FrameType) -> None:
    """Suspends the current coroutine until an expression over the caller's names is true."""
    code = codes.get(condition)
    if code is None:
        code = codes[condition] = compile(condition, "<self.wait>", "eval")
    names, values = frame.f_globals, frame.f_locals

    def holds() -> bool:
        return bool(eval(code, names, values))

    if holds():
        return
    coroutine = getcurrent()
    if not isinstance(coroutine, threads.Coroutine):
        raise threads.NotThreadedError("self.wait() waits, which only coroutines can: decorate the method with @coro")
    opens = getattr(coroutine.answer, "opens", None)
    if opens is not None:
        opens()
    hold(chare, holds, coroutine.resume)
    coroutine.since = _engine.coarse_now()
    try:
        threads.Hub.greenlet.switch()
    except BaseException:  # an interrupt
        chare.__charm_held__.remove((holds, coroutine.resume))
        raise


def run(entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any] | None, answer: Any) -> None:
    """Runs a coroutine, an ``async def`` or a method with a condition; the engine calls this. ``args`` begin with the chare."""
    chare, keywords = args[0], kwargs or {}
    condition = entry.condition
    if condition is None:
        begin(entry, args, keywords, answer)
    elif not getattr(chare, "__charm_held__", None) and condition(*args, **keywords):
        begin(entry, args, keywords, answer)
    else:
        hold(chare, lambda: bool(condition(*args, **keywords)), lambda: begin(entry, args, keywords, answer))
        # The condition may be true although other calls wait.
        recheck(chare)


def begin(entry: Entry, args: tuple[Any, ...], keywords: dict[str, Any], answer: Any) -> None:
    if entry.is_coro:
        threads.start(args[0], entry.function, args, keywords, answer)
    elif entry.is_async:
        threads.run_async(args[0], entry.function(*args, **keywords), answer)
    else:
        try:
            value = entry.function(*args, **keywords)
        except BaseException as error:
            answer.error(error)
        else:
            answer.value(value)
