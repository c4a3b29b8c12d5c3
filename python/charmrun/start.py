"""``charmrun``: starts the processes of a job, and waits for their end."""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import contextmanager
from typing import Iterator, Sequence

from . import foreign

foreign.refuse_shadow()
from charm4py._engine import charmrun  # noqa: E402


def start(argv: Sequence[str]) -> int:
    """Runs a job and waits for its end. ``argv`` are the arguments of ``charmrun``. Returns the exit status of the job.

    With ``++interactive`` in place of a program the job has a prompt.
    """
    foreign.warn()
    if "++interactive" in argv:
        argv = [*(argument for argument in argv if argument != "++interactive"), "-m", "charm4py.interactive"]
    with one_hash_seed(), terminal_restored():
        return charmrun(list(argv), sys.executable)


@contextmanager
def one_hash_seed() -> Iterator[None]:
    """Gives all processes that are started meanwhile the same ``hash`` of strings, unless the user has set a seed."""
    if "PYTHONHASHSEED" in os.environ:
        yield
        return
    os.environ["PYTHONHASHSEED"] = str(secrets.randbelow(1 << 32))
    try:
        yield
    finally:
        os.environ.pop("PYTHONHASHSEED", None)


@contextmanager
def terminal_restored() -> Iterator[None]:
    """Restores the terminal's settings: a job that is interrupted during input cannot do it."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    import termios

    settings = termios.tcgetattr(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, settings)


def main() -> None:
    """The program ``charmrun``."""
    sys.exit(start(sys.argv[1:]))


if __name__ == "__main__":
    main()
