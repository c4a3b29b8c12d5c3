"""Heat on a plate: Jacobi sweeps over blocks that exchange their edges through channels, until nothing changes much.

    charmrun +p4 jacobi2d.py 64 4

The plate's left edge is kept at 1, the others at 0. Each cell becomes the mean of its four neighbours.
"""

from __future__ import annotations

from time import perf_counter

import numpy
from charm4py import Array, Channel, Chare, Reducer, charm, coro

TOLERANCE = 1e-3
#: Sweeps between two checks of the largest change: a check costs a reduction.
LOOK = 10


class Block(Chare):
    def __init__(self, size: int, blocks: int) -> None:
        self.cells = plate(size // blocks, hot=self.thisIndex[1] == 0)
        self.blocks = blocks

    @coro
    def run(self) -> int:
        """Sweeps until no cell of the whole plate changes by more than the tolerance; returns the number of sweeps."""
        neighbours = list(self.neighbours())
        sweeps, change = 0, numpy.inf
        while change > TOLERANCE:
            for channel, mine, _ in neighbours:
                # Arguments are copied: the next sweep may overwrite them.
                channel.send(self.cells[mine])
            for channel, _, theirs in neighbours:
                # While this block waits, the PE's other blocks sweep.
                self.cells[theirs] = channel.recv()
            self.cells, own_change = sweep(self.cells)
            sweeps += 1
            if sweeps % LOOK == 0:
                change = self.allreduce(own_change, Reducer.max).get()
        return sweeps

    def neighbours(self):
        """For each neighbour: the channel to it, the cells that it gets, and the place of the cells that come from it."""
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

    def get(self) -> numpy.ndarray:
        return self.cells[1:-1, 1:-1]


def plate(size: int, hot: bool) -> numpy.ndarray:
    """Cells, with a rim of the surrounding values."""
    cells = numpy.zeros((size + 2, size + 2))
    cells[1:-1, 0] = hot
    return cells


def sweep(old: numpy.ndarray) -> tuple[numpy.ndarray, float]:
    """The cells' next values, and the largest change."""
    new = old.copy()
    new[1:-1, 1:-1] = (old[:-2, 1:-1] + old[2:, 1:-1] + old[1:-1, :-2] + old[1:-1, 2:]) / 4
    return new, float(abs(new - old).max())


def serial(size: int) -> tuple[numpy.ndarray, int]:
    """The whole plate as one block."""
    cells, sweeps, change = plate(size, hot=True), 0, numpy.inf
    while change > TOLERANCE or sweeps % LOOK:
        cells, change = sweep(cells)
        sweeps += 1
    return cells[1:-1, 1:-1], sweeps


def main(args: list[str]) -> None:
    size = int(args[1]) if len(args) > 1 else 64
    blocks = int(args[2]) if len(args) > 2 else 4
    assert size % blocks == 0, "the blocks have to be of one size"
    array = Array(Block, (blocks, blocks), args=[size, blocks])
    charm.awaitCreation(array)
    began = perf_counter()
    sweeps = array.run(ret=True).get()[0]
    seconds = perf_counter() - began
    print(f"{size} x {size} cells, {blocks} x {blocks} blocks: {sweeps} sweeps, {seconds / sweeps * 1e6:.0f} us each")

    # What a collection returns is in the order of its indices: row after row.
    parts = array.get(ret=True).get()
    cells = numpy.block([parts[row * blocks : (row + 1) * blocks] for row in range(blocks)])
    expected, expected_sweeps = serial(size)
    assert sweeps == expected_sweeps, f"alone it takes {expected_sweeps} sweeps"
    assert numpy.array_equal(cells, expected), "alone it gives other cells"
    print("one block alone ends with the same cells")
    exit()


charm.start(main)
