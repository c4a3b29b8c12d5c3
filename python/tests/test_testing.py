"""Jobs inside tests of pytest: the fixture, and a test runner in whose process a job is started."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import WATCHDOG_S

TESTS = """
import pytest
from charm4py import Array, Chare, Future, Reducer, charm
from charm4py.testing import JobFailed

class Cell(Chare):
    def give(self, done, value): self.reduce(done, value, Reducer.sum)
    def fail(self): raise KeyError("lost")

def summed(args):
    done = Future()
    Array(Cell, 4).give(done, int(args[1]))
    print("on", charm.numPes())
    return done.get()

class Own(Exception): pass

def wrong(args):
    raise Own("as it is")

def lost(args):
    Array(Cell, 4)[2].fail()
    Future().get()

def test_a_value_is_what_the_entry_point_returns(charm_job, capfd):
    assert charm_job(summed, pes=2, args=["5"]) == 20
    assert capfd.readouterr().out == "on 2\\n"

def test_assertions_fail_in_the_test(charm_job):
    offset = 3
    def entry(args):
        assert offset == 4, "of the job"
    with pytest.raises(AssertionError, match="of the job"):
        charm_job(entry)
    with pytest.raises(Own, match="as it is") as info:
        charm_job(wrong, pes=2)
    assert "in wrong" in str(info.value.__cause__)

def test_a_job_that_fails_is_an_error(charm_job):
    with pytest.raises(JobFailed, match="KeyError: 'lost' in Cell.fail") as info:
        charm_job(lost, pes=2)
    assert info.value.code == 1

def test_a_job_that_hangs_ends(charm_job):
    with pytest.raises(TimeoutError, match="still ran after 1 s"):
        charm_job(lambda args: Future().get(), timeout=1)

def test_an_exit_is_no_error_but_for_its_status(charm_job):
    assert charm_job(lambda args: exit()) is None
    with pytest.raises(JobFailed, match="status 3"):
        charm_job(lambda args: exit(3))
"""


def pytest_in(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text('pytest_plugins = ["charm4py.testing"]\n')
    (folder / "test_cells.py").write_text(textwrap.dedent(text))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=WATCHDOG_S)


def test_a_job_runs_inside_of_a_test(tmp_path: Path) -> None:
    ended = pytest_in(tmp_path, TESTS)
    assert ended.returncode == 0 and "5 passed" in ended.stdout, ended.stdout


@pytest.mark.parametrize("code", [0, 3])
def test_a_start_inside_of_a_test_does_not_end_the_runner(tmp_path: Path, code: int) -> None:
    tests = f"""
    import pytest
    from charm4py import charm
    def test_before(): pass
    def test_start():
        charm.start(lambda args: exit({code}))
    def test_again():
        with pytest.raises(RuntimeError, match="charm.start.. is called once"):
            charm.start(lambda args: exit())
    def test_chosen():
        assert False, "seen"
    """
    ended = pytest_in(tmp_path, tests)
    assert ended.returncode == 1 and "2 failed, 2 passed" in ended.stdout, ended.stdout
    assert f"SystemExit: {code}" in ended.stdout and "seen" in ended.stdout


def test_the_end_of_a_job_may_be_caught(tmp_path: Path) -> None:
    tests = """
    import pytest
    from charm4py import charm
    def test_start():
        with pytest.raises(SystemExit) as info:
            charm.start(lambda args: exit(4))
        assert info.value.code == 4
    """
    assert pytest_in(tmp_path, tests).returncode == 0
