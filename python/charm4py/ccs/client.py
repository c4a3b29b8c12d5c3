"""The client's side of CCS: a program outside of the job sends requests to its PEs."""

from __future__ import annotations

import hmac
import secrets
import socket
import struct
from types import TracebackType
from typing import Any

from . import sockets, wire
from .wire import CcsError


class Client:
    """A connection to a job that was started with ``++server``.

    Client and job prove to each other that they have the key of the job's user. ``timeout`` is the limit of each step in seconds, unless a call has its
    own; ``None`` means no limit. Only one thread at a time may use the connection.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, key_file: str | None = None, timeout: float | None = 10.0) -> None:
        if not 0 < port < 65536:
            raise ValueError(f"the port of the job's server, as it has printed it, not {port}")
        try:
            key = sockets.read_key(key_file)
        except FileNotFoundError:
            raise CcsError(f"there is no key in {sockets.key_path(key_file)}: copy it from the job's host") from None
        self._timeout = timeout
        self._open = 0
        self._socket: socket.socket | None = socket.create_connection((host, port), timeout)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._prove(self._socket, key)
        except (ConnectionError, BrokenPipeError):
            self.close()
            raise CcsError(f"{host}:{port} has closed the connection: it is no server of CCS, or has too many clients") from None
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _prove(connection: socket.socket, key: bytes) -> None:
        own = secrets.token_bytes(wire.NONCE)
        sockets.send(connection, wire.HELLO + own)
        nonce = sockets.receive(connection, wire.NONCE)
        proof = sockets.receive(connection, wire.PROOF)
        if not hmac.compare_digest(proof, sockets.proof(key, "server", own, nonce)):
            raise CcsError("the server has another key")
        sockets.send(connection, sockets.proof(key, "client", own, nonce))

    def request(self, handler: str, data: Any = b"", pe: int = 0, timeout: float | None = None) -> bytes:
        """Sends a request to a PE's handler and waits for the reply. Raises :class:`CcsError` if the handler raises, and ``TimeoutError``."""
        self.send(handler, data, pe)
        return self.receive(timeout)

    def send(self, handler: str, data: Any = b"", pe: int = 0) -> None:
        """Sends a request to a PE's handler. Several requests are handled one after another, in order."""
        name, sent = wire.encoded(handler), wire.as_bytes(data)
        if len(sent) > wire.REQUEST_MAX:
            raise ValueError(f"a request of {len(sent)} bytes: at most {wire.REQUEST_MAX} can be sent")
        connection = self._connected()
        with self._closed_by_errors():
            connection.settimeout(self._timeout)
            sockets.send(connection, wire.HEADER.pack(len(sent), pe, name), sent)
        self._open += 1

    def receive(self, timeout: float | None = None) -> bytes:
        """Waits for the reply to the oldest pending request. After a ``TimeoutError`` the connection is closed."""
        connection = self._connected()
        if self._open == 0:
            raise CcsError("there is no pending request")
        with self._closed_by_errors():
            connection.settimeout(self._timeout if timeout is None else timeout)
            status, length = wire.REPLY.unpack(sockets.receive(connection, wire.REPLY.size))
            if status not in (wire.DONE, wire.FAILED) or length > wire.REPLY_MAX:
                raise ConnectionError("the reply is malformed")
            reply = sockets.receive(connection, length)
        self._open -= 1
        if status == wire.FAILED:
            raise CcsError(reply.decode(errors="replace"))
        return reply

    def numPes(self) -> int:
        """The number of PEs in the job."""
        reply = self.request("ccs_getinfo")
        return sum(struct.unpack(f">{len(reply) // 4}i", reply)[1:])

    def close(self) -> None:
        """Closes the connection. A handler that still runs for it is not interrupted."""
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()

    def _connected(self) -> socket.socket:
        if self._socket is None:
            raise CcsError("the connection is closed")
        return self._socket

    def _closed_by_errors(self) -> Closing:
        return Closing(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Closing:
    """Closes the connection if a step fails in the middle of a message: the next bytes would be meaningless."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            return
        self.client.close()
        if isinstance(error, socket.timeout):
            raise TimeoutError("no reply in time") from None
        if isinstance(error, OSError):
            raise CcsError(f"the connection is gone: {error}") from None
