"""Two ranks of mpi4py, pickled: prints lines for ``charmbench peers``."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy
from mpi4py import MPI

comm = MPI.COMM_WORLD
rank = comm.Get_rank()


def one_way(value: Any, rounds: int) -> float:
    """Microseconds; each end sends an object of its own."""
    start = 0.0
    for turn in range(-rounds // 10 - 1, rounds):
        if turn == 0:
            start = perf_counter()
        if rank == 0:
            comm.send(value, 1)
            comm.recv()
        else:
            comm.recv()
            comm.send(value, 0)
    return (perf_counter() - start) / rounds / 2 * 1e6


def figure(name: str, unit: str, value: float) -> None:
    if rank == 0:
        print(f"figure\t{name}\t{unit}\t{value!r}")


figure("one way, 8 B", "us", one_way(7, 10_000))
figure("one way, 64 KiB", "us", one_way(numpy.ones((64 << 10) // 8), 500))
figure("one way, 1 MiB", "us", one_way(numpy.ones((1 << 20) // 8), 50))
