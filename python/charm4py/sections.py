"""Sections: parts of groups and arrays with their own proxies, selected by slices, by functions, or by lists of indices.

A section of a bounded array or a group is created at once, since the indices that a slice selects can be computed. Otherwise all elements are asked
for their indices, and the section is created when they have replied. Its proxy can be used before that: calls wait.
"""

from __future__ import annotations

import itertools
import operator
from typing import Any, Callable, Iterable, Sequence, TypeVar

from . import _engine, functions, threads
from .ending import fatal
from .combined import Combined, Index, present, tupled, when_all

C = TypeVar("C")


def cut(proxy: _engine.Proxy[C], key: Any) -> _engine.CollectionProxy[C]:
    """``proxy[key]`` where the key has slices."""
    keys = key if isinstance(key, tuple) else (key,)
    if _engine.index(proxy) is not None:
        proxy = _engine.whole(proxy)
    extent = _engine.extent(proxy)
    if extent is not None and not _engine.is_section(proxy):
        return _engine.section(proxy, list(itertools.product(*ranges(keys, extent))))
    there = proxy.__charm_present__(ret=True)
    return after_asking(proxy, 1, there, lambda there: [matching([tupled(i) for i in there], keys, extent)])[0]


def ranges(keys: Sequence[Any], extent: Sequence[int]) -> list[Iterable[int]]:
    """The indices that each part of a key selects, in each dimension."""
    if len(keys) != len(extent):
        raise IndexError(f"an index has {len(extent)} dimensions here, not {len(keys)}")
    return [range(side)[key] if isinstance(key, slice) else [range(side)[key]] for key, side in zip(keys, extent)]


def matching(there: list[Index], keys: Sequence[Any], extent: Sequence[int] | None) -> list[Index]:
    """The indices that a key selects from some. Without bounds, the greatest existing indices are the bounds."""
    if not there:
        return []
    bounds = extent or [max(index[i] for index in there) + 1 for i in range(len(there[0]))]
    wanted = [set(values) for values in ranges(keys, bounds)]
    return [index for index in there if all(at in values for at, values in zip(index, wanted))]


def after_asking(
    proxy: _engine.Proxy[C], count: int, answers: threads.Future[Any], parts: Callable[[Any], list[list[Any]]]
) -> list[_engine.CollectionProxy[C]]:
    """Creates ``count`` sections. ``parts`` computes their elements from the replies of all elements."""
    made = [_engine.section_later(proxy) for _ in range(count)]

    def told(answer: Any) -> None:
        for (_, fill), part in zip(made, parts(answer)):
            fill(part)

    when(answers, told)
    return [section for section, _ in made]


def when(future: threads.Future[Any], then: Callable[[Any], None]) -> None:
    """Calls ``then`` with a future's value. An exception ends the job, since no code could catch it."""
    def ready(_: Any) -> None:
        try:
            then(future._result())
        except Exception as error:
            fatal(error, "the making of a section")

    future._when_ready(ready)


def split(
    proxy: _engine.Proxy[C],
    numsections: int,
    section_func: Callable[[Any], Any] | None = None,
    elems: Sequence[Iterable[Any]] | None = None,
) -> list[_engine.CollectionProxy[C]]:
    """Splits a group, an array or a section into ``numsections`` sections.

    ``elems`` has a list of indices for each section; for one section it may be just the list of indices. ``section_func`` is called with each
    element, on its PE, and returns the number of the element's section, several numbers, or a negative number for none. Without both, the
    sections get equal shares of the elements, in the order of the indices.
    """
    if numsections < 1:
        raise ValueError(f"{numsections} sections")
    if isinstance(proxy, Combined):
        return split_combined(proxy, numsections, section_func, elems)
    if elems is not None:
        if numsections == 1 and are_indices(elems, _engine.extent(proxy)):
            elems = [elems]
        if len(elems) != numsections:
            raise ValueError(f"the elements of {len(elems)} sections for {numsections}")
        return [_engine.section(proxy, list(part)) for part in elems]
    if section_func is None:
        return after_asking(proxy, numsections, proxy.__charm_present__(ret=True), lambda there: shares(there, numsections))
    answers = proxy.__charm_sections__(functions.dumps(section_func), ret=True)
    return after_asking(proxy, numsections, answers, lambda answers: chosen(answers, numsections))


def split_combined(
    over: Combined, numsections: int, section_func: Callable[[Any], Any] | None, elems: Sequence[Iterable[Any]] | None
) -> list[Any]:
    """Splits parts of several collections: each section has a part of each of them."""
    if section_func is not None and elems is None:
        return across(split(part, numsections, section_func) for part in over.__charm_parts__)
    if elems is not None:
        if numsections == 1 and are_indices(elems, None):
            elems = [elems]
        if len(elems) != numsections:
            raise ValueError(f"the elements of {len(elems)} sections for {numsections}")
    made = [[_engine.section_later(part) for _ in range(numsections)] for part in over.__charm_parts__]
    answers = present(over)

    def told() -> None:
        there = [[tupled(index) for index in answer._result()] for answer in answers]
        # By index, then by collection, as in the values of calls.
        all = sorted((index, part) for part, indices in enumerate(there) for index in indices)
        for section, chosen in enumerate(shares(all, numsections) if elems is None else named(elems, all)):
            for part, sections in enumerate(made):
                sections[section][1]([index for index, of in chosen if of == part])

    when_all(answers, told)
    return across([section for section, _ in sections] for sections in made)


def named(elems: Sequence[Iterable[Any]], all: list[tuple[Index, int]]) -> list[list[tuple[Index, int]]]:
    """The elements whose indices are listed, of all collections."""
    wanted = [{tupled(index) for index in part} for part in elems]
    missing = set().union(*wanted) - {index for index, _ in all}
    if missing:
        raise IndexError(f"there is no element {min(missing)}")
    return [[pair for pair in all if pair[0] in part] for part in wanted]


def across(splits: Iterable[list[Any]]) -> list[Any]:
    """Combines the sections with the same number of several collections."""
    return [Combined(list(sections)) for sections in zip(*splits)]


def are_indices(elems: Sequence[Any], extent: Sequence[int] | None) -> bool:
    """Whether these are indices rather than lists of indices. For a list with one tuple the number of dimensions decides."""
    if any(isinstance(elem, int) for elem in elems):
        return True
    tuples = all(isinstance(elem, tuple) and all(isinstance(part, int) for part in elem) for elem in elems)
    return tuples and (len(elems) != 1 or extent is None or len(elems[0]) == len(extent))


def shares(there: list[Any], numsections: int) -> list[list[Any]]:
    """Splits a list into parts of equal length, or one longer, in its order."""
    size, more = divmod(len(there), numsections)
    starts = [number * size + min(number, more) for number in range(numsections + 1)]
    return [there[start:end] for start, end in zip(starts, starts[1:])]


def chosen(answers: list[tuple[Any, list[int]] | Exception], numsections: int) -> list[list[Any]]:
    """The indices of each section, from the numbers that ``section_func`` has returned for the elements."""
    parts: list[list[Any]] = [[] for _ in range(numsections)]
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
        index, numbers = answer
        for number in numbers:
            if number >= numsections:
                raise IndexError(f"section_func gave section {number} of {numsections} to element {index}")
            parts[number].append(index)
    return parts


def combine(*proxies: Any) -> Any:
    """Combines groups, arrays, sections and elements into one section. Of several collections it is a :class:`Combined`."""
    if not proxies:
        raise TypeError("nothing to combine")
    parts = [part for proxy in proxies for part in (proxy.__charm_parts__ if isinstance(proxy, Combined) else [proxy])]
    of: dict[Any, list[Any]] = {}
    for part in parts:
        of.setdefault(_engine.whole(part), []).append(part)
    sections = [united(whole, its) for whole, its in of.items()]
    return sections[0] if len(sections) == 1 else Combined(sections)


def united(whole: Any, proxies: Sequence[Any]) -> Any:
    """A section of the elements of these parts of one collection. If the whole collection is among them, it is the result."""
    if whole in proxies or (len(proxies) == 1 and _engine.is_section(proxies[0])):
        return whole if whole in proxies else proxies[0]
    section, fill = _engine.section_later(whole)
    found = [_engine.index(proxy) for proxy in proxies if _engine.index(proxy) is not None]
    collections = [proxy for proxy in proxies if _engine.index(proxy) is None]
    missing = len(collections)

    def answered(there: list[Any]) -> None:
        nonlocal missing
        found.extend(there)
        missing -= 1
        if missing == 0:
            fill(found)

    for proxy in collections:
        when(proxy.__charm_present__(ret=True), answered)
    if not collections:
        fill(found)
    return section


def numbers(chosen: Any) -> list[int]:
    """The numbers of sections that ``section_func`` has returned for an element."""
    several = [chosen] if hasattr(chosen, "__index__") else [] if chosen is None else chosen
    return [number for number in map(operator.index, several) if number >= 0]
