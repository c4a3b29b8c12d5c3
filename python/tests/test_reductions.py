"""Reductions, quiescence, timers."""

from __future__ import annotations

import pytest
from conftest import Run, check


@pytest.mark.parametrize("pes", [1, 3])
def test_reducers_do_what_their_names_say(run: Run, pes: int) -> None:
    program = """
    def longest(parts): return max(parts, key=len)
    Reducer.addReducer(longest, pre=lambda data, chare: data + "!", post=lambda value: value.upper())
    class Cell(Chare):
        def part(self, done, name, data):
            self.reduce(done, data(self.thisIndex[0]) if callable(data) else data, getattr(Reducer, name))
        def run(self, done, name):
            i = self.thisIndex[0]
            data = {"sum": i, "product": i + 1, "min": -i, "max": float(i), "logical_and": i < 5, "logical_or": i == 2,
                    "logical_xor": i < 3, "gather": "abcd"[i], "longest": "x" * i}[name]
            self.reduce(done, data, getattr(Reducer, name))
        def mixed(self, done): self.reduce(done, 1 if self.thisIndex[0] else 0.5, Reducer.sum)
        def arrays(self, done): self.reduce(done, np.full((3, 2), self.thisIndex[0]), Reducer.sum)
        def lists(self, done): self.reduce(done, [self.thisIndex[0], 1], Reducer.max)
        def barrier(self, done): self.reduce(done)
    def main(args):
        cells = Array(Cell, 4)
        for name in ("sum", "product", "min", "max", "logical_and", "logical_or", "logical_xor", "gather", "longest"):
            f = Future()
            cells.run(f, name)
            print(name, f.get())
        for method in ("mixed", "arrays", "lists", "barrier"):
            f = Future()
            getattr(cells, method)(f)
            value = f.get()
            print(method, value.tolist() if isinstance(value, np.ndarray) else value)
        exit()
    charm.start(main)
    """
    check(
        run(program, pes),
        """
        sum 6
        product 24
        min -3
        max 3.0
        logical_and True
        logical_or True
        logical_xor True
        gather ['a', 'b', 'c', 'd']
        longest XXX!
        mixed 3.5
        arrays [[6, 6], [6, 6], [6, 6]]
        lists [3, 1]
        barrier None
        """,
    )


def test_results_go_to_methods_of_elements_and_of_collections(run: Run) -> None:
    program = """
    class Cell(Chare):
        def go(self, one, done):
            self.done = done
            self.contribute(self.thisIndex[0], Reducer.sum, one)
            self.contribute(1, Reducer.sum, self.thisProxy.all)
        def one(self, total): self.done.send(("one", self.thisIndex, total))
        def all(self, total): self.done.send(("all", self.thisIndex, total))
    def main(args):
        cells = Array(Cell, 3)
        done = Future(4)
        cells.go(cells[1].one, done)
        print(sorted(done.get()))
        exit()
    charm.start(main)
    """
    check(run(program), "[('all', (0,), 3), ('all', (1,), 3), ('all', (2,), 3), ('one', (1,), 3)]")


def test_every_contributor_sees_the_results_in_one_order(run: Run) -> None:
    program = """
    class Cell(Chare):
        @coro
        def run(self, n):
            futures = [self.allreduce(i, Reducer.sum) for i in range(n)]
            got = [f.get() for f in futures]
            self.allreduce().get()
            return got == [i * 4 for i in range(n)]
    def main(args):
        print(Array(Cell, 4).run(50, ret=True).get())
        exit()
    charm.start(main)
    """
    check(run(program, 3), "[True, True, True, True]")


def test_what_was_contributed_may_be_changed_at_once(run: Run) -> None:
    program = """
    class Cell(Chare):
        def run(self, done):
            a = np.ones(5000)
            self.reduce(done, a, Reducer.sum)
            a[:] = 100
    def main(args):
        f = Future()
        Array(Cell, 4).run(f)
        print(f.get().sum())
        exit()
    charm.start(main)
    """
    check(run(program), "20000.0")


def test_quiescence_comes_when_nothing_is_left_to_do(run: Run) -> None:
    program = """
    class Ball(Chare):
        def __init__(self): self.count = 0
        def bounce(self, n):
            self.count += 1
            if n: self.thisProxy[1 - charm.myPe()].bounce(n - 1)
        def total(self): return self.count
    def main(args):
        balls = Group(Ball)
        balls[0].bounce(1000)
        charm.waitQD()
        print(sum(balls.total(ret=True).get()))
        balls[1].bounce(10)
        f = Future()
        charm.startQD(f)
        f.get()
        print(sum(balls.total(ret=True).get()))
        exit()
    charm.start(main)
    """
    check(run(program), "1001\n1012")


def test_timers_call_when_their_time_has_come(run: Run) -> None:
    program = """
    def main(args):
        log, f = [], Future()
        charm.scheduleCallableAfter(lambda x: (log.append(x), f.send()), 0.1, ["late"])
        charm.scheduleCallableAfter(log.append, 0.01, ["early"])
        f.get()
        print(log)
        exit()
    charm.start(main)
    """
    check(run(program), "['early', 'late']")


@pytest.mark.parametrize("pes", [1, 2, 4])
def test_contributions_of_all_kinds_are_merged_and_keep_their_shape(run: Run, pes: int) -> None:
    program = """
    class Vector:
        def __init__(self, x): self.x = x
        def __add__(self, other): return Vector(self.x + other.x)
    class Cell(Chare):
        def give(self, f, which):
            i = self.thisIndex[0]
            data = {"shape": np.full((2, 3, 2), i), "mixed": np.full(3, i) if i else np.full(3, 0.5), "fortran": np.asfortranarray(np.full((2, 3), i)),
                "bools": i > 0, "big": 10 ** 30, "complex": 1 + 1j, "object": Vector(i), "float": 0.5 if i else 1, "nothing": None}[which]
            if which == "nothing": self.reduce(f)
            elif which == "bools": self.contribute(data, Reducer.logical_and, f)
            else: self.contribute(data, Reducer.sum, f)
    def main(args):
        cells = Array(Cell, 5)
        for which in ("shape", "mixed", "fortran", "bools", "big", "complex", "object", "float", "nothing"):
            f = Future()
            cells.give(f, which)
            got = f.get()
            if isinstance(got, np.ndarray): got = got.shape, got.dtype.kind, got.ravel()[0].item()
            print(which, getattr(got, "x", got))
        exit()
    charm.start(main)
    """
    check(
        run(program, pes),
        """
        shape ((2, 3, 2), 'i', 10)
        mixed ((3,), 'f', 10.5)
        fortran ((2, 3), 'i', 10)
        bools False
        big 5000000000000000000000000000000
        complex (5+5j)
        object 10
        float 3.0
        nothing None
        """,
    )


def test_any_number_of_reductions_is_in_flight_and_each_goes_where_it_was_sent(run: Run) -> None:
    program = """
    class Cell(Chare):
        def burst(self, n, futures):
            for i in range(n):
                self.reduce(futures[i], (self.thisIndex[0] if i % 2 else 1), Reducer.max if i % 3 == 0 else Reducer.sum)
    def main(args):
        cells, n = Array(Cell, 6), 200
        futures = [Future() for _ in range(n)]
        cells.burst(n, futures)
        expected = [[6, 15], [1, 5]]
        print(all(f.get() == expected[i % 3 == 0][i % 2] for i, f in enumerate(futures)))
        exit()
    charm.start(main)
    """
    check(run(program, 3), "True")


def test_a_result_may_go_to_another_collection_and_to_one_of_its_members(run: Run) -> None:
    program = """
    class Watcher(Chare):
        def __init__(self, done): self.done = done
        def see(self, result): self.done.send((self.thisIndex, result.tolist()))
        def barrier(self): self.done.send((self.thisIndex, "barrier"))
    class Cell(Chare):
        def go(self, all, one):
            self.reduce(all.see, np.array([1, self.thisIndex[0]]), Reducer.sum)
            self.reduce(one.see, np.array([self.thisIndex[0]]), Reducer.max)
            self.reduce(one.barrier)
            # As in a program of charm4py.
            self.reduce(one.barrier, Reducer.nop)
    def main(args):
        done = Future(5)
        watchers = Group(Watcher, [done])
        Array(Cell, 3).go(watchers, watchers[1])
        print(sorted(done.get(), key=str))
        exit()
    charm.start(main)
    """
    check(run(program), "[(0, [3, 3]), (1, 'barrier'), (1, 'barrier'), (1, [2]), (1, [3, 3])]")


def test_wrong_contributions_are_refused_where_they_are_made(run: Run) -> None:
    program = """
    class Cell(Chare):
        def go(self):
            found = []
            for wrong in (lambda: self.reduce(print), lambda: self.reduce(Future(), 1), lambda: self.reduce(Future(), Reducer.sum), lambda: self.reduce(Future(), 1, "sum"),
                          lambda: self.reduce(Future(), lambda: 1, Reducer.gather), lambda: Reducer.nothing):
                try:
                    wrong()
                except (TypeError, AttributeError) as e:
                    found.append(str(e).split(",")[0].split(":")[0])
            return found
    def main(args):
        for line in Chare(Cell).go(ret=True).get(): print(line)
        exit()
    charm.start(main)
    """
    check(
        run(program, 1),
        """
        a callback is a future or a method of a proxy
        data without a reducer
        data without a reducer
        'sum' is no reducer
        the data cannot be sent
        there is no reducer 'nothing'; Reducer.addReducer adds one
        """,
    )


@pytest.mark.parametrize("pes", [1, 2, 4])
def test_results_are_acted_on_in_the_order_of_the_reductions_whatever_their_targets_are(run: Run, pes: int) -> None:
    ended = run(
        """
        class A(Chare):
            def go(self, f, g):
                self.reduce(self.thisProxy[0].show, 1, Reducer.sum)
                self.reduce(f)
                self.reduce(self.thisProxy[0].show, 10, Reducer.sum)
                self.reduce(g)

            def show(self, x):
                print("show", x)

        def main(args):
            f, g = Future(), Future()
            Array(A, 4).go(f, g)
            f.get()
            print("first")
            g.get()
            exit()

        charm.start(main)
        """,
        pes=pes,
    )
    assert (ended.code, ended.out) == (0, ["show 4", "first", "show 40"])


@pytest.mark.parametrize("pes", [1, 2, 4])
def test_a_call_after_an_allreduce_finds_its_result(run: Run, pes: int) -> None:
    ended = run(
        """
        class A(Chare):
            def __init__(self):
                self.done = 0

            @coro
            def go(self, f):
                for _ in range(50):
                    self.allreduce(1, Reducer.sum).get()
                    self.done += 1
                if self.thisIndex[0] == 7:
                    f.send()

            def see(self):
                return self.done

        def main(args):
            a = Array(A, 8)
            for times in range(1, 6):
                f = Future()
                a.go(f)
                f.get()
                assert a.see(ret=True).get() == [50 * times] * 8
            exit()

        charm.start(main)
        """,
        pes=pes,
    )
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("pes", [1, 3])
def test_sequences_of_numbers_are_reduced_element_by_element_to_arrays(run: Run, pes: int) -> None:
    program = """
    from array import array
    from collections import namedtuple
    Pair = namedtuple("Pair", "x y")
    class Vector(Pair):
        def __add__(self, other): return Vector(self.x + other.x, self.y + other.y)
    class Cell(Chare):
        def give(self, f, reducer, which):
            i = self.thisIndex[0]
            data = {"floats": [1.0, 2.0], "tuple": (1, i), "array": array("i", [0, 8, 3]), "bytes": array("b", [1, 2]), "mixed": [1, 2.5], "truths": [True, i > 1],
                "nested": [[1, 2], [3, i]], "empty": [], "long": list(range(1000)), "pair": Pair(1, i), "vector": Vector(1, i), "big": [10 ** 30, 1],
                "texts": ["a", "b"], "ragged": [[1], [2, i]], "complex": [1j, i], "range": range(3)}[which]
            self.reduce(f, data, reducer)
    def main(args):
        cells = Array(Cell, 4), Array(Cell, 1)
        for reducer, which in [(Reducer.sum, "floats tuple array bytes mixed truths nested empty long pair vector big texts ragged complex range"),
                (Reducer.product, "truths"), (Reducer.max, "tuple array texts"), (Reducer.logical_and, "truths tuple"), (Reducer.gather, "tuple"),
                (Reducer.min, "pair")]:
            for which in which.split():
                for cell in cells:
                    f = Future()
                    cell.give(f, reducer, which)
                    got = f.get()
                    if which == "long": got = got[:3]
                    print(reducer, which, type(got).__name__, *[got.tolist(), got.dtype] if isinstance(got, np.ndarray) else [got])
        exit()
    charm.start(main)
    """
    check(
        run(program, pes),
        """
        Reducer.sum floats ndarray [4.0, 8.0] float64
        Reducer.sum floats ndarray [1.0, 2.0] float64
        Reducer.sum tuple ndarray [4, 6] int64
        Reducer.sum tuple ndarray [1, 0] int64
        Reducer.sum array ndarray [0, 32, 12] int32
        Reducer.sum array ndarray [0, 8, 3] int32
        Reducer.sum bytes ndarray [4, 8] int8
        Reducer.sum bytes ndarray [1, 2] int8
        Reducer.sum mixed ndarray [4.0, 10.0] float64
        Reducer.sum mixed ndarray [1.0, 2.5] float64
        Reducer.sum truths ndarray [4, 2] int64
        Reducer.sum truths ndarray [1, 0] int64
        Reducer.sum nested ndarray [[4, 8], [12, 6]] int64
        Reducer.sum nested ndarray [[1, 2], [3, 0]] int64
        Reducer.sum empty ndarray [] float64
        Reducer.sum empty ndarray [] float64
        Reducer.sum long ndarray [0, 4, 8] int64
        Reducer.sum long ndarray [0, 1, 2] int64
        Reducer.sum pair ndarray [4, 6] int64
        Reducer.sum pair ndarray [1, 0] int64
        Reducer.sum vector Vector Vector(x=4, y=6)
        Reducer.sum vector Vector Vector(x=1, y=0)
        Reducer.sum big ndarray [4000000000000000000000000000000, 4] object
        Reducer.sum big ndarray [1000000000000000000000000000000, 1] object
        Reducer.sum texts list ['aaaa', 'bbbb']
        Reducer.sum texts list ['a', 'b']
        Reducer.sum ragged list [[4], [8, 6]]
        Reducer.sum ragged list [[1], [2, 0]]
        Reducer.sum complex ndarray [4j, (6+0j)] complex128
        Reducer.sum complex ndarray [1j, 0j] complex128
        Reducer.sum range ndarray [0, 4, 8] int64
        Reducer.sum range ndarray [0, 1, 2] int64
        Reducer.product truths ndarray [1, 0] int64
        Reducer.product truths ndarray [1, 0] int64
        Reducer.max tuple ndarray [1, 3] int64
        Reducer.max tuple ndarray [1, 0] int64
        Reducer.max array ndarray [0, 8, 3] int32
        Reducer.max array ndarray [0, 8, 3] int32
        Reducer.max texts list ['a', 'b']
        Reducer.max texts list ['a', 'b']
        Reducer.logical_and truths ndarray [True, False] bool
        Reducer.logical_and truths ndarray [True, False] bool
        Reducer.logical_and tuple ndarray [True, False] bool
        Reducer.logical_and tuple ndarray [True, False] bool
        Reducer.gather tuple list [(1, 0), (1, 1), (1, 2), (1, 3)]
        Reducer.gather tuple list [(1, 0)]
        Reducer.min pair ndarray [1, 0] int64
        Reducer.min pair ndarray [1, 0] int64
        """,
    )


@pytest.mark.parametrize("pes", [1, 3])
def test_arrays_without_dimensions_and_truth_values_are_reduced_as_numbers(run: Run, pes: int) -> None:
    program = """
    class Cell(Chare):
        def give(self, f, reducer, which):
            i = self.thisIndex[0]
            self.reduce(f, {"zero": np.array(1.5), "int": np.array(i, "i2"), "numpy": np.float32(2), "truth": i < 2, "truths": np.array([True, i < 2]),
                "number": i + 1}[which], reducer)
    def main(args):
        for count in (4, 1):
            cells = Array(Cell, count)
            for reducer, which in [("sum", "zero"), ("max", "int"), ("sum", "numpy"), ("sum", "truth"), ("sum", "truths"), ("logical_or", "number"), ("logical_xor", "zero")]:
                f = Future()
                cells.give(f, getattr(Reducer, reducer), which)
                got = f.get()
                print(count, reducer, which, got, np.shape(got), getattr(got, "dtype", type(got).__name__))
        exit()
    charm.start(main)
    """
    check(
        run(program, pes),
        """
        4 sum zero 6.0 () float64
        4 max int 3 () int16
        4 sum numpy 8.0 () float32
        4 sum truth 2 () int
        4 sum truths [4 2] (2,) int64
        4 logical_or number True () bool
        4 logical_xor zero False () bool
        1 sum zero 1.5 () float64
        1 max int 0 () int16
        1 sum numpy 2.0 () float32
        1 sum truth 1 () int
        1 sum truths [1 1] (2,) int64
        1 logical_or number True () bool
        1 logical_xor zero True () bool
        """,
    )


def test_reducers_of_one_name_do_not_replace_each_other(run: Run) -> None:
    program = """
    first, second = Reducer.addReducer(lambda parts: sum(parts)), Reducer.addReducer(lambda parts: max(parts))
    def made(power): return Reducer.addReducer(lambda parts: sum(part ** power for part in parts))
    ones, squares = made(1), made(2)
    def largest(parts): return max(parts)
    Reducer.addReducer(largest)
    class Cell(Chare):
        def go(self, f, reducer): self.reduce(f, self.thisIndex[0] + 1, reducer)
        def named(self, f): self.reduce(f, self.thisIndex[0], largest)
    def main(args):
        cells = Array(Cell, 4)
        for reducer in (first, second, ones):
            f = Future()
            cells.go(f, reducer)
            print(f.get())
        f = Future()
        Array(Cell, 2).go(f, squares)
        print(f.get())
        f = Future()
        cells.named(f)
        print(f.get())
        exit()
    charm.start(main)
    """
    check(run(program, 3), "10\n4\n10\n5\n3")


def test_reducers_are_arguments_and_results(run: Run) -> None:
    program = """
    import pickle
    mine = Reducer.addReducer(lambda parts: parts[0] + parts[1])
    class Cell(Chare):
        def same(self, *reducers): return [reducer is known for reducer, known in zip(reducers, (Reducer.sum, mine))], reducers
        def go(self, options): self.reduce(options["to"], 2, options["by"])
    def main(args):
        print(Chare(Cell, onPE=1).same(Reducer.sum, mine, ret=True).get())
        f = Future()
        Array(Cell, 3).go({"by": Reducer.product, "to": f})
        print(f.get(), pickle.loads(pickle.dumps(mine)) is mine)
        late = Reducer.addReducer(max)
        try:
            Chare(Cell, onPE=1).same(late, ret=True).get()
        except Charm4PyError as e:
            print(e)
        exit()
    from charm4py.charm import Charm4PyError
    charm.start(main)
    """
    check(
        run(program),
        """
        ([True, True], (Reducer.sum, Reducer.<lambda>))
        8 True
        Reducer.max is not known on this PE: add it at module level, where every PE does so
        """,
    )
