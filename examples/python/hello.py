"""The first program: chares that print their arguments.

    charmrun +p4 hello.py
"""

from __future__ import annotations

import numpy
from charm4py import Array, Chare, Group, charm


class Test(Chare):
    # All arguments of a method can be sent unchanged.
    def myMethod(self, x: list[int], y: numpy.ndarray, z: str) -> None:
        print("Hello from element", self.thisIndex, x, y, z)


def main(args: list[str]) -> None:
    testGroup = Group(Test)  # one chare on every PE
    testArray = Array(Test, 100)  # 100 chares, spread over the PEs
    # A call of a collection is a call of all its chares. It returns at once, with a future that can be waited for.
    done = [
        testGroup.myMethod([1, 2, 3], numpy.arange(1, 100), "test group", awaitable=True),
        testArray.myMethod([4, 5, 6], numpy.arange(50, 100), "test array", awaitable=True),
    ]
    charm.wait(done)
    exit()


charm.start(main)
