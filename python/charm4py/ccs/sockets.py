"""Sockets of CCS's client and server, and the key by which each side proves itself (:mod:`charm4py.ccs.wire` says how).

Apart from the format, since a program whose job has no server needs none of this.
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

#: Where the key is, unless a command line says otherwise.
KEY_FILE = "~/.charm4py_ccs_key"
#: A shorter key could be guessed.
KEY_MIN = 32
KEY_MAX = 4096
#: A part of a message is received or sent at a time.
PIECE = 1 << 20


def receive(connection: socket.socket, length: int) -> bytes:
    """So many bytes. Memory is taken as they come, not as they are announced."""
    received = bytearray()
    while len(received) < length:
        piece = connection.recv(min(length - len(received), PIECE))
        if not piece:
            raise ConnectionError("the other side has closed the connection")
        received += piece
    return bytes(received)


def send(connection: socket.socket, *parts: bytes) -> None:
    """Sends all of them. The connection's timeout is that of each piece."""
    for part in parts:
        view = memoryview(part)
        for at in range(0, len(view), PIECE):
            connection.sendall(view[at : at + PIECE])


# The key


def proof(key: bytes, who: str, client: bytes, server: bytes) -> bytes:
    """What ``who``, "client" or "server", proves itself by."""
    return hmac.digest(key, b"charm4py ccs " + who.encode() + client + server, "sha256")


def key_path(file: str | None) -> Path:
    return Path(KEY_FILE if file is None else file).expanduser()


def read_key(file: str | None = None) -> bytes:
    """The key, from a file that nobody but its owner can read."""
    path = key_path(file)
    # What is no plain file must not make us wait.
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
    """The key; a new one if there is no file yet."""
    path = key_path(file)
    if not os.path.lexists(path):
        own = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        fd = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "w") as opened:
                opened.write(secrets.token_hex(32) + "\n")
            # Whole from the beginning, and only if no other job has been faster.
            os.link(own, path)
        except FileExistsError:
            pass
        finally:
            os.unlink(own)
    return read_key(file)


# Clients without the key


def is_own(connection: socket.socket) -> bool:
    """Whether the other end is a process of this user on this host: the system says whose a connection over loopback is."""
    peer, own = connection.getpeername()[:2], connection.getsockname()[:2]
    table = "tcp6" if connection.family == socket.AF_INET6 else "tcp"
    there, here = (address_in_table(connection.family, address) for address in (peer, own))
    try:
        with open(f"/proc/self/net/{table}") as lines:
            for line in lines:
                row = line.split()
                # 01: established. Of other states the user is not said.
                if row[1:4] == [there, here, "01"]:
                    return int(row[7]) == os.geteuid()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES):
            raise
    return False


def address_in_table(family: int, address: tuple[str, int]) -> str:
    """An address as the table of connections has it: words of the machine's order."""
    packed = socket.inet_pton(family, address[0].split("%")[0])
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words) + f":{address[1]:04X}"
