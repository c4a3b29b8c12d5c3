"""How groups, arrays, sections and single chares are destroyed."""

from __future__ import annotations

import pytest
from conftest import Run, check

CELL = """
    class Cell(Chare):
        ended = 0
        def __init__(self): self.told = 0
        def __del__(self): Cell.ended += 1
        def tell(self, by): self.told += by
        def get(self): return self.told
        def sum(self, done): self.reduce(done, self.told, Reducer.sum)
        def sum_of(self, done, section): self.reduce(done, self.told, Reducer.sum, section)
    class Count(Chare):
        def ended(self):
            import gc
            gc.collect()
            return Cell.ended
"""


@pytest.mark.parametrize("pes", [1, 2, 4])
def test_arrays_groups_and_sections_end_with_their_chares(run: Run, pes: int) -> None:
    program = CELL + """
    def main(args):
        count = Group(Count)
        array, group, filled = Array(Cell, 8), Group(Cell), Array(Cell, ndims=1)
        for i in range(5):
            filled.ckInsert(i)
        filled.ckDoneInserting()
        section = array[2:6]
        for proxy in array, group, filled:
            proxy.tell(1)
            done = Future()
            proxy.sum(done)
            print(done.get() if proxy != group else done.get() == charm.numPes())
        done = Future()
        section.sum_of(done, section)
        print(done.get())
        section.ckDestroy()
        print(sum(array.get(ret=True).get()))
        for proxy in array, group, filled:
            proxy.ckDestroy()
        charm.waitQD()
        print(sum(count.ended(ret=True).get()) == 8 + 5 + charm.numPes())
        exit()
    charm.start(main)
    """
    check(run(program, pes), "8\nTrue\n5\n4\n8\nTrue")


@pytest.mark.parametrize("pes", [1, 3])
def test_what_was_said_before_comes_first(run: Run, pes: int) -> None:
    program = """
    class Ear(Chare):
        def __init__(self): self.heard = []
        def hear(self, what): self.heard.append(what)
        def get(self): return sorted(self.heard)
    class Cell(Chare):
        def say(self, ear, what): ear.hear(what)
    def main(args):
        ear = Chare(Ear, onPE=0)
        for turn in range(20):
            cells = Array(Cell, 4)
            cells.say(ear, turn)
            cells[3].say(ear, turn)
            cells.ckDestroy()
        charm.waitQD()
        print(ear.get(ret=True).get() == sorted(list(range(20)) * 5))
        exit()
    charm.start(main)
    """
    check(run(program, pes), "True")


@pytest.mark.parametrize("pes", [1, 2])
def test_single_chares_and_elements_end_by_their_proxies(run: Run, pes: int) -> None:
    program = CELL + """
    def main(args):
        count = Group(Count)
        one, array = Chare(Cell, onPE=charm.numPes() - 1), Array(Cell, 4)
        array.tell(2)
        print(one.get(ret=True).get(), array[1].get(ret=True).get())
        one.ckDestroy()
        array[1].ckDestroy()
        charm.waitQD()
        print(array.get(ret=True).get())
        print(sum(count.ended(ret=True).get()))
        exit()
    charm.start(main)
    """
    check(run(program, pes), "0 2\n[2, 2, 2]\n2")


@pytest.mark.parametrize("pes", [1, 2])
def test_a_call_of_what_was_destroyed_ends_the_job_and_names_the_class(run: Run, pes: int) -> None:
    program = CELL + """
    def main(args):
        array = Array(Cell, 4)
        array.tell(1, awaitable=True).get()
        array.ckDestroy()
        charm.waitQD()
        array[3].tell(1)
        charm.waitQD()
    charm.start(main)
    """
    ended = run(program, pes)
    assert ended.code == 1
    assert "a collection of Cell has been destroyed (call of a method, found out on PE" in ended.err


def test_memory_of_arrays_that_come_and_go_is_used_again(run: Run) -> None:
    program = """
    import gc
    class Cell(Chare):
        def __init__(self): self.data = bytearray(1 << 16)
        def sum(self, done): self.reduce(done, 1, Reducer.sum)
    def resident():
        gc.collect()
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * 4096
    def main(args):
        def rounds(count):
            for _ in range(count):
                cells = Array(Cell, 8)
                section = cells[::2]
                done = Future()
                cells.sum(done)
                assert done.get() == 8
                cells.ckDestroy()
            charm.waitQD()
        rounds(50)
        before = resident()
        rounds(400)
        print((resident() - before) < (4 << 20))
        exit()
    charm.start(main)
    """
    check(run(program, 1), "True")
