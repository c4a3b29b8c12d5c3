"""Spanning trees over PEs that enter each host once."""

from __future__ import annotations

from typing import Callable, Sequence


def subtrees(root: int, pes: Sequence[int], branches: int, host_of: Callable[[int], int]) -> list[list[int]]:
    """Splits the PEs without the root into at most ``branches`` lists. Each is a subtree, with its root first.

    The PEs of a host are adjacent. Those of the root's own host have their own subtrees, if there are enough branches.
    """
    hosts: dict[int, list[int]] = {}
    for pe in dict.fromkeys(pes):
        if pe != root:
            hosts.setdefault(host_of(pe), []).append(pe)
    near = hosts.pop(host_of(root), [])
    away = list(hosts.values())
    if not away:
        return portions(near, branches)
    for_away = min(len(away), branches - 1 if near and branches > 1 else branches)
    split = [[pe for host in part for pe in host] for part in portions(away, for_away)]
    if not near:
        return split
    if branches > for_away:
        return portions(near, branches - for_away) + split
    return [near + split[0], *split[1:]]


def portions(items: list, count: int) -> list[list]:  # type: ignore[type-arg]
    """Splits a list into ``count`` lists of about equal length, none empty."""
    count = min(count, len(items))
    ends = [len(items) * i // count for i in range(count + 1)] if count else []
    return [items[a:b] for a, b in zip(ends, ends[1:])]


def edges(
    pe: int, root: int, pes: Sequence[int], branches: int, host_of: Callable[[int], int]
) -> tuple[int | None, list[int]]:
    """The parent of a PE in the tree, ``None`` for the root, and its children."""
    parent, below = None, list(pes)
    while True:
        parts = subtrees(root, below, branches, host_of)
        if pe == root:
            return parent, [part[0] for part in parts]
        parent = root
        below = next(part for part in parts if pe in part)
        root = below[0]
