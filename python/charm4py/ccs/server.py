"""The server of CCS: threads in the process of PE 0 that serve clients and pass their requests to PEs. Knows nothing of handlers.

One thread accepts connections. Each connection has its own thread, which waits for the peer or for the PEs, and handles one request at a time. A
request reaches a PE by ``call_from_thread``, and its reply comes by :meth:`Server.answered`. A fault of a peer closes its connection and has no other effect:

- the peer must prove within :data:`PROVE_S` seconds that it has the key, or be a process of the same user over loopback;
- at most :data:`UNPROVEN_MAX` connections are unproven, and at most :data:`CLIENTS_MAX` exist: further ones are closed at once;
- a partial message, or a reply that is not read, may stall for :data:`STALL_S` seconds;
- lengths have limits (:mod:`charm4py.ccs.wire`).
"""

from __future__ import annotations

import hmac
import ipaddress
import itertools
import os
import secrets
import socket
import threading
import time
from typing import Any, Callable

from . import sockets, wire

PROVE_S = 5.0
STALL_S = 30.0
UNPROVEN_MAX = 64
CLIENTS_MAX = 256
#: How often the server checks whether a waiting client is still connected.
LOOK_S = 0.5
#: How long the end of the job waits for pending replies.
LAST_S = 1.0
#: The pause after a failure to accept.
PAUSE_S = 0.1


class Pending:
    """A request without a reply yet."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.status = wire.FAILED
        self.reply = b""


class Server:
    """See the module's text. ``ask(number, pe, name, data)`` is called on PE 0's thread."""

    def __init__(self, port: int, address: str | None, key: bytes, pes: list[int], ask: Callable[[int, int, str, bytes], None]) -> None:
        self.key = key
        host = ipaddress.ip_address("127.0.0.1" if address is None else address)
        family = socket.AF_INET6 if host.version == 6 else socket.AF_INET
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((str(host), port))
        self.listener.listen(128)
        #: PEs of each host.
        self.pes = pes
        self.ask = ask
        self.lock = threading.Lock()
        self.numbers = itertools.count()
        self.pending: dict[int, Pending] = {}
        self.clients: set[socket.socket] = set()
        self.unproven = 0
        #: Replies that are not sent yet.
        self.leaving = 0
        self.over = False
        os.register_at_fork(after_in_child=self._forget)

    def start(self) -> tuple[str, int]:
        """Begins to accept connections; returns the address."""
        host, port = self.listener.getsockname()[:2]
        threading.Thread(target=self._accept, name="ccs server", daemon=True).start()
        return host, port

    def answered(self, number: int, status: int, reply: bytes) -> None:
        """A PE has replied to a request. The client may be gone."""
        with self.lock:
            pending = self.pending.pop(number, None)
            if pending is None:
                return
            self.leaving += 1
        pending.status, pending.reply = status, reply
        pending.ready.set()

    def close(self) -> None:
        """The job has ended: sends the pending replies and closes all connections."""
        since = time.monotonic()
        while self.leaving > 0 and time.monotonic() - since < LAST_S:
            time.sleep(0.001)
        with self.lock:
            self.over = True
            clients = list(self.clients)
        for one in [self.listener, *clients]:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.listener.close()

    def _forget(self) -> None:
        """Closes all sockets in a forked child, which must not keep a port or a connection open."""
        for one in [self.listener, *self.clients]:
            one.close()

    # Connections

    def _accept(self) -> None:
        while not self.over:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                # Too many descriptors, or the peer has already gone.
                time.sleep(PAUSE_S)
                continue
            with self.lock:
                fits = not self.over and self.unproven < UNPROVEN_MAX and len(self.clients) < CLIENTS_MAX
                if fits:
                    self.unproven += 1
                    self.clients.add(connection)
            if not fits:
                connection.close()
                continue
            try:
                threading.Thread(target=self._serve, args=(connection,), name="ccs client", daemon=True).start()
            except RuntimeError:  # no more threads
                with self.lock:
                    self.unproven -= 1
                self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        with self.lock:
            self.clients.discard(connection)
        connection.close()

    def _serve(self, connection: socket.socket) -> None:
        try:
            try:
                first = self._admit(connection)
            finally:
                with self.lock:
                    self.unproven -= 1
            if first:
                self._answer(connection, first, plain=True)
                return
            while True:
                connection.settimeout(None)
                start = sockets.receive(connection, 1)
                connection.settimeout(STALL_S)
                self._answer(connection, start + sockets.receive(connection, wire.HEADER.size - 1), plain=False)
        except (OSError, Refused):
            pass
        finally:
            self._drop(connection)

    def _admit(self, connection: socket.socket) -> bytes:
        """Authenticates the peer. Returns the first header of a client that sends no proof and needs none."""
        late = time.monotonic() + PROVE_S

        def received(length: int) -> bytes:
            """Receives within one limit for the whole: a peer could send one byte at a time."""
            got = b""
            while len(got) < length:
                connection.settimeout(max(late - time.monotonic(), 0.001))
                piece = connection.recv(length - len(got))
                if not piece or time.monotonic() > late:
                    raise Refused
                got += piece
            return got

        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        first = received(wire.HEADER.size)
        if not first.startswith(wire.HELLO):
            if not sockets.is_own(connection):
                raise Refused
            connection.settimeout(STALL_S)
            return first
        nonce, own = first[len(wire.HELLO) :], secrets.token_bytes(wire.NONCE)
        sockets.send(connection, own + sockets.proof(self.key, "server", nonce, own))
        if not hmac.compare_digest(received(wire.PROOF), sockets.proof(self.key, "client", nonce, own)):
            raise Refused
        return b""

    # Requests

    def _answer(self, connection: socket.socket, header: bytes, plain: bool) -> None:
        length, pe, name = wire.HEADER.unpack(header)
        if length > wire.REQUEST_MAX:
            raise Refused
        data = sockets.receive(connection, length)
        pending = self._asked(connection, pe, name, data)
        try:
            if not plain:
                sockets.send(connection, wire.REPLY.pack(pending.status, len(pending.reply)), pending.reply)
            elif pending.status == wire.DONE:
                sockets.send(connection, wire.PLAIN_REPLY.pack(len(pending.reply)), pending.reply)
        finally:
            with self.lock:
                self.leaving -= 1

    def _asked(self, connection: socket.socket, pe: int, field: bytes, data: bytes) -> Pending:
        """Passes a request to a PE and waits for the reply."""
        pending, number = Pending(), next(self.numbers)
        with self.lock:
            self.pending[number] = pending
        name = field.split(b"\0")[0].decode(errors="backslashreplace")
        if name == "ccs_getinfo":
            counts = [len(self.pes), *self.pes]
            self.answered(number, wire.DONE, b"".join(count.to_bytes(4, "big") for count in counts))
        elif not 0 <= pe < sum(self.pes):
            self.answered(number, wire.FAILED, f"there is no PE {pe}: the job has {sum(self.pes)}".encode())
        else:
            self._hand_over(number, pe, name, data)
        while not pending.ready.wait(LOOK_S):
            if is_gone(connection):
                with self.lock:
                    if self.pending.pop(number, None) is not None:
                        raise Refused
        return pending

    def _hand_over(self, number: int, pe: int, name: str, data: bytes) -> None:
        from .. import _engine

        try:
            _engine.call_from_thread(lambda: self.ask(number, pe, name, data))
        except RuntimeError:  # the PE has ended
            self.answered(number, wire.FAILED, b"the job ends")


class Refused(Exception):
    """The connection of a peer must be closed."""


def is_gone(connection: socket.socket) -> bool:
    """Whether a client has closed its end. A client that has sent its next request has not."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except (BlockingIOError, socket.timeout):
        return False
    except OSError:
        return True


def opened(options: tuple[int, str | None, str | None], charm: Any) -> Server:
    """Creates the server from the options of the command line. An error ends the job."""
    from .. import ending

    port, address, key_file = options

    def ask(number: int, pe: int, name: str, data: bytes) -> None:
        charm.thisProxy[pe]._ccs_request(number, name, data)

    pes = [charm.getHostNumPes(host) for host in range(charm.numHosts())]
    try:
        key = sockets.make_key(key_file)
    except (OSError, wire.CcsError) as error:
        ending.abort(78, f"++server has no key: {error}; ++server-auth FILE names another file")
    try:
        return Server(port, address, key, pes, ask)
    except ValueError:
        ending.abort(64, f"++server-address {address}: must be an address of this host, as in 127.0.0.1")
    except OSError as error:
        ending.abort(71, f"++server cannot listen at {address or '127.0.0.1'}, port {port}: {error}")
