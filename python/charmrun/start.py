"""``charmrun``: starts the processes of a job, and reaps them."""

from __future__ import annotations

import sys
from typing import Sequence

from charm4py._engine import charmrun


def start(argv: Sequence[str]) -> int:
    """Runs a job, and waits for its end. ``argv`` is what stands behind ``charmrun``; gives the job's status."""
    return charmrun(list(argv), sys.executable)


def main() -> None:
    """The program ``charmrun``."""
    sys.exit(start(sys.argv[1:]))


if __name__ == "__main__":
    main()
