"""The PEs' side of CCS: the handlers, and how they reply. Knows nothing of sockets."""

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

#: This PE's handlers, by the names that clients use.
handlers: dict[str, Callable[[bytes], Any]] = {}
#: The server, in the process of PE 0.
server: Server | None = None


class Request:
    """A request in a handler of this PE. ``number`` is ``None`` after the reply, or after the reply was delayed."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number: int | None = number

    def taken(self) -> int | None:
        """Takes its number, so that only the caller can reply."""
        number, self.number = self.number, None
        return number


#: The request that the running code handles.
present: ContextVar[Request | None] = ContextVar("charm4py ccs request", default=None)


@dataclass(frozen=True)
class DelayedReply:
    """The right to reply to a request later, from any PE, by ``charm.CcsSendDelayedReply``."""

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
        why = "this code does not run in a handler" if request is None else "the reply was already sent, or delayed"
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
    """Runs a handler, in a coroutine, so that it may wait."""
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
    """Takes the result of a handler."""

    def __init__(self, request: Request | None) -> None:
        assert request is not None
        self.request = request

    def value(self, value: Any) -> None:
        """The handler has returned. If it has not replied, the client gets an empty reply."""
        if inspect.iscoroutine(value):
            # It gets a copy of this context. It begins when this greenlet has ended.
            _engine.call_soon(tasks.Task(None, value, self).step)
            return
        number = self.request.taken()
        if number is not None:
            post(number, wire.DONE, b"")

    def error(self, error: BaseException) -> None:
        """An exception goes to the client if it still waits. Otherwise it ends the job, like that of any method for which no caller waits."""
        place = f"the CCS handler {self.request.name!r}"
        number = self.request.taken()
        if number is None or not isinstance(error, Exception):
            if number is not None:
                post(number, wire.DONE, b"")
            ending.fatal(error, place)
            return
        print(f"{type(error).__name__}: {error} in {place}\n{errors.story(error).rstrip()}", file=sys.stderr)
        post(number, wire.FAILED, f"{place} raised {type(error).__name__}: {error}".encode(errors="replace"))
