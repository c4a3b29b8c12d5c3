"""The wheel alone is enough: in an empty environment, with what it says it depends on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import program_text
from test_calls import HELLO

WHEEL = os.environ.get("CHARM4RS_WHEEL")
#: The oldest and the newest version of CPython that is tried.
OLDEST, NEWEST = 9, 15


def interpreters() -> dict[str, str]:
    """An interpreter of each version of CPython that this machine has, by its version: this one, those of pyenv, those in PATH."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = {f"3.{sys.version_info.minor}": sys.executable}
    for minor in range(OLDEST, NEWEST):
        name = f"3.{minor}"
        pyenv = sorted(str(path) for path in versions.glob(f"{name}.*/bin/python"))
        in_path = shutil.which(f"python{name}")
        for path in [*pyenv, *([in_path] if in_path else [])]:
            if name not in found and subprocess.run([path, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0:
                found[name] = path
    return found


@pytest.mark.skipif(WHEEL is None, reason="CHARM4RS_WHEEL names no wheel: `ci/test python` makes one")
@pytest.mark.parametrize("interpreter", interpreters().items(), ids=lambda found: found[0])
def test_a_wheel_installs_into_an_empty_environment_and_runs_jobs_there(tmp_path: Path, interpreter: tuple[str, str]) -> None:
    def done(*command: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    binaries = tmp_path / "venv" / "bin"
    done(interpreter[1], "-m", "venv", "venv")
    done(str(binaries / "pip"), "install", "--quiet", "--disable-pip-version-check", str(WHEEL))
    (tmp_path / "prog.py").write_text(program_text(HELLO))
    expected = sorted(f"element {i} [1, 2] 4950 text" for i in [0, 1, *((i,) for i in range(5))])
    for launcher in ([str(binaries / "charmrun")], [str(binaries / "python"), "-m", "charmrun.start"]):
        assert sorted(done(*launcher, "+p2", "prog.py").splitlines()) == expected
    # What has no code, the stub of proxies, is in the wheel, too.
    assert done(str(binaries / "python"), "-m", "charm4py.stubs", "prog.py").startswith("typings/charm4py_proxies.pyi: ")
