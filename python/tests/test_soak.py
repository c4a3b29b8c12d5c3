"""A short run of soak.py, which takes ten minutes by hand."""

from __future__ import annotations

import sys
from pathlib import Path

from conftest import run_job


def test_the_memory_of_a_long_run_is_flat() -> None:
    soak = Path(__file__).parent / "soak.py"
    ended = run_job([sys.executable, "-m", "charmrun.start", "+p2", str(soak), "6"])
    assert ended.returncode == 0, f"{ended.stdout}{ended.stderr}"
