"""What a program asks of the runtime: ``charm.options``."""

from __future__ import annotations

import pickle
from typing import Any

from . import _engine


class Options:
    """Set them before ``charm.start``, on every PE."""

    class Interactive:
        """Of the interactive mode."""

        verbose: int = 1
        broadcast_imports: bool = True

    #: Calls, times, messages and bytes are counted, for ``charm.printStats()``.
    profiling: bool
    #: With which protocol values are pickled. Below 5 their buffers are among the bytes; -1 is the newest.
    pickle_protocol: int
    #: Arguments of calls that stay on their PE are passed by reference instead of being copied.
    local_msg_optim: bool
    #: Accepted, and not needed: calls that stay on their PE have no buffer of a fixed size.
    local_msg_buf_size: int
    #: Accepted, and not needed: calls that wait for a condition are looked at whenever it may have changed.
    auto_flush_wait_queues: bool
    #: Whether the runtime keeps to itself what it would print.
    quiet: bool
    #: Whether ``charm.thisProxy.exec``, ``eval`` and ``registerNewChareType`` run what they are sent.
    remote_exec: bool

    def __init__(self) -> None:
        self.__dict__.update(profiling=False, pickle_protocol=5, local_msg_optim=False, local_msg_buf_size=50)
        self.__dict__.update(auto_flush_wait_queues=True, quiet=False, remote_exec=False)
        self.interactive = Options.Interactive()

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        protocol = self.pickle_protocol if self.pickle_protocol >= 0 else pickle.HIGHEST_PROTOCOL
        _engine.set_options(bool(self.profiling), bool(self.local_msg_optim), protocol)
