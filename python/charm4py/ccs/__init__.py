"""CCS, Converse's client and server: programs outside of a job ask handlers on its PEs.

A job that is started with ``++server`` listens; its programs register handlers by ``charm.CcsRegisterHandler``. A client is a :class:`Client`::

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
    """``Client``, which few programs need: with what it needs, it takes as long to import as all else of CCS."""
    if name != "Client":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .client import Client

    globals()[name] = Client
    return Client


__all__ = ["CcsError", "Client", "DelayedReply"]
