"""Faults that only Python programs have: values, exceptions and signals at the wrong time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import MARK, Run, Traces, check, program_text

#: Opens on this PE only: `Bad(where)` cannot be unpickled anywhere else.
BAD = """
    def opened(pe):
        if charm.myPe() != pe: raise ValueError("cannot be opened")
        return Bad()
    class Bad:
        def __reduce__(self): return opened, (charm.myPe(),)
"""


def test_what_cannot_be_unpickled_is_an_error_of_the_call_and_the_pe_lives(run: Run) -> None:
    program = BAD + """
    class Cell(Chare):
        def take(self, x): return "taken"
        def give(self): return Bad()
        def send(self, f): f.send(Bad())
    def main(args):
        cells, array = Group(Cell), Array(Cell, 4)
        f = Future()
        calls = {"argument": lambda: cells[1].take(Bad(), ret=True).get(), "keyword": lambda: cells[1].take(x=Bad(), ret=True).get(),
                 "result": lambda: cells[1].give(ret=True).get(), "future": lambda: (cells[1].send(f), f.get()),
                 "all": lambda: cells.take(Bad(), awaitable=True).get()}
        for name, call in calls.items():
            try:
                print(name, call())
            except ValueError as e:
                print(name, e)
        print(array.take(1, ret=True).get())
        exit()
    charm.start(main)
    """
    lines = "".join(f"{name} cannot be opened\n" for name in ("argument", "keyword", "result", "future", "all"))
    check(run(program), lines + "['taken', 'taken', 'taken', 'taken']")


@pytest.mark.parametrize("how", ["cell.take(Bad())", "Chare(Cell, [Bad()], onPE=1)"])
def test_what_cannot_be_unpickled_ends_the_job_if_no_caller_waits(run: Run, how: str) -> None:
    program = BAD + f"""
    class Cell(Chare):
        def __init__(self, x=None): pass
        def take(self, x): pass
    def main(args):
        cell = Chare(Cell, onPE=1)
        {how}
    charm.start(main)
    """
    ended = run(program)
    method = "take" if "take" in how else "__init__"
    assert ended.code == 1
    assert ended.err.startswith(f"charmrun: error[1]: ValueError: cannot be opened in Cell.{method}, index ["), ended.err


def test_an_exception_whose_class_is_missing_arrives_with_its_text_and_every_traceback(run: Run) -> None:
    program = """
    class Hop(Chare):
        @coro
        def pass_on(self, left):
            if left: return self.thisProxy[(charm.myPe() + 1) % charm.numPes()].pass_on(left - 1, ret=True).get()
            # Its class exists only on this PE: it can be pickled, but not read elsewhere.
            global Lonely
            class Lonely(Exception): pass
            Lonely.__qualname__ = "Lonely"
            raise Lonely("so far away")
    def main(args):
        try:
            Group(Hop)[1].pass_on(3, ret=True).get()
        except Exception as e:
            print(type(e).__name__, e)
            print(e.remote_stacktrace.count("Traceback (most recent"), e.remote_stacktrace.count("in pass_on"))
        exit()
    charm.start(main)
    """
    check(run(program, 3), "RemoteError Lonely: so far away\n4 4")


def test_errors_of_all_kinds_of_code_end_the_job_and_say_where(run: Run) -> None:
    kinds = {
        "timer": "charm.scheduleCallableAfter(broken, 0.001)",
        "quiescence": "charm.startQD(broken)",
        "reducer": "Group(Cell).broken(Future())",
        "asynchronous": "Group(Cell).asynchronous()",
        "entry point": "broken()",
    }
    program = """
    def broken(*args): raise ValueError("broken")
    Reducer.addReducer(broken)
    class Cell(Chare):
        def broken(self, f): self.reduce(f, 1, Reducer.broken)
        async def asynchronous(self): raise ValueError("broken")
    def main(args):
        HOW
    charm.start(main)
    """
    for kind, how in kinds.items():
        ended = run(program.replace("HOW", how))
        assert ended.code == 1, (kind, ended.err)
        assert ended.err.startswith("charmrun: error[1]: ValueError: broken in "), (kind, ended.err)
        assert "Traceback (most recent call last)" in ended.err and "prog.py" in ended.err, (kind, ended.err)


@pytest.mark.parametrize("busy", ["while True: pass", "charm.sleep(100)", "np.linalg.svd(np.ones((3000, 3000)))"])
def test_an_interrupt_ends_the_job_with_one_word_of_it(tmp_path: Path, busy: str) -> None:
    program = f"""
        class Busy(Chare):
            @coro
            def go(self):
                print("ready", flush=True)
                {busy}
        def main(args): Group(Busy).go()
        charm.start(main)
    """
    (tmp_path / "prog.py").write_text(program_text(program))
    traces = Traces()
    job = subprocess.Popen(
        [sys.executable, "-m", "charmrun.start", "+p2", "prog.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, MARK: traces.mark},
        # A shell that starts the tests in the background ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    watchdog = threading.Timer(30, job.kill)
    watchdog.start()
    assert job.stdout is not None
    assert [job.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    traces.look()
    begun = time.monotonic()
    os.killpg(job.pid, signal.SIGINT)
    _, err = job.communicate()
    watchdog.cancel()
    traces.assert_gone()
    # The contract's limit, and a margin for a busy machine.
    assert job.returncode == 130 and time.monotonic() - begun < 4, err
    assert err.count("Traceback") <= 1 and "Fatal Python error" not in err, err


def test_jobs_end_cleanly_every_time(run: Run) -> None:
    program = """
    import threading
    class Cell(Chare):
        def poke(self, n):
            if n: self.thisProxy.poke(n - 1)
    def main(args):
        threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
        Group(Cell).poke(3)
        charm.scheduleCallableAfter(exit, 0)
    charm.start(main)
    """
    for _ in range(15):
        ended = run(program)
        assert (ended.code, ended.out, ended.err) == (0, [], "")


def test_what_runs_at_the_interpreters_end_runs_and_is_printed(run: Run) -> None:
    program = """
    import atexit
    atexit.register(lambda: print("at exit", charm.myPe()))
    def main(args):
        print("unfinished line", end="")
        exit(2)
    charm.start(main)
    """
    ended = run(program)
    assert ended.code == 2 and sorted(line for line in ended.out if "at exit" in line) != [], ended.err
    assert "".join(ended.out).count("at exit") == 2 and "unfinished line" in "".join(ended.out)


def test_garbage_may_be_collected_on_any_thread(run: Run) -> None:
    program = """
    import gc, threading
    class Cell(Chare):
        def __init__(self): self.me = [self]
        def end(self): self.__charm_destroy__()
    def main(args):
        gc.disable()
        for i in range(50):
            future = Future()
            future.send(i)
            future.get()
            cycle = [future]
            cycle.append(cycle)
            Chare(Cell, onPE=0).end(awaitable=True).get()
        future = cycle = None
        thread = threading.Thread(target=gc.collect)
        thread.start()
        while thread.is_alive():
            charm.sleep(0.01)
        print(Chare(Cell, onPE=0).end(awaitable=True).get())
        exit()
    charm.start(main)
    """
    ended = run(program, 1)
    assert (ended.code, ended.out, ended.err) == (0, ["None"], "")


def test_an_awaited_call_that_is_too_large_is_an_error_of_the_call(run: Run) -> None:
    program = """
    import resource
    class Small(Chare):
        def take(self, data): return data.nbytes
        def give(self, size): return np.zeros(size, "u1")
        def shrink(self):
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (96 << 20), -1))
    def main(args):
        small = Chare(Small, onPE=1)
        kept = np.zeros(300 << 20, "u1")
        small.shrink(awaitable=True).get()
        for wants in ({"ret": True}, {"awaitable": True}):
            try:
                small.take(kept, **wants).get()
            except MemoryError as e:
                print(str(e)[:30])
        print(small.take(kept[:1000], ret=True).get(), small.take(kept[:20 << 20], ret=True).get())
        print(small.give(10 << 20, ret=True).get().nbytes, Chare(Small, onPE=0).take(kept[:9 << 20], ret=True).get())
        exit()
    charm.start(main)
    """
    said = ["there is no memory for the 314"] * 2
    check(run(program, 2, options=("++transport", "tcp")), "\n".join([*said, "1000 20971520", "10485760 9437184"]))


def test_an_awaited_call_longer_than_messages_may_be_is_an_error_of_the_call(run: Run) -> None:
    program = """
    from charm4py.charm import Charm4PyError
    class Small(Chare):
        def take(self, data): return data.nbytes
        def give(self, size): return np.zeros(size, "u1")
    def main(args):
        small = Chare(Small, onPE=1)
        for call in (lambda: small.take(np.zeros(2 << 20), ret=True), lambda: small.give(2 << 20, ret=True)):
            try:
                call().get()
            except (Charm4PyError, MemoryError) as e:
                print("more than the 1048576" in str(e))
        print(small.take(np.zeros(10, "u1"), ret=True).get())
        exit()
    charm.start(main)
    """
    check(run(program, 2, options=("++message-max", "1M", "++transport", "tcp")), "True\nTrue\n10")


def test_a_result_that_is_too_large_for_its_caller_is_an_error_of_the_call(run: Run) -> None:
    program = """
    import resource
    class Small(Chare):
        def give(self, size): return np.zeros(size, "u1")
    def main(args):
        small = Chare(Small, onPE=1)
        small.give(1, ret=True).get()
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (96 << 20), -1))
        try:
            small.give(300 << 20, ret=True).get()
        except MemoryError as e:
            print("no memory" in str(e))
        print(small.give(1000, ret=True).get().nbytes)
        exit()
    charm.start(main)
    """
    check(run(program, 2, options=("++transport", "tcp")), "True\n1000")
