"""The cost of the operations of charm4py's model, with the installed package of that name.

    charmrun +p2 charmbench.py [--quick] [--plain] [--largest MIB]

`compare.py` runs it under two interpreters in turn. Each figure is the median of some repetitions; between two of them the figure's
group of chares does nothing else. With one PE, figures between two PEs are omitted.
"""

from __future__ import annotations

import argparse
import statistics
from time import perf_counter

import numpy
from charm4py import Array, Chare, Future, Group, Reducer, charm, coro

KIB, MIB = 1 << 10, 1 << 20


class Peer(Chare):
    """One on each PE."""

    def pair(self, other: int, done: Future) -> None:
        """Sets the receiver of a ball, and the future for the end of the game."""
        self.other = self.thisProxy[other]
        self.done = done
        self.missing = 0

    def ball(self, left: int) -> None:
        if left == 0:
            self.done.send()
        else:
            self.other.ball(left - 1)

    def own(self, bytes: int) -> None:
        """Creates the array that it sends."""
        self.array = numpy.ones(bytes // 8)

    def array_ball(self, array: numpy.ndarray, left: int) -> None:
        """Answers with its own array."""
        if left == 0:
            self.done.send()
        else:
            self.other.array_ball(self.array, left - 1)

    def array_handed_on(self, array: numpy.ndarray, left: int) -> None:
        """Answers with the received array, which another core has written."""
        if left == 0:
            self.done.send()
        else:
            self.other.array_handed_on(array, left - 1)

    def expect(self, calls: int) -> None:
        self.missing = calls

    def count(self) -> None:
        self.missing -= 1
        if self.missing == 0:
            self.done.send()

    def echo(self, value: int) -> int:
        return value

    @coro
    def echo_in_coroutine(self, value: int) -> int:
        return value

    def sum(self, result: Future) -> None:
        self.reduce(result, 1, Reducer.sum)

    @coro
    def allreduces(self, times: int) -> None:
        for _ in range(times):
            self.allreduce(1, Reducer.sum).get()


class Cell(Chare):
    """An element that does nothing."""


class Bench:
    """Measures, and records the figures: name, unit, value."""

    def __init__(self, quick: bool, largest: int) -> None:
        self.largest = largest
        self.repeats = 2 if quick else 7
        self.scale = 20 if quick else 1
        self.figures: list[tuple[str, str, float]] = []
        self.peers = Group(Peer)
        charm.awaitCreation(self.peers)

    def times(self, count: int) -> int:
        return max(2, count // self.scale)

    def measure(self, operation) -> float:
        """The median of the seconds that an operation takes; the first time does not count."""
        seconds = []
        for _ in range(self.repeats + 1):
            began = perf_counter()
            operation()
            seconds.append(perf_counter() - began)
        return statistics.median(seconds[1:])

    def add(self, name: str, unit: str, value: float) -> None:
        self.figures.append((name, unit, value))

    def pair(self, other: int) -> Future:
        """A game between PE 0 and another one, which may be PE 0."""
        done: Future = Future()
        self.peers[0].pair(other, done, awaitable=True).get()
        if other != 0:
            self.peers[other].pair(0, done, awaitable=True).get()
        return done

    def calls(self, where: str, pe: int) -> None:
        rounds = self.times(1000)

        def play() -> None:
            done = self.pair(pe)
            # Even, so that it ends where it began.
            self.peers[pe].ball(2 * rounds)
            done.get()

        self.add(f"round trip of a call, {where}", "us", self.measure(play) / rounds * 1e6)
        peer = self.peers[pe]
        for name, method in [("returns a value", peer.echo), ("is a coroutine", peer.echo_in_coroutine)]:

            def ask(method=method) -> None:
                for value in range(rounds):
                    method(value, ret=True).get()

            self.add(f"call that {name}, {where}", "us", self.measure(ask) / rounds * 1e6)

    def one_way(self, where: str, pe: int) -> None:
        calls = self.times(20_000)

        def flood() -> None:
            done = self.pair(pe)
            self.peers[pe].expect(calls, awaitable=True).get()
            count = self.peers[pe].count
            for _ in range(calls):
                count()
            done.get()

        self.add(f"calls one way, {where}", "1/s", calls / self.measure(flood))

    def arrays(self) -> None:
        for size in (size for size in (64 * KIB, MIB, 16 * MIB, 64 * MIB) if size <= self.largest):
            rounds = self.times(max(4, min(400, 128 * MIB // size)))
            array = numpy.ones(size // 8)
            self.peers.own(size, awaitable=True).get()
            name = f"array of {size // MIB} MiB" if size >= MIB else f"array of {size // KIB} KiB"
            peer = self.peers[1]
            for what, ball in [("one way", peer.array_ball), ("handed on", peer.array_handed_on)]:

                def play(ball=ball, array=array, rounds=rounds) -> None:
                    done = self.pair(1)
                    ball(array, 2 * rounds)
                    done.get()

                seconds = self.measure(play) / (2 * rounds + 1)
                self.add(f"{name}, {what}", "us", seconds * 1e6)
                self.add(f"{name}, {what}", "GB/s", size / seconds / 1e9)

    def collectives(self) -> None:
        times = self.times(200)

        def sums() -> None:
            for _ in range(times):
                result: Future = Future()
                self.peers.sum(result)
                assert result.get() == charm.numPes()

        self.add("broadcast and reduction", "us", self.measure(sums) / times * 1e6)
        allreduces = self.times(1000)
        seconds = self.measure(lambda: self.peers.allreduces(allreduces, awaitable=True).get())
        self.add("1,000 allreduces", "ms", seconds / allreduces * 1e6)

    def creation(self) -> None:
        count = self.times(10_000)

        def create() -> None:
            charm.awaitCreation(Array(Cell, count))

        self.add("array elements created", "1/s", count / self.measure(create))


def main(args: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="charmbench.py", description="Measures charm4py's operations.")
    parser.add_argument("--quick", action="store_true", help="few repetitions: a quick check")
    parser.add_argument("--plain", action="store_true", help="machine-readable lines: figure, name, unit, value, separated by tabs")
    parser.add_argument("--largest", type=int, default=64, metavar="MIB", help="no larger arrays")
    options = parser.parse_args(args[1:])

    bench = Bench(options.quick, options.largest * MIB)
    if charm.numPes() > 1:
        bench.calls("other PE", 1)
        bench.one_way("other PE", 1)
    bench.calls("same PE", 0)
    bench.one_way("same PE", 0)
    if charm.numPes() > 1:
        bench.arrays()
    bench.collectives()
    bench.creation()

    if not options.plain:
        print(f"{charm.numPes()} PEs, medians of {bench.repeats}")
    for name, unit, value in bench.figures:
        print(f"figure\t{name}\t{unit}\t{value!r}" if options.plain else f"{name:<44} {value:>14,.2f} {unit}")
    exit()


charm.start(main)
