"""asyncio in ``async def`` methods: the PE's event loop."""

from __future__ import annotations

import sys

import pytest
from conftest import Run, check


@pytest.mark.parametrize("pes", [1, 2])
def test_an_async_method_awaits_what_asyncio_brings(run: Run, pes: int) -> None:
    program = """
    import asyncio
    def busy(x):
        time.sleep(0.02)
        return x
    class Cell(Chare):
        def __init__(self): self.pokes = 0
        def poke(self): self.pokes += 1
        async def sleep(self):
            await asyncio.sleep(0.01)
            await asyncio.sleep(0)
            return "slept"
        async def gather(self):
            other = self.thisProxy
            return await asyncio.gather(self.sleep(), other.sleep(ret=True), self.after(0.01, 3))
        async def after(self, s, x):
            await asyncio.sleep(s)
            return x
        async def wait_for(self):
            got = [await asyncio.wait_for(self.after(0.001, 1), 10)]
            for what in (self.after(10, 1), Future()):
                try:
                    await asyncio.wait_for(what, 0.01)
                except asyncio.TimeoutError:
                    got.append("timeout")
            got.append(await asyncio.wait_for(self.thisProxy.sleep(ret=True), 10))
            return got
        async def executor(self):
            loop = asyncio.get_running_loop()
            return sorted(await asyncio.gather(*(loop.run_in_executor(None, busy, i) for i in range(3))))
        async def completed(self):
            return [await f for f in asyncio.as_completed([self.after(0.05, 2), self.after(0.001, 1)])]
        async def lock(self):
            lock, log = asyncio.Lock(), []
            async def enter(i):
                async with lock:
                    log.append(i)
                    await self.thisProxy.poke(awaitable=True)
                    log.append(i)
            await asyncio.gather(*(enter(i) for i in range(3)))
            return log, self.pokes
        async def current(self):
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            return loop.is_running(), task is not None, asyncio.current_task() is task, loop is task.get_loop(), asyncio.get_event_loop() is loop
        async def fails(self):
            try:
                await asyncio.gather(self.sleep(), self.raises())
            except KeyError as e:
                return str(e)
        async def raises(self): raise KeyError("x")
    def main(args):
        cell = Chare(Cell, onPE=charm.numPes() - 1)
        for name in ("sleep", "gather", "wait_for", "executor", "completed", "lock", "current", "fails"):
            print(name, getattr(cell, name)(ret=True).get())
        exit()
    charm.start(main)
    """
    expected = """
    sleep slept
    gather ['slept', 'slept', 3]
    wait_for [1, 'timeout', 'timeout', 'slept']
    executor [0, 1, 2]
    completed [1, 2]
    lock ([0, 0, 1, 1, 2, 2], 3)
    current (True, True, True, True, True)
    fails 'x'
    """
    check(run(program, pes), expected)


def test_other_methods_run_while_an_async_one_waits_and_conditions_are_looked_at_when_it_goes_on(run: Run) -> None:
    program = """
    import asyncio
    class Cell(Chare):
        def __init__(self): self.n, self.log = 0, []
        async def slow(self):
            await asyncio.sleep(0.05)
            self.log.append("slow")
            self.n = 1
        def quick(self): self.log.append("quick")
        @when("self.n == 1")
        def then(self): self.log.append("then")
        @coro
        def blocks(self):
            self.wait("self.n == 1")
            return self.log
    def main(args):
        cell = Chare(Cell, onPE=1)
        cell.then()
        done = cell.blocks(ret=True)
        cell.slow()
        cell.quick(awaitable=True).get()
        print(done.get())
        exit()
    charm.start(main)
    """
    check(run(program), "['quick', 'slow', 'then']")


def test_a_method_may_be_the_first_to_import_asyncio(run: Run) -> None:
    program = """
    assert "asyncio" not in sys.modules
    def helper():
        import asyncio
        return asyncio.sleep(0.001, "slept"), asyncio.current_task() is not None
    class Cell(Chare):
        async def other(self, f): return await f
        async def first(self):
            import asyncio.events
            sleep, task = helper()
            return await sleep, task, asyncio.get_running_loop() is not None
    async def main(args):
        cell = Chare(Cell)
        f = Future()
        waiting = cell.other(f, ret=True)
        print(await cell.first(ret=True))
        f.send("sent")
        print(await waiting)
        exit()
    charm.start(main)
    """
    check(run(program, 1), "('slept', True, True)\nsent")


def test_sockets_are_served_while_the_pe_sleeps(run: Run) -> None:
    program = """
    import asyncio
    class Server(Chare):
        async def serve(self):
            async def answer(reader, writer):
                while line := await reader.readline():
                    writer.write(line.upper())
                    await writer.drain()
                    self.lines = getattr(self, "lines", 0) + 1
                writer.close()
            self.server = await asyncio.start_server(answer, "127.0.0.1", 0)
            return self.server.sockets[0].getsockname()[1]
        def count(self): return self.lines
    class Client(Chare):
        async def ask(self, port, n):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            got = []
            for i in range(n):
                writer.write(f"line {i}\\n".encode())
                got.append((await reader.readline()).decode().strip())
            writer.close()
            await writer.wait_closed()
            return got
        async def child(self):
            process = await asyncio.create_subprocess_exec("echo", "a child", stdout=asyncio.subprocess.PIPE)
            out, _ = await process.communicate()
            return out.decode().strip(), process.returncode
    def main(args):
        server = Chare(Server, onPE=0)
        port = server.serve(ret=True).get()
        clients = Group(Client)
        for got in clients.ask(port, 50, ret=True).get():
            assert got == [f"LINE {i}" for i in range(50)], got
        print(server.count(ret=True).get(), clients.child(ret=True).get())
        charm.waitQD()  # a server that waits for clients holds nothing
        exit()
    charm.start(main)
    """
    check(run(program), "100 [('a child', 0), ('a child', 0)]")


def test_quiescence_waits_for_methods_and_not_for_what_runs_in_the_background(run: Run) -> None:
    program = """
    import asyncio
    class Cell(Chare):
        def __init__(self): self.log = []
        async def works(self):
            for i in range(3):
                await asyncio.sleep(0.05)
                self.log.append(i)
            await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.05)
            self.log.append("end")
        async def background(self):
            async def tick():
                while True:
                    await asyncio.sleep(0.01)
                    self.ticks = getattr(self, "ticks", 0) + 1
            self.task = asyncio.create_task(tick())
        def get(self): return self.log, self.ticks > 2
    def main(args):
        cell = Chare(Cell, onPE=1)
        cell.background()
        cell.works()
        charm.waitQD()
        print(cell.get(ret=True).get())
        exit()
    charm.start(main)
    """
    check(run(program), "([0, 1, 2, 'end'], True)")


def test_a_thread_sends_to_futures_and_wakes_the_loop(run: Run) -> None:
    program = """
    import asyncio, threading
    class Cell(Chare):
        @coro
        def blocks(self):
            here = self.start()
            return here.get()
        async def awaits(self): return await self.start()
        def start(self):
            f = Future(3)
            threading.Thread(target=lambda: (time.sleep(0.02), f.send(np.arange(3)), f({"a": self.thisProxy}), f.send())).start()
            return f
        async def loop(self):
            loop, done = asyncio.get_running_loop(), asyncio.Event()
            threading.Thread(target=lambda: (time.sleep(0.02), loop.call_soon_threadsafe(done.set))).start()
            await done.wait()
            f = asyncio.run_coroutine_threadsafe
            there = threading.Thread(target=lambda: self.got.append(f(self.inner(), loop).result()))
            self.got = []
            there.start()
            while not self.got: await asyncio.sleep(0.001)
            return self.got
        async def inner(self): return await self.thisProxy.plain(ret=True)
        def plain(self): return charm.myPe()
        @coro
        def fails(self):
            f = Future()
            threading.Thread(target=lambda: f.send(ValueError("from a thread"))).start()
            try:
                f.get()
            except ValueError as e:
                return str(e)
    def main(args):
        cell, far = Chare(Cell, onPE=1), Future()
        print(cell.blocks(ret=True).get()[0], cell.awaits(ret=True).get()[2], cell.loop(ret=True).get(), cell.fails(ret=True).get())
        exit()
    charm.start(main)
    """
    check(run(program), "[0 1 2] None [1] from a thread")


def test_a_method_can_be_cancelled_as_a_task(run: Run) -> None:
    program = """
    import asyncio
    class Cell(Chare):
        def __init__(self): self.tasks = []
        async def waits(self, f):
            self.tasks.append(asyncio.current_task())
            try:
                await f
            except asyncio.CancelledError:
                self.tasks.append("seen")
                raise
        async def sleeps(self):
            self.tasks.append(asyncio.current_task())
            await asyncio.sleep(60)
        async def holds_on(self):
            asyncio.current_task().cancel("now")
            try:
                await self.thisProxy.nothing(awaitable=True)
            except asyncio.CancelledError as e:
                await asyncio.sleep(0.001)
                return str(e)
        def nothing(self): pass
        def cancel(self): return [task.cancel() for task in self.tasks if task != "seen"]
        async def late(self):
            try:
                async with asyncio.timeout(0.01):
                    await Future()
            except TimeoutError:
                return "late"
        async def group(self):
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(asyncio.sleep(60))
                    group.create_task(self.bad())
            except* ValueError as e:
                number = len(e.exceptions)
            return number
        async def bad(self): raise ValueError
    def main(args):
        cell, f = Chare(Cell), Future()
        waiting = [cell.waits(f, ret=True), cell.waits(f, ret=True), cell.sleeps(ret=True)]
        print(cell.cancel(ret=True).get())
        for future in waiting:
            try:
                future.get()
            except asyncio.CancelledError:
                print("cancelled")
        print(cell.holds_on(ret=True).get())
        if sys.version_info >= (3, 11): print(cell.late(ret=True).get(), cell.group(ret=True).get())
        else: print("late 1")
        exit()
    charm.start(main)
    """
    if sys.version_info < (3, 11):
        program = program.replace("except*", "except")
    check(run(program, 1), "[True, True, True]\ncancelled\ncancelled\ncancelled\nnow\nlate 1")


def test_other_methods_may_still_run_a_loop_of_their_own(run: Run) -> None:
    program = """
    import asyncio
    async def inner(f):
        await asyncio.sleep(0.001)
        try:
            await f
        except RuntimeError as e:
            return str(e)[:35]
    class Cell(Chare):
        def plain(self): return asyncio.run(inner(Future()))
        @coro
        def waits(self):
            charm.sleep(0.001)
            return asyncio.run(inner(Future()))
        async def ours(self): await asyncio.sleep(0.001)
    def main(args):
        cell = Chare(Cell, onPE=1)
        for _ in range(2):
            print(cell.plain(ret=True).get(), cell.waits(ret=True).get())
            cell.ours(awaitable=True).get()
        exit()
    charm.start(main)
    """
    line = "a future of charm4py can be awaited"
    check(run(program), f"{line} {line}\n{line} {line}")


def test_the_job_ends_cleanly_whatever_the_loop_does(run: Run) -> None:
    program = """
    import asyncio
    class Cell(Chare):
        async def busy(self):
            async def forever():
                try:
                    await asyncio.sleep(1000)
                finally:
                    print("ended", flush=True)
            async def numbers():
                try:
                    while True: yield 1
                finally:
                    await asyncio.sleep(0)
            self.tasks = [asyncio.create_task(forever())]
            self.numbers = numbers()
            await self.numbers.__anext__()
            self.server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
            self.connection = await asyncio.open_connection(*self.server.sockets[0].getsockname())
            asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.01)
            asyncio.get_running_loop().call_later(500, print, "never")
        async def waits(self): await asyncio.sleep(1000)
    def main(args):
        cells = Group(Cell)
        cells.busy(awaitable=True).get()
        cells.waits()
        charm.sleep(0.05)
        exit(3)
    charm.start(main)
    """
    ended = run(program)
    assert (ended.code, ended.lines(), ended.err) == (3, ["ended", "ended"], ""), ended


def test_an_exit_in_the_background_ends_the_job_and_an_error_of_a_method_does_too(run: Run) -> None:
    program = """
    import asyncio
    async def ends():
        await asyncio.sleep(0.001)
        sys.exit(7)
    class Cell(Chare):
        async def go(self): self.task = asyncio.create_task(ends())
        async def fails(self):
            await asyncio.sleep(0.001)
            raise ValueError("after a while")
    def main(args):
        getattr(Chare(Cell, onPE=1), %r)()
    charm.start(main)
    """
    assert run(program % "go").code == 7
    ended = run(program % "fails")
    assert ended.code == 1 and "ValueError: after a while in Cell.fails" in ended.err
