"""Runs `charmbench.py` under one interpreter, or under two in turn, and prints how much faster the first one's package is.

    python compare.py +p2 --rounds 3 PYTHON OTHER_PYTHON

Each interpreter's environment has a package `charm4py` of its own. They take turns, so that other load of the machine affects both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("charmbench.py")
#: Units for which larger figures are better.
RATES = {"1/s", "GB/s"}

#: The figures of each round, by name and unit.
Figures = dict[tuple[str, str], list[float]]


def run(python: str, options: list[str], figures: Figures) -> None:
    """Runs it once, and adds its figures."""
    command = [python, "-m", "charmrun.start", *options]
    # A launcher may search the interpreter by its name.
    environment = {**os.environ, "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"}
    job = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
    if job.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with status {job.returncode}:\n{job.stdout}{job.stderr}")
    for line in job.stdout.splitlines():
        if line.startswith("figure\t"):
            _, name, unit, value = line.split("\t")
            figures.setdefault((name, unit), []).append(float(value))


def main() -> None:
    parser = argparse.ArgumentParser(prefix_chars="-+", description=__doc__.partition("\n")[0])
    parser.add_argument("+p", dest="pes", type=int, default=2, help="PEs of a job")
    parser.add_argument("--rounds", type=int, default=3, help="the number of runs of each")
    parser.add_argument("--quick", action="store_true", help="few repetitions: a quick check")
    parser.add_argument("python", help="an interpreter with a package charm4py")
    parser.add_argument("other", nargs="?", help="another one")
    asked = parser.parse_args()

    options = [f"+p{asked.pes}", str(PROGRAM), "--plain", *(["--quick"] if asked.quick else [])]
    pythons = [python for python in (asked.python, asked.other) if python is not None]
    all_figures: list[Figures] = [{} for _ in pythons]
    for _ in range(asked.rounds):
        for python, figures in zip(pythons, all_figures):
            run(python, options, figures)

    heads = f"{'first':>14} {'second':>14} {'':<5} ratio" if asked.other else ""
    print(f"{asked.pes} PEs, medians of {asked.rounds} rounds\n{'':<44} {heads}")
    for name, unit in all_figures[0]:
        medians = [statistics.median(figures[name, unit]) for figures in all_figures]
        columns = " ".join(f"{median:>14,.2f}" for median in medians)
        if asked.other:
            first, second = medians
            columns += f" {unit:<5} {first / second if unit in RATES else second / first:.2f}"
        else:
            columns += f" {unit}"
        print(f"{name:<44} {columns}")


main()
