"""Calls and coroutines of a chare that wait for a condition.

They are in a list of the chare, in the order of arrival. The list is looked through after every method of the chare that has run or
resumed; the engine does so for a chare that is ``__charm_watched__``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from .chare import Chare


def hold(chare: Chare, holds: Callable[[], bool], go: Callable[[], None]) -> None:
    """Calls ``go`` once ``holds`` gives true, after a method of the chare has run."""
    held = getattr(chare, "__charm_held__", None)
    if held is None:
        held = chare.__charm_held__ = []
    held.append((holds, go))
    chare.__charm_watched__ = True


def recheck(chare: Chare) -> None:
    """Resumes what waits on the chare and need wait no longer, in the order of arrival."""
    held = chare.__charm_held__
    if getattr(chare, "__charm_rechecking__", False):
        return  # the running call looks again
    chare.__charm_rechecking__ = True
    try:
        at = 0
        while at < len(held):
            holds, go = held[at]
            if holds():
                del held[at]
                go()
                at = 0  # it may have changed what the earlier ones wait for
            else:
                at += 1
    finally:
        chare.__charm_rechecking__ = False
    chare.__charm_watched__ = bool(held)
