"""Coroutines: waiters, exceptions, constructors, context variables, entry points, timers."""

from __future__ import annotations

import pytest
from conftest import Run, check


@pytest.mark.parametrize("pes", [1, 2])
def test_all_who_wait_for_one_future_or_channel_go_on(run: Run, pes: int) -> None:
    program = """
    class Hall(Chare):
        def __init__(self): self.ready, self.in_wait, self.channel = Future(), Future(5), Channel(self, remote=self.thisProxy)
        @coro
        def one(self):
            self.in_wait.send()
            return self.ready.get()
        @coro
        def timed(self):
            self.in_wait.send()
            return self.ready.get(timeout=50)
        async def other(self):
            self.in_wait.send()
            return await self.ready
        @coro
        def any(self):
            self.in_wait.send()
            return [f.get() for f in charm.iwait([self.ready, self.ready])]
        @coro
        def open(self):
            self.in_wait.get()
            self.ready.send(42)
        @coro
        def hear(self): return self.channel.recv()
        @coro
        def look(self):
            charm.wait([self.channel])
            return self.channel.recv()
        @coro
        def say(self):
            for i in range(4): self.channel.send(i)
    def main(args):
        hall = Chare(Hall, onPE=charm.numPes() - 1)
        waiting = [hall.one(ret=True), hall.one(ret=True), hall.timed(ret=True), hall.other(ret=True), hall.any(ret=True)]
        hall.open()
        print([f.get() for f in waiting])
        heard = [hall.hear(ret=True), hall.hear(ret=True), hall.look(ret=True), hall.hear(ret=True)]
        hall.say()
        print(sorted(f.get() for f in heard))
        exit()
    charm.start(main)
    """
    check(run(program, pes), "[42, 42, 42, 42, [42, 42]]\n[0, 1, 2, 3]")


def test_a_caught_exception_is_freed_and_all_that_its_catcher_had(run: Run) -> None:
    program = """
    import gc, weakref
    class Bad(Chare):
        def fail(self): raise ValueError("no")
    class Big: pass
    def catch(c, seen):
        big = Big()
        seen.append(weakref.ref(big))
        future = c.fail(ret=True)
        for _ in range(2):
            try:
                future.get()
            except ValueError as e:
                assert "ValueError: no" in e.remote_stacktrace
        try:
            c.fail(awaitable=True).get()
        except ValueError: pass
    async def catch_async(c, seen):
        big = Big()
        seen.append(weakref.ref(big))
        future = c.fail(ret=True)
        try:
            await future
        except ValueError: pass
    class Catcher(Chare):
        async def catch(self, c, n):
            seen = []
            for _ in range(n): await catch_async(c, seen)
            return sum(ref() is not None for ref in seen)
    def main(args):
        gc.disable()
        c, seen = Chare(Bad, onPE=1), []
        for _ in range(10): catch(c, seen)
        print(sum(ref() is not None for ref in seen), Chare(Catcher, onPE=0).catch(c, 10, ret=True).get())
        # The garbage collector finds an object that refers to its own future.
        class Loop: pass
        loop = Loop()
        loop.future, ref = Future(), weakref.ref(loop)
        loop.future._when_ready(lambda _: loop)
        loop.hold = lambda: loop
        del loop
        gc.collect()
        print(ref() is None)
        exit()
    charm.start(main)
    """
    check(run(program), "0 0\nTrue")


@pytest.mark.parametrize("pes", [1, 2])
def test_a_chare_is_there_when_its_constructor_has_ended_and_calls_wait_for_that(run: Run, pes: int) -> None:
    program = """
    class Slow(Chare):
        @coro
        def __init__(self):
            charm.sleep(0.05)
            self.log = []
        def add(self, x): self.log.append(x)
        def get(self): return self.log
    class Async(Slow):
        async def __init__(self):
            await Chare(Slow).get(ret=True)
            self.log = ["async"]
    class Talks(Chare):
        @coro
        def __init__(self, other):
            self.n = 0
            channel = Channel(self, remote=other)
            channel.send("hello")
            self.got = channel.recv()
            self.wait("self.n == 2")
            self.got += str(self.n)
        def up(self): self.n += 1
        def get(self): return self.got
    class Other(Chare):
        @coro
        def play(self, other):
            channel = Channel(self, remote=other)
            channel.send(channel.recv() + "!")
    def main(args):
        for make in (lambda: Array(Slow, 3), lambda: Group(Async), lambda: Chare(Slow)):
            made = make()
            charm.awaitCreation(made)
            for i in range(5): made.add(i)
            logs = made.get(ret=True).get()
            print(logs if isinstance(logs[0], int) else logs[0])
        late = Chare(Slow, onPE=charm.numPes() - 1)
        for i in range(20): late.add(i)
        print(late.get(ret=True).get() == list(range(20)))
        other = Chare(Other)
        talks = Chare(Talks, args=[other])
        other.play(talks)
        talks.up()
        talks.up()
        charm.awaitCreation(talks)
        print(talks.get(ret=True).get())
        exit()
    charm.start(main)
    """
    expected = "[0, 1, 2, 3, 4]\n['async', 0, 1, 2, 3, 4]\n[0, 1, 2, 3, 4]\nTrue\nhello!2"
    check(run(program, pes), expected)


def test_calls_of_the_entry_points_chare_do_not_wait_for_its_constructor_which_is_the_program(run: Run) -> None:
    program = """
    class Worker(Chare):
        def work(self, main): main.done(self.thisIndex)
    class Main(Chare):
        def __init__(self, args):
            self.all, self.count = Future(), 0
            Array(Worker, 4).work(self.thisProxy)
            self.all.get()
            print("all")
            exit()
        def done(self, index):
            self.count += 1
            if self.count == 4: self.all.send()
    charm.start(Main)
    """
    check(run(program), "all")


def test_each_coroutine_starts_with_the_programs_context_and_leaves_nothing_behind(run: Run) -> None:
    program = """
    import contextvars, decimal
    decimal.getcontext().prec = 50
    np.seterr(divide="raise")
    var = contextvars.ContextVar("var", default="unset")
    var.set("program")
    class Cell(Chare):
        def plain(self): return self.see()
        @coro
        def change(self, x):
            seen = self.see()
            var.set(x)
            decimal.getcontext().prec = 5
            np.seterr(divide="ignore")
            charm.sleep(0.001)
            return seen, self.see()
        async def change_async(self, x, f):
            seen = self.see()
            var.set(x)
            decimal.getcontext().prec = 5
            np.seterr(divide="ignore")
            await f
            return seen, self.see()
        def see(self): return var.get(), decimal.getcontext().prec, np.geterr()["divide"]
    def main(args):
        print(var.get(), decimal.getcontext().prec, np.geterr()["divide"])
        cell, program = Chare(Cell, onPE=1), ("program", 50, "raise")
        for i in range(3):
            assert cell.change(i, ret=True).get() == (program, (i, 5, "ignore"))
            f = Future()
            waiting = [cell.change_async(i, f, ret=True), cell.change(i, ret=True)]
            assert cell.plain(ret=True).get() == program
            waiting[1].get()
            f.send()
        var.set("main")
        print(var.get(), cell.plain(ret=True).get())
        exit()
    charm.start(main)
    """
    # On one PE the future is awaited on the PE that created it.
    ended = run(program.replace("onPE=1", "onPE=0"))
    check(ended, "program 50 raise\nmain ('program', 50, 'raise')")


@pytest.mark.parametrize("entry", ["main", "Main"])
def test_an_entry_point_may_be_async(run: Run, entry: str) -> None:
    program = """
    class Cell(Chare):
        def twice(self, x): return 2 * x
    async def main(args):
        print(await Chare(Cell, onPE=1).twice(21, ret=True))
        exit()
    class Main(Chare):
        async def __init__(self, args): await main(args)
    charm.start(%s)
    """
    check(run(program % entry), "42")


def test_an_exception_in_an_async_entry_point_ends_the_job(run: Run) -> None:
    program = """
    async def main(args):
        await Future.__call__  # cannot be awaited
    charm.start(main)
    """
    ended = run(program)
    assert ended.code == 1 and "TypeError" in ended.err and " in main" in ended.err


def test_a_get_that_is_answered_leaves_no_timer(run: Run) -> None:
    program = """
    def main(args):
        for _ in range(3):
            f = Future()
            f.send(1)
            assert f.get(timeout=30) == 1
            late = Future()
            charm.scheduleCallableAfter(late, 0.01)
            late.get(timeout=30)
        begun = time.time()
        charm.waitQD()
        print(time.time() - begun < 15)
        exit()
    charm.start(main)
    """
    check(run(program), "True")


def test_an_exception_that_is_no_exception_of_the_usual_kind_goes_to_who_awaits_it(run: Run) -> None:
    program = """
    import asyncio
    class Odd(BaseException): pass
    class Cell(Chare):
        @coro
        def waits(self, error):
            charm.sleep(0.001)
            raise error
        def plain(self, error): raise error
        async def other(self, error): raise error
        @when("True")
        def held(self, error): raise error
    def task(error): raise error
    @coro
    def coro_task(error):
        charm.sleep(0.001)
        raise error
    def main(args):
        cell = Chare(Cell, onPE=1)
        for error in (asyncio.CancelledError("x"), Odd("x"), GeneratorExit("x")):
            for call in (cell.waits, cell.plain, cell.other, cell.held):
                try:
                    # An exception as an argument is a value.
                    call(error, ret=True).get()
                except BaseException as e:
                    assert (type(e), str(e)) == (type(error), "x"), e
                else:
                    print("nothing raised")
            for function in (task, coro_task):
                try:
                    charm.pool.Task(function, (error,), ret=True).get()
                except BaseException as e:
                    assert (type(e), str(e)) == (type(error), "x"), e
                else:
                    print("nothing raised")
        print("all")
        exit()
    charm.start(main)
    """
    check(run(program), "all")
