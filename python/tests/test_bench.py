"""The measuring programs of benches/python run to their ends. Their figures are not checked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import WATCHDOG_S

BENCHES = Path(__file__).parents[2] / "benches" / "python"


def output(*command: str) -> list[str]:
    job = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=WATCHDOG_S)
    assert (job.returncode, job.stderr) == (0, ""), job.stdout
    return job.stdout.splitlines()


@pytest.mark.parametrize(("pes", "figures"), [(1, 7), (2, 27)])
def test_charmbench_measures_every_operation_that_the_pes_allow(pes: int, figures: int) -> None:
    table = output("-m", "charmrun.start", f"+p{pes}", str(BENCHES / "charmbench.py"), "--quick")
    assert table[0].startswith(f"{pes} PEs") and len(table) == 1 + figures, table
    # The value is the last but one, the unit the last.
    assert all(float(line.split()[-2].replace(",", "")) > 0 for line in table[1:]), table


def test_compare_prints_the_ratio_of_two_interpreters() -> None:
    table = output(str(BENCHES / "compare.py"), "+p", "1", "--rounds", "1", "--quick", sys.executable, sys.executable)
    assert len(table) == 2 + 7 and all(float(line.split()[-1]) > 0 for line in table[2:]), table


def test_compare_prints_the_figures_of_one_interpreter() -> None:
    table = output(str(BENCHES / "compare.py"), "+p", "1", "--rounds", "1", "--quick", sys.executable)
    assert len(table) == 2 + 7 and all(float(line.split()[-2].replace(",", "")) > 0 for line in table[2:]), table
