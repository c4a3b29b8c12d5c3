"""The class of ``charm.options``."""

from __future__ import annotations

import pickle
from typing import Any

from . import _engine


class Options:
    """Options of the runtime. Set them before ``charm.start``, on every PE."""

    class Interactive:
        """Options of the interactive mode."""

        verbose: int = 1
        broadcast_imports: bool = True

    #: Count calls, times, messages and bytes, for ``charm.printStats()``.
    profiling: bool
    #: The protocol of pickle. Below 5, buffers are inside the bytes; -1 is the newest protocol.
    pickle_protocol: int
    #: Pass the arguments of calls that stay on their PE by reference, without a copy.
    local_msg_optim: bool
    #: Accepted without effect: calls that stay on their PE have no buffer of a fixed size.
    local_msg_buf_size: int
    #: Accepted without effect: conditions are checked whenever they may have changed.
    auto_flush_wait_queues: bool
    #: Suppress the runtime's own output.
    quiet: bool
    #: Allow ``charm.thisProxy.exec``, ``eval`` and ``registerNewChareType`` to run code that they receive.
    remote_exec: bool

    def __init__(self) -> None:
        self.__dict__.update(profiling=False, pickle_protocol=5, local_msg_optim=False, local_msg_buf_size=50)
        self.__dict__.update(auto_flush_wait_queues=True, quiet=False, remote_exec=False)
        self.interactive = Options.Interactive()

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        protocol = self.pickle_protocol if self.pickle_protocol >= 0 else pickle.HIGHEST_PROTOCOL
        _engine.set_options(bool(self.profiling), bool(self.local_msg_optim), protocol)
