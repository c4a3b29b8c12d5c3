"""Particles that move through a square of cells: chares that pass on particles, with different loads.

    charmrun +p4 particle.py 8 2000 50

A cell has the particles in its part of the square. In every step they move, and those that have left go to one of the eight cells
around. A particle that leaves the square comes back on the other side.
"""

from __future__ import annotations

from time import perf_counter

import numpy
from charm4py import Array, Chare, Future, Reducer, charm, coro, when

#: A particle in an array: the arrays are sent in their memory format.
PARTICLE = numpy.dtype([("number", "i8"), ("at", "f8", 2), ("speed", "f8", 2)])
AROUND = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != (0, 0)]


class Cell(Chare):
    def __init__(self, side: int, count: int) -> None:
        self.side = side
        everywhere = particles(side, count)
        # Each cell creates all particles and keeps its own: so nothing is sent, and one function defines them.
        self.particles = everywhere[(cells_of(everywhere) == self.thisIndex).all(axis=1)]
        self.step = 0
        self.arrived: list[numpy.ndarray] = []

    # A neighbour may be a step ahead.
    @when("self.step == step")
    def arrive(self, step: int, particles: numpy.ndarray) -> None:
        self.arrived.append(particles)

    @coro
    def run(self, steps: int) -> None:
        for _ in range(steps):
            move(self.particles, self.side)
            # As seen from here: -1, 0 or 1 in both dimensions, also across the edge of the square.
            away = (cells_of(self.particles) - self.thisIndex + 1) % self.side - 1
            for direction in AROUND:
                there = tuple((i + d) % self.side for i, d in zip(self.thisIndex, direction))
                # Also if there are none: the neighbour counts.
                self.thisProxy[there].arrive(self.step, self.particles[(away == direction).all(axis=1)])
            self.particles = self.particles[(away == 0).all(axis=1)]
            self.wait("len(self.arrived) == 8")
            self.particles = numpy.concatenate([self.particles, *self.arrived])
            self.arrived = []
            self.step += 1

    def most(self, result: Future[int]) -> None:
        self.reduce(result, len(self.particles), Reducer.max)

    def get(self) -> numpy.ndarray:
        return self.particles


def particles(side: int, count: int) -> numpy.ndarray:
    """All particles, at the beginning: most of them near the middle. None moves by more than a cell in a step."""
    random = numpy.random.default_rng(2024)
    everywhere = numpy.zeros(count, PARTICLE)
    everywhere["number"] = numpy.arange(count)
    everywhere["at"] = random.normal(side / 2, side / 6, (count, 2)) % side
    everywhere["speed"] = random.uniform(-0.5, 0.5, (count, 2))
    return everywhere


def move(particles: numpy.ndarray, side: int) -> None:
    particles["at"] = (particles["at"] + particles["speed"]) % side


def cells_of(particles: numpy.ndarray) -> numpy.ndarray:
    """Each particle's cell, a row and a column: a cell's edges are 1 long."""
    return particles["at"].astype(int)


def main(args: list[str]) -> None:
    side = int(args[1]) if len(args) > 1 else 8
    count = int(args[2]) if len(args) > 2 else 20_000
    steps = int(args[3]) if len(args) > 3 else 50
    assert side >= 3, "the cells around a cell have to be different ones"

    cells = Array(Cell, (side, side), args=[side, count])
    began = perf_counter()
    cells.run(steps, awaitable=True).get()
    seconds = perf_counter() - began
    most: Future[int] = Future()
    cells.most(most)
    print(f"{count} particles in {side} x {side} cells, {steps} steps, {seconds / steps * 1e3:.2f} ms each")
    print(f"the fullest cell has {most.get()}, the mean is {count / side**2:.1f}")

    found = numpy.concatenate(cells.get(ret=True).get())
    found.sort(order="number")
    expected = particles(side, count)
    for _ in range(steps):
        move(expected, side)
    assert numpy.array_equal(found, expected), "some are lost, or not where they should be"
    print("every particle is where it should be")
    exit()


charm.start(main)
