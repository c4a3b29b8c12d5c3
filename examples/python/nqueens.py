"""The number of ways to place N queens on an N by N board: chares created during a search, and quiescence.

    charmrun +p4 nqueens.py 10

Each partial board is a chare, which creates one for every way to place the next queen. Their number is not known in advance, so
answers cannot be counted: the search is over when the whole job has no work left.
"""

from __future__ import annotations

from charm4py import Chare, Future, Group, Reducer, charm, readonlies

#: The numbers of solutions, from N = 0 on.
KNOWN = [1, 1, 0, 0, 2, 10, 4, 40, 92, 352, 724, 2680, 14200]


class Tally(Chare):
    """One on each PE: chares add to the one on theirs, without a message."""

    def __init__(self) -> None:
        self.solutions = 0
        self.boards = 0

    def total(self, result: Future[list[int]]) -> None:
        self.reduce(result, [self.solutions, self.boards], Reducer.sum)


class Board(Chare):
    """A board whose first rows have their queens."""

    def __init__(self, row: int, columns: int, left: int, right: int) -> None:
        # Columns and diagonals that are attacked are bits of a number.
        tally = readonlies.tally.ckLocalBranch()
        tally.boards += 1
        if row >= readonlies.chares_until:
            tally.solutions += solutions(readonlies.n - row, columns, left, right)
            return
        for queen in places(columns | left | right):
            Chare(Board, args=[row + 1, columns | queen, (left | queen) << 1, (right | queen) >> 1])


def places(attacked: int) -> list[int]:
    """The columns that are free, each as a bit."""
    return [1 << column for column in range(readonlies.n) if not attacked >> column & 1]


def solutions(rows: int, columns: int, left: int, right: int) -> int:
    """The ways to place queens in the last rows, without chares, which cost more than small boards."""
    if rows == 0:
        return 1
    return sum(
        solutions(rows - 1, columns | queen, (left | queen) << 1, (right | queen) >> 1)
        for queen in places(columns | left | right)
    )


def main(args: list[str]) -> None:
    # Set here, before anything else, they are readable on every PE.
    readonlies.n = int(args[1]) if len(args) > 1 else 8
    readonlies.chares_until = int(args[2]) if len(args) > 2 else min(3, readonlies.n)
    readonlies.tally = Group(Tally)

    Chare(Board, args=[0, 0, 0, 0])
    charm.waitQD()

    result: Future[list[int]] = Future()
    readonlies.tally.total(result)
    count, boards = result.get()
    print(f"{readonlies.n} queens: {count} solutions, {boards} chares")
    if readonlies.n < len(KNOWN):
        assert count == KNOWN[readonlies.n], f"there are {KNOWN[readonlies.n]}"
    exit()


charm.start(main)
