"""7-point Jacobi on a 3-D grid, cut into blocks: conditions instead of channels, and kernels in NumPy or Numba.

    charmrun +p4 stencil3d.py 96 4,2,1 100

The same results, to the last bit, as the example `stencil3d` in Rust. Each cell becomes the mean of itself and its six
neighbours; a layer of fixed values surrounds the grid.
"""

from __future__ import annotations

from time import perf_counter

import numpy
from charm4py import Array, Chare, Future, Reducer, charm, coro, when

try:
    import numba
except ImportError:  # NumPy does, with more passes over the memory
    numba = None

#: The sides of a block: the dimension, and the direction.
SIDES = [(axis, direction) for axis in range(3) for direction in (-1, 1)]


class Block(Chare):
    def __init__(self, grid: tuple, blocks: tuple) -> None:
        begin = [size * i // n for size, i, n in zip(grid, self.thisIndex, blocks)]
        end = [size * (i + 1) // n for size, i, n in zip(grid, self.thisIndex, blocks)]
        self.grid, self.begin = grid, begin
        self.now, self.next = box(grid, begin, end), box(grid, begin, end)
        self.neighbours = []
        for axis, direction in SIDES:
            there = list(self.thisIndex)
            there[axis] += direction
            if 0 <= there[axis] < blocks[axis]:
                self.neighbours.append((axis, direction, self.thisProxy[tuple(there)]))
        self.step = 0
        self.faces = 0

    # Neighbours may be a step ahead: their faces wait until this block has reached that step.
    @when("self.step == step")
    def face(self, step: int, axis: int, direction: int, cells: numpy.ndarray) -> None:
        self.now[rim(axis, direction)] = cells
        self.faces += 1

    @coro
    def run(self, steps: int) -> None:
        for _ in range(steps):
            for axis, direction, neighbour in self.neighbours:
                # To the neighbour, it is the opposite side.
                neighbour.face(self.step, axis, -direction, self.now[edge(axis, direction)])
            self.wait("self.faces == len(self.neighbours)")
            sweep(self.now, self.next)
            self.now, self.next = self.next, self.now
            self.faces = 0
            self.step += 1

    def checksum(self, result: Future[int]) -> None:
        self.reduce(result, checksum(self.now, self.begin, self.grid), Reducer.sum)


def edge(axis: int, direction: int) -> tuple:
    """The cells inside a side."""
    where = [slice(1, -1)] * 3
    where[axis] = 1 if direction < 0 else -2
    return tuple(where)


def rim(axis: int, direction: int) -> tuple:
    """The cells outside of a side."""
    where = [slice(1, -1)] * 3
    where[axis] = 0 if direction < 0 else -1
    return tuple(where)


def box(grid: tuple, begin: list, end: list) -> numpy.ndarray:
    """The cells of a part of the grid, and a rim: fixed values around the grid, neighbours' cells elsewhere."""
    cells = numpy.zeros([b - a + 2 for a, b in zip(begin, end)])
    x, y, z = numpy.ogrid[tuple(slice(a, b + 2) for a, b in zip(begin, end))]
    boundary = (x + 2 * y + 3 * z) / (grid[0] + 2 * grid[1] + 3 * grid[2])
    for axis, direction in SIDES:
        where = rim(axis, direction)
        cells[where] = boundary[where]
    return cells


def sweep(old: numpy.ndarray, new: numpy.ndarray) -> None:
    """The cells' next values."""
    beside = (old[:-2, 1:-1, 1:-1] + old[2:, 1:-1, 1:-1]) + (old[1:-1, :-2, 1:-1] + old[1:-1, 2:, 1:-1])
    new[1:-1, 1:-1, 1:-1] = (old[1:-1, 1:-1, 1:-1] + (old[1:-1, 1:-1, :-2] + old[1:-1, 1:-1, 2:]) + beside) * (1 / 7)


if numba is not None:

    @numba.njit
    def sweep(old: numpy.ndarray, new: numpy.ndarray) -> None:  # noqa: F811
        """The same operations in the same order, in one pass."""
        for x in range(1, old.shape[0] - 1):
            for y in range(1, old.shape[1] - 1):
                for z in range(1, old.shape[2] - 1):
                    beside = (old[x - 1, y, z] + old[x + 1, y, z]) + (old[x, y - 1, z] + old[x, y + 1, z])
                    new[x, y, z] = (old[x, y, z] + (old[x, y, z - 1] + old[x, y, z + 1]) + beside) * (1 / 7)


def checksum(cells: numpy.ndarray, begin: list, grid: tuple) -> int:
    """Of the bits and the place of every cell: those of all blocks add up to that of the grid, in 64 bits, however it is cut."""
    inside = numpy.ascontiguousarray(cells[1:-1, 1:-1, 1:-1])
    x, y, z = (numpy.arange(n, dtype=numpy.uint64) + numpy.uint64(a) for n, a in zip(inside.shape, begin))
    ny, nz, one = (numpy.uint64(n) for n in (*grid[1:], 1))
    place = (x[:, None, None] * ny + y[:, None]) * nz + z + one
    return int((inside.view(numpy.uint64) * (place * numpy.uint64(0x9E3779B97F4A7C15) | one)).sum())


def three(text: str) -> tuple:
    numbers = tuple(int(part) for part in text.split(","))
    return numbers if len(numbers) == 3 else numbers * 3


def main(args: list[str]) -> None:
    grid = three(args[1]) if len(args) > 1 else (96, 96, 96)
    blocks = three(args[2]) if len(args) > 2 else (2 * charm.numPes(), 2, 1)
    steps = int(args[3]) if len(args) > 3 else 100
    warm_up = 10  # Numba compiles in the first step

    array = Array(Block, blocks, args=[grid, blocks])
    array.run(warm_up, awaitable=True).get()
    began = perf_counter()
    array.run(steps, awaitable=True).get()
    seconds = perf_counter() - began

    result: Future[int] = Future()
    array.checksum(result)
    total = result.get() % 2**64  # integers have no end in Python
    kernel = "NumPy" if numba is None else "Numba"
    print(f"{grid} cells in {blocks} blocks on {charm.numPes()} PEs, {warm_up + steps} steps in {kernel}")
    print(f"time per step: {seconds / steps * 1e6:.1f} us")
    print(f"checksum: {total:016x}")

    now, following = box(grid, [0, 0, 0], grid), box(grid, [0, 0, 0], grid)
    for _ in range(warm_up + steps):
        sweep(now, following)
        now, following = following, now
    assert total == checksum(now, [0, 0, 0], grid), "one block alone gives another checksum"
    print("one block alone gives the same")
    exit()


charm.start(main)
