"""Fibonacci numbers, with a chare for every call: futures and coroutines.

    charmrun +p4 fib.py 24

Not a good way to compute them, but it shows the cost of many small chares that wait for each other.
"""

from __future__ import annotations

from time import perf_counter

from charm4py import Chare, Future, charm, coro

#: Smaller numbers are computed without chares.
CUTOFF = 12


class Fib(Chare):
    # A coroutine waits where it says get(), and its PE continues with other chares.
    @coro
    def compute(self, n: int, result: Future[int]) -> None:
        if n < CUTOFF:
            result.send(fib(n))
            return
        # One future for both parts: their order does not matter.
        parts: Future[list[int]] = Future(2)
        for part in (n - 1, n - 2):
            # Without onPE, the chares are spread over the PEs.
            Chare(Fib).compute(part, parts)
        result.send(sum(parts.get()))


def fib(n: int) -> int:
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def main(args: list[str]) -> None:
    n = int(args[1]) if len(args) > 1 else 20
    result: Future[int] = Future()
    began = perf_counter()
    Chare(Fib).compute(n, result)
    value = result.get()
    print(f"fib({n}) = {value}, in {perf_counter() - began:.3f} s on {charm.numPes()} PEs")
    assert value == serial(n), f"it is {serial(n)}"
    exit()


def serial(n: int) -> int:
    """Without recursion, and without chares."""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


charm.start(main)
