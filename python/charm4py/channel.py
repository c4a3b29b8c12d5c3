"""Channels: ordered messages between two chares."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent

from . import _engine, threads

if TYPE_CHECKING:
    from .chare import Chare


class Channel:
    """One end of a channel between ``chare`` and the chare of the proxy ``remote``, which creates the other end. Messages keep their order.

    Several channels between the same two chares are matched in the order of their creation.
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
        """Sends a message. The other end's ``recv`` returns the arguments."""
        self.remote.__charm_channel__(self.own, self.number, self.sent, *args)
        self.sent += 1

    def recv(self) -> Any:
        """Waits for the next message. Returns its value, or a tuple if it has several."""
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
        """Whether a message has arrived."""
        return bool(self.arrived.ready)

    def _when_ready(self, waiter: Any) -> None:
        self.arrived.waiters.append(waiter)

    def _forget(self, waiter: Any) -> None:
        if waiter in self.arrived.waiters:
            self.arrived.waiters.remove(waiter)


class Arrived:
    """What has arrived at one end, even before the chare has created that end."""

    def __init__(self) -> None:
        self.channel: Channel | None = None
        #: Coroutines in ``recv``, in order of arrival. Each gets a message.
        self.receivers: deque[threads.Coroutine] = deque()
        #: Called once, when there is a message that no receiver takes.
        self.waiters: list[Any] = []
        self.ready: deque[tuple[Any, ...]] = deque()
        self.early: dict[int, tuple[Any, ...]] = {}
        self.turn = 0

    def wait(self, coroutine: threads.Coroutine) -> None:
        """Waits for a message, which the caller must take at once."""
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
        """Adds a message. Calls may arrive in any order, so a message that is too early waits for those before it."""
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
    """A dict that the runtime keeps in a chare."""
    found: dict[Any, Any] | None = getattr(chare, name, None)
    if found is None:
        found = {}
        setattr(chare, name, found)
    return found


def own_proxy(chare: Chare) -> Any:
    """The proxy of the chare itself."""
    proxy = chare.thisProxy
    return proxy if _engine.index(proxy) is not None else proxy[chare.thisIndex]


def arrived(chare: Chare, sender: Any, number: int, turn: int, args: tuple[Any, ...]) -> None:
    """A message has arrived for one of the chare's channels."""
    kept(chare, "__charm_ends__").setdefault((sender, number), Arrived()).put(turn, args)
