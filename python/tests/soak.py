"""A long run: calls, failed calls, futures, coroutines, reductions, channels, the pool, and collections that are destroyed, over and over. Its memory must stay flat.

    charmrun +p4 soak.py SECONDS

Prints the resident memory of each PE every tenth of the time, and ends with 1 if a PE has more at the end than after the first fifth, by
more than GROWTH_MIB.
"""

from __future__ import annotations

import gc
import sys
import time

import numpy as np
from charm4py import Array, Channel, Chare, Future, Group, Reducer, charm, coro

#: An allocator keeps some memory that it has once had.
GROWTH_MIB = 6


def resident_mib() -> float:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096 / 2**20


class Worker(Chare):
    def __init__(self) -> None:
        self.ready = False

    def add(self, x, data):
        return x + len(data)

    def fail(self):
        keep = bytearray(1 << 16)  # what a kept frame would keep
        raise ValueError(f"on purpose, with {len(keep)} bytes")

    def give(self, future):
        future.send(np.zeros(100))

    def sum(self, future):
        self.reduce(future, self.thisIndex[0], Reducer.sum)

    def count(self, future):
        self.reduce(future, 1, Reducer.sum)

    @coro
    def agree(self, rounds):
        for _ in range(rounds):
            assert self.allreduce(1, Reducer.sum).get() == 8

    @coro
    def exchange(self, rounds):
        other = self.thisProxy[self.thisIndex[0] ^ 1]
        channel = Channel(self, remote=other)
        for number in range(rounds):
            channel.send(number, b"x" * 1000)
            assert channel.recv()[0] == number

    @coro
    def meet(self):
        self.ready = False
        self.thisProxy[self.thisIndex].go()
        self.wait("self.ready")
        return True

    def go(self):
        self.ready = True


class Watcher(Chare):
    def resident(self):
        gc.collect()
        return resident_mib()


def square(x):
    return x * x


def one_round(workers):
    """Uses a bit of everything."""
    assert sum(workers.add(1, b"12", ret=True).get()) == 24
    replies = [workers[i % 8].add(i, "text", ret=True) for i in range(50)]
    assert [reply.get() for reply in replies] == [i + 4 for i in range(50)]
    for i in range(8):
        try:
            workers[i].fail(ret=True).get()
        except ValueError:
            pass
    assert all(isinstance(error, ValueError) for error in workers.fail(ret=True).get())
    futures = [Future() for _ in range(20)]
    for i, future in enumerate(futures):
        workers[i % 8].give(future)
    assert all(future.get().shape == (100,) for future in futures)
    several = Future(num_vals=8)
    workers.give(several)
    assert len(several.get()) == 8
    unread = Future()
    workers[0].give(unread)
    total = Future()
    workers.sum(total)
    assert total.get() == 28
    workers.agree(5, awaitable=True).get()
    workers.meet(awaitable=True).get()
    assert charm.pool.map(square, range(20)) == [i * i for i in range(20)]
    come_and_go(others=workers)


def come_and_go(others):
    """Collections of several shapes, and single chares, that are destroyed."""
    for made in Array(Worker, 8), Array(Worker, 5), Group(Worker):
        section = made[::2]
        total = Future()
        made.count(total)
        total.get()
        section.add(1, b"1", awaitable=True).get()
        section.ckDestroy()
        made.ckDestroy()
    others[::2].ckDestroy()
    one = Chare(Worker)
    assert one.add(1, b"1", ret=True).get() == 2
    one.ckDestroy()


class Phases:
    """An array that grows at one end and shrinks at the other."""

    def __init__(self):
        self.cells = Array(Worker, ndims=1)
        self.first = self.behind = 0

    def one_more(self):
        for away in True, True, False:
            self.cells.ckInsert(self.behind, onPE=self.behind * 7 % charm.numPes() if away else -1)
            self.behind += 1
        self.cells.ckDoneInserting()
        total = Future()
        self.cells.sum(total)
        assert total.get() == sum(range(self.first, self.behind))
        assert self.cells[self.behind - 1].add(1, b"12", ret=True).get() == 3
        while self.behind - self.first > 9:
            self.cells[self.first].ckDestroy()
            self.first += 1
        charm.waitQD()


def main(args):
    seconds = float(args[1]) if len(args) > 1 else 600
    workers, watchers = Array(Worker, 8), Group(Watcher)
    workers.exchange(5, awaitable=True).get()
    begun, rounds, seen, phases = time.time(), 0, [], Phases()
    while time.time() - begun < seconds:
        one_round(workers)
        phases.one_more()
        rounds += 1
        if time.time() - begun > seconds / 10 * (len(seen) + 1):
            seen.append(watchers.resident(ret=True).get())
            print(f"{time.time() - begun:6.0f} s, {rounds} rounds:", *(f"{mib:.1f}" for mib in seen[-1]), "MiB", flush=True)
    grown = [after - before for before, after in zip(seen[1], seen[-1])]
    print("grown by", *(f"{mib:.1f}" for mib in grown), "MiB")
    sys.exit(1 if max(grown) > GROWTH_MIB else 0)


charm.start(main)
