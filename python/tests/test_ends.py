"""How jobs end, and what becomes of exceptions."""

from __future__ import annotations

import pytest
from conftest import Run, check


@pytest.mark.parametrize(
    ("how", "code", "err"),
    [
        ("exit()", 0, ""),
        ("exit(7)", 7, ""),
        ("sys.exit('sorry')", 1, "sorry"),
        ("charm.exit(5)", 5, ""),
        ("charm.abort('stop here')", 1, "stop here"),
    ],
)
@pytest.mark.parametrize("pe", [0, 1])
def test_a_job_ends_with_the_status_that_it_asks_for(run: Run, how: str, code: int, err: str, pe: int) -> None:
    program = f"""
    class Ender(Chare):
        def end(self): {how}
    def main(args):
        Chare(Ender, onPE={pe}).end()
    charm.start(main)
    """
    ended = run(program)
    assert ended.code == code and err in ended.err and "Traceback" not in ended.err.replace("charm.abort", "") or code == 1


def test_the_end_may_be_a_callback(run: Run) -> None:
    program = """
    class Cell(Chare):
        def go(self): self.reduce(charm.thisProxy.exit)
    def main(args): Array(Cell, 5).go()
    charm.start(main)
    """
    assert run(program, 3).code == 0


@pytest.mark.parametrize("kind", ["call", "constructor", "coroutine", "condition"])
def test_an_exception_that_nobody_waits_for_ends_the_job_and_says_where(run: Run, kind: str) -> None:
    program = f"""
    class Bad(Chare):
        def __init__(self):
            if "{kind}" == "constructor": raise ValueError("broken")
        def call(self): raise ValueError("broken")
        @coro
        def coroutine(self):
            charm.sleep(0.01)
            raise ValueError("broken")
        @when("undefined_name")
        def condition(self): pass
    def main(args):
        bad = Array(Bad, 4)
        if "{kind}" != "constructor":
            bad[3].{kind}()
    charm.start(main)
    """
    ended = run(program)
    first = ended.err.splitlines()[0]
    method = "__init__" if kind == "constructor" else kind
    error = "NameError: name 'undefined_name' is not defined" if kind == "condition" else "ValueError: broken"
    assert ended.code == 1
    assert first.startswith(f"charmrun: error[1]: {error} in Bad.{method}, index [") and ", pe=" in ended.err
    assert "Traceback (most recent call last)" in ended.err and "prog.py" in ended.err


def test_an_exception_that_somebody_awaits_is_raised_there(run: Run) -> None:
    program = """
    class Bad(Chare):
        def fail(self): raise KeyError(self.thisIndex[0])
        def some(self):
            if self.thisIndex[0] == 1: raise IndexError("one")
            return self.thisIndex[0]
        @coro
        def pass_on(self, other): return other.fail(ret=True).get()
    def main(args):
        bad = Array(Bad, 3)
        try:
            bad[2].pass_on(bad[0], ret=True).get()
        except KeyError as e:
            print("KeyError", e, e.remote_stacktrace.count("Traceback"), "in fail" in e.remote_stacktrace)
        got = bad.some(ret=True).get()
        print(got[0], type(got[1]).__name__, got[2])
        try:
            bad.some(awaitable=True).get()
        except IndexError as e:
            print("IndexError", e)
        exit()
    charm.start(main)
    """
    check(run(program), "KeyError 0 2 True\n0 IndexError 2\nIndexError one")


def test_an_exception_that_cannot_travel_arrives_as_its_type_and_text(run: Run) -> None:
    program = """
    class Bad(Chare):
        def fail(self):
            class Local(Exception): pass
            raise Local("inner")
    def main(args):
        try:
            Chare(Bad, onPE=1).fail(ret=True).get()
        except Exception as e:
            print(type(e).__name__, e)
        exit()
    charm.start(main)
    """
    ended = run(program)
    assert ended.code == 0 and ended.out[0].startswith("RemoteError") and ended.out[0].endswith("Local: inner")


@pytest.mark.parametrize(
    ("program", "err"),
    [
        ("raise RuntimeError('before the start')", "before the start"),
        ("print('no start')", "without"),
        ("charm.start()", "needs an entry point"),
    ],
)
def test_a_script_that_does_not_start_ends_the_job_at_once(run: Run, program: str, err: str) -> None:
    ended = run(program)
    assert ended.code != 0 and err in ended.err


def test_a_script_that_does_not_exist_is_reported(run: Run) -> None:
    import subprocess
    import sys

    job = subprocess.run([sys.executable, "-m", "charmrun.start", "+p2", "nowhere.py"], capture_output=True, text=True, timeout=30)
    assert job.returncode != 0 and "nowhere.py" in job.stderr


def test_globals_and_readonlies_reach_every_pe(run: Run) -> None:
    program = """
    X = 0
    class Reader(Chare):
        def read(self): return X, readonlies.size
    def main(args):
        readonlies.size = [1, 2]
        charm.thisProxy.updateGlobals({"X": 5}, awaitable=True).get()
        print(Group(Reader).read(ret=True).get())
        try:
            charm.thisProxy.eval("X + 1", "__main__", ret=True).get()
        except charm.Charm4PyError as e:
            print(e.message.split(":")[0])
        exit()
    charm.start(main)
    """
    ended = run(program)
    assert ended.code == 0 and ended.out[0] == "[(5, [1, 2]), (5, [1, 2])]", ended.err
