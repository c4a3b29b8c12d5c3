"""Another package that is called charm4py, in the same environment: it is noticed, and said.

Knows nothing of the package itself, which may be that other one.
"""

from __future__ import annotations

import glob
import os
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec

ADVICE = "uninstall it (pip uninstall charm4py), then install charm4rs again (pip install --force-reinstall charm4rs)"


def shadow() -> str | None:
    """Where the package is that Python finds under our name, if it is not ours."""
    found = PathFinder.find_spec("charm4py")
    places = [] if found is None else list(found.submodule_search_locations or [])
    if not places or PathFinder.find_spec("charm4py._engine", places) is not None:
        return None
    return places[0]


def among(package: str) -> bool:
    """Whether there are files of another charm4py among those of the package in this directory."""
    others = os.path.join(glob.escape(os.path.dirname(package)), "charm4py-*.dist-info")
    return os.path.isdir(os.path.join(package, "charmlib")) or bool(glob.glob(others))


def refuse_shadow() -> None:
    """Ends this process if Python finds another charm4py in place of ours."""
    place = shadow()
    if place is not None:
        sys.exit(f"charmrun: error: {place} is another charm4py than that of charm4rs: {ADVICE}")


def warn() -> None:
    """Says so if another charm4py was installed over ours, or ours over it."""
    # Not imported: the package itself starts jobs by this one.
    found = find_spec("charm4py")
    places = [] if found is None else list(found.submodule_search_locations or [])
    for package in filter(among, places):
        print(f"charmrun: warning: another charm4py is installed in {package}, too: {ADVICE}", file=sys.stderr)
