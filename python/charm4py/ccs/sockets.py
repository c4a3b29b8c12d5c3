"""Sockets of the client and the server of CCS, and the key of the authentication (:mod:`charm4py.ccs.wire` has the protocol).

A module of its own, since a job without a server does not need its imports.
"""

from __future__ import annotations

import errno
import hmac
import os
import secrets
import socket
import stat
import sys
from pathlib import Path

from .wire import CcsError

#: The default path of the key.
KEY_FILE = "~/.charm4py_ccs_key"
#: A shorter key could be guessed.
KEY_MIN = 32
KEY_MAX = 4096
#: The most bytes that one step receives or sends.
PIECE = 1 << 20


def receive(connection: socket.socket, length: int) -> bytes:
    """Receives so many bytes. Memory is allocated as they arrive, not as they are announced."""
    received = bytearray()
    while len(received) < length:
        piece = connection.recv(min(length - len(received), PIECE))
        if not piece:
            raise ConnectionError("the other side has closed the connection")
        received += piece
    return bytes(received)


def send(connection: socket.socket, *parts: bytes) -> None:
    """Sends all bytes. The connection's timeout applies to each piece."""
    for part in parts:
        view = memoryview(part)
        for at in range(0, len(view), PIECE):
            connection.sendall(view[at : at + PIECE])


# The key


def proof(key: bytes, who: str, client: bytes, server: bytes) -> bytes:
    """The proof of ``who``, "client" or "server"."""
    return hmac.digest(key, b"charm4py ccs " + who.encode() + client + server, "sha256")


def key_path(file: str | None) -> Path:
    return Path(KEY_FILE if file is None else file).expanduser()


def read_key(file: str | None = None) -> bytes:
    """Reads the key from a file, which only its owner may be able to read."""
    path = key_path(file)
    # Opening a FIFO must not block.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise CcsError(f"{path} is not a file")
        if status.st_uid != os.geteuid():
            raise CcsError(f"{path} belongs to another user")
        if status.st_mode & 0o077:
            raise CcsError(f"{path} may be read by others: chmod 600 {path}")
        key = os.read(fd, KEY_MAX + 1).strip()
    finally:
        os.close(fd)
    if not KEY_MIN <= len(key) <= KEY_MAX:
        raise CcsError(f"{path} must have a key of {KEY_MIN} to {KEY_MAX} bytes")
    return key


def make_key(file: str | None = None) -> bytes:
    """Reads the key, or creates one if there is no file."""
    path = key_path(file)
    if not os.path.lexists(path):
        own = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        fd = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "w") as opened:
                opened.write(secrets.token_hex(32) + "\n")
            # The file appears complete, and only if no other job has created it first.
            os.link(own, path)
        except FileExistsError:
            pass
        finally:
            os.unlink(own)
    return read_key(file)


# Clients without the key


def is_own(connection: socket.socket) -> bool:
    """Whether the peer is a process of this user on this host: the system knows the owner of a loopback connection."""
    peer, own = connection.getpeername()[:2], connection.getsockname()[:2]
    table = "tcp6" if connection.family == socket.AF_INET6 else "tcp"
    there, here = (address_in_table(connection.family, address) for address in (peer, own))
    try:
        with open(f"/proc/self/net/{table}") as lines:
            for line in lines:
                row = line.split()
                # 01 is an established connection. In other states the table has no user.
                if row[1:4] == [there, here, "01"]:
                    return int(row[7]) == os.geteuid()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES):
            raise
    return False


def address_in_table(family: int, address: tuple[str, int]) -> str:
    """An address in the form of the table of connections: words in the machine's byte order."""
    packed = socket.inet_pton(family, address[0].split("%")[0])
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words) + f":{address[1]:04X}"
