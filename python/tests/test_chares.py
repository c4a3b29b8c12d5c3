"""The attributes of chares, and where chares may be created."""

from __future__ import annotations

import pytest
from conftest import Run, check


@pytest.mark.parametrize("pes", [1, 2])
def test_every_method_but_the_runtimes_own_is_an_entry_method(run: Run, pes: int) -> None:
    program = """
    import functools
    class Base:
        def inherited(self): return "inherited"
    class Mixed(Base):
        def replaced(self): return "base"
    class Cell(Chare, Mixed):
        partial = functools.partial(int, "7")
        class Callable:
            def __call__(self): return "object"
        thing = Callable()
        constant = 5
        def __init__(self): self.calls = []
        def __call__(self): return "dunder"
        @staticmethod
        def static(x, y=2): return x + y
        @property
        def prop(self): return 1
        def _private(self): return "private"
        def replaced(self): return super().replaced() + " and own"
        def idx(self, index): return index * 2
        def name(self, proxy, args, kwargs, target): return [proxy, args, kwargs, target]
        def own(self): return self.partial(), self.thing(), self.prop, self(), self.static(5), self._private()
        def many(self, *args, **kwargs): return args, sorted(kwargs.items())
    def main(args):
        cell = Chare(Cell, onPE=charm.numPes() - 1)
        for name in ("inherited", "replaced", "_private", "own", "many"):
            print(name, getattr(cell, name)(ret=True).get())
        print(cell.static(1, ret=True).get(), cell.static(1, y=5, ret=True).get(), cell.idx(index=4, ret=True).get())
        print(cell.name(1, 2, kwargs=3, target=4, ret=True).get(), cell.many(1, 2, self_=3, ret=True).get())
        print([name for name in ("partial", "thing", "constant", "prop", "__call__", "reduce", "nothing") if hasattr(cell, name)])
        exit()
    charm.start(main)
    """
    check(
        run(program, pes),
        """
        inherited inherited
        replaced base and own
        _private private
        own (7, 'object', 1, 'dunder', 7, 'private')
        many ((), [])
        3 6 8
        [1, 2, 3, 4] ((1, 2), [('self_', 3)])
        []
        """,
    )


@pytest.mark.parametrize("pes", [1, 2, 4])
def test_chares_of_all_kinds_are_made_on_any_pe_and_in_constructors_too(run: Run, pes: int) -> None:
    program = """
    class Leaf(Chare):
        def __init__(self, x=0): self.x = x
        def get(self): return self.thisIndex, self.x
    class Maker(Chare):
        def __init__(self):
            self.early = Array(Leaf, 2, args=[charm.myPe()]), Group(Leaf, [5]), Chare(Leaf, [6])
        @coro
        def make(self):
            array, group, single = Array(Leaf, (2, 1), args=[1]), Group(Leaf, args=[2]), Chare(Leaf, args=[3])
            charm.awaitCreation(array, group, single)
            charm.awaitCreation(group)
            got = [p.get(ret=True).get() for p in (array, group[charm.numPes() - 1], single)]
            assert [p.get(ret=True).get() for p in self.early][2] == ((0,), 6)
            assert len(self.early[1].get(ret=True).get()) == charm.numPes()
            assert group.ckLocalBranch().x == 2
            return got
    def main(args):
        makers = Group(Maker)
        answers = makers.make(ret=True).get()
        print(len(answers), answers[-1] == [[((0, 0), 1), ((1, 0), 1)], (charm.numPes() - 1, 2), ((0,), 3)])
        exit()
    charm.start(main)
    """
    check(run(program, pes), f"{pes} True")


@pytest.mark.parametrize("pes", [1, 2])
def test_arrays_have_one_to_six_dimensions_and_their_elements_tuples(run: Run, pes: int) -> None:
    program = """
    class Cell(Chare):
        def index(self): return self.thisIndex
    def main(args):
        for dims in (3, (3,), [3], np.int64(3), (2, 2), (2, 1, 2), (1, 2, 1, 2), (2, 1, 1, 1, 2), (2, 1, 1, 1, 1, 2)):
            cells = Array(Cell, dims)
            found = cells.index(ret=True).get()
            assert found == sorted(found) and all(type(i) is tuple for i in found), found
            last = found[-1]
            assert cells[last].index(ret=True).get() == last
            print(len(last), len(found))
        print(cells[np.array([1, 0, 0, 0, 0, 0])].index(ret=True).get(), Array(Cell, 4)[np.int32(2)].index(ret=True).get())
        for wrong in (0, (2, 0)):
            print(Array(Cell, wrong).index(ret=True).get())
        for wrong in ((1,) * 7, -1, "x", ()):
            try:
                Array(Cell, wrong)
            except (TypeError, ValueError) as e:
                print(type(e).__name__)
        exit()
    charm.start(main)
    """
    dims = "1 3\n" * 4 + "2 4\n3 4\n4 4\n5 4\n6 4\n"
    errors = "ValueError\nValueError\nTypeError\nValueError"
    check(run(program, pes), f"{dims}(1, 0, 0, 0, 0, 0) (2,)\n[]\n[]\n{errors}")


def test_thisproxy_is_the_collections_and_a_single_chares_own(run: Run) -> None:
    program = """
    class Cell(Chare):
        def __init__(self): self.at_birth = self.thisProxy, self.thisIndex
        def proxy(self): return self.thisProxy, self.at_birth[0], self.at_birth[1] == self.thisIndex
        def members(self): return self.thisIndex
    def main(args):
        group, array, single, some = Group(Cell), Array(Cell, 3), Chare(Cell, onPE=1), Group(Cell, onPEs=[1])
        for proxy in (group, array, single, some):
            one = proxy if proxy is single else proxy[1]
            print(one.proxy(ret=True).get() == (proxy, proxy, True))
        print(some.members(ret=True).get(), single.members(ret=True).get())
        exit()
    charm.start(main)
    """
    check(run(program), "True\nTrue\nTrue\nTrue\n[1] (0,)")


@pytest.mark.parametrize("pes", [1, 2, 3])
def test_a_map_is_asked_on_every_pe_and_is_a_group_like_any_other(run: Run, pes: int) -> None:
    program = """
    class Turned(ArrayMap):
        def __init__(self, by):
            self.by, self.made, self.asked = by, getattr(self, "made", 0) + 1, set()
        def procNum(self, index):
            self.asked.add(index)
            return (index[0] + self.by) % charm.numPes()
        def report(self): return self.made, self.thisIndex == charm.myPe(), len(self.asked) > 0
    class Cell(Chare):
        def where(self): return charm.myPe()
    class Maker(Chare):
        def make(self, map): return Array(Cell, 6, map=map)
    def main(args):
        map = Group(Turned, [1])
        cells, sparse = Array(Cell, 6, map=map), Array(Cell, ndims=1, map=map)
        early = cells[5].where(ret=True)
        for i in range(4): sparse.ckInsert(i)
        sparse.ckDoneInserting()
        n = charm.numPes()
        assert cells.where(ret=True).get() == [(i + 1) % n for i in range(6)] and early.get() == 6 % n
        assert sparse.where(ret=True).get() == [(i + 1) % n for i in range(4)]
        other = Chare(Maker, onPE=n - 1).make(map, ret=True).get()
        assert other.where(ret=True).get() == [(i + 1) % n for i in range(6)]
        print(set(map.report(ret=True).get()))
        exit()
    charm.start(main)
    """
    check(run(program, pes), "{(1, True, True)}")


def test_a_call_never_runs_before_its_caller_goes_on(run: Run) -> None:
    program = """
    class Cell(Chare):
        def __init__(self, log=None): self.log = []
        def poke(self, x): self.log.append(x)
        def go(self):
            here = self.thisProxy[self.thisIndex]
            for i in range(3):
                here.poke(i)
            self.log.append("gone on")
        def get(self): return self.log
    def main(args):
        for cells in (Group(Cell), Array(Cell, 2)):
            cells[0].go(awaitable=True).get()
            charm.waitQD()
            log = cells[0].get(ret=True).get()
            print(log[0], sorted(log[1:]))
        exit()
    charm.start(main)
    """
    check(run(program), "gone on [0, 1, 2]\ngone on [0, 1, 2]")


def test_a_chare_says_that_it_may_be_moved_and_goes_on_after_a_sync(run: Run) -> None:
    program = """
    class Cell(Chare):
        def __init__(self): self.setMigratable(False)
        def go(self, done):
            assert self.migratable is False
            self.setMigratable(True)
            assert self.migratable is True
            self.done = done
            self.AtSync()
        def resumeFromSync(self): self.reduce(self.done)
    def main(args):
        done = Future()
        Array(Cell, 4, useAtSync=True).go(done)
        print(done.get())
        exit()
    charm.start(main)
    """
    check(run(program), "None")


def test_classes_with_metaclasses_are_classes_of_chares_too(run: Run) -> None:
    program = """
    import abc
    from typing import Generic, Protocol, TypeVar
    T = TypeVar("T")
    class Base(Chare, abc.ABC):
        @abc.abstractmethod
        def area(self): ...
        def twice(self): return 2 * self.area()
    class Square(Base):
        def area(self): return 4
    class HasShape(Protocol):
        def shape(self): ...
    class Round(Chare, HasShape):
        def __init__(self, x): self.x = x
        def shape(self): return f"round {self.x}"
    class Box(Chare, Generic[T]):
        def put(self, x: T): return x
    class Meta(type):
        def __new__(kind, name, bases, namespace): return super().__new__(kind, name, bases, {**namespace, "made": lambda self: "made"})
    class Made(Chare, metaclass=Meta): pass
    class Registry(Chare):
        known = []
        def __init_subclass__(cls): Registry.known.append(cls.__name__)
    class Plugin(Registry):
        def names(self): return self.known
    def main(args):
        class Late(Chare, abc.ABC): pass
        class LatePlugin(Registry): pass
        try:
            Array(Base, 2)
        except TypeError as e:
            print(e)
        print(Array(Square, 2).twice(ret=True).get(), Chare(Round, [3], onPE=1).shape(ret=True).get())
        print(Chare(Box[int], onPE=1).put(3, ret=True).get(), Group(Made).made(ret=True).get(), Chare(Plugin, onPE=1).names(ret=True).get())
        charm.awaitCreation(Chare(Late, onPE=0), Chare(LatePlugin, onPE=0))
        exit()
    charm.start(main)
    """
    check(
        run(program),
        """
        chares of Base cannot be created: the class is abstract and lacks area
        [8, 8] round 3
        3 ['made', 'made'] ['Plugin']
        """,
    )


def test_names_of_the_runtime_do_not_meet_those_of_the_program(run: Run) -> None:
    program = """
    class Cell(Chare):
        def __init__(self):
            self._held = self._rechecking = self._channel_ends = self._channels_made = self._watched = self.ready = 5
        def _index(self): return "index"
        def _whole(self): return "whole"
        def _class(self): return "class"
        def _is_section(self): return "section"
        def _is_group(self): return "group"
        def _present(self): return "present"
        def _channel(self): return "channel"
        def _sections_by(self): return "sections"
        def _destroy(self): return "destroy"
        def names(self): return sorted(vars(self))
        def let(self): self.ready = 6
        @when("self.ready == x")
        def checked(self, x): return x
        @coro
        def talk(self, other):
            channel = Channel(self, other)
            channel.send(self.thisIndex)
            self.wait("self.ready == 6")
            return channel.recv(), self._held, self._channel_ends
    def main(args):
        cells = Group(Cell)
        charm.awaitCreation(cells)
        names = [n for n in vars(Cell) if n.startswith("_") and not n.startswith("__")]
        print([getattr(cells[1], name)(ret=True).get() for name in names])
        talked = [cells[0].talk(cells[1], ret=True), cells[1].talk(cells[0], ret=True), cells[0].checked(6, ret=True)]
        cells.let()
        print([t.get() for t in talked], cells[0].names(ret=True).get())
        odd, even = charm.split(cells, 2, lambda cell: cell.thisIndex)
        print(len(charm.combine(odd, even)._whole(ret=True).get()), odd.issec(), cells.issec(), bool(cells[0].issec), odd.issec == True)
        exit()
    charm.start(main)
    """
    check(
        run(program),
        """
        ['index', 'whole', 'class', 'section', 'group', 'present', 'channel', 'sections', 'destroy']
        [(1, 5, 5), (0, 5, 5), 6] ['_channel_ends', '_channels_made', '_held', '_rechecking', '_watched', 'ready']
        2 True False False True
        """,
    )


def test_calls_are_checked_against_what_is_called_and_not_against_what_it_wraps(run: Run) -> None:
    program = """
    import functools
    LIMIT = 1
    def logged(function):
        @functools.wraps(function)
        def wrapper(self, *args): return function(self, "log", *args)
        return wrapper
    def dressed(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs): return function(*args, **kwargs)
        return wrapper
    class Cell(Chare):
        step = 0
        @logged
        def more(self, level, x, y=3): return level, x, y
        @dressed
        def same(self, x): return x
        @coro
        @dressed
        def waits(self, x): return charm.sleep(0.01) or x
        @dressed
        @coro
        def waits_too(self, x): return charm.sleep(0.01) or x
        @dressed
        async def asks(self, other): return await other.same(x=4, ret=True)
        @dressed
        @when("self.step == step and LIMIT")
        def inner(self, step): self.step += 1; return self.step
        @when("self.step == step and LIMIT")
        @dressed
        def outer(self, step): self.step += 1; return self.step
    def main(args):
        cell = Chare(Cell, onPE=1)
        print(cell.more(1, ret=True).get(), cell.more(1, 2, ret=True).get(), cell.same(x=1, ret=True).get())
        print(cell.waits(2, ret=True).get(), cell.waits_too(x=3, ret=True).get(), cell.asks(cell, ret=True).get())
        print([f.get() for f in (cell.inner(1, ret=True), cell.outer(0, ret=True))])
        try:
            cell.more(1, y=2)
        except TypeError as e:
            print(e)
        exit()
    charm.start(main)
    """
    check(
        run(program),
        """
        ('log', 1, 3) ('log', 1, 2) 1
        2 3 4
        [2, 1]
        Cell.more() got an unexpected keyword argument 'y': it takes (*args)
        """,
    )


def test_static_attributes_that_are_no_functions_of_python_are_left_alone(run: Run) -> None:
    program = """
    import functools, operator
    class Cell(Chare):
        op = staticmethod(max)
        part = staticmethod(functools.partial(int, "7"))
        made = staticmethod(list)
        get = operator.attrgetter("thisIndex")
        both = classmethod(lambda cls: cls.__name__)
        @staticmethod
        async def later(x): return x
        def own(self): return self.op(1, 2), self.part(), self.made(), self.both()
    def main(args):
        cell = Chare(Cell, onPE=1)
        print(cell.own(ret=True).get(), cell.later(3, ret=True).get(), [n for n in dir(cell) if n in vars(Cell) and n[:2] != "__"])
        exit()
    charm.start(main)
    """
    check(run(program), "(2, 7, [], 'Cell') 3 ['later', 'own']")


def test_errors_of_wrong_calls_name_the_method_and_what_was_meant(run: Run) -> None:
    program = """
    class Cell(Chare):
        constant = 5
        def twice(self, number, *, times=2): return number * times
    def main(args):
        cells = Array(Cell, 3)
        for bad in (lambda: cells.twcie(1), lambda: cells[0].constant, lambda: cells.reduce(1), lambda: cells.twice(nmber=1),
                    lambda: cells.twice(1, rte=True), lambda: cells[1].twice(1, 2), lambda: cells[1].twice(), lambda: cells[1][3],
                    lambda: cells[3], lambda: cells[1].twice(1, tmies=3)):
            try:
                bad()
            except Exception as e:
                print(type(e).__name__, e)
        exit()
    charm.start(main)
    """
    check(
        run(program, 1),
        """
        AttributeError Cell has no entry method twcie (did you mean 'twice'?)
        AttributeError Cell.constant is not a method, so proxies do not have it
        AttributeError Cell.reduce is a method of the runtime, not an entry method: call it on the chare itself
        TypeError Cell.twice() got an unexpected keyword argument 'nmber' (did you mean 'number'?): it takes (number, *, times=2)
        TypeError Cell.twice() got an unexpected keyword argument 'rte' (did you mean 'ret'?): it takes (number, *, times=2)
        TypeError Cell.twice() takes 1 positional argument, and was given 2: it takes (number, *, times=2)
        TypeError Cell.twice() is missing a required argument: 'number': it takes (number, *, times=2)
        IndexError there is no element 3 in <Cell[1]>
        IndexError there is no element 3 in <array of Cell>
        TypeError Cell.twice() got an unexpected keyword argument 'tmies' (did you mean 'times'?): it takes (number, *, times=2)
        """,
    )


@pytest.mark.parametrize("pe", [0, 1])
def test_arrays_are_filled_in_phases_and_what_cannot_be_filled_says_so(run: Run, pe: int) -> None:
    program = """
    class Cell(Chare):
        def index(self): return self.thisIndex
    class Group_(Chare):
        def insert(self, array, index): array.ckInsert(index)
    def main(args):
        array, bounded, others = Array(Cell, ndims=1), Array(Cell, 3), Group(Group_)
        array.ckInsert(1)
        array.ckInsert(2, onPE=1)
        array.ckDoneInserting()
        print(array.index(ret=True).get())
        for index, collection in ((3, array), (4, bounded), (0, array[1:2]), (0, others)):
            try:
                others[int(args[1])].insert(collection, index, awaitable=True).get()
            except Exception as e:
                print(type(e).__name__, e)
        array.ckDoneInserting()
        for collection in (bounded, array[1:2], others):
            try:
                collection.ckDoneInserting()
            except Exception as e:
                print(type(e).__name__, e)
        print(array.index(ret=True).get())
        exit()
    charm.start(main)
    """
    check(
        run(program, 2, str(pe)),
        """
        [(1,), (2,)]
        Charm4PyError <array of Cell>.ckInsert(): it is not a sparse array, and has all its elements from the start
        Charm4PyError <array of Cell>.ckInsert(): it is a section, and elements are inserted only into whole arrays
        ValueError only arrays without bounds are filled by ckInsert
        Charm4PyError <array of Cell>.ckDoneInserting(): it is not a sparse array, and has all its elements from the start
        Charm4PyError <array of Cell>.ckDoneInserting(): it is a section, and elements are inserted only into whole arrays
        Charm4PyError <group of Group_>.ckDoneInserting(): it is not a sparse array, and has all its elements from the start
        [(1,), (2,), (3,)]
        """,
    )


def test_an_array_that_grows_is_closed_again_by_itself(run: Run) -> None:
    program = """
    class Cell(Chare):
        def give(self, done): self.reduce(done, 1, Reducer.sum)
        @coro
        def agree(self): return self.allreduce(1, Reducer.sum).get()
    def main(args):
        cells, seen = Array(Cell, ndims=1), []
        for i in range(3):
            cells.ckInsert(i)
        cells.ckDoneInserting()
        done = Future()
        cells.give(done)
        seen.append(done.get())
        for phase in range(1, 4):
            for i in range(3):
                cells.ckInsert(3 * phase + i, onPE=i % charm.numPes())
            if phase == 2:
                seen.extend(set(cells.agree(ret=True).get()))
            done = Future()
            if phase == 3:
                # There is no call of the whole array: the insertions alone have closed it.
                charm.waitQD()
                for i in range(12):
                    cells[i].give(done)
            else:
                cells.give(done)
            seen.append(done.get())
        print(*seen)
        exit()
    charm.start(main)
    """
    for pes in (1, 2, 4):
        check(run(program, pes), "3 6 9 9 12")


def test_an_array_that_goes_while_it_is_closed_again_by_itself_ends_no_job(run: Run) -> None:
    program = """
    class Cell(Chare):
        def who(self): return self.thisIndex[0]
    class Inserter(Chare):
        def insert(self, cells, index): cells.ckInsert(index, onPE=charm.myPe())
    def main(args):
        inserters = Group(Inserter)
        for round in range(200):
            cells = Array(Cell, ndims=1)
            cells.ckInsert(0)
            cells.ckDoneInserting()
            assert cells.who(ret=True).get() == [0]
            inserters[charm.numPes() - 1].insert(cells, 1, awaitable=True).get()
            cells.ckDestroy()
        charm.waitQD()
        print("done")
        exit()
    charm.start(main)
    """
    for pes in (1, 2, 3):
        check(run(program, pes), "done")


def test_elements_come_and_go_in_phases_and_are_reduced_with_the_others(run: Run) -> None:
    program = """
    class Cell(Chare):
        def who(self): return self.thisIndex[0]
        def give(self, done): self.reduce(done, self.thisIndex[0], Reducer.sum)
        @coro
        def agree(self): return self.allreduce(1, Reducer.sum).get()
        def grow(self, index):
            self.thisProxy.ckInsert(index, onPE=index % charm.numPes())
    def main(args):
        cells = Array(Cell, ndims=1)
        for phase in range(4):
            for i in range(3):
                if phase == 0:
                    cells.ckInsert(i)
                else:
                    cells[i].grow(3 * phase + i, awaitable=True).get()
            print(cells[3 * phase + 2].who(ret=True).get(), end=" ")
            cells.ckDoneInserting()
            done = Future()
            cells.give(done)
            print(done.get(), set(cells.agree(ret=True).get()), end=" ")
            if phase == 1:
                cells[4].ckDestroy()
            print(cells.who(ret=True).get())
        exit()
    charm.start(main)
    """
    for pes in (1, 2, 4):
        check(
            run(program, pes),
            """
            2 3 {3} [0, 1, 2]
            5 15 {6} [0, 1, 2, 3, 5]
            8 32 {8} [0, 1, 2, 3, 5, 6, 7, 8]
            11 62 {11} [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
            """,
        )


def test_older_names_work(run: Run) -> None:
    program = """
    from charm4py import pool
    charm.options.remote_exec = True
    def longest(parts): return max(parts, key=len)
    charm.addReducer(longest)
    class Cell(Chare):
        def tell(self, future): future.send(self.thisIndex)
        def longest(self, future): self.reduce(future, "x" * self.thisIndex, Reducer.longest)
    charm.register(Cell)
    def main(args):
        cells = Group(Cell)
        future, both, other = charm.Future(), charm.createFuture(senders=2), charm.createFuture(2)
        cells.longest(future)
        cells.tell(both)
        cells.tell(other)
        print(repr(future.get()), sorted(both.get()), sorted(other.get()), isinstance(future, Future))
        charm.LBTurnInstrumentOn()
        charm.LBTurnInstrumentOff()
        charm.thisProxy.rexec("answer = 40 + charm.myPe()", awaitable=True).get()
        print(charm.thisProxy.eval("answer", ret=True).get())
        print(pool.Pool(Chare(pool.PoolScheduler, onPE=0)).map(abs, [-1, 2]))
        exit()
    charm.start(main, [pool.PoolScheduler])
    """
    check(run(program), "'x' [0, 1] [0, 1] True\n[40, 41]\n[1, 2]")
