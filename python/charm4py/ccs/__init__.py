"""CCS, Converse's client-server protocol: programs outside of a job send requests to handlers on its PEs.

A job started with ``++server`` accepts clients; the program registers handlers by ``charm.CcsRegisterHandler``. A client uses :class:`Client`::

    with Client("127.0.0.1", 1234) as client:
        print(client.request("ping", b"me", pe=1))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .handlers import DelayedReply
from .wire import CcsError

if TYPE_CHECKING:
    from .client import Client


def __getattr__(name: str) -> Any:
    """Imports ``Client`` on first use: few programs need it, and its imports take as long as those of the rest of CCS."""
    if name != "Client":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .client import Client

    globals()[name] = Client
    return Client


__all__ = ["CcsError", "Client", "DelayedReply"]
