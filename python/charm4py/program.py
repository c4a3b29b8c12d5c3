"""What all processes of a job have to have alike: classes of chares, their methods, reducers. Knows nothing of how it is compared."""

from __future__ import annotations

from collections import Counter
from typing import Any

from . import reduction

#: The entry methods of each class that was registered before the program started, by its full name and how often there was such a name.
registered: dict[str, list[tuple[str, Any, bool, int, int]]] = {}
#: Differences that are named.
NAMED = 5


def described() -> list[str]:
    """A line for each of them."""
    lines = []
    for name, rows in registered.items():
        lines.append(f"class {name}")
        for method, _, _, least, most in rows:
            takes = str(least) if least == most else f"{least} or more" if most > 255 else f"{least} to {most}"
            lines.append(f"method {name}.{method} ({takes} arguments)")
    for name, count in Counter(kind.name for kind in reduction.kinds.values()).items():
        lines += [f"reducer {name}", *(f"reducer {name} (number {number})" for number in range(2, count + 1))]
    return sorted(lines)


def differences(first: list[str], own: list[str], pe: int) -> str:
    """What a PE says whose program is not PE 0's."""
    lacks = [line for line in first if line not in set(own)]
    adds = [line for line in own if line not in set(first)]
    # Of a class that is missing its methods need not be named.
    classes = tuple(f"method {line[6:]}." for line in lacks + adds if line.startswith("class "))
    lacks, adds = ([line for line in lines if not line.startswith(classes)] for lines in (lacks, adds))
    said = [f"only PE {who} has {shortened(lines)}" for who, lines in ((0, lacks), (pe, adds)) if lines]
    return f"the processes run different programs: {'; '.join(said)}"


def shortened(lines: list[str]) -> str:
    more = len(lines) - NAMED
    return ", ".join(lines[:NAMED]) + (f" and {more} more" if more > 0 else "")
