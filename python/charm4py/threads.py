"""Coroutines and futures: how a method waits while its PE runs other work.

A coroutine is a greenlet. One greenlet, the *hub*, runs the engine's loop and all code that does not wait. The hub switches to a coroutine, and
the coroutine switches back when it waits. What it waits for resumes it, from the hub.
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

#: How many idle greenlets are kept for later coroutines.
KEPT_MAX = 256


class NotThreadedError(Exception):
    """Raised where code outside of a coroutine would have to wait."""


class Hub:
    """The greenlet in which the engine's loop runs."""

    greenlet: greenlet
    idle: list["Coroutine"] = []


def begin() -> None:
    """Makes the current greenlet the hub."""
    Hub.greenlet = getcurrent()


def can_wait() -> bool:
    """Whether the running code is in a coroutine."""
    return isinstance(getcurrent(), Coroutine)


class Coroutine(greenlet):
    """A greenlet that runs methods, one after another."""

    #: The chare whose method it runs.
    chare: Chare | None = None
    #: What gets the method's value or exception.
    answer: Any = None
    #: When it began to wait. If it waits for one future, that has the time instead.
    since = 0.0

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any, answer: Any) -> None:
        while True:
            try:
                value = function(*args, **kwargs)
            except GreenletExit:
                raise  # the greenlet is collected
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
        """Resumes it, from the hub."""
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
    """Runs a function as a coroutine, until it ends or waits."""
    coroutine = Hub.idle.pop() if Hub.idle else Coroutine(parent=Hub.greenlet)
    coroutine.chare, coroutine.answer = chare, answer
    coroutine.gr_context = context()
    coroutine.switch(function, args, kwargs, answer)


def pause(what: str) -> Any:
    """Suspends the current coroutine until its ``resume`` is called. Returns the argument of ``resume``."""
    coroutine = getcurrent()
    if not isinstance(coroutine, Coroutine):
        raise NotThreadedError(f"{what} waits, which only coroutines can: decorate the method with @coro")
    coroutine.since = _engine.coarse_now()
    return Hub.greenlet.switch()


class Future(_engine.FutureBase, Generic[T]):
    """A value that arrives later, or several values.

    Any PE that has the future may ``send`` a value. Only the PE that created it can wait for it. A future is also a callback:
    ``future(value)`` sends.
    """

    __slots__ = ()

    def get(self, timeout: float | None = None) -> T:
        """Waits for the value. If the future has several, returns the list of them in the order of arrival.

        Raises an exception that arrives in place of a value, and ``TimeoutError`` after ``timeout`` seconds.
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
    """Runs an ``async def`` method as a task."""
    Task(chare, awaitable, answer).step()


__all__ = ["Awaitable", "Future", "NotThreadedError"]
