"""Real jobs: every test writes a program and starts it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import pytest

#: A job that takes longer hangs.
WATCHDOG_S = 60

HEAD = """
import sys, time
import numpy as np
from charm4py import *
"""


@dataclass
class Ended:
    """What came of a job."""

    code: int
    out: list[str]
    err: str

    def lines(self) -> list[str]:
        """Its output, in alphabetical order: PEs print when they please."""
        return sorted(self.out)


Run = Callable[..., Ended]


def program_text(program: str) -> str:
    """A program, with what all of them import."""
    return HEAD + textwrap.dedent(program)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Starts a program on so many PEs, and waits for its end."""

    def run(program: str, pes: int = 2, *args: str, launcher: bool = True, options: tuple[str, ...] = ()) -> Ended:
        script = tmp_path / "prog.py"
        script.write_text(program_text(program))
        command = [sys.executable]
        if launcher:
            command += ["-m", "charmrun.start", f"+p{pes}", *options]
        job = subprocess.run(
            [*command, str(script), *args],
            capture_output=True,
            text=True,
            timeout=WATCHDOG_S,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        return Ended(job.returncode, job.stdout.splitlines(), job.stderr)

    return run


def check(ended: Ended, expected: str) -> None:
    """The job ended well and printed these lines, in whatever order."""
    assert ended.code == 0, ended.err
    assert ended.lines() == sorted(textwrap.dedent(expected).strip().splitlines()), ended.err
