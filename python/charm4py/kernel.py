"""A Jupyter kernel that is PE 0 of a job. Cells may wait, and their definitions reach every PE.

    python -m charm4py.kernel install --user --pes 4

installs the kernel, which notebooks can then choose. It needs ipykernel: ``pip install charm4rs[jupyter]``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Sequence

from . import functions, interactive, state
from .charm import charm


def specification(pes: int, display_name: str, options: Sequence[str] = ()) -> dict[str, Any]:
    """The kernel's specification for Jupyter: how it is started and interrupted."""
    charmrun = [sys.executable, "-m", "charmrun.start", f"+p{pes}", *options]
    return {
        "argv": [*charmrun, "-m", "charm4py.kernel", "-f", "{connection_file}"],
        "display_name": display_name,
        "language": "python",
        "interrupt_mode": "message",
        "metadata": {"debugger": False},
    }


def install(arguments: Sequence[str]) -> None:
    """``python -m charm4py.kernel install``."""
    parser = argparse.ArgumentParser("python -m charm4py.kernel install", description="Installs the kernel for Jupyter.")
    parser.add_argument("--pes", type=int, default=1, metavar="N", help="how many PEs the kernel's job has (1)")
    parser.add_argument("--name", help="the kernel's name (charm4py-N)")
    parser.add_argument("--display-name", help="what notebooks call it")
    parser.add_argument("options", nargs="*", metavar="OPTION", help="further options of charmrun, after --")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--user", action="store_true", help="for this user")
    where.add_argument("--prefix", help="below this directory, such as sys.prefix")
    given = parser.parse_args(arguments)
    if given.pes < 1:
        parser.error(f"a job of {given.pes} PEs")
    try:
        from jupyter_client.kernelspec import KernelSpecManager
    except ImportError:
        sys.exit("error: the kernel needs ipykernel: pip install 'charm4rs[jupyter]'")
    shown = given.display_name or f"charm4py ({given.pes} PE{'s' * (given.pes > 1)})"
    with tempfile.TemporaryDirectory() as directory:
        spec = specification(given.pes, shown, given.options)
        (Path(directory) / "kernel.json").write_text(json.dumps(spec, indent=1))
        path = KernelSpecManager().install_kernel_spec(
            directory, given.name or f"charm4py-{given.pes}", user=given.user, prefix=given.prefix
        )
    print(f"{shown}: {path}")


class Passed:
    """Standard output or error of a PE other than PE 0. Lines go to the notebook."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.own: Any = getattr(sys, name)
        self.text = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def write(self, text: str) -> int:
        self.text += text
        if "\n" in text:
            self.flush()
        return len(text)

    def flush(self) -> None:
        text, self.text = self.text, ""
        if not text:
            return
        try:
            state.runtime[0]._show(self.name, text)
        except Exception:  # the PE does not run, or this is not the PE's thread
            self.own.write(text)
            self.own.flush()


def entry(args: list[str]) -> None:
    """The job's entry point: serves the notebook until the kernel is shut down."""
    # What is typed is the program: its names are found again on other PEs.
    functions.local_modules.add("__main__")
    charm.options.interactive.verbose = 0
    interactive.begin_names()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, Passed):
            setattr(sys, name, stream.own)
    try:
        from . import jupyter
    except ImportError as error:
        print(f"error: the kernel needs ipykernel: pip install 'charm4rs[jupyter]' ({error})", file=sys.stderr)
        charm.exit(1)
        return
    jupyter.serve(args[1:])
    charm.exit()


def main() -> None:
    """``python -m charm4py.kernel``."""
    if sys.argv[1:2] == ["install"]:
        install(sys.argv[2:])
        return
    interactive.begin_program()
    sys.stdout, sys.stderr = Passed("stdout"), Passed("stderr")
    charm.options.remote_exec = True
    charm.start(entry)


if __name__ == "__main__":
    # Import the module under its name, which it must have on every PE, rather than as __main__.
    from charm4py.kernel import main as begin

    begin()
