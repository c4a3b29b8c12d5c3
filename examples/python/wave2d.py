"""Waves on a square pond, and a picture of them.

    charmrun +p4 wave2d.py 200 4 300 wave.png

The height of the water at a point follows from its last two heights and from those of its neighbours. Blocks exchange their
edges through channels; at the end, the parts of the picture are gathered by a reduction.
"""

from __future__ import annotations

import struct
import zlib

import numpy
from charm4py import Array, Channel, Chare, Future, Reducer, charm, coro

#: The square of the waves' speed, in points a step. Above 0.5 the values would grow without bound.
SPEED = 0.4


class Block(Chare):
    def __init__(self, size: int, blocks: int) -> None:
        self.blocks = blocks
        part = size // blocks
        row, column = (i * part for i in self.thisIndex)
        self.before = pond(size)[row : row + part + 2, column : column + part + 2]
        self.now = self.before.copy()

    @coro
    def run(self, steps: int, picture: Future[list]) -> None:
        sides = list(self.sides())
        for _ in range(steps):
            for channel, mine, _ in sides:
                channel.send(self.now[mine])
            # Whichever neighbour is ready first: the order does not matter.
            where = {channel: theirs for channel, _, theirs in sides}
            for channel in charm.iwait(list(where)):
                self.now[where[channel]] = channel.recv()
            self.before, self.now = self.now, following(self.before, self.now)
        # The list of all parts, in the order of their indices.
        self.reduce(picture, self.now[1:-1, 1:-1], Reducer.gather)

    def sides(self):
        """For each neighbour: the channel to it, the points that it gets, and the place of the points that come from it."""
        row, column = self.thisIndex
        inner = slice(1, -1)
        for there, mine, theirs in [
            ((row - 1, column), (1, inner), (0, inner)),
            ((row + 1, column), (-2, inner), (-1, inner)),
            ((row, column - 1), (inner, 1), (inner, 0)),
            ((row, column + 1), (inner, -2), (inner, -1)),
        ]:
            if all(0 <= i < self.blocks for i in there):
                yield Channel(self, remote=self.thisProxy[there]), mine, theirs


def pond(size: int) -> numpy.ndarray:
    """The water at the beginning, after two stones fell into it, and the shore around it, which does not move."""
    y, x = numpy.mgrid[0 : size + 2, 0 : size + 2] / (size + 1)
    height = numpy.zeros((size + 2, size + 2))
    for stone_y, stone_x, depth in [(0.3, 0.35, 1.0), (0.7, 0.6, 0.6)]:
        height += depth * numpy.exp(-((y - stone_y) ** 2 + (x - stone_x) ** 2) * 400)
    height[[0, -1], :] = height[:, [0, -1]] = 0
    return height


def following(before: numpy.ndarray, now: numpy.ndarray) -> numpy.ndarray:
    """The heights after a step."""
    inside = now[1:-1, 1:-1]
    slope = now[:-2, 1:-1] + now[2:, 1:-1] + now[1:-1, :-2] + now[1:-1, 2:] - 4 * inside
    after = now.copy()
    after[1:-1, 1:-1] = 2 * inside - before[1:-1, 1:-1] + SPEED * slope
    return after


def serial(size: int, steps: int) -> numpy.ndarray:
    """The whole pond as one block."""
    before = now = pond(size)
    for _ in range(steps):
        before, now = now, following(before, now)
    return now[1:-1, 1:-1]


def write_png(path: str, height: numpy.ndarray) -> None:
    """Crests are red, troughs are blue."""
    scaled = height / abs(height).max()
    pale = 1 - abs(scaled)
    colours = numpy.stack([numpy.where(scaled > 0, 1, pale), pale, numpy.where(scaled < 0, 1, pale)], axis=-1)
    pixels = (colours * 255).astype(numpy.uint8)
    rows, columns, _ = pixels.shape
    # Each row begins with the number of its filter: 0, none.
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.write(chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)))
        file.write(chunk(b"IDAT", zlib.compress(lines)))
        file.write(chunk(b"IEND", b""))


def main(args: list[str]) -> None:
    size = int(args[1]) if len(args) > 1 else 200
    blocks = int(args[2]) if len(args) > 2 else 4
    steps = int(args[3]) if len(args) > 3 else 300
    path = args[4] if len(args) > 4 else "wave.png"
    assert size % blocks == 0, "the blocks have to be of one size"

    array = Array(Block, (blocks, blocks), args=[size, blocks])
    picture: Future[list] = Future()
    array.run(steps, picture)
    parts = picture.get()
    height = numpy.block([parts[row * blocks : (row + 1) * blocks] for row in range(blocks)])
    assert numpy.array_equal(height, serial(size, steps)), "one block alone gives other heights"
    write_png(path, height)
    print(f"{size} x {size} points after {steps} steps, as one block alone gives them: {path}")
    exit()


charm.start(main)
