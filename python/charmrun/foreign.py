"""Detects another package with the name charm4py in the same environment.

Knows nothing of the package itself, which may be the other one.
"""

from __future__ import annotations

import glob
import os
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec

ADVICE = "uninstall it (pip uninstall charm4py), then install charm4rs again (pip install --force-reinstall charm4rs)"


def shadow() -> str | None:
    """The path of the package that Python finds as ``charm4py``, if it is not that of charm4rs."""
    found = PathFinder.find_spec("charm4py")
    places = [] if found is None else list(found.submodule_search_locations or [])
    if not places or PathFinder.find_spec("charm4py._engine", places) is not None:
        return None
    return places[0]


def among(package: str) -> bool:
    """Whether the directory of the package has files of another charm4py."""
    others = os.path.join(glob.escape(os.path.dirname(package)), "charm4py-*.dist-info")
    return os.path.isdir(os.path.join(package, "charmlib")) or bool(glob.glob(others))


def refuse_shadow() -> None:
    """Ends this process if Python finds another charm4py in place of that of charm4rs."""
    place = shadow()
    if place is not None:
        sys.exit(f"charmrun: error: {place} is a different charm4py, not that of charm4rs: {ADVICE}")


def warn() -> None:
    """Warns if another charm4py was installed over that of charm4rs, or the other way round."""
    # Not imported: the package itself starts jobs by this one.
    found = find_spec("charm4py")
    places = [] if found is None else list(found.submodule_search_locations or [])
    for package in filter(among, places):
        print(f"charmrun: warning: a different charm4py is also installed in {package}: {ADVICE}", file=sys.stderr)
