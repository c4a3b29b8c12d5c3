"""CCS: clients outside of the job send requests to handlers on its PEs."""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from charm4py.ccs import CcsError, Client, sockets, wire
from conftest import GONE_S, MARK, Traces, WATCHDOG_S, program_text, run_job

#: The beginning of a server's program: the handlers that all tests use, on every PE.
SERVER = """
delayed = []
def ping(data):
    assert charm.CcsIsRemoteRequest()
    charm.CcsSendReply(f"{data.decode()} from PE {charm.myPe()}")
    assert not charm.CcsIsRemoteRequest()
class Cell(Chare):
    def register(self):
        charm.CcsRegisterHandler("ping", ping)
        charm.CcsRegisterHandler("echo", charm.CcsSendReply)
        charm.CcsRegisterHandler("bad", lambda data: 1 // 0)
        charm.CcsRegisterHandler("never", lambda data: delayed.append(charm.CcsDelayReply()))
        charm.CcsRegisterHandler("bye", bye)
def bye(data):
    charm.CcsSendReply(b"bye")
    exit(7)
def main(args):
    Group(Cell).register(awaitable=True).get()
    more()
    print("ready", flush=True)
def more(): pass
"""


class Job:
    """A job with a server, while it runs."""

    def __init__(self, process: subprocess.Popen[str], key_file: Path) -> None:
        self.process, self.key_file = process, str(key_file)
        assert process.stdout is not None
        self.lines: list[str] = []
        #: The test has ended it.
        self.over = False
        self.until("ccs: ")
        said = re.fullmatch(r"ccs: Server IP = (.*), Server port = (\d+) \$", self.lines[-1])
        assert said is not None, self.lines
        self.host, self.port = said[1], int(said[2])

    def until(self, start: str) -> None:
        assert self.process.stdout is not None
        while not self.lines or not self.lines[-1].startswith(start):
            line = self.process.stdout.readline()
            assert line, (self.lines, self.process.stderr and self.process.stderr.read())
            self.lines.append(line.rstrip("\n"))

    def client(self, timeout: float = WATCHDOG_S) -> Client:
        return Client(self.host, self.port, key_file=self.key_file, timeout=timeout)

    def plain(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), WATCHDOG_S)

    def ended(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=WATCHDOG_S)
        return self.process.returncode, out, err


@contextmanager
def serving(tmp_path: Path, program: str, pes: int, *options: str) -> Iterator[Job]:
    """A job with a server. "bye" ends it unless the test has ended it."""
    traces, key_file = Traces(), tmp_path / "key"
    script = tmp_path / "prog.py"
    script.write_text(program_text(program))
    command = [sys.executable, "-m", "charmrun.start", f"+p{pes}", "++server", "++local", str(script), "++server-auth", str(key_file), *options]
    env = {**os.environ, MARK: traces.mark, "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    watchdog = threading.Timer(WATCHDOG_S, process.kill)
    watchdog.start()
    try:
        job = Job(process, key_file)
        job.until("ready")
        yield job
        if not job.over:
            with job.client() as client:
                assert client.request("bye") == b"bye"
        code, _, err = job.ended()
        assert code == 7, err
        traces.assert_gone()
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def server(more: str = "") -> str:
    """The program of a server, with a test's additions."""
    return SERVER + more + "\ncharm.start(main)\n"


@pytest.mark.parametrize("pes", [1, 2, 4])
def test_a_client_asks_the_handlers_of_every_pe(tmp_path: Path, pes: int) -> None:
    with serving(tmp_path, server(), pes) as job, job.client() as client:
        assert client.numPes() == pes
        for pe in range(pes):
            assert client.request("ping", "me", pe) == b"me from PE %d" % pe
        big = os.urandom(5 << 20)
        assert client.request("echo", bytearray(big), pes - 1) == big
        for n in range(20):
            client.send("ping", str(n), n % pes)
        assert [client.receive() for _ in range(20)] == [b"%d from PE %d" % (n, n % pes) for n in range(20)]


def test_a_reply_may_come_later_and_from_another_pe_and_handlers_may_wait(tmp_path: Path) -> None:
    more = """
class Other(Chare):
    n = 0
    def reply(self, token, data):
        charm.CcsSendDelayedReply(token, data + b" from %d" % charm.myPe())
        charm.CcsSendDelayedReply(token, b"again")
    def double(self, n): return 2 * n
    def handler(self, data): self.n = len(data)
    @coro
    def holds(self, token):
        self.wait("self.n == 3")
        charm.CcsSendDelayedReply(token, b"it holds")
others = None
def later(data):
    token = charm.CcsDelayReply()
    assert not charm.CcsIsRemoteRequest()
    others[charm.numPes() - 1].reply(token, data)
def waits(data):
    n = others[1].double(int(data), ret=True).get()
    charm.CcsSendReply(str(n))
async def awaits(data):
    charm.CcsSendReply(str(await others[1].double(int(data), ret=True)))
def holds(data): others[0].holds(charm.CcsDelayReply())
def twice(data):
    charm.CcsSendReply(b"once")
    try:
        charm.CcsDelayReply()
    except Exception as e:
        print(type(e).__name__, e)
def more():
    global others
    others = Group(Other)
    charm.awaitCreation(others)
    for f in (later, waits, awaits, holds, twice): charm.CcsRegisterHandler(f.__name__, f)
    charm.CcsRegisterHandler("method", others.ckLocalBranch().handler)
    charm.CcsRegisterHandler("silent", lambda data: None)
    for wrong in (charm.CcsDelayReply, lambda: charm.CcsSendReply(b""), lambda: charm.CcsSendDelayedReply(1, b""),
                  lambda: charm.CcsRegisterHandler("x" * 33, print), lambda: charm.CcsRegisterHandler("x", 1)):
        try:
            wrong()
            print("not refused")
        except Exception as e:
            print(type(e).__name__)
"""
    with serving(tmp_path, server(more), 2) as job, job.client() as client:
        assert client.request("later", b"x") == b"x from 1"
        clients = [job.client() for _ in range(4)]
        for n, one in enumerate(clients):
            one.send("waits" if n % 2 else "awaits", str(n))
        assert [one.receive() for one in clients] == [b"0", b"2", b"4", b"6"]
        clients[0].send("holds")
        assert (client.request("method", b"abc"), clients[0].receive()) == (b"", b"it holds")
        assert (client.request("twice"), client.request("silent")) == (b"once", b"")
        for one in clients:
            one.close()
    assert job.lines[1:-1] == ["Charm4PyError", "Charm4PyError", "TypeError", "ValueError", "TypeError"]


def test_what_a_handler_raises_is_the_clients_and_the_job_goes_on(tmp_path: Path) -> None:
    with serving(tmp_path, server(), 2) as job, job.client() as client:
        for pe in range(2):
            with pytest.raises(CcsError, match="handler 'bad' raised ZeroDivisionError: "):
                client.request("bad", pe=pe)
        for handler, pe, says in (("none", 1, "PE 1 has no handler 'none'"), ("ping", 2, "no PE 2: the job has 2"), ("ping", -1, "no PE -1")):
            with pytest.raises(CcsError, match=says):
                client.request(handler, pe=pe)
        with pytest.raises(CcsError, match="UnicodeDecodeError"):
            client.request("ping", b"\xff")
        assert client.request("ping", "still", 1) == b"still from PE 1"


def test_what_a_handler_raises_after_its_reply_ends_the_job(tmp_path: Path) -> None:
    more = """
def late(data):
    charm.CcsSendReply(b"done")
    raise ValueError("nobody waits")
def more(): charm.CcsRegisterHandler("late", late)
"""
    with pytest.raises(AssertionError, match="nobody waits in the CCS handler 'late'"):
        with serving(tmp_path, server(more), 2) as job, job.client() as client:
            job.over = True
            client.send("late")
            assert job.process.wait(WATCHDOG_S) == 1


def test_a_client_without_the_key_is_not_served(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("x" * 64)
    other.chmod(0o600)
    with serving(tmp_path, server(), 1) as job:
        with pytest.raises(CcsError, match="another key"):
            Client(job.host, job.port, key_file=str(other))
        with pytest.raises(CcsError, match="there is no key in"):
            Client(job.host, job.port, key_file=str(tmp_path / "none"))
        # The client sends its proof before it knows whether the server has its key.
        with job.plain() as one:
            one.sendall(wire.HELLO + b"n" * wire.NONCE)
            nonce = sockets.receive(one, wire.NONCE)
            assert sockets.receive(one, wire.PROOF) == sockets.proof(sockets.read_key(job.key_file), "server", b"n" * wire.NONCE, nonce)
            one.sendall(sockets.proof(b"x" * 64, "client", b"n" * wire.NONCE, nonce) + wire.HEADER.pack(0, 0, b"bye"))
            assert closed(one)
        # The server's own proof is no proof of a client.
        with job.plain() as one:
            one.sendall(wire.HELLO + b"n" * wire.NONCE)
            sockets.receive(one, wire.NONCE)
            one.sendall(sockets.receive(one, wire.PROOF) + wire.HEADER.pack(0, 0, b"bye"))
            assert closed(one)
        assert Path(job.key_file).stat().st_mode & 0o777 == 0o600


def closed(one: socket.socket) -> bool:
    """Whether the server closes a connection without a reply."""
    try:
        return one.recv(1) == b""
    except ConnectionError:
        return True


def ask_as(user: int, address: tuple[str, int], sent: bytes) -> bytes:
    """The reply to a process of another user."""
    end, own = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(user)
            with socket.create_connection(address, WATCHDOG_S) as one:
                one.sendall(sent)
                while piece := one.recv(100):
                    os.write(own, piece)
        except ConnectionError:
            pass
        finally:
            os._exit(0)
    os.close(own)
    with open(end, "rb") as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start a process of another user")
def test_a_client_of_charm_is_served_without_a_key_if_it_is_of_the_same_user(tmp_path: Path) -> None:
    with serving(tmp_path, server(), 2) as job:
        for handler, pe, reply in (("ping", 1, b"abc from PE 1"), ("ccs_getinfo", 0, struct.pack(">2i", 1, 2))):
            sent = wire.HEADER.pack(3, pe, handler.encode()) + b"abc"
            with job.plain() as one:
                one.sendall(sent)
                assert sockets.receive(one, 4 + len(reply)) == wire.PLAIN_REPLY.pack(len(reply)) + reply
                assert closed(one)
            answer = ask_as(65534, (job.host, job.port), sent)
            assert answer == b"", answer
            assert ask_as(os.geteuid(), (job.host, job.port), sent) == wire.PLAIN_REPLY.pack(len(reply)) + reply


GARBAGE = [
    b"",
    b"\0",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: everything\r\n\r\n",
    b"\xff" * 100,
    wire.HELLO,
    wire.HELLO + b"\0" * 200,
    wire.HEADER.pack(wire.REQUEST_MAX + 1, 0, b"ping"),
    wire.HEADER.pack(1000, 0, b"ping") + b"less",
    wire.HEADER.pack(0, 0, b"\xff\xfe\0no"),
    wire.HEADER.pack(0, 77, b"ping"),
]


def test_garbage_and_clients_that_go_in_the_middle_end_their_connections_only(tmp_path: Path) -> None:
    with serving(tmp_path, server(), 2) as job:
        for garbage in GARBAGE:
            with job.plain() as one:
                one.sendall(garbage)
        proven: list[Callable[[Client], Any]] = [
            lambda client: client.send("never"),
            lambda client: client.send("echo", b"x" * 5_000_000),
            lambda client: client._connected().sendall(wire.HEADER.pack(1000, 0, b"ping") + b"less"),
            lambda client: client._connected().sendall(b"\xff" * 100),
            lambda client: client._connected().sendall(wire.HEADER.pack(wire.REQUEST_MAX + 1, 0, b"echo")),
        ]
        for act in proven:
            with job.client() as client:
                act(client)
        with job.client() as client:
            client._connected().sendall(b"\xff" * 100)
            assert closed(client._connected())
        # The server notices clients that have gone while they wait, so it does not run out of connections.
        with job.client() as client:
            assert client.request("ping", "me") == b"me from PE 0"


def test_many_clients_are_served_at_once_and_those_that_say_nothing_are_ended(tmp_path: Path) -> None:
    def ask(job: Job, n: int) -> bool:
        with job.client() as client:
            return all(client.request("echo", b"%d" % n * k, n % 2) == b"%d" % n * k for k in (1, 1000, 100_000))

    with serving(tmp_path, server(), 2) as job:
        with ThreadPoolExecutor(32) as pool:
            assert all(pool.map(lambda n: ask(job, n), range(100)))
        silent = [job.plain() for _ in range(100)]
        for one in silent:
            assert closed(one)
            one.close()
        assert ask(job, 1)


def test_a_client_that_has_waited_long_enough_goes_on(tmp_path: Path) -> None:
    with serving(tmp_path, server(), 1) as job:
        with job.client() as client:
            with pytest.raises(TimeoutError):
                client.request("never", timeout=0.2)
            with pytest.raises(CcsError, match="the connection is closed"):
                client.request("ping")
        with job.client() as client, pytest.raises(CcsError, match="there is no pending request"):
            client.receive()
        with job.client() as client:
            client.send("never")
            job.over = True
            with job.client() as other:
                assert other.request("bye") == b"bye"
            with pytest.raises(CcsError, match="the connection is gone"):
                client.receive()


def test_the_server_does_not_keep_a_job_from_being_quiet_and_a_child_does_not_keep_its_port(tmp_path: Path) -> None:
    more = """
import os
def more():
    charm.waitQD()
    if os.fork() == 0:
        time.sleep(3)
        os._exit(0)
"""
    with serving(tmp_path, server(more), 2) as job:
        address = (job.host, job.port)
        job.over = True
        with job.client() as client:
            client.request("bye")
        job.process.wait(WATCHDOG_S)
        since = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            while time.monotonic() - since < GONE_S:
                socket.create_connection(address).close()


def test_what_the_server_cannot_do_ends_the_job_with_the_reason(tmp_path: Path) -> None:
    script = tmp_path / "prog.py"
    script.write_text(program_text("def main(args):\n    print(args[1:])\n    exit()\ncharm.start(main)"))
    readable = tmp_path / "readable"
    readable.write_text("x" * 64)
    readable.chmod(0o644)
    short = tmp_path / "short"
    short.write_text("secret")
    short.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for options, code, says in (
            (["++server-port", str(port)], 71, f"++server cannot listen at 127.0.0.1, port {port}"),
            (["++server-address", "nowhere"], 64, "++server-address nowhere: must be an address"),
            (["++server-address", "192.0.2.1"], 71, "++server cannot listen at 192.0.2.1"),
            (["++server-auth", str(readable)], 78, "may be read by others: chmod 600"),
            (["++server-auth", str(short)], 78, "must have a key of 32 to 4096 bytes"),
            (["++server-auth", str(tmp_path)], 78, "is not a file"),
            (["++server-auth", str(tmp_path / "none" / "key")], 78, "No such file or directory"),
            (["++server-port", "70000"], 64, "must be a port"),
        ):
            job = run_job([sys.executable, "-m", "charmrun.start", "+p2", str(script), "++server", "x", "++server-auth", str(tmp_path / "key"), *options])
            assert (job.returncode, says in job.stderr) == (code, True), (options, job)
    # Also without a launcher; and each option by itself starts a server.
    key = ["++server-auth", str(tmp_path / "key")]
    for options in (["++server-port", "0", *key], ["++server-address", "127.0.0.1", *key], key):
        job = run_job([sys.executable, str(script), "x", *options])
        assert job.returncode == 0 and job.stdout.startswith("ccs: Server IP = 127.0.0.1, ") and job.stdout.endswith("['x']\n"), job
