"""CCS, Converse's client and server: programs outside of a job ask handlers on its PEs.

A job that is started with ``++server`` listens; its programs register handlers by ``charm.CcsRegisterHandler``. A client is a :class:`Client`::

    with Client("127.0.0.1", 1234) as client:
        print(client.request("ping", b"me", pe=1))
"""

from .client import Client
from .handlers import DelayedReply
from .wire import CcsError

__all__ = ["CcsError", "Client", "DelayedReply"]
