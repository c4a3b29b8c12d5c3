"""Coroutines, futures, conditions, channels."""

from __future__ import annotations

import pytest
from conftest import Run, check


def test_a_coroutine_waits_while_other_methods_of_its_chare_run(run: Run) -> None:
    program = """
    class Worker(Chare):
        def __init__(self): self.log = []
        @coro
        def slow(self, other):
            self.log.append("begun")
            value = other.value(ret=True).get()
            self.log.append(value)
            return self.log
        def poke(self): self.log.append("poked")
        @coro
        def value(self):
            charm.sleep(0.05)
            return 42
    def main(args):
        a, b = Chare(Worker, onPE=0), Chare(Worker, onPE=1)
        done = a.slow(b, ret=True)
        a.poke()
        print(done.get())
        exit()
    charm.start(main)
    """
    check(run(program), "['begun', 'poked', 42]")


def test_an_async_method_awaits_futures(run: Run) -> None:
    program = """
    class Worker(Chare):
        async def total(self, others):
            parts = [o.part(ret=True) for o in others]
            return sum([await p for p in parts])
        def part(self): return 10 + charm.myPe()
        async def fails(self):
            try:
                await self.thisProxy.raises(ret=True)
            except ValueError as e:
                return str(e)
        def raises(self): raise ValueError("no")
    def main(args):
        workers = [Chare(Worker, onPE=pe) for pe in (0, 1, 1)]
        print(workers[1].total(workers, ret=True).get(), workers[0].fails(ret=True).get())
        exit()
    charm.start(main)
    """
    check(run(program), "32 no")


def test_a_future_is_given_values_from_anywhere(run: Run) -> None:
    program = """
    class Giver(Chare):
        def give(self, f, x): f.send(x)
        def call(self, f): f("called")
    def main(args):
        group = Group(Giver)
        f = Future(2)
        group.give(f, 5)
        assert not f.ready()
        print(f.get(), f.ready(), f.get())
        g = Future()
        group[1].call(g)
        print(g.get())
        h = Future()
        group[1].give(h, KeyError("missing"))
        try:
            h.get()
        except KeyError as e:
            print("raised", e)
        try:
            Future().get(timeout=0.05)
        except TimeoutError:
            print("timeout")
        exit()
    charm.start(main)
    """
    check(run(program), "[5, 5] True [5, 5]\ncalled\nraised 'missing'\ntimeout")


def test_only_coroutines_can_wait(run: Run) -> None:
    program = """
    from charm4py.threads import NotThreadedError
    class Plain(Chare):
        def bad(self):
            try:
                Future().get()
            except NotThreadedError as e:
                return str(e)
    def main(args):
        print(Chare(Plain).bad(ret=True).get())
        exit()
    charm.start(main)
    """
    check(run(program), "Future.get() waits, which only coroutines can: decorate the method with @coro")


def test_wait_and_iwait_take_futures_and_channels(run: Run) -> None:
    program = """
    class Late(Chare):
        @coro
        def after(self, seconds):
            charm.sleep(seconds)
            return seconds
    def main(args):
        late = Chare(Late, onPE=1)
        futures = [late.after(s, ret=True) for s in (0.2, 0.01, 0.1)]
        print([f.get() for f in charm.iwait(futures)])
        more = [late.after(s, ret=True) for s in (0.01, 0.02)]
        charm.wait(more)
        print(all(f.ready() for f in more))
        exit()
    charm.start(main)
    """
    check(run(program), "[0.01, 0.1, 0.2]\nTrue")


def test_calls_wait_for_their_conditions_in_the_order_of_arrival(run: Run) -> None:
    program = """
    LIMIT = 1
    class Steps(Chare):
        def __init__(self): self.step, self.log = 0, []
        @when("self.step == turn and LIMIT == 1")
        def go(self, turn, x="-"):
            self.log.append((turn, x))
            self.step += 1
        @when(lambda self, turn: self.step >= turn)
        @coro
        def ask(self, turn):
            charm.sleep(0.001)
            return self.log
    def main(args):
        s = Chare(Steps, onPE=1)
        log = s.ask(5, ret=True)
        for turn in (4, 2, 3, 0):
            s.go(turn)
        s.go(1, x="last")
        print(log.get())
        exit()
    charm.start(main)
    """
    check(run(program), "[(0, '-'), (1, 'last'), (2, '-'), (3, '-'), (4, '-')]")


def test_a_condition_sees_the_defaults_of_its_method(run: Run) -> None:
    program = """
    class Gate(Chare):
        def __init__(self): self.step = 0
        @when("turn == self.step and len(label) == 3 and scale > 1")
        def positional(self, turn, label="abc", scale=2):
            self.step += 1
            return turn, label
        @when("self.step == turn + offset and not tags")
        def named(self, turn, *tags, offset=3): return offset
        @staticmethod
        @when("amount == 7")
        def fixed(amount=7): return amount
    def main(args):
        gate = Chare(Gate, onPE=charm.numPes() - 1)
        calls = [gate.named(0, ret=True), gate.positional(2, ret=True), gate.positional(1, "xyz", ret=True), gate.positional(0, scale=3, ret=True), gate.fixed(ret=True)]
        print([call.get(timeout=30) for call in calls])
        exit()
    charm.start(main)
    """
    check(run(program), "[3, (2, 'abc'), (1, 'xyz'), (0, 'abc'), 7]")


def test_a_coroutine_waits_for_a_condition(run: Run) -> None:
    program = """
    class Counter(Chare):
        def __init__(self): self.n = 0
        def up(self): self.n += 1
        @coro
        def reach(self, limit):
            self.wait("self.n >= limit")
            return self.n
    def main(args):
        c = Chare(Counter, onPE=1)
        reached = c.reach(3, ret=True)
        for _ in range(3): c.up()
        print(reached.get())
        exit()
    charm.start(main)
    """
    check(run(program), "3")


def test_channels_keep_the_order_of_messages(run: Run) -> None:
    program = """
    class End(Chare):
        @coro
        def play(self, other, n, done):
            one, two = Channel(self, remote=other), Channel(self, remote=other)
            for i in range(n):
                one.send(i)
                two.send(-i, "pair")
            got = [(one.recv(), two.recv()) for _ in range(n)]
            assert got == [(i, (-i, "pair")) for i in range(n)], got
            done.send(len(got))
    def main(args):
        ends = Array(End, 2)
        done = Future(2)
        ends[0].play(ends[1], 100, done)
        ends[1].play(ends[0], 100, done)
        print(done.get())
        exit()
    charm.start(main)
    """
    check(run(program), "[100, 100]")


def test_many_futures_and_coroutines_are_no_limit(run: Run) -> None:
    program = """
    class Deep(Chare):
        @coro
        def down(self, n):
            return 0 if n == 0 else 1 + self.thisProxy[(charm.myPe() + 1) % charm.numPes()].down(n - 1, ret=True).get()
        def one(self): return 1
    def main(args):
        g = Group(Deep)
        print(g[0].down(500, ret=True).get(), sum(g[i % 2].one(ret=True).get() for i in range(70_000)))
        exit()
    charm.start(main)
    """
    check(run(program), "500 70000")


@pytest.mark.parametrize("pes", [1, 2])
def test_a_future_is_a_callback_for_whatever_calls_back(run: Run, pes: int) -> None:
    program = """
    class Cell(Chare):
        def sum(self, f): self.reduce(f, 1, Reducer.sum)
        def quiet(self, f): charm.startQD(f)
        def later(self, f): charm.scheduleCallableAfter(f, 0.005, ["timer"])
        def hold(self, fs): fs["it"][0].send({"copied": fs["it"][0]})
    def main(args):
        cells, last = Group(Cell), charm.numPes() - 1
        f, g, h, i = Future(), Future(), Future(), Future()
        cells.sum(f)
        cells[last].quiet(g)
        cells[last].later(h)
        cells[last].hold({"it": (i,)})
        print(f.get() == charm.numPes(), g.get(), h.get(), i.get()["copied"] == i)
        print(len({f, g, f}), i.ready(), Future().ready())
        try:
            late = Future(2)
            late.send(1)
            late.get(timeout=0.02)
        except TimeoutError:
            late.send(2)
            print("then", late.get(timeout=10))
        exit()
    charm.start(main)
    """
    check(run(program, pes), "True None timer True\n2 True False\nthen [1, 2]")


def test_values_of_a_future_come_in_the_order_of_their_arrival_and_the_first_error_is_raised(run: Run) -> None:
    program = """
    class Giver(Chare):
        @coro
        def give(self, f, pause, x):
            charm.sleep(pause)
            f.send(x)
    def main(args):
        givers = Array(Giver, 3)
        f, g = Future(3), Future(2)
        for i, pause in enumerate((0.1, 0.02, 0.06)):
            givers[i].give(f, pause, i)
        print(f.get())
        givers[0].give(g, 0, ValueError("bad"))
        givers[1].give(g, 0, 1)
        try:
            g.get()
        except ValueError as e:
            print("raised", e)
        exit()
    charm.start(main)
    """
    check(run(program), "[1, 2, 0]\nraised bad")


def test_nothing_waits_outside_of_a_coroutine(run: Run) -> None:
    program = """
    from charm4py.threads import NotThreadedError
    class Plain(Chare):
        def __init__(self): self.ok = False
        def tries(self):
            found = []
            for what in (lambda: charm.sleep(1), lambda: charm.waitQD(), lambda: charm.wait([Future()]), lambda: self.wait("self.ok"),
                         lambda: Channel(self, remote=self.thisProxy).recv(), lambda: Future().get(timeout=1)):
                try:
                    what()
                except NotThreadedError as e:
                    found.append(str(e).split(" waits")[0])
            return found
    def main(args):
        print(Chare(Plain).tries(ret=True).get())
        exit()
    charm.start(main)
    """
    words = "['Future.get()', 'Future.get()', 'charm.wait()', 'self.wait()', 'Channel.recv()', 'Future.get()']"
    check(run(program), words)


@pytest.mark.parametrize("pes", [1, 3])
def test_channels_join_chares_of_any_collections_and_a_chare_to_itself(run: Run, pes: int) -> None:
    program = """
    class End(Chare):
        @coro
        def play(self, other, n, done):
            channel = Channel(self, remote=other)
            for i in range(n):
                channel.send(i, self.thisIndex)
            got = [channel.recv()[0] for _ in range(n)]
            assert got == list(range(n)) and channel.remote == other
            channel.send()
            assert channel.recv() == ()
            done.send()
        @coro
        def alone(self):
            itself = Channel(self, remote=self.thisProxy[self.thisIndex])
            for i in range(3): itself.send(i)
            return [itself.recv() for _ in range(3)]
    class Odd(End): pass
    def main(args):
        group, array, single, last = Group(End), Array(Odd, 3), Chare(Odd), charm.numPes() - 1
        for a, b in ((group[last], array[1]), (array[2], single), (single, group[0])):
            done = Future(2)
            a.play(b, 20, done)
            b.play(a, 20, done)
            print(done.get())
        print(array[0].alone(ret=True).get())
        exit()
    charm.start(main)
    """
    check(run(program, pes), "[None, None]\n[None, None]\n[None, None]\n[0, 1, 2]")


def test_what_becomes_ready_is_given_at_once_be_it_a_future_or_a_channel(run: Run) -> None:
    program = """
    class End(Chare):
        @coro
        def say(self, other, pause):
            channel = Channel(self, remote=other)
            charm.sleep(pause)
            channel.send(pause)
        @coro
        def after(self, pause):
            charm.sleep(pause)
            return pause
        @coro
        def listen(self, other):
            channel, future, ready = Channel(self, remote=other), other.after(0.02, ret=True), Future()
            ready.send("there")
            got = []
            for thing in charm.iwait([channel, future, ready]):
                got.append(thing.recv() if thing is channel else thing.get())
            return got
    def main(args):
        ends = Group(End)
        ends[1].say(ends[0], 0.15)
        print(ends[0].listen(ends[1], ret=True).get())
        exit()
    charm.start(main)
    """
    check(run(program), "['there', 0.02, 0.15]")


def test_methods_of_all_kinds_wait_for_conditions(run: Run) -> None:
    program = """
    GO = 1
    class Cell(Chare):
        def __init__(self): self.n, self.log = 0, []
        def up(self): self.n += GO
        @when("self.n >= least and len(names) == 2")
        async def first(self, least, *names, **more):
            await self.thisProxy.up(awaitable=True)
            return least, names, more, self.n
        @when("other.x < self.n")
        def second(self, other): return other.x
        @coro
        def third(self, goal):
            limit = goal
            self.wait("self.n >= limit and GO")
            return limit
        @when("len(self.log) == turn")
        def in_turn(self, turn): self.log.append(turn)
        def get(self): return self.log
    class Box:
        def __init__(self, x): self.x = x
    def main(args):
        cell = Chare(Cell, onPE=1)
        waiting = [cell.first(2, "a", "b", key=1, ret=True), cell.second(Box(1), ret=True), cell.third(3, ret=True)]
        for turn in range(99, -1, -1): cell.in_turn(turn)
        for _ in range(2): cell.up(awaitable=True).get()
        print([f.get() for f in waiting], cell.get(ret=True).get() == list(range(100)))
        exit()
    charm.start(main)
    """
    check(run(program), "[(2, ('a', 'b'), {'key': 1}, 3), 1, 3] True")


def test_a_constructor_may_be_a_coroutine_and_so_may_that_of_a_base_class(run: Run) -> None:
    program = """
    class Base(Chare):
        @coro
        def __init__(self, scale, *, more=1):
            self.early = True
            charm.sleep(0.001)
            self.value = scale * (self.thisIndex[0] + 1) + more
    class Derived(Base):
        @coro
        def __init__(self, done, scale):
            super().__init__(scale, more=100)
            done.send(self.value)
    class Plain(Base):
        def __init__(self): super().__init__(1)
        @coro
        def get(self):
            # The call runs only when the constructor has ended.
            return self.value
    def main(args):
        done = Future(3)
        Array(Derived, 3, args=[done, 10])
        print(sorted(done.get()), Array(Plain, 2).get(ret=True).get())
        exit()
    charm.start(main)
    """
    for pes in (1, 2):
        check(run(program, pes), "[110, 120, 130] [2, 3]")
