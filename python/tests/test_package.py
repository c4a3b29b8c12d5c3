"""The package in an environment with other packages of its name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import charm4py
from conftest import program_text, run_job


def test_the_package_answers_to_charm4pys_name_and_another_one_is_noticed(tmp_path: Path) -> None:
    """`pip` leaves the place of charm4py to this one, and a program that asks for its version gets it."""
    assert metadata.version("charm4py") == charm4py.__version__ == charm4py.charm4py_version
    script = tmp_path / "prog.py"
    script.write_text(program_text("charm.start(lambda args: print('runs') or exit())"))
    shadow, package = tmp_path / "shadow", Path(charm4py.__file__).parent
    (shadow / "charm4py").mkdir(parents=True)
    (shadow / "charm4py" / "__init__.py").write_text("raise SystemExit('not ours')")

    def job(where: Path, *command: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(where), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        return run_job([sys.executable, *command], {**os.environ, "PYTHONPATH": path})

    refused = job(shadow, "-m", "charmrun.start", "+p2", str(script))
    assert refused.returncode == 1 and f"{shadow / 'charm4py'} is a different charm4py, not that of charm4rs" in refused.stderr
    mixed = tmp_path / "mixed"
    for name in ("charm4py", "charmrun"):
        shutil.copytree(package.parent / name, mixed / name)
    command = ["-m", "charmrun.start", "+p2", str(script)]
    assert job(mixed, *command).stderr == ""
    (mixed / "charm4py-1.0.dist-info").mkdir()
    for command in (command, [str(script), "+p2"]):
        warned = job(mixed, *command)
        assert warned.returncode == 0 and warned.stdout == "runs\n"
        assert warned.stderr.count(f"a different charm4py is also installed in {mixed / 'charm4py'}: uninstall it") == 1
