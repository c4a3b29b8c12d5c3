"""``charm.printStats()``: the cost of each method on this PE."""

from __future__ import annotations

from typing import Iterator

from . import _engine, state
from .errors import Charm4PyError

HEAD = ("", "calls", "seconds", "sent", "bytes", "received", "bytes")


def show() -> None:
    """Prints the statistics of this PE."""
    if not state.options.profiling:
        raise Charm4PyError("nothing was counted: set charm.options.profiling on every PE before charm.start()")
    print(table(state.pe, state.pes), flush=True)


def table(pe: int, pes: int) -> str:
    """The statistics of this PE as a text."""
    lines: list[tuple[str, ...]] = [HEAD]
    sums = [0.0] * 6
    for name, figures in figures_by_method():
        sums = [a + b for a, b in zip(sums, figures)]
        lines.append((name, *texts(figures)))
    lines.append(("all", *texts(sums)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    rows = ("  ".join(text.rjust(width) if i else text.ljust(width) for i, (text, width) in enumerate(zip(line, widths)))
            for line in lines)
    return "\n".join([f"Statistics of PE {pe} of {pes}", *(row.rstrip() for row in rows)])


def figures_by_method() -> Iterator[tuple[str, list[float]]]:
    """The figures of the program's methods. Names that begin with an underscore are the runtime's."""
    for cls, method, figures in _engine.statistics():
        if method.startswith("__") or not method.startswith("_"):
            yield f"{cls}.{method}", list(figures)


def texts(figures: list[float]) -> tuple[str, ...]:
    return tuple(f"{figure:.6f}" if at == 1 else str(int(figure)) for at, figure in enumerate(figures))
