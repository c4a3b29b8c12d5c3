"""What this process knows of its job: the options, the PEs and hosts, and the runtime's own group.

It imports only the engine and the options, so that every module of the package may import it. ``charm`` shows it to programs.
"""

from __future__ import annotations

from typing import Any

from . import _engine
from .options import Options

#: ``charm.options``.
options = Options()
#: Whether the engine runs on this PE.
started = False
#: This PE, and the number of PEs in the job.
pe = 0
pes = 1
#: This PE's host, and the PEs of every host.
host = 0
hosts: list[list[int]] = [[0]]
#: ``charm.thisProxy``: the proxy of the group that the runtime makes for itself.
runtime: Any = None


def enter() -> None:
    """Notes the PE's place in the job. The engine calls this before any chare is made on the PE."""
    global started, pe, pes, host, hosts
    pe, pes, host, hosts = _engine.place()
    started = True
