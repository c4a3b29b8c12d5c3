"""The protocol between a client and the server of CCS. Knows nothing of sockets, nor of handlers.

A request has Converse's format: a header of 40 bytes (length, PE, name of the handler) and the data. A client that has the key begins with a handshake:

1. client: ``HELLO`` and a nonce, together as long as a header;
2. server: a nonce, and its proof;
3. client: its proof.

A proof is an HMAC-SHA256 over both nonces and the role (client or server). The client sends its proof only after it has checked the server's. Each reply
to such a client begins with a status and a length. A client of Charm++ sends its request at once; ``HELLO`` cannot be the beginning of a header, since
no request is so long. Its reply is a length and the data.
"""

from __future__ import annotations

import struct
from typing import Any

#: Length of the data, PE, name of the handler.
HEADER = struct.Struct(">Ii32s")
#: Status and length of a reply.
REPLY = struct.Struct(">BI")
#: Length of a reply to a client of Charm++.
PLAIN_REPLY = struct.Struct(">I")
HELLO = b"\xffCCS\x00\x00\x00\x01"
NONCE = 32
PROOF = 32
#: The limits of the data of a request and of a reply.
REQUEST_MAX = 64 << 20
REPLY_MAX = 1 << 30
NAME_MAX = 32
#: Statuses of replies.
DONE, FAILED = 0, 1


class CcsError(Exception):
    """A request without a reply, or whose handler has failed."""


def encoded(name: str) -> bytes:
    """A handler's name as it travels."""
    if not isinstance(name, str):
        raise TypeError(f"a handler's name must be a str, not {name!r}")
    text = name.encode()
    if not text or len(text) > NAME_MAX or b"\0" in text:
        raise ValueError(f"a handler's name has 1 to {NAME_MAX} bytes, and no zero among them: {name!r}")
    return text


def as_bytes(data: Any) -> bytes:
    """The bytes of data, of a buffer or of a text."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data.encode()
    try:
        return memoryview(data).tobytes()
    except TypeError:
        raise TypeError(f"only bytes and texts can be sent, not {type(data).__name__}") from None
