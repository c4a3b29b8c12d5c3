"""The wheel works in an empty environment, with only its declared dependencies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import program_text
from test_calls import HELLO

WHEEL = os.environ.get("CHARM4RS_WHEEL")
#: The versions of CPython that are tested, and that the package declares.
MINORS = range(9, 16)
#: Releases of Debian whose CPythons are tested with their glibc, from the oldest that is available. (By hand also "testing", which has the newest glibc and changes every day.)
RELEASES = os.environ.get("CHARM4RS_DEBIAN", "bullseye").split()
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(WHEEL is None, reason="CHARM4RS_WHEEL names no wheel: `ci/test python` makes one")


def interpreters() -> dict[str, str]:
    """The interpreters of this machine by version of CPython: this one, those of pyenv, those in PATH."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = {f"3.{sys.version_info.minor}": sys.executable}
    for minor in MINORS:
        name = f"3.{minor}"
        pyenv = sorted(str(path) for path in versions.glob(f"{name}.*/bin/python"))
        in_path = shutil.which(f"python{name}")
        for path in [*pyenv, *([in_path] if in_path else [])]:
            if name not in found and subprocess.run([path, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0:
                found[name] = path
    return found


@dataclass
class Place:
    """A place where the wheel is tested."""

    #: An empty folder, and its path for the commands that run there.
    folder: Path
    inside: Path
    #: The prefix that runs a command there.
    enter: tuple[str, ...] = ()

    def done(self, *command: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        ended = subprocess.run([*self.enter, *command], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def try_wheel(self, interpreter: str) -> None:
        """Installs the wheel into an empty environment with only its declared dependencies, and runs jobs there."""
        wheel = Path(str(WHEEL))
        shutil.copy(wheel, self.folder)
        (self.folder / "prog.py").write_text(program_text(HELLO))
        binaries = self.inside / "venv" / "bin"
        self.done(interpreter, "-m", "venv", str(binaries.parent))
        self.done(str(binaries / "pip"), "install", "--quiet", "--no-compile", "--disable-pip-version-check", str(self.inside / wheel.name))
        expected = sorted(f"element {i} [1, 2] 4950 text" for i in [0, 1, *((i,) for i in range(5))])
        for launcher in ([str(binaries / "charmrun")], [str(binaries / "python"), "-m", "charmrun.start"]):
            assert sorted(self.done(*launcher, "+p2", str(self.inside / "prog.py")).splitlines()) == expected
        # The stub of proxies, which has no code, is in the wheel too.
        self.done(str(binaries / "python"), "-m", "charm4py.stubs", "--output", str(self.inside / "typings"), str(self.inside / "prog.py"))
        assert (self.folder / "typings" / "charm4py_proxies.pyi").is_file()


@pytest.mark.parametrize("interpreter", interpreters().items(), ids=lambda found: found[0])
def test_a_wheel_installs_into_an_empty_environment_and_runs_jobs_there(tmp_path: Path, interpreter: tuple[str, str]) -> None:
    Place(tmp_path, tmp_path).try_wheel(interpreter[1])


@pytest.mark.parametrize("release", RELEASES)
def test_a_wheel_runs_jobs_with_the_interpreters_and_the_glibc_of_another_release(tmp_path: Path, release: str) -> None:
    root, command = tmp_path / "root", str(ROOT / "ci" / "debian")
    unpacked = subprocess.run([command, release, str(root)], capture_output=True, text=True)
    if unpacked.returncode == 77:
        pytest.skip(unpacked.stderr.splitlines()[-1])
    assert unpacked.returncode == 0, unpacked.stderr
    try:
        for name in unpacked.stdout.split():
            inside = Path("/tmp", name)
            folder = root / "tmp" / name
            folder.mkdir()
            Place(folder, inside, (command, "--run", str(root))).try_wheel(f"/usr/bin/{name}")
    finally:
        shutil.rmtree(root)


def test_an_index_takes_what_the_wheel_and_its_source_say_of_themselves() -> None:
    packaging, trove_classifiers = pytest.importorskip("packaging.metadata"), pytest.importorskip("trove_classifiers")
    wheel = Path(str(WHEEL))
    stem = "-".join(wheel.name.split("-")[:2])
    with zipfile.ZipFile(wheel) as archive:
        said = archive.read(f"{stem}.dist-info/METADATA")
        licences = {name: archive.read(f"{stem}.dist-info/licenses/{name}") for name in ("LICENSE-APACHE", "LICENSE-MIT")}
    with tarfile.open(wheel.with_name(f"{stem}.tar.gz")) as archive:
        files = {entry.name: archive.extractfile(entry).read() for entry in archive if entry.isfile()}
    assert files[f"{stem}/PKG-INFO"] == said
    for name, text in licences.items():
        assert text == files[f"{stem}/{name}"] == (ROOT / name).read_bytes()
    # It refuses an invalid value.
    metadata = packaging.Metadata.from_email(said)
    assert sorted(metadata.license_files) == sorted(licences) and str(metadata.license_expression) == "Apache-2.0 OR MIT"
    assert metadata.description.rstrip() == (ROOT / "python" / "README.md").read_text().rstrip()
    assert str(metadata.requires_python) == f">=3.{MINORS[0]}"
    assert set(metadata.classifiers) <= trove_classifiers.classifiers
    versions = {name.rpartition(" ")[2] for name in metadata.classifiers if name.startswith("Programming Language :: Python :: 3.")}
    assert versions == {f"3.{minor}" for minor in MINORS}
