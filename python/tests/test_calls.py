"""Chares, groups, arrays, and calls of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Run, check

HELLO = """
    class Test(Chare):
        def greet(self, x, y, z):
            print("element", self.thisIndex, x, y.sum(), z)
    def main(args):
        group, array = Group(Test), Array(Test, 5)
        done = [p.greet([1, 2], np.arange(1, 100), "text", awaitable=True) for p in (group, array)]
        for f in done:
            f.get()
        exit()
    charm.start(main)
"""


@pytest.mark.parametrize("pes", [1, 2, 4])
def test_a_group_and_an_array_get_an_array_and_a_text(run: Run, pes: int) -> None:
    lines = [f"element {pe} [1, 2] 4950 text" for pe in range(pes)]
    lines += [f"element ({i},) [1, 2] 4950 text" for i in range(5)]
    check(run(HELLO, pes), "\n".join(lines))


def test_a_program_without_a_launcher_is_a_job_of_one_pe(run: Run) -> None:
    ended = run("def main(args):\n    print(charm.myPe(), charm.numPes())\n    exit()\ncharm.start(main)", launcher=False)
    check(ended, "0 1")


def test_a_program_given_a_number_of_pes_launches_itself(run: Run) -> None:
    program = """
        class Member(Chare):
            def where(self): return charm.myPe()
        def main(args):
            print(Group(Member).where(ret=True).get(), args[1:])
            exit()
        charm.start(main)
    """
    check(run(program, 0, "+p3", "mine", launcher=False), "[0, 1, 2] ['mine']")


def test_results_of_a_collection_come_in_the_order_of_its_indices(run: Run) -> None:
    program = """
        class Cell(Chare):
            def square(self): return self.thisIndex[0] ** 2 + 10 * self.thisIndex[1]
        def main(args):
            cells = Array(Cell, (3, 2))
            print(cells.square(ret=True).get(), cells[2, 1].square(ret=True).get(), cells.square(awaitable=True).get())
            exit()
        charm.start(main)
    """
    check(run(program), "[0, 10, 1, 11, 4, 14] 14 None")


def test_defaults_and_keywords_follow_the_rules_of_python_and_break_them_at_the_caller(run: Run) -> None:
    program = """
        class Target(Chare):
            def f(self, a, b=2, *, c=3): return (a, b, c)
            @staticmethod
            def g(a): return -a
        def main(args):
            t = Chare(Target, onPE=1)
            print(t.f(1, ret=True).get(), t.f(b=5, a=4, ret=True).get(), t.f(1, c=9, ret=True).get(), t.g(7, ret=True).get())
            for bad in (lambda: t.f(), lambda: t.f(1, 2, 3), lambda: t.f(1, d=4), lambda: t.g(1, 2)):
                try:
                    bad()
                except TypeError as e:
                    print("TypeError", e)
            try:
                t.h()
            except AttributeError as e:
                print("AttributeError", e)
            exit()
        charm.start(main)
    """
    check(
        run(program),
        """
        (1, 2, 3) (4, 5, 3) (1, 2, 9) -7
        TypeError Target.f() is missing a required argument: 'a': it takes (a, b=2, *, c=3)
        TypeError Target.f() takes 2 positional arguments, and was given 3: it takes (a, b=2, *, c=3)
        TypeError Target.f() got an unexpected keyword argument 'd': it takes (a, b=2, *, c=3)
        TypeError Target.g() takes 1 positional argument, and was given 2: it takes (a)
        AttributeError Target has no entry method h
        """,
    )


def test_a_parameter_that_every_call_takes_itself_is_filled_by_position_only(run: Run) -> None:
    program = """
        class Named(Chare):
            def f(self, ret): return -ret
            def g(self, x, awaitable=1): return x
            def own(self): return self.f(ret=6)
        def main(args):
            named = Chare(Named, onPE=1)
            print(named.f(5, ret=True).get(), named.own(ret=True).get())
            for bad in (lambda: named.f(ret=5), lambda: named.g(1)):
                try:
                    bad()
                except TypeError as e:
                    print("TypeError", e)
            exit()
        charm.start(main)
    """
    check(
        run(program),
        """
        -5 -6
        TypeError Named.f() has a parameter 'ret', a keyword that every call takes itself: pass it by position, or rename it
        TypeError Named.g() has a parameter 'awaitable', a keyword that every call takes itself: pass it by position, or rename it
        """,
    )


def test_single_chares_are_spread_and_know_themselves(run: Run) -> None:
    program = """
        class One(Chare):
            def __init__(self, name): self.name = name
            def who(self): return self.name, self.thisIndex, charm.myPe(), self.thisProxy.name_of(ret=True) is not None
            def name_of(self): return self.name
        def main(args):
            ones = [Chare(One, args=[i]) for i in range(3)]
            print([one.who(ret=True).get() for one in ones], Chare(One, args=["x"], onPE=1).who(ret=True).get())
            exit()
        charm.start(main)
    """
    check(run(program), "[(0, (0,), 0, True), (1, (0,), 1, True), (2, (0,), 0, True)] ('x', (0,), 1, True)")


def test_an_array_is_filled_by_hand_and_calls_wait_for_their_elements(run: Run) -> None:
    program = """
        class Item(Chare):
            def __init__(self, x): self.x = x
            def get(self): return self.thisIndex, self.x
        class Filler(Chare):
            def fill(self, array): array.ckInsert((charm.myPe(), 7), [charm.myPe() * 10])
        def main(args):
            items = Array(Item, ndims=2)
            early = items[1, 7].get(ret=True)
            Group(Filler).fill(items, awaitable=True).get()
            items.ckInsert((5, 5), [55], onPE=1)
            items.ckDoneInserting()
            print(early.get(), items.get(ret=True).get())
            exit()
        charm.start(main)
    """
    check(run(program), "((1, 7), 10) [((0, 7), 0), ((1, 7), 10), ((5, 5), 55)]")


def test_a_map_places_the_elements_of_an_array(run: Run) -> None:
    program = """
        class Backwards(ArrayMap):
            def procNum(self, index): return charm.numPes() - 1 - index[0] % charm.numPes()
        class Item(Chare):
            def where(self): return charm.myPe()
        def main(args):
            items = Array(Item, 5, map=Group(Backwards))
            print(items.where(ret=True).get())
            exit()
        charm.start(main)
    """
    check(run(program), "[1, 0, 1, 0, 1]")


def test_a_group_may_be_on_some_pes_only(run: Run) -> None:
    program = """
        class Member(Chare):
            def where(self): return self.thisIndex, charm.myPe()
        def main(args):
            some = Group(Member, onPEs=[2, 0])
            print(some.where(ret=True).get(), some[2].where(ret=True).get())
            print(some.issec(), some[2].issec(), Group(Member).issec())
            exit()
        charm.start(main)
    """
    check(run(program, 3), "[(0, 0), (2, 2)] (2, 2)\nTrue False False")


def test_what_does_not_exist_is_refused_at_the_callers_line(run: Run) -> None:
    program = """
        class Cell(Chare):
            def f(self): pass
        def main(args):
            cells, group = Array(Cell, (2, 3)), Group(Cell)
            for bad in (lambda: cells[2, 0], lambda: cells[1], lambda: group[2], lambda: Chare(Cell, onPE=9),
                        lambda: Group(Cell, onPEs=[5]), lambda: cells["x"], lambda: cells[1, 2**40], lambda: group[-1],
                        lambda: Array(Cell, (2, -1)), lambda: Cell()):
                try:
                    bad()
                except Exception as e:
                    print(type(e).__name__, e)
            exit()
        charm.start(main)
    """
    check(
        run(program),
        """
        IndexError there is no element (2, 0) in <array of Cell>
        IndexError there is no element 1 in <array of Cell>
        IndexError there is no element 2 in <group of Cell>
        ValueError there is no PE 9: the job has 2
        ValueError there is no PE 5: the job has 2
        TypeError an index is an int or a tuple of ints, not x
        IndexError an index is between -2^31 and 2^31, not (1, 1099511627776)
        IndexError there is no element -1 in <group of Cell>
        ValueError an array cannot have the dimensions [2, -1]
        TypeError chares are made by Chare(), Group() and Array(), not by calling Cell (in a unit test: charm4py.testing.unit(Cell))
        """,
    )


def test_proxies_and_their_methods_travel_compare_and_hash(run: Run) -> None:
    program = """
        import pickle
        class Cell(Chare):
            def same(self, all, one, method, in_dict):
                assert in_dict[one] == 1 and {all: 2}[self.thisProxy] == 2
                return all == self.thisProxy and one == self.thisProxy[self.thisIndex] and method == one.same
        def main(args):
            cells = Array(Cell, 4)
            for i in range(4):
                p = cells[i]
                copy = pickle.loads(pickle.dumps({"all": cells, "one": p, "m": p.same}))
                assert copy == {"all": cells, "one": p, "m": p.same} and hash(copy["m"]) == hash(p.same)
                print(i, p.same(cells, p, p.same, {p: 1}, ret=True).get())
            assert cells[0] != cells[1] and cells[0].same != cells[1].same and cells != Group(Cell)
            exit()
        charm.start(main)
    """
    check(run(program), "0 True\n1 True\n2 True\n3 True")


@pytest.mark.parametrize("pes", [1, 2])
def test_an_answer_is_wanted_by_keyword_and_is_given_for_every_kind_of_call(run: Run, pes: int) -> None:
    program = """
    class Cell(Chare):
        def plain(self, x): return x
        @coro
        def slow(self, x):
            charm.sleep(0.001)
            return x
        async def later(self, x): return x
        @when("x > 0")
        def held(self, x): return x
    def main(args):
        for proxy in (Group(Cell), Array(Cell, 3), Chare(Cell), Group(Cell, onPEs=[charm.numPes() - 1])):
            for name in ("plain", "slow", "later", "held"):
                call = getattr(proxy, name)
                assert call(1) is None and call(1, ret=False) is None and call(1, awaitable=False) is None
                assert call(1, awaitable=True).get() is None
                value = call(7, ret=True, awaitable=True).get()
                assert value == 7 or value == [7] * len(value), value
        print("done")
        exit()
    charm.start(main)
    """
    check(run(program, pes), "done")


def test_a_call_back_may_be_any_method_of_any_proxy(run: Run) -> None:
    program = """
    class Cell(Chare):
        def hear(self, value=None): self.thisProxy[0].note(self.thisIndex, value)
        def note(self, index, value):
            log.append((index, value))
            if len(log) == 9: done.send(sorted(log, key=str))
        def tell(self, callback): callback("told")
    def main(args):
        global log, done
        log, done = [], Future()
        cells = Array(Cell, 4)
        charm.awaitCreation(cells)
        cells[3].tell(cells[2].hear)
        cells[0].tell(cells.hear)
        charm.startQD(cells.hear)
        print([value for _, value in done.get()].count("told"))
        exit()
    charm.start(main)
    """
    check(run(program), "5")


@pytest.mark.parametrize("pes", [1, 2])
def test_exceptions_of_a_broadcast_are_values_in_the_list_and_the_first_is_raised(run: Run, pes: int) -> None:
    program = """
    class Cell(Chare):
        @coro
        def odd(self):
            charm.sleep(0.001)
            if self.thisIndex[0] % 2: raise ValueError(self.thisIndex[0])
            return self.thisIndex[0]
        def exit_code(self): sys.exit("an end")
    def main(args):
        cells = Array(Cell, 4)
        got = cells.odd(ret=True).get()
        print([type(x).__name__ if isinstance(x, Exception) else x for x in got], "in odd" in got[1].remote_stacktrace)
        try:
            cells.odd(awaitable=True).get()
        except ValueError as e:
            print("raised", e)
        cells[0].exit_code(ret=True).get()
    charm.start(main)
    """
    ended = run(program, pes)
    assert ended.out == ["[0, 'ValueError', 2, 'ValueError'] True", "raised 1"] and (ended.code, ended.err) == (1, "an end\n")


def test_a_result_does_not_wait_behind_calls_in_the_queue_of_the_caller(run: Run, tmp_path: Path) -> None:
    program = f"""
        from pathlib import Path
        SENT = Path({str(tmp_path / "sent")!r})
        class Member(Chare):
            def __init__(self): self.ran = 0
            def echo(self, value):
                SENT.touch()
                return value
            def work(self):
                # All of them are in the queue before the result is sent.
                while not SENT.exists():
                    time.sleep(0.001)
                time.sleep(0.01)
                self.ran += 1
        def main(args):
            members = Group(Member)
            charm.awaitCreation(members)
            for _ in range(100):
                members[0].work()
            value = members[1].echo(5, ret=True).get()
            print(value, 0 < members.ckLocalBranch().ran < 100)
            exit()
        charm.start(main)
    """
    check(run(program, 2), "5 True")
