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
    assert "a collection of Cell has been destroyed (call of tell, found out on PE" in ended.err


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


def test_who_waits_for_a_call_of_what_is_gone_gets_an_exception(run: Run) -> None:
    program = """
    class Cell(Chare):
        def who(self, *args): return self.thisIndex
        @coro
        def tries(self, cells, index):
            try:
                return cells[index].who(1, ret=True).get()
            except Exception as e:
                return f"{type(e).__name__} {e}"

    def tries(what, call):
        try:
            print(what, call().get())
        except Exception as e:
            print(what, type(e).__name__, str(e).replace(f"PE {charm.numPes() - 1}", "PE n").replace("PE 0", "PE n"))

    def main(args):
        cells, bounded, single = Array(Cell, ndims=1), Array(Cell, 3), Chare(Cell)
        for i in range(4):
            cells.ckInsert(i, onPE=charm.numPes() - 1)
        cells.ckDoneInserting()
        charm.awaitCreation(cells, bounded, single)
        print(cells[0].tries(cells, 2, ret=True).get())
        cells[2].ckDestroy(), bounded[1].ckDestroy(), single.ckDestroy()
        charm.waitQD()
        print("Charm4PyError" in cells[0].tries(cells, 2, ret=True).get())
        tries("destroyed", lambda: cells[2].who(ret=True))
        tries("never there", lambda: cells[9].who(ret=True))
        tries("awaitable", lambda: bounded[1].who(awaitable=True))
        tries("large", lambda: bounded[1].who(b"x" * (2 << 20), ret=True))
        tries("keywords", lambda: cells[2].tries(index=1, cells=cells, ret=True))
        tries("single", lambda: single.who(ret=True))
        bounded.ckDestroy()
        charm.waitQD()
        tries("collection", lambda: bounded[2].who(ret=True))
        tries("all", lambda: bounded.who(ret=True))
        cells[2].who()
        charm.sleep(60)

    charm.start(main)
    """
    for pes in (1, 2):
        ended = run(program, pes)
        missing = "Charm4PyError Cell[{}] does not exist (call of {}, found out on PE n)"
        gone = "Charm4PyError a collection of Cell has been destroyed (call of {}, found out on PE n)"
        assert ended.out == [
            "(2,)",
            "True",
            f"destroyed {missing.format(2, 'who')}",
            f"never there {missing.format(9, 'who')}",
            f"awaitable {missing.format(1, 'who')}",
            f"large {missing.format(1, 'who')}",
            f"keywords {missing.format(2, 'tries')}",
            f"single {missing.format(0, 'who')}",
            f"collection {gone.format('who')}",
            f"all {gone.format('a method')}",
        ], (ended.out, ended.err)
        assert ended.code == 1 and "error[1]: Cell[2] does not exist (call of who, " in ended.err, ended.err
