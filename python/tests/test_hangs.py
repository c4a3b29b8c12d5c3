"""Jobs that hang report what waits for what."""

from __future__ import annotations

import re

from conftest import Run


def test_a_deadlock_is_told_in_the_names_of_the_program(run: Run) -> None:
    ended = run(
        """
        class Matrix(Chare):
            def __init__(self):
                self.ready = False

            @coro
            def run(self, ready):
                if self.thisIndex[0] == 3:
                    Future().get()
                elif self.thisIndex[0] == 2:
                    self.wait('self.ready')
                else:
                    self.allreduce(1, Reducer.sum).get()

        def main(args):
            Array(Matrix, 4).run(1)
            Future().get()

        charm.start(main)
        """,
        options=("++hang-timeout", "1"),
    )
    assert ended.code == 124
    assert "deadlock" in ended.err and "waiting tasks: 5" in ended.err, ended.err
    for line in (
        "PE 0: main waits for a future at ",
        "Matrix[0].run waits for a future at ",
        "Matrix[1].run waits for a future at ",
        "Matrix[2].run waits for the condition 'self.ready' at ",
        "Matrix[3].run waits for a future at ",
        "reduction 1 of Matrix lacks Matrix[2], Matrix[3]",
    ):
        assert line in ended.err, ended.err
    assert "prog.py:" in ended.err and "Element" not in ended.err, ended.err


def test_each_wait_says_how_long_it_has_lasted(run: Run) -> None:
    ended = run(
        """
        class Cell(Chare):
            @coro
            def get(self):
                Future().get()

            @coro
            def recv(self):
                Channel(self, remote=self.thisProxy).recv()

            @coro
            def condition(self):
                self.wait('False')

            @coro
            def any(self):
                charm.wait([Future(), Future()])

            async def both(self):
                await Future()

        def main(args):
            cell = Chare(Cell)
            cell.get(), cell.recv(), cell.condition(), cell.any(), cell.both()
            charm.sleep(3)
            Future().get()

        charm.start(main)
        """,
        pes=1,
        options=("++hang-timeout", "1"),
    )
    assert ended.code == 124
    seconds = {
        match[1]: int(match[2]) for match in re.finditer(r"(\w+) waits for .*prog.py:\d+, for (\d+) s$", ended.err, re.MULTILINE)
    }
    assert set(seconds) == {"get", "recv", "condition", "any", "both", "main"}, ended.err
    assert 1 <= seconds.pop("main") <= 3, ended.err
    assert all(4 <= length <= 6 for length in seconds.values()), ended.err


def test_a_main_that_has_returned_without_exit_is_told(run: Run) -> None:
    ended = run(
        """
        def main(args):
            print("over")

        charm.start(main)
        """,
        options=("++hang-timeout", "1"),
    )
    assert (ended.code, ended.out) == (124, ["over"])
    assert "main has returned without a call of exit()" in ended.err, ended.err


def test_a_job_that_a_thread_may_go_on_with_is_in_no_deadlock(run: Run) -> None:
    ended = run(
        """
        import threading

        class Cell(Chare):
            def end(self):
                exit(5)

        def main(args):
            cell = Chare(Cell)
            f = Future()
            charm.awaitCreation(cell)
            threading.Timer(3, lambda: __import__('os')._exit(3)).start()
            f.get()

        charm.start(main)
        """,
        pes=1,
        options=("++hang-timeout", "1"),
    )
    assert "deadlock" not in ended.err, ended.err


def test_async_methods_that_wait_for_each_other_are_told(run: Run) -> None:
    ended = run(
        """
        class Cell(Chare):
            async def waits(self):
                await Future()

        async def main(args):
            await Chare(Cell, onPE=1).waits(awaitable=True)

        charm.start(main)
        """,
        options=("++hang-timeout", "1"),
    )
    assert ended.code == 124
    for line in ("PE 0: main waits for a future at ", "PE 1: Cell[0].waits waits for a future at "):
        assert line in ended.err, ended.err


def test_a_job_that_asyncio_will_go_on_with_is_in_no_deadlock(run: Run) -> None:
    ended = run(
        """
        import asyncio

        class Cell(Chare):
            async def later(self, future):
                async def background():
                    await asyncio.sleep(4)
                    future.send("sent")
                self.task = asyncio.create_task(background())

        def main(args):
            future = Future()
            Chare(Cell, onPE=1).later(future)
            print(future.get())
            exit()

        charm.start(main)
        """,
        options=("++hang-timeout", "1"),
    )
    assert (ended.code, ended.out) == (0, ["sent"]), ended
