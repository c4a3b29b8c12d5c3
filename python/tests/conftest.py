"""Real jobs: each test writes a program and runs it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Sequence

import pytest

#: A job that takes longer counts as hung.
WATCHDOG_S = 60

HEAD = """
import sys, time
import numpy as np
from charm4py import *
"""


@dataclass
class Ended:
    """The result of a job."""

    code: int
    out: list[str]
    err: str

    def lines(self) -> list[str]:
        """Its output in alphabetical order, since the order among PEs is not fixed."""
        return sorted(self.out)


Run = Callable[..., Ended]

#: The contract: everything of a job is gone so many seconds after its launcher has ended.
GONE_S = 1.0
#: A variable in the environment of every process of a job.
MARK = "CHARMRUN_TEST_JOB"
JOBS = itertools.count()


class Traces:
    """The traces of a job, found by its mark: processes, and what they had at each look: listening sockets, objects in shared memory,
    temporary files. Tests may run side by side: what others have is not looked at."""

    def __init__(self) -> None:
        self.mark = f"{os.getpid()}-{next(JOBS)}"
        self.since = time.time()
        self.sockets: set[str] = set()
        self.files: set[str] = set()
        self.over = threading.Event()

    def processes(self) -> dict[int, str]:
        found = {}
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                try:
                    if f"{MARK}={self.mark}".encode() in Path(entry.path, "environ").read_bytes().split(b"\0"):
                        found[int(entry.name)] = Path(entry.path, "cmdline").read_text().replace("\0", " ")
                except OSError:
                    pass  # it has just ended
        return found

    def look(self) -> None:
        for pid in self.processes():
            try:
                names = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
                names += [line[line.index("/") :] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "/" in line]
            except OSError:
                continue
            self.sockets |= {name[8:-1] for name in names if name.startswith("socket:[")} & listening()
            self.files |= {name for name in names if name.startswith(("/dev/shm/", "/tmp/")) and "/pytest-" not in name and is_newer(name, self.since)}

    def keep_looking(self) -> None:
        while not self.over.wait(0.05):
            self.look()

    def left(self) -> list[str]:
        left = [f"{pid} {line}" for pid, line in self.processes().items()]
        return left + [f"socket {s}" for s in self.sockets & listening()] + [name for name in self.files if os.path.exists(name)]

    def assert_gone(self) -> None:
        since = time.monotonic()
        while left := self.left():
            assert time.monotonic() - since < GONE_S, f"the job has left behind {left}"
            time.sleep(0.01)


def is_newer(name: str, since: float) -> bool:
    try:
        return os.stat(name).st_ctime >= since
    except OSError:
        return False


def listening() -> set[str]:
    """Inodes of all listening sockets."""
    found = set()
    for table, state, inode in (("tcp", "0A", 9), ("tcp6", "0A", 9), ("unix", "00010000", 6)):
        rows = [line.split() for line in Path("/proc/net", table).read_text(errors="replace").splitlines()[1:]]
        found |= {row[inode] for row in rows if len(row) > inode and row[3] == state}
    return found


def run_job(command: Sequence[str], env: dict[str, str] | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a job to its end, and checks that nothing is left behind."""
    traces = Traces()
    looks = threading.Thread(target=traces.keep_looking)
    looks.start()
    try:
        job = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=WATCHDOG_S,
            env={**(env or os.environ), "PYTHONDONTWRITEBYTECODE": "1", MARK: traces.mark},
            **options,
        )
    finally:
        traces.over.set()
        looks.join()
    traces.assert_gone()
    return job


def program_text(program: str) -> str:
    """A program, with the imports that all have."""
    return HEAD + textwrap.dedent(program)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a program on so many PEs."""

    def run(program: str, pes: int = 2, *args: str, launcher: bool = True, options: tuple[str, ...] = ()) -> Ended:
        script = tmp_path / "prog.py"
        script.write_text(program_text(program))
        command = [sys.executable]
        if launcher:
            command += ["-m", "charmrun.start", f"+p{pes}", *options]
        job = run_job([*command, str(script), *args])
        return Ended(job.returncode, job.stdout.splitlines(), job.stderr)

    return run


def check(ended: Ended, expected: str) -> None:
    """Checks that the job ended normally and printed these lines, in any order."""
    assert ended.code == 0, ended.err
    assert ended.lines() == sorted(textwrap.dedent(expected).strip().splitlines()), ended.err
