"""What all processes of a job must have in common: classes of chares, their methods, reducers. The engine sends and compares the descriptions."""

from __future__ import annotations

from collections import Counter
from typing import Any

from . import reduction

#: The entry methods of each class that was registered before the program started. A key is the full name, with a number if several classes have it.
registered: dict[str, list[tuple[str, Any, bool, int, int]]] = {}
#: How many differences an error names.
NAMED = 5


def described() -> list[str]:
    """A line for each class, method and reducer."""
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
    """The error text of a PE whose program is not that of PE 0."""
    lacks = [line for line in first if line not in set(own)]
    adds = [line for line in own if line not in set(first)]
    # The methods of a missing class are not named.
    classes = tuple(f"method {line[6:]}." for line in lacks + adds if line.startswith("class "))
    lacks, adds = ([line for line in lines if not line.startswith(classes)] for lines in (lacks, adds))
    said = [f"only PE {who} has {shortened(lines)}" for who, lines in ((0, lacks), (pe, adds)) if lines]
    return f"the processes run different programs: {'; '.join(said)}"


def shortened(lines: list[str]) -> str:
    more = len(lines) - NAMED
    return ", ".join(lines[:NAMED]) + (f" and {more} more" if more > 0 else "")
