"""Coroutines and futures: how a method waits while its PE goes on.

A coroutine is a greenlet. One greenlet, the *scheduler's*, runs the engine's loop and everything that does not wait; a coroutine
is switched to from there, and back to it when it waits. What it waits for calls it again, from there.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any, Awaitable, Callable, Generator, Generic, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

from . import _engine, state
from .conditions import recheck
from .tasks import Task, bridge, context, running

if TYPE_CHECKING:
    from .chare import Chare

T = TypeVar("T")

#: Idle greenlets that are kept for the next coroutine.
KEPT_MAX = 256


class NotThreadedError(Exception):
    """Something waits outside of a coroutine."""


class Hub:
    """The greenlet in which the engine's loop runs."""

    greenlet: greenlet
    idle: list["Coroutine"] = []


def begin() -> None:
    """Says that this greenlet is the scheduler's."""
    Hub.greenlet = getcurrent()


def can_wait() -> bool:
    """Whether this code runs in a coroutine."""
    return isinstance(getcurrent(), Coroutine)


class Coroutine(greenlet):
    """Runs one method after another, each to its end."""

    #: Whose method it runs.
    chare: Chare | None = None
    #: Who gets what comes of it.
    answer: Any = None
    #: When it began to wait, unless it waits for one future, which knows that itself.
    since = 0.0

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any, answer: Any) -> None:
        while True:
            try:
                value = function(*args, **kwargs)
            except GreenletExit:
                raise  # it is being thrown away
            except BaseException as error:
                answer.error(error)
            else:
                answer.value(value)
            function = args = kwargs = answer = value = None  # type: ignore[assignment]
            self.chare = self.answer = self.gr_context = None
            if len(Hub.idle) >= KEPT_MAX:
                return
            Hub.idle.append(self)
            function, args, kwargs, answer = Hub.greenlet.switch()

    def resume(self, value: Any = None) -> None:
        """Goes on with it, from the scheduler's greenlet."""
        chare, answer = self.chare, self.answer
        if state.options.profiling and hasattr(answer, "ran"):
            begun = perf_counter()
            self.switch(value)
            answer.ran(perf_counter() - begun)
        else:
            self.switch(value)
        if chare is not None and chare.__charm_watched__:
            recheck(chare)


def start(chare: Chare | None, function: Callable[..., Any], args: Any, kwargs: Any, answer: Any) -> None:
    """Runs a function as a coroutine until it ends or waits."""
    coroutine = Hub.idle.pop() if Hub.idle else Coroutine(parent=Hub.greenlet)
    coroutine.chare, coroutine.answer = chare, answer
    coroutine.gr_context = context()
    coroutine.switch(function, args, kwargs, answer)


def pause(what: str) -> Any:
    """Lets the PE go on until somebody calls the present coroutine's ``resume``; gives what that is given."""
    coroutine = getcurrent()
    if not isinstance(coroutine, Coroutine):
        raise NotThreadedError(f"{what} waits, which only coroutines can: decorate the method with @coro")
    coroutine.since = _engine.coarse_now()
    return Hub.greenlet.switch()


class Future(_engine.FutureBase, Generic[T]):
    """A value that arrives later, or several of them.

    Whoever holds it, anywhere in the job, may ``send`` the value; only where it was made it can be waited for.
    """

    __slots__ = ()

    def get(self, timeout: float | None = None) -> T:
        """Waits for the value; for the list of values, in the order of their arrival, if there are several.

        Raises an exception that was sent instead, and ``TimeoutError`` if ``timeout`` seconds pass.
        """
        if not self.ready():
            coroutine = getcurrent()
            if not isinstance(coroutine, Coroutine):
                way = "decorate the method with @coro" if running.task is None else "await the future"
                raise NotThreadedError(f"Future.get() waits, which only coroutines can: {way}")
            if timeout is None:
                self._resumes(coroutine, coroutine.chare)
                try:
                    value = Hub.greenlet.switch()
                except BaseException:  # an interrupt
                    self._forget(coroutine)
                    raise
                if value is not self:
                    return value  # type: ignore[no-any-return]
            else:
                self._wait(coroutine, timeout)
        return self._result()  # type: ignore[no-any-return]

    def _wait(self, coroutine: Coroutine, timeout: float) -> None:
        def late() -> None:
            self._forget(coroutine)
            coroutine.resume()

        self._resumes(coroutine, coroutine.chare)
        timer = _engine.timer(timeout, late)
        try:
            Hub.greenlet.switch()
        except BaseException:  # an interrupt
            self._forget(coroutine)
            raise
        finally:
            timer.cancel()
        if not self.ready():
            raise TimeoutError(f"no value in {timeout} seconds")

    def __await__(self) -> Generator[Any, None, T]:
        if not self.ready():
            task = running.task
            if task is not None and (running.loop is None or running.loop.runs(task)):
                yield self
            else:
                yield from bridge(self)
        return self._result()  # type: ignore[no-any-return]


def run_async(chare: Chare | None, awaitable: Any, answer: Any) -> None:
    """Runs an ``async def`` method, as a task."""
    Task(chare, awaitable, answer).step()


__all__ = ["Awaitable", "Future", "NotThreadedError"]
