"""The PEs' side of CCS: which functions answer what, and how they reply. Knows nothing of sockets."""

from __future__ import annotations

import inspect
import sys
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable

from .. import _engine, ending, errors, state, tasks, threads
from ..conditions import recheck
from ..errors import Charm4PyError
from . import wire

if TYPE_CHECKING:
    from .server import Server

#: This PE's handlers, by the names that clients know them by.
handlers: dict[str, Callable[[bytes], Any]] = {}
#: The server, in the process of PE 0.
server: Server | None = None


class Request:
    """One that a handler of this PE answers. ``number`` is ``None`` once it has been answered, or is to be later."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number: int | None = number

    def taken(self) -> int | None:
        """Its number, which is nobody else's then."""
        number, self.number = self.number, None
        return number


#: The request that the present code answers.
present: ContextVar[Request | None] = ContextVar("charm4py ccs request", default=None)


@dataclass(frozen=True)
class DelayedReply:
    """The right to answer a request later, from any PE: ``charm.CcsSendDelayedReply`` does."""

    number: int


def register(name: str, handler: Callable[[bytes], Any]) -> None:
    wire.encoded(name)
    if not callable(handler):
        raise TypeError(f"the handler {name!r} cannot be called: {handler!r}")
    handlers[name] = handler


def is_remote_request() -> bool:
    request = present.get()
    return request is not None and request.number is not None


def taken(what: str) -> int:
    request = present.get()
    number = None if request is None else request.taken()
    if number is None:
        why = "no request of a client runs here" if request is None else "the request has been answered, or is to be later"
        raise Charm4PyError(f"{what}: {why}")
    return number


def send_reply(message: Any) -> None:
    reply = checked(message)
    post(taken("charm.CcsSendReply()"), wire.DONE, reply)


def delay_reply() -> DelayedReply:
    return DelayedReply(taken("charm.CcsDelayReply()"))


def send_delayed_reply(delayed: DelayedReply, message: Any) -> None:
    if not isinstance(delayed, DelayedReply):
        raise TypeError(f"charm.CcsSendDelayedReply() takes what charm.CcsDelayReply() has given, not {delayed!r}")
    post(delayed.number, wire.DONE, checked(message))


def checked(message: Any) -> bytes:
    reply = wire.as_bytes(message)
    if len(reply) > wire.REPLY_MAX:
        raise ValueError(f"a reply of {len(reply)} bytes: at most {wire.REPLY_MAX} can be sent")
    return reply


def post(number: int, status: int, reply: bytes) -> None:
    """Sends a reply to the server, which is on PE 0."""
    if server is not None:
        server.answered(number, status, reply)
    else:
        state.runtime[0]._ccs_reply(number, status, reply)


def run(number: int, name: str, data: bytes) -> None:
    """Runs a handler. Each may wait."""
    handler = handlers.get(name)
    if handler is None:
        post(number, wire.FAILED, f"PE {state.pe} has no handler {name!r}".encode())
        return
    owner = getattr(handler, "__self__", None)
    chare = owner if isinstance(owner, _engine.ChareBase) else None
    outside = present.set(Request(name, number))
    try:
        threads.start(chare, handler, (data,), {}, Answer(present.get()))  # type: ignore[arg-type]
    finally:
        present.reset(outside)
    if chare is not None and chare.__charm_watched__:
        recheck(chare)  # type: ignore[arg-type]


class Answer:
    """What comes of a handler."""

    def __init__(self, request: Request | None) -> None:
        assert request is not None
        self.request = request

    def value(self, value: Any) -> None:
        """It has returned. A client that has got no reply gets an empty one."""
        if inspect.iscoroutine(value):
            # Its context is this one; it begins when the greenlet that ends here has ended.
            _engine.call_soon(tasks.Task(None, value, self).step)
            return
        number = self.request.taken()
        if number is not None:
            post(number, wire.DONE, b"")

    def error(self, error: BaseException) -> None:
        """An exception is the client's if it still waits; otherwise the job's, as of any method for which nobody waits."""
        place = f"the CCS handler {self.request.name!r}"
        number = self.request.taken()
        if number is None or not isinstance(error, Exception):
            if number is not None:
                post(number, wire.DONE, b"")
            ending.fatal(error, place)
            return
        print(f"{type(error).__name__}: {error} in {place}\n{errors.story(error).rstrip()}", file=sys.stderr)
        post(number, wire.FAILED, f"{place} raised {type(error).__name__}: {error}".encode(errors="replace"))
