"""Channels: messages between two chares, in the order in which they were sent."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent

from . import _engine, threads

if TYPE_CHECKING:
    from .chare import Chare


class Channel:
    """One end of a channel between ``chare`` and the one that ``remote`` names, which makes the other end.

    The first channel that a chare makes to another is one with the first that the other makes to it, and so on.
    """

    def __init__(self, chare: Chare, remote: Any, local: Any = None) -> None:
        self.remote = remote
        own = local if local is not None else own_proxy(chare)
        made: dict[Any, int] = kept(chare, "__charm_channels__")
        self.number = made.get(remote, 0)
        made[remote] = self.number + 1
        self.own = own
        self.sent = 0
        self.received = 0
        self.arrived = kept(chare, "__charm_ends__").setdefault((remote, self.number), Arrived())
        self.arrived.channel = self

    def send(self, *args: Any) -> None:
        """Sends; what it is given comes out of the other end's ``recv``."""
        self.remote.__charm_channel__(self.own, self.number, self.sent, *args)
        self.sent += 1

    def recv(self) -> Any:
        """Waits for the next message: its value, or a tuple of them if there are several."""
        if not self.ready():
            coroutine = getcurrent()
            if not isinstance(coroutine, threads.Coroutine):
                raise threads.NotThreadedError(
                    "Channel.recv() waits, which only coroutines can: decorate the method with @coro"
                )
            self.arrived.wait(coroutine)
        args = self.arrived.take()
        return args[0] if len(args) == 1 else args

    def ready(self) -> bool:
        """Whether a message is there."""
        return bool(self.arrived.ready)

    def _when_ready(self, waiter: Any) -> None:
        self.arrived.waiters.append(waiter)

    def _forget(self, waiter: Any) -> None:
        if waiter in self.arrived.waiters:
            self.arrived.waiters.remove(waiter)


class Arrived:
    """What has arrived at one end, also before the chare has made it."""

    def __init__(self) -> None:
        self.channel: Channel | None = None
        #: Coroutines in ``recv``, in the order in which they came: each gets a message.
        self.receivers: deque[threads.Coroutine] = deque()
        #: Called, once, when there is a message that none of them takes.
        self.waiters: list[Any] = []
        self.ready: deque[tuple[Any, ...]] = deque()
        self.early: dict[int, tuple[Any, ...]] = {}
        self.turn = 0

    def wait(self, coroutine: threads.Coroutine) -> None:
        """Waits for a message, which is there to be taken at once."""
        self.receivers.append(coroutine)
        coroutine.since = _engine.coarse_now()
        try:
            threads.Hub.greenlet.switch()
        except BaseException:  # an interrupt
            if coroutine in self.receivers:
                self.receivers.remove(coroutine)
            raise

    def take(self) -> tuple[Any, ...]:
        return self.ready.popleft()

    def put(self, turn: int, args: tuple[Any, ...]) -> None:
        """Calls are in no order: a message that comes too early waits for those before it."""
        self.early[turn] = args
        while self.turn in self.early:
            self.ready.append(self.early.pop(self.turn))
            self.turn += 1
        while self.ready and self.receivers:
            self.receivers.popleft().resume()
        if self.ready and self.waiters:
            waiters, self.waiters = self.waiters, []
            for waiter in waiters:
                waiter(self.channel)


def kept(chare: Chare, name: str) -> dict[Any, Any]:
    """A dict that the runtime keeps of a chare."""
    found: dict[Any, Any] | None = getattr(chare, name, None)
    if found is None:
        found = {}
        setattr(chare, name, found)
    return found


def own_proxy(chare: Chare) -> Any:
    """The proxy of this chare alone."""
    proxy = chare.thisProxy
    return proxy if _engine.index(proxy) is not None else proxy[chare.thisIndex]


def arrived(chare: Chare, sender: Any, number: int, turn: int, args: tuple[Any, ...]) -> None:
    """A message has come for one of the chare's channels."""
    kept(chare, "__charm_ends__").setdefault((sender, number), Arrived()).put(turn, args)
