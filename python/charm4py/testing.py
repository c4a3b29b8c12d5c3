"""Jobs inside tests of pytest.

``charm.start`` does not return, and a process can have only one job. So the job of a test has its own processes::

    # conftest.py
    pytest_plugins = ["charm4py.testing"]

    # test_sum.py
    def summed(args):
        done = Future()
        Array(Cell, 4).give(done)
        return done.get()

    def test_all_cells_give(charm_job):
        assert charm_job(summed, pes=2) == 4

:func:`unit` (:mod:`charm4py.unit`) creates a chare without a job.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Sequence, TypeVar

import pytest

from .unit import Call, Reduction, proxy, sent, unit

__all__ = ["Call", "JobFailed", "Reduction", "charm_job", "proxy", "run", "sent", "unit"]

T = TypeVar("T")

#: A job that takes longer hangs.
TIMEOUT_S = 60.0


class JobFailed(Exception):
    """The job of a test has ended before its entry point returned. Has the job's status and output."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(f"the job ended with status {code}\n{said.rstrip()}")
        self.code = code


def run(
    entry: Callable[[list[str]], T], pes: int = 1, args: Sequence[str] = (), options: Sequence[str] = (), timeout: float = TIMEOUT_S
) -> T:
    """Runs a job with the entry point ``entry``, a function. Returns what ``entry`` returns, and raises what it raises.

    The job ends when ``entry`` returns. Its output becomes the test's output. ``options`` are charmrun's.
    """
    from . import functions

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "entry").write_bytes(pickle.dumps((sys.path, getattr(entry, "__module__", None), functions.dumps(entry))))
        launcher = [sys.executable, "-m", "charmrun.start", f"+p{pes}", *options]
        try:
            job = subprocess.run([*launcher, "-m", "charm4py.testing_job", name, *args], capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired as late:
            said = [text.decode(errors="replace") if isinstance(text, bytes) else text or "" for text in (late.stdout, late.stderr)]
            raise TimeoutError(f"the job still ran after {timeout} s\n{''.join(said)}") from None
        print(job.stdout, end="")
        print(job.stderr, end="", file=sys.stderr)
        value: T = result(folder / "result", job)
        return value


def result(file: Path, job: subprocess.CompletedProcess[str]) -> Any:
    """The result of the entry point, if the job has ended normally."""
    from . import errors, functions

    if not file.exists():
        if job.returncode:
            raise JobFailed(job.returncode, job.stderr)
        return None  # it has called exit()
    is_value, outcome = pickle.loads(file.read_bytes())
    if not is_value:
        error = errors.unpack(outcome)
        raise error from JobFailed(1, outcome[3])
    if job.returncode:
        raise JobFailed(job.returncode, job.stderr)
    return functions.loads(outcome)


@pytest.fixture
def charm_job() -> Callable[..., Any]:
    """See :func:`run`."""
    return run
