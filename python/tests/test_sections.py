"""Sections: creation, calls and reductions."""

from __future__ import annotations

import pytest
from conftest import Run, check

CELL = """
    class Cell(Chare):
        def who(self): return self.thisIndex
        def hit(self, done): done.send(self.thisIndex)
        def total(self, done, section): self.reduce(done, sum(self.thisIndex), Reducer.sum, section)
"""


@pytest.mark.parametrize("pes", [1, 4])
def test_slices_of_arrays_and_groups_are_called_and_reduced(run: Run, pes: int) -> None:
    program = CELL + """
    def main(args):
        grid = Array(Cell, (4, 6))
        print("grid", grid[0:4:3, 1:6:2].who(ret=True).get())
        print("row", grid[2, ::3].who(ret=True).get())
        print("back", Array(Cell, 5)[-2:].who(ret=True).get())
        section = grid[1:3, :2]
        done = Future()
        section.total(done, section)
        print("sum", done.get())
        group = Group(Cell)
        print("group", group[::2].who(ret=True).get() == list(range(0, charm.numPes(), 2)))
        hits = Future(4)
        section.hit(hits)
        print("hits", sorted(hits.get()))
        section.hit(Future(4), awaitable=True).get()
        exit()
    charm.start(main)
    """
    check(
        run(program, pes),
        """
        grid [(0, 1), (0, 3), (0, 5), (3, 1), (3, 3), (3, 5)]
        row [(2, 0), (2, 3)]
        back [(3,), (4,)]
        sum 8
        group True
        hits [(1, 0), (1, 1), (2, 0), (2, 1)]
        """,
    )


@pytest.mark.parametrize("pes", [1, 3])
def test_split_by_number_by_function_and_by_lists(run: Run, pes: int) -> None:
    program = CELL + """
    def main(args):
        cells = Array(Cell, 7)
        who = lambda sections: [[i for i, in s.who(ret=True).get()] for s in sections]
        print("shares", who(charm.split(cells, 3)))
        print("function", who(charm.split(cells, 2, lambda cell: cell.thisIndex[0] % 3 - 1)))
        print("several", who(charm.split(cells, 2, section_func=lambda cell: [0, 1] if cell.thisIndex == (3,) else 0)))
        print("lists", who(charm.split(cells, 2, elems=[[0, (6,), 0], [(6,)]])))
        halves = charm.split(cells, 2)
        print("again", who(charm.split(halves[1], 2)), who([halves[0][1:3]]))
        exit()
    charm.start(main)
    """
    check(
        run(program, pes),
        """
        shares [[0, 1, 2], [3, 4], [5, 6]]
        function [[1, 4], [2, 5]]
        several [[0, 1, 2, 3, 4, 5, 6], [3]]
        lists [[0, 6], [6]]
        again [[4, 5], [6]] [[1, 2]]
        """,
    )


def test_parts_of_one_collection_can_be_combined(run: Run) -> None:
    program = CELL + """
    def main(args):
        cells = Array(Cell, 8)
        a, b = cells[0:3], charm.split(cells, 4)[3]
        both = charm.combine(a, b, cells[4])
        print("both", [i for i, in both.who(ret=True).get()])
        print("overlap", [i for i, in charm.combine(a, cells[2:4]).who(ret=True).get()])
        exit()
    charm.start(main)
    """
    check(
        run(program, 3),
        """
        both [0, 1, 2, 4, 6, 7]
        overlap [0, 1, 2, 3]
        """,
    )


def test_reductions_over_overlapping_sections_and_the_whole_do_not_mix(run: Run) -> None:
    program = """
    class Cell(Chare):
        def __init__(self): self.seen = []
        @coro
        def go(self, sections, done):
            i = self.thisIndex[0]
            futures = []
            for round in range(5):
                for low, high, section in sections:
                    if low <= i < high:
                        futures.append(self.allreduce(i + round, Reducer.sum, section))
                futures.append(self.allreduce(1, Reducer.sum))
            self.reduce(done, [f.get() for f in futures], Reducer.gather)
    def main(args):
        cells = Array(Cell, 6)
        sections = [(0, 4, cells[0:4]), (2, 6, cells[2:6])]
        done = Future()
        cells.go(sections, done)
        results = done.get()
        expected = lambda low, high, round: sum(range(low, high)) + round * (high - low)
        for i in range(6):
            want = []
            for round in range(5):
                want += [expected(low, high, round) for low, high, _ in sections if low <= i < high] + [6]
            assert results[i] == want, (i, results[i], want)
        print("right")
        exit()
    charm.start(main)
    """
    check(run(program, 3), "right")


def test_sections_are_callbacks_travel_and_are_equal_everywhere(run: Run) -> None:
    program = """
    class Cell(Chare):
        def idle(self): self.done.send("idle")
        def part(self, section, done):
            self.done = done
            self.reduce(section.result, 1, Reducer.sum)
        def result(self, total): self.done.send((self.thisIndex[0], total))
        def set(self, done): self.done = done
    class Other(Chare):
        def compare(self, a, b): return a == b and hash(a) == hash(b) and {a: 1}[b]
    def main(args):
        cells = Array(Cell, 6)
        section = cells[1:6:2]
        done = Future(3)
        cells.part(section, done)
        print(sorted(done.get()))
        print(Chare(Other, onPE=charm.numPes() - 1).compare(section, section, ret=True).get())
        done = Future(3)
        section.set(done, awaitable=True).get()
        charm.startQD(section.idle)
        print(done.get())
        exit()
    charm.start(main)
    """
    check(run(program, 3), "[(1, 6), (3, 6), (5, 6)]\n1\n['idle', 'idle', 'idle']")


def test_sections_of_arrays_that_are_filled_by_hand_wait_for_them(run: Run) -> None:
    program = CELL + """
    def main(args):
        cells = Array(Cell, ndims=2)
        section = cells[0:10:2, :]
        answers = section.who(ret=True)
        for i in range(6):
            cells.ckInsert((i, i * i))
        cells.ckDoneInserting()
        print(answers.get())
        exit()
    charm.start(main)
    """
    check(run(program, 3), "[(0, 0), (2, 4), (4, 16)]")


def test_an_element_or_a_section_that_cannot_be_is_refused(run: Run) -> None:
    program = CELL + """
    def main(args):
        cells = Array(Cell, (3, 3))
        for name, wrong in [("dimensions", lambda: cells[0:2]), ("element", lambda: cells[0:2, 7]),
                            ("list", lambda: charm.split(cells, 1, elems=[[(5, 5)]])), ("none", lambda: charm.split(cells, 0)),
                            ("one", lambda: charm.combine())]:
            try:
                wrong()
            except (IndexError, ValueError, TypeError) as error:
                print(name, type(error).__name__)
        exit()
    charm.start(main)
    """
    check(
        run(program),
        """
        dimensions IndexError
        element IndexError
        list IndexError
        none ValueError
        one TypeError
        """,
    )


def test_parts_of_several_collections_and_classes_can_be_combined(run: Run) -> None:
    program = """
    class A(Chare):
        def who(self, x=0): return type(self).__name__, self.thisIndex, x
        def note(self, done): done.send(type(self).__name__)
        def pass_on(self, all): return all.who(ret=True)
        @coro
        def ask(self, all): return all.who(3, ret=True).get()
        def fail(self): raise KeyError(type(self).__name__)
    class B(A): pass
    def main(args):
        a, b, more, group = Array(A, 3), Array(B, 2), Array(A, 2), Group(B)
        print(charm.combine(a, b).who(ret=True).get())
        print(charm.combine(a, more).who(x=1, ret=True).get())
        all = charm.combine(a[1:], b[0], group, a[2])
        print([name for name, _, _ in all.who(ret=True).get()], all.who(awaitable=True).get(), all == charm.combine(a[1:], b[0], group, a[2]) or "made anew")
        done = Future(5)
        all.note(done)
        print(sorted(done.get()))
        print(len(charm.combine(all, more).who(ret=True).get()), Chare(A, onPE=1).ask(charm.combine(a, b), ret=True).get()[-1])
        try:
            charm.combine(a, b).fail(awaitable=True).get()
        except KeyError as e:
            print(e)
        try:
            charm.combine(a, b).nothing
        except AttributeError as e:
            print("no such method")
        exit()
    charm.start(main)
    """
    check(
        run(program, 2),
        """
        [('A', (0,), 0), ('B', (0,), 0), ('A', (1,), 0), ('B', (1,), 0), ('A', (2,), 0)]
        [('A', (0,), 1), ('A', (0,), 1), ('A', (1,), 1), ('A', (1,), 1), ('A', (2,), 1)]
        ['B', 'B', 'A', 'B', 'A'] None made anew
        ['A', 'A', 'B', 'B', 'B']
        7 ('A', (2,), 3)
        'A'
        no such method
        """,
    )


#: Classes whose chares are combined.
MIXED = """
    class A(Chare):
        def who(self): return type(self).__name__, self.thisIndex
        def parts(self): return 7
        def each(self, over, f):
            self.reduce(f, 1, Reducer.sum, over)
            self.reduce(f, self.who(), Reducer.gather, over)
            self.reduce(f, section=over)
            self.contribute([1.5, len(self.who()[0])], Reducer.max, f, over)
        def counts(self, over, f, n):
            for i in range(n): self.reduce(f, i, Reducer.max, over)
        @coro
        def all(self, over): return self.allreduce(2, Reducer.product, over).get()
        def wrong(self, over, callback=None): self.reduce(callback, 1, Reducer.sum, over)
        def keep(self, f): self.kept = f
        def give(self, x): self.kept.send((self.who(), x))
    class B(A): pass
    def side(chare): return sum(np.atleast_1d(chare.thisIndex)) % 3
    def kind(chare): return 1 if isinstance(chare, B) else []
"""


@pytest.mark.parametrize("pes", [1, 2, 4])
def test_reductions_go_over_parts_of_several_collections(run: Run, pes: int) -> None:
    program = MIXED + """
    def main(args):
        row, grid, group = Array(A, 3), Array(B, (2, 2)), Group(A)
        everything = charm.combine(row, grid, group)
        others, n = charm.combine(row[1:], grid), 7 + charm.numPes()
        f = Future(4)
        everything.each(everything, f)
        total, gathered, barrier, most = f.get()
        print(total == n, len(gathered) == n, barrier, most)
        f = Future(4)
        others.each(others, f)
        print(f.get()[:2])
        print(others.all(others, ret=True).get(), everything.parts(ret=True).get() == [7] * n)
        f = Future(30)
        everything.counts(everything, f, 30)
        print(f.get() == list(range(30)))
        f = Future(6)
        others.keep(f, awaitable=True).get()
        row.wrong(None, others.give)
        print(sorted(f.get()))
        for over, callback in [(others, None), (grid, None), (3, None), (None, 3)]:
            try:
                row[0].wrong(over, callback, ret=True).get() if over is not others else group.wrong(over, awaitable=True).get()
            except (TypeError, ValueError) as e:
                print(type(e).__name__, e)
        exit()
    charm.start(main)
    """
    check(
        run(program, pes),
        """
        True True None [1.5 1. ]
        [6, [('B', (0, 0)), ('B', (0, 1)), ('A', (1,)), ('B', (1, 0)), ('B', (1, 1)), ('A', (2,))]]
        [64, 64, 64, 64, 64, 64] True
        True
        [(('A', (1,)), 3), (('A', (2,)), 3), (('B', (0, 0)), 3), (('B', (0, 1)), 3), (('B', (1, 0)), 3), (('B', (1, 1)), 3)]
        ValueError the section has no part of this chare's collection
        ValueError the section is not one of this chare's collection
        TypeError 3 is no section
        TypeError a callback is a future or a method of a proxy, not 3
        """,
    )


@pytest.mark.parametrize("pes", [1, 2, 4])
def test_parts_of_several_collections_are_split(run: Run, pes: int) -> None:
    program = MIXED + """
    def main(args):
        both = charm.combine(Array(A, 5), Array(B, (2, 2)))
        sides = charm.split(both, 3, side)
        for section in sides:
            print(section.who(ret=True).get())
        # A part without elements in the section contributes nothing.
        none, grid = charm.split(both, 2, kind)
        f = Future(2)
        grid.counts(grid, f, 2)
        print(none.who(ret=True).get(), f.get())
        f = Future(4)
        sides[2].each(sides[2], f)
        print(f.get()[:2])
        for section in charm.split(both, 2) + charm.split(both, 2, elems=[[1, (0, 1)], [(1, 1)]]) + charm.split(both, 1, elems=[4, 0]):
            print([index for _, index in section.who(ret=True).get()])
        exit()
    charm.start(main)
    """
    check(
        run(program, pes),
        """
        [('A', (0,)), ('B', (0, 0)), ('A', (3,))]
        [('B', (0, 1)), ('A', (1,)), ('B', (1, 0)), ('A', (4,))]
        [('B', (1, 1)), ('A', (2,))]
        [] [0, 1]
        [2, [('B', (1, 1)), ('A', (2,))]]
        [(0,), (0, 0), (0, 1), (1,), (1, 0)]
        [(1, 1), (2,), (3,), (4,)]
        [(0, 1), (1,)]
        [(1, 1)]
        [(0,), (4,)]
        """,
    )


def test_a_function_that_fails_to_choose_a_section_is_told_with_its_own_error(run: Run) -> None:
    program = CELL + """
    def choose(cell): return np.int64(cell.thisIndex[0]) if args_are_good else 1 / 0
    args_are_good = len(sys.argv) == 1
    def main(args):
        first, second = charm.split(Array(Cell, 2), 2, choose)
        print(first.who(ret=True).get(), second.who(ret=True).get())
        exit()
    charm.start(main)
    """
    check(run(program), "[(0,)] [(1,)]")
    failed = run(program, 2, "bad")
    assert failed.code == 1 and "ZeroDivisionError: division by zero in the making of a section" in failed.err, failed.err


def test_the_elements_of_one_section_may_be_a_flat_list(run: Run) -> None:
    program = CELL + """
    def main(args):
        row, grid, group = Array(Cell, 5), Array(Cell, (3, 3)), Group(Cell)
        for proxy, elems in [(row, [0, 2]), (row, [(1,), (3,)]), (row, [[0, 2]]), (row, [(0, 2)]), (row, [[(4,)]]), (grid, [(0, 1)]), (grid, [(0, 1), (2, 2)]),
                             (grid, [[(1, 1)]]), (group, [1])]:
            print(charm.split(proxy, 1, elems=elems)[0].who(ret=True).get())
        exit()
    charm.start(main)
    """
    lines = "[(0,), (2,)]|[(1,), (3,)]|[(0,), (2,)]|[(0,), (2,)]|[(4,)]|[(0, 1)]|[(0, 1), (2, 2)]|[(1, 1)]|[1]"
    check(run(program, 2), lines.replace("|", "\n"))


def test_the_proxy_of_an_element_gives_others_of_its_collection(run: Run) -> None:
    program = CELL + """
    class One(Chare):
        def own(self): return self.thisProxy[self.thisIndex] == self.thisProxy, self.thisProxy[0] == self.thisProxy
        def other(self):
            try: return self.thisProxy[1]
            except IndexError as e: return str(e)
    def main(args):
        one, row, group = Chare(One, onPE=1), Array(Cell, 5), Group(Cell)
        print(one.own(ret=True).get(), one.other(ret=True).get())
        print(row[1][3].who(ret=True).get(), row[1][2:].who(ret=True).get(), group[0][1].who(ret=True).get(), row[0][1] == row[1])
        exit()
    charm.start(main)
    """
    check(run(program, 2), "(True, True) there is no element 1 in <One>\n(3,) [(2,), (3,), (4,)] 1 True")
