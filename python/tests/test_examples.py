"""The programs of examples/python: each compares its result with a serial one."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from conftest import WATCHDOG_S, Ended

EXAMPLES = Path(__file__).parents[2] / "examples" / "python"


def example(name: str, pes: int, *args: str) -> Ended:
    command = [sys.executable, "-m", "charmrun.start", f"+p{pes}", str(EXAMPLES / f"{name}.py"), *args]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    job = subprocess.run(command, capture_output=True, text=True, timeout=WATCHDOG_S, env=environment)
    assert (job.returncode, job.stderr) == (0, ""), job.stdout
    return Ended(job.returncode, job.stdout.splitlines(), job.stderr)


#: The output of each. The stencil's checksum is that of the example in Rust.
CASES = [
    ("fib", ["16"], "fib(16) = 987,"),
    ("fib", ["1"], "fib(1) = 1,"),
    ("nqueens", ["1"], "1 queens: 1 solutions"),
    ("nqueens", ["6", "0"], "6 queens: 4 solutions, 1 chares"),
    ("nqueens", ["7"], "7 queens: 40 solutions, 114 chares"),
    ("jacobi2d", ["24", "3"], "one block alone ends with the same cells"),
    ("stencil3d", ["32", "4,3,2", "100"], "checksum: eeaa4a9866fc7d53"),
    ("stencil3d", ["5,4,3", "5,4,3", "3"], "one block alone gives the same"),
    ("particle", ["4", "500", "20"], "every particle is where it should be"),
]


@pytest.mark.parametrize("pes", [1, 2, 4])
@pytest.mark.parametrize(("name", "args", "line"), CASES)
def test_an_example_finds_what_a_serial_program_finds(name: str, args: list[str], line: str, pes: int) -> None:
    out = example(name, pes, *args).out
    assert any(printed.startswith(line) for printed in out), out


@pytest.mark.parametrize("pes", [1, 2, 4])
def test_hello_greets_once_from_every_chare(pes: int) -> None:
    out = "\n".join(example("hello", pes).out)
    for index in [*range(pes), *((i,) for i in range(100))]:
        assert out.count(f"Hello from element {index} [") == 1, out
    assert out.count("test group") == pes and out.count("test array") == 100


@pytest.mark.parametrize("pes", [1, 2, 4])
def test_wave2d_writes_a_picture_of_its_points(tmp_path: Path, pes: int) -> None:
    path = tmp_path / "wave.png"
    out = example("wave2d", pes, "60", "3", "50", str(path)).out
    assert out == [f"60 x 60 points after 50 steps, as one block alone gives them: {path}"]
    picture = path.read_bytes()
    begin = picture.index(b"IDAT")
    length = int.from_bytes(picture[begin - 4 : begin], "big")
    lines = zlib.decompress(picture[begin + 4 : begin + 4 + length])
    # White where the water is calm, and colours elsewhere.
    assert picture.startswith(b"\x89PNG") and len(lines) == 60 * (1 + 3 * 60) and len(set(lines)) > 50
