"""The program of the jobs of :mod:`charm4py.testing`: runs the entry point of a test, and writes its result to a file."""

from __future__ import annotations

import builtins
import importlib
import os
import pickle
import sys
from pathlib import Path
from typing import Any

from . import errors, functions
from .charm import charm


def of_assertions() -> dict[str, Any]:
    """The names that pytest's rewritten assertions use. They are missing where this process imports the module itself."""
    from _pytest.assertion import rewrite

    return {"@pytest_ar": rewrite, "@py_builtins": builtins}


def main() -> None:
    """A process of such a job."""
    folder = Path(sys.argv.pop(1))
    path, module, pickled = pickle.loads((folder / "entry").read_bytes())
    sys.path[:] = path
    if module is not None:
        vars(importlib.import_module(module)).update(of_assertions())
    entry = functions.loads(pickled)

    def job(args: list[str]) -> None:
        outcome: tuple[bool, Any]
        try:
            outcome = True, functions.dumps(entry(args))
        except Exception as error:
            outcome = False, errors.pack(error)
        unfinished = folder / "unfinished"
        unfinished.write_bytes(pickle.dumps(outcome))
        os.rename(unfinished, folder / "result")
        charm.exit()

    charm.start(job)


if __name__ == "__main__":
    # Import the module under its name, which it must have on every PE, rather than as __main__.
    from charm4py.testing_job import main as begin

    begin()
