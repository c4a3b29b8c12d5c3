"""``charmrun``: starts the processes of a job, and reaps them."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import Iterator, Sequence

from . import foreign

foreign.refuse_shadow()
from charm4py._engine import charmrun  # noqa: E402


def start(argv: Sequence[str]) -> int:
    """Runs a job, and waits for its end. ``argv`` is what stands behind ``charmrun``; gives the job's status.

    With ``++interactive`` instead of a program, it has a prompt.
    """
    foreign.warn()
    if "++interactive" not in argv:
        return charmrun(list(argv), sys.executable)
    options = [argument for argument in argv if argument != "++interactive"]
    with terminal_restored():
        return charmrun([*options, "-m", "charm4py.interactive"], sys.executable)


@contextmanager
def terminal_restored() -> Iterator[None]:
    """Leaves a terminal as it was: a job that is interrupted while somebody types cannot."""
    if not sys.stdin.isatty():
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
