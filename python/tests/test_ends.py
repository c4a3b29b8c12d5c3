"""How jobs end, and where exceptions go."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import Run, check, run_job


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
    assert ended.code == code
    # A requested end prints nothing; an abort prints where it was called.
    lines = ended.err.splitlines()
    if "abort" in how:
        assert lines[0].startswith(f"charmrun: error[1]: {err}, pe={pe} "), ended.err
        assert "Traceback" in ended.err and "in end" in ended.err, ended.err
    else:
        assert lines == ([err] if err else []), ended.err


def test_the_end_may_be_a_callback(run: Run) -> None:
    program = """
    class Cell(Chare):
        def go(self): self.reduce(charm.thisProxy.exit)
    def main(args): Array(Cell, 5).go()
    charm.start(main)
    """
    assert run(program, 3).code == 0


@pytest.mark.parametrize("kind", ["call", "constructor", "waiting constructor", "coroutine", "condition"])
def test_an_exception_without_a_waiting_caller_ends_the_job_and_says_where(run: Run, kind: str) -> None:
    program = f"""
    class Bad(Chare):
        {"@coro" if kind == "waiting constructor" else ""}
        def __init__(self):
            if "{kind}" == "waiting constructor": charm.sleep(0.01)
            if "constructor" in "{kind}": raise ValueError("broken")
        def call(self): raise ValueError("broken")
        @coro
        def coroutine(self):
            charm.sleep(0.01)
            raise ValueError("broken")
        @when("undefined_name")
        def condition(self): pass
    def main(args):
        bad = Array(Bad, 4)
        if "constructor" not in "{kind}":
            bad[3].{kind.split()[0]}()
    charm.start(main)
    """
    ended = run(program)
    first = ended.err.splitlines()[0]
    method = "__init__" if "constructor" in kind else kind
    error = "NameError: name 'undefined_name' is not defined" if kind == "condition" else "ValueError: broken"
    assert ended.code == 1
    assert first.startswith(f"charmrun: error[1]: {error} in Bad.{method}, index [") and ", pe=" in ended.err
    assert "Traceback (most recent call last)" in ended.err and "prog.py" in ended.err


def test_an_awaited_exception_is_raised_there(run: Run) -> None:
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
        ("print('no start')", "the script ended without calling charm.start()"),
        ("charm.start()", "needs an entry point"),
        ("sys.exit(3)", "ended with exit code 3 before it joined the job"),
    ],
)
def test_a_script_that_does_not_start_ends_the_job_at_once(run: Run, program: str, err: str) -> None:
    for pes in (1, 2):
        ended = run(program, pes)
        assert ended.code == {"print": 69, "raise": 1, "charm": 1, "sys.e": 3}[program[:5]], ended.err
        assert err in ended.err and "charmrun: error[" in ended.err


def test_a_script_that_does_not_start_says_so_without_a_launcher(run: Run) -> None:
    ended = run("class Cell(Chare): pass", launcher=False)
    assert ended.err.splitlines()[-1].endswith("prog.py: error: the script ended without calling charm.start()")
    # A module that only uses the package's names is no program of chares; and only one error is printed.
    assert run("print(1)", launcher=False).err == ""
    assert "charm.start" not in run("class Cell(Chare): pass\nraise KeyError('broken')", launcher=False).err


def test_a_script_that_does_not_exist_is_reported(run: Run) -> None:
    job = run_job([sys.executable, "-m", "charmrun.start", "+p2", "nowhere.py"])
    assert job.returncode != 0 and "nowhere.py" in job.stderr


@pytest.mark.parametrize("pes", [1, 2])
@pytest.mark.parametrize("where", ["main", "waiting", "attribute", "global", "gzip"])
def test_what_was_written_to_a_file_is_there_after_the_end(run: Run, tmp_path: Path, pes: int, where: str) -> None:
    program = f"""
    import gzip
    name = {str(tmp_path)!r} + "/out"
    class Cell(Chare):
        def __init__(self):
            if "{where}" == "attribute":
                self.out = open(name, "w")
                self.out.write("x" * 100)
        @coro
        def write(self):
            out = open(name, "w")
            out.write("x" * 100)
            Future().get()
    def main(args):
        cell = Chare(Cell, onPE=charm.numPes() - 1)
        if "{where}" == "main":
            out = open(name, "w")
            out.write("x" * 100)
        elif "{where}" == "waiting":
            cell.write()
        elif "{where}" == "gzip":
            global zipped
            zipped = gzip.open(name, "wt")
            zipped.write("x" * 100)
        elif "{where}" == "global":
            global kept
            kept = open(name, "w", buffering=1 << 20)
            kept.write("x" * 100)
        charm.awaitCreation(cell)
        charm.sleep(0.01)
        exit(3)
    charm.start(main)
    """
    ended = run(program, pes)
    assert (ended.code, ended.err) == (3, "")
    if where == "gzip":
        import gzip

        assert gzip.open(tmp_path / "out", "rt").read() == "x" * 100
    else:
        assert (tmp_path / "out").read_text() == "x" * 100


def test_a_file_is_written_when_the_job_fails(run: Run, tmp_path: Path) -> None:
    program = f"""
    out = open({str(tmp_path)!r} + "/out", "w")
    def main(args):
        out.write("x" * 100)
        raise ValueError("broken")
    charm.start(main)
    """
    assert run(program, 1).code == 1
    assert (tmp_path / "out").read_text() == "x" * 100


@pytest.mark.parametrize("pes", [1, 2])
def test_what_was_to_run_at_the_end_runs(run: Run, pes: int) -> None:
    program = """
    import atexit, ctypes, threading
    class Kept:
        def __del__(self): print("object", flush=True)
    def main(args):
        global kept
        kept = Kept()
        atexit.register(print, "Python")
        threading.Thread(target=lambda: (time.sleep(0.1), print("thread", flush=True))).start()
        exit()
    # Python code cannot run when C's exit handlers do: a C function shows that they have run.
    libc = ctypes.CDLL(None)
    libc.__cxa_atexit(libc.perror, b"C", None)
    try:
        charm.start(main)
    finally:
        if charm.myPe() == 0: print("finally")
    """
    ended = run(program, pes)
    assert (ended.code, ended.out) == (0, ["finally", "thread", "Python", "object"]), ended.err
    assert [line.split(":")[0] for line in ended.err.splitlines()] == ["C"] * pes


def test_an_end_that_hangs_is_cut_short_with_the_status_of_the_job(run: Run) -> None:
    program = """
    import threading
    from charm4py import ending
    ending.LIMIT_S = 0.3
    def main(args):
        threading.Thread(target=threading.Event().wait).start()
        exit(5)
    charm.start(main)
    """
    for pes in (1, 2):
        ended = run(program, pes, launcher=pes > 1)
        assert ended.code == 5
        assert ended.err.startswith("charmrun: warning: process ") and ended.err.endswith(" had not ended 0.3 s after the job\n")
