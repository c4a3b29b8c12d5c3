"""What arrives is what was sent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import Run, check

ECHO = """
    class Echo(Chare):
        def back(self, value): return value
"""


def test_values_of_all_kinds_arrive_as_they_were(run: Run) -> None:
    program = ECHO + """
    import array, datetime, decimal
    from collections import namedtuple, OrderedDict
    Point = namedtuple("Point", "x y")
    class Odd:
        def __init__(self, x): self.x = x
        def __eq__(self, o): return self.x == o.x
    VALUES = [None, True, False, 0, -1, 2**62, -2**63, 2**63, 10**40, 1.5, float("inf"), "", "text \\u00e4 \\U0001F600", "\\ud800",
        b"", b"x" * 10, b"y" * 100_000, bytearray(b"z"), bytearray(b"w" * 5000), (), (1, (2, "x")), [], [1, [2.0, None]],
        {}, {"a": 1, 2: [3], (4, 5): {}}, {1, 2}, 1 + 2j, Point(1, 2), OrderedDict(a=1), datetime.date(2026, 1, 2),
        decimal.Decimal("1.10"), Odd([1]), array.array("d", [1.0, 2.0]), range(5), slice(1, 2), np.float64(2.5), np.int8(3)]
    def main(args):
        for pe in range(charm.numPes()):
            echo = Chare(Echo, onPE=pe)
            for value in VALUES:
                back = echo.back(value, ret=True).get()
                assert type(back) is type(value) and back == value, (value, back)
        print(len(VALUES))
        exit()
    charm.start(main)
    """
    check(run(program), "37")


def test_arrays_of_every_layout_arrive_with_the_right_elements_and_shape(run: Run) -> None:
    program = ECHO + """
    base = np.arange(6000, dtype="f8").reshape(20, 30, 10)
    readonly = base.copy(); readonly.flags.writeable = False
    ARRAYS = [base, np.asfortranarray(base), base[::2, 1:7, ::-1], base.T, np.array(5), np.array([]), np.zeros((0, 3)),
        np.arange(10), np.arange(10, dtype=">i4"), np.array(["a", None, 3], dtype=object), np.array([1, 2], dtype="i1"),
        np.ones(1000, bool), np.ones(50, "c16"), np.ones(50, "f2"), np.array(["x", "yz"]), readonly,
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), np.array(["2026-01-01"], "M8[D]"), np.ma.masked_array([1, 2], [0, 1]),
        np.arange(300_000, dtype="u2")]
    def main(args):
        for pe in range(charm.numPes()):
            echo = Chare(Echo, onPE=pe)
            for a in ARRAYS:
                b = echo.back(a, ret=True).get()
                assert type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b), (a, b)
            b = echo.back(base, ret=True).get()
            b[0] = -1  # what arrived is the receiver's alone
            assert base[0, 0, 0] == 0
        print(len(ARRAYS))
        exit()
    charm.start(main)
    """
    check(run(program), "20")


def test_buffers_travel_without_being_pickled(run: Run) -> None:
    program = """
    import array, pickle
    pickled, dumps = [], pickle.dumps
    def noting(value, **how):
        pickled.append(type(value).__name__)
        return dumps(value, **how)
    pickle.dumps = noting
    class Echo(Chare):
        def back(self, value): return value
        def pickled(self): return pickled
    class Framed:
        def __init__(self, data): self.data = data
        def __reduce_ex__(self, protocol): return Framed, (pickle.PickleBuffer(self.data),)
    def main(args):
        echo = Chare(Echo, onPE=charm.numPes() - 1)
        values = [array.array(kind, list(range(100)) * 3) for kind in "bBhHiIlLqQfd"] + [array.array("d"), array.array("i", [1]), b"x" * 5000,
            bytearray(b"y" * 5000), np.ones(500), np.asfortranarray(np.ones((20, 30))), np.arange(2000)[::3]]
        for value in values:
            back = echo.back(value, ret=True).get()
            assert type(back) is type(value) and np.array_equal(back, value), value
            if isinstance(value, array.array): assert back.typecode == value.typecode
        text = echo.back(array.array("u", "text" * 100), ret=True).get()
        assert text.tounicode() == "text" * 100
        pair = [values[0], values[0]]
        back = echo.back(pair, ret=True).get()
        assert back[0] is back[1]
        framed = echo.back(Framed(np.ones(1000, "u1")), ret=True).get()
        assert bytes(framed.data) == b"\\1" * 1000
        seen = pickled + ([] if charm.numPes() == 1 else echo.pickled(ret=True).get())
        print(sorted(set(seen)), len(seen))
        exit()
    charm.start(main)
    """
    # A small and an empty array, one of characters, a pair that is one object, and an object over a buffer: sent and returned.
    for pes in (1, 2):
        check(run(program, pes), "['Framed', 'array', 'list', 'tuple'] 10")


def test_what_occurs_twice_is_one_object_and_what_holds_itself_does(run: Run) -> None:
    program = """
    class Odd:
        def __init__(self, x): self.x = x
    class Test(Chare):
        def look(self, a, b, loop, arrays, odd, inside, future):
            future.send("through pickle")
            return a is b, loop[0] is loop, arrays[0] is arrays[1], odd[0] is odd[1], odd[0].x is inside
    def main(args):
        shared, loop, array = [1], [], np.arange(5)
        loop.append(loop)
        odd, future = Odd(array), Future()
        print(Chare(Test, onPE=1).look(shared, shared, loop, (array, array), [odd, odd], array, future, ret=True).get())
        print(future.get())
        exit()
    charm.start(main)
    """
    check(run(program), "(True, True, True, True, True)\nthrough pickle")


def test_arguments_are_copied_on_the_same_pe_too(run: Run) -> None:
    program = """
    class Test(Chare):
        def change(self, a, l):
            a[:] = 7
            l.append(1)
    def main(args):
        a, l = np.zeros(1000), []
        Group(Test).change(a, l, awaitable=True).get()
        Array(Test, 10).change(a, l, awaitable=True).get()
        print(a.sum(), l)
        exit()
    charm.start(main)
    """
    check(run(program), "0.0 []")


def test_a_broadcast_array_is_each_elements_own(run: Run) -> None:
    program = """
    class Cell(Chare):
        def take(self, a):
            a += self.thisIndex[0]
            self.a = a
        def sums(self): return float(self.a.sum())
    def main(args):
        cells = Array(Cell, 6)
        cells.take(np.zeros(10_000), awaitable=True).get()
        print(cells.sums(ret=True).get())
        exit()
    charm.start(main)
    """
    check(run(program), "[0.0, 10000.0, 20000.0, 30000.0, 40000.0, 50000.0]")


def test_a_value_that_cannot_be_sent_is_an_error_of_the_call(run: Run) -> None:
    program = ECHO + """
    class Bad(Chare):
        def __init__(self, a=0, b=0): pass
        def result(self): return lambda: 1
    def main(args):
        echo = Chare(Echo, onPE=1)
        try:
            echo.back(lambda: 1)
        except TypeError as e:
            print("call", str(e).split(": ")[0])
        try:
            Group(Bad, [1, sys.modules])
        except TypeError as e:
            print("constructor", str(e).split(": ")[0])
        try:
            Chare(Bad, onPE=1).result(ret=True).get()
        except TypeError as e:
            print("result", str(e).split(": ")[0])
        print(echo.back(1, ret=True).get())
        exit()
    charm.start(main)
    """
    check(run(program), """
        call the argument value of Echo.back cannot be sent
        constructor the argument b of Bad.__init__ cannot be sent
        result the result cannot be sent
        1
        """)


def available_gib() -> float:
    """The available memory of the machine."""
    kib = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
    return int(kib[1]) / 2**20 if kib else 0


@pytest.mark.parametrize("gib", [2.25, 4.25])
def test_arrays_larger_than_lengths_of_32_bits_travel_there_and_back(run: Run, gib: float) -> None:
    if available_gib() < 3 * gib + 1:
        pytest.skip(f"needs {3 * gib + 1} GiB of memory")
    program = f"""
    class There(Chare):
        def take(self, array):
            return array.nbytes, array[[0, 2**31, -1]].tolist(), array.dtype.str
        def give(self, length):
            return marked(length)
    def marked(length):
        array = np.empty(length, np.uint8)
        array[[0, 2**31, -1]] = 5, 6, 7
        return array
    def main(args):
        length = int({gib} * 2**30)
        there = Chare(There, onPE=1)
        print(there.take(marked(length), ret=True).get() == (length, [5, 6, 7], "|u1"))
        back = there.give(length, ret=True).get()
        print(back.nbytes == length, back[[0, 2**31, -1]].tolist())
        exit()
    charm.start(main)
    """
    ended = run(program)
    assert (ended.code, ended.out) == (0, ["True", "True [5, 6, 7]"]), ended.err


def test_arrays_that_arrive_own_their_memory_and_can_be_resized(run: Run) -> None:
    program = """
    import gc, threading
    import numpy as np
    BY_NUMPY = tuple(map(int, np.__version__.split(".")[:2])) >= (1, 22)
    class Cell(Chare):
        def take(self, a, fortran):
            owns = a.nbytes <= 4096 or BY_NUMPY
            assert a.flags.owndata == owns and a.flags.writeable and a.flags.f_contiguous == fortran
            total = a.sum()
            if not owns:
                return total, (1000,), total
            a.resize((1000,), refcheck=False)
            a = a.copy()
            return total, a.shape, a.sum()
        def keep(self, a):
            self.kept = a
        def drop(self):
            # On another thread, and after NumPy has reallocated its memory.
            total = self.kept.sum()
            if BY_NUMPY:
                self.kept.resize(self.kept.size * 2, refcheck=False)
                self.kept.resize(10, refcheck=False)
            def end():
                del self.kept
                gc.collect()
            thread = threading.Thread(target=end)
            thread.start()
            thread.join()
            return total
    def main(args):
        for pe in range(charm.numPes()):
            cell = Chare(Cell, onPE=pe)
            fortran = np.asfortranarray(np.arange(12).reshape(3, 4))
            long = np.arange(900.0).reshape(30, 30)
            for a in np.arange(12.0).reshape(3, 4), fortran, np.zeros((2, 0, 3)), np.array(5.0), long, long.T:
                total, shape, after = cell.take(a, a.flags.f_contiguous, ret=True).get()
                assert (total, shape, after) == (a.sum(), (1000,), a.sum()), (total, shape, after)
            for length in 511, 512, 513, 2**17 + 1, 2**20:
                a = np.arange(length, dtype="f8")
                cell.keep(a)
                assert cell.drop(ret=True).get() == a.sum()
        print("done")
        exit()
    charm.start(main)
    """
    for pes in (1, 2):
        check(run(program, pes), "done")
