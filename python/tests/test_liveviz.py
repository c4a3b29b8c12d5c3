"""liveViz: images that elements deposit, for clients of CCS."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from charm4py import liveviz
from charm4py.ccs import CcsError
from conftest import Run, WATCHDOG_S, check
from test_ccs import Job, serving

#: A program of liveViz. `more` has the elements, and starts them.
PROGRAM = """
from charm4py import liveviz
{}
    charm.CcsRegisterHandler("bye", lambda data: (charm.CcsSendReply(b"bye"), exit(7)))
    print("ready", flush=True)
charm.start(main)
"""

#: 4 x 3 blocks of 10 x 20 pixels, each with its own color.
BLOCKS = PROGRAM.format(
    """
class Unit(Chare):
    def draw(self, request):
        x, y = self.thisIndex
        data = bytearray([10 * x, 10 * y, request.width % 256] * (20 * 10))
        liveviz.LiveViz.deposit(data, self, x * 10, y * 20, 20, 10, 60, 40)
def main(args):
    units = Array(Unit, dims=(4, 3))
    liveviz.LiveViz.init(liveviz.Config(), units, units.draw)"""
)


def blocks(width: int, height: int) -> bytes:
    image = np.zeros((height, width, 3), np.uint8)
    y, x = np.mgrid[: min(height, 60), : min(width, 40)]
    image[:60, :40] = np.stack([x // 10 * 10, y // 20 * 10, np.full_like(x, width % 256)], axis=-1)
    return image.tobytes()


def viewer(job: Job) -> liveviz.Client:
    return liveviz.Client(job.host, job.port, key_file=job.key_file, timeout=WATCHDOG_S)


@pytest.mark.parametrize("pes", [1, 2, 4])
def test_clients_see_what_the_elements_deposit(tmp_path: Path, pes: int) -> None:
    def look(job: Job, n: int) -> bool:
        with viewer(job) as client:
            return all(client.image(width, height) == blocks(width, height) for width, height in ((40, 60), (30 + n, 50), (100, 70 + n)))

    with serving(tmp_path, BLOCKS, pes) as job:
        with viewer(job) as client:
            assert client.config() == liveviz.Config()
            assert client.request("lvConfig") == struct.pack(">4i", 1, 1, 1, 0)
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lambda n: look(job, n), range(8)))
        # A client that closes before its image arrives.
        with viewer(job) as client:
            client.send("lvImage", liveviz.ImageRequest(1, 0, 40, 60).to_binary())
        assert look(job, 0)


def test_what_is_no_request_for_an_image_is_the_clients_error(tmp_path: Path) -> None:
    with serving(tmp_path, BLOCKS, 2) as job, viewer(job) as client:
        sizes = [(0, 1), (1, -1), (1 << 20, 1), (1 << 15, 1 << 15)]
        for wrong in [b"", b"x" * 15, b"x" * 17, *(struct.pack(">4i", 1, 0, *size) for size in sizes)]:
            with pytest.raises(CcsError, match="handler 'lvImage' raised ValueError: "):
                client.request("lvImage", wrong)
        assert client.image(40, 60) == blocks(40, 60)


OVERLAPPING = PROGRAM.format(
    """
class Unit(Chare):
    def draw(self, request):
        print(request.x, request.o, request.maxZ)
        # Every element deposits the whole image, and a corner outside of it.
        liveviz.LiveViz.deposit(np.full((4, 6), 100 if self.thisIndex else 50, np.uint8), self, 0, 0, 4, 6, 4, 6)
    def corner(self):
        liveviz.LiveViz.deposit(b"\\x09" * 9, self, 5 if self.thisIndex else -2, 3 if self.thisIndex else -2, 3, 3, 4, 6)
def main(args):
    group = Group(Unit)
    config = liveviz.Config(isColor=False, isPush=False, is3d=True, max=(1.0, 2.0, 3.0))
    liveviz.LiveViz.init(config, group.draw)
    def switch(data): liveviz.LiveViz.init(config, group.corner, poll=True); group.corner(); group.corner()
    charm.CcsRegisterHandler("switch", switch)"""
)


def test_overlapping_parts_are_added_up_to_the_largest_value_and_what_is_outside_is_cut_off(tmp_path: Path) -> None:
    for pes, value in ((1, 50), (2, 150), (3, 250), (4, 255)):
        with serving(tmp_path, OVERLAPPING, pes) as job, viewer(job) as client:
            config = client.config()
            assert config == liveviz.Config(isColor=False, isPush=False, is3d=True, max=(1.0, 2.0, 3.0))
            assert client.image(6, 4) == bytes([value]) * 24
            axes = [liveviz.Vector3d(*(3.0 * n + k for k in range(3))) for n in range(4)]
            request = liveviz.ImageRequest(1, 0, 6, 4, *axes, minZ=-1.0, maxZ=2.5)
            assert client.request("lvImage", request.to_binary()) == bytes([value]) * 24
            job.until("Vector3d(x=0.0, y=1.0, z=2.0) Vector3d(x=9.0, y=10.0, z=11.0) 2.5")
            # In poll mode images are kept until a client requests them. The parts of PEs 1 and up overlap.
            assert client.request("switch") == b""
            corners = np.zeros((4, 6), np.uint8)
            corners[0, 0], corners[3, 5] = 9, 9 * (pes - 1)
            assert [client.image(6, 4) for _ in range(2)] == [corners.tobytes()] * 2


POLL = PROGRAM.format(
    """
class Unit(Chare):
    may_end = False
    def end(self): self.may_end = True
    @coro
    def steps(self):
        for step in range(5):
            liveviz.LiveViz.deposit(bytes([step] * 4), self, 2 * self.thisIndex[0], 0, 2, 2, 2, 8)
            if step == 2 and self.thisIndex[0] == 0: self.wait("self.may_end")
def main(args):
    units = Array(Unit, 4)
    liveviz.LiveViz.init(liveviz.Config(isColor=False), units, units.steps, poll=True)
    charm.CcsRegisterHandler("end", lambda data: units[0].end())
    units.steps()"""
)


def test_in_poll_mode_images_come_when_they_are_deposited_and_in_order(tmp_path: Path) -> None:
    with serving(tmp_path, POLL, 2) as job, viewer(job) as client:
        assert [client.image(8, 2) for _ in range(3)] == [bytes([step]) * 16 for step in range(3)]
        client.send("lvImage", liveviz.ImageRequest(1, 0, 8, 2).to_binary())
        with viewer(job) as other:
            other.request("end")
        assert client.receive() == b"\x03" * 16
        assert client.image(8, 2) == b"\x04" * 16


def test_wrong_deposits_are_refused_where_they_are_made(run: Run) -> None:
    program = """
    from charm4py import liveviz
    class Cell(Chare):
        def go(self, data, *where):
            try:
                liveviz.LiveViz.deposit(data, self, *where)
            except Exception as e:
                print(type(e).__name__, e)
        def draw(self, request): pass
    def main(args):
        cells = Group(Cell)
        cells[1].go(b"x", 0, 0, 1, 1, 1, 1, awaitable=True).get()
        liveviz.LiveViz.init(liveviz.Config(isColor=False), cells, cells.draw)
        for wrong in ((b"x", 0, 0, 1, 2, 1, 1), ("text", 0, 0, 1, 1, 1, 1), (b"x", 0, 0, 1, 1, 0, 1), (b"", 0, 0, 0, 1, 1, 1)):
            cells[1].go(*wrong, awaitable=True).get()
        exit()
    charm.start(main)
    """
    check(
        run(program),
        """
        Charm4PyError LiveViz.deposit() needs LiveViz.init() first, on any PE
        TypeError memoryview: a bytes-like object is required, not 'str'
        ValueError 2 x 1 pixels of 1 bytes are not 1 bytes
        ValueError an image cannot have 1 x 0 pixels
        ValueError an image cannot have 1 x 0 pixels
        """,
    )
