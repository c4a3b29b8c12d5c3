"""Coroutines, futures, conditions, channels."""

from __future__ import annotations

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
