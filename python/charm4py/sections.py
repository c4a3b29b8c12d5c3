"""Sections: parts of groups and arrays under proxies of their own, cut by slices, by functions, or by lists of indices.

A section is made at once where the elements that a slice means can be computed: those of bounded arrays, and of groups. Otherwise all
elements are asked who they are, and the section comes to be when they have answered: its proxy can be used meanwhile,
and calls wait.
"""

from __future__ import annotations

import itertools
from typing import Any, Callable, Iterable, Sequence, TypeVar

from . import _engine, functions, threads
from .errors import Charm4PyError

C = TypeVar("C")

#: An element's index, as the engine takes it.
Index = tuple[int, ...]


def tupled(index: Any) -> Index:
    return index if isinstance(index, tuple) else (index,)


def cut(proxy: _engine.Proxy[C], key: Any) -> _engine.CollectionProxy[C]:
    """``proxy[key]``, where some of the key's parts are slices."""
    keys = key if isinstance(key, tuple) else (key,)
    extent = _engine.extent(proxy)
    if extent is not None and not _engine.is_section(proxy):
        return _engine.section(proxy, list(itertools.product(*ranges(keys, extent))))
    there = proxy.__charm_present__(ret=True)
    return after_asking(proxy, 1, there, lambda there: [matching([tupled(i) for i in there], keys, extent)])[0]


def ranges(keys: Sequence[Any], extent: Sequence[int]) -> list[Iterable[int]]:
    """What each part of a key means, below a side of that length."""
    if len(keys) != len(extent):
        raise IndexError(f"an index has {len(extent)} dimensions here, not {len(keys)}")
    return [range(side)[key] if isinstance(key, slice) else [range(side)[key]] for key, side in zip(keys, extent)]


def matching(there: list[Index], keys: Sequence[Any], extent: Sequence[int] | None) -> list[Index]:
    """Those of some indices that a key means; without bounds, the greatest indices that there are set them."""
    if not there:
        return []
    bounds = extent or [max(index[i] for index in there) + 1 for i in range(len(there[0]))]
    wanted = [set(values) for values in ranges(keys, bounds)]
    return [index for index in there if all(at in values for at, values in zip(index, wanted))]


def after_asking(
    proxy: _engine.Proxy[C], count: int, answers: threads.Future[Any], parts: Callable[[Any], list[list[Any]]]
) -> list[_engine.CollectionProxy[C]]:
    """As many sections, whose elements ``parts`` tells when all elements have answered."""
    made = [_engine.section_later(proxy) for _ in range(count)]

    def told(answer: Any) -> None:
        for (_, fill), part in zip(made, parts(answer)):
            fill(part)

    when(answers, told)
    return [section for section, _ in made]


def when(future: threads.Future[Any], then: Callable[[Any], None]) -> None:
    """Calls ``then`` with a future's value; an exception ends the job, since nobody could catch it."""
    from .hooks import fatal

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
    """Cuts a group, an array or a section into ``numsections`` sections.

    ``elems`` has the indices of each. ``section_func`` gets each element, on its PE, and returns the number of its section, several of
    them, or a negative one for none. Without either, each section gets as many elements as the others, or one more, in
    the order of their indices.
    """
    if numsections < 1:
        raise ValueError(f"{numsections} sections")
    if elems is not None:
        if len(elems) != numsections:
            raise ValueError(f"the elements of {len(elems)} sections for {numsections}")
        return [_engine.section(proxy, list(part)) for part in elems]
    if section_func is None:
        return after_asking(proxy, numsections, proxy.__charm_present__(ret=True), lambda there: shares(there, numsections))
    answers = proxy.__charm_sections__(functions.dumps(section_func), ret=True)
    return after_asking(proxy, numsections, answers, lambda answers: chosen(answers, numsections))


def shares(there: list[Any], numsections: int) -> list[list[Any]]:
    """Parts of a list, in its order and as long as each other, or one longer."""
    size, more = divmod(len(there), numsections)
    starts = [number * size + min(number, more) for number in range(numsections + 1)]
    return [there[start:end] for start, end in zip(starts, starts[1:])]


def chosen(answers: list[tuple[Any, list[int]]], numsections: int) -> list[list[Any]]:
    """The indices of each section, of those that its elements gave themselves."""
    parts: list[list[Any]] = [[] for _ in range(numsections)]
    for index, numbers in answers:
        for number in numbers:
            if number >= numsections:
                raise IndexError(f"section_func gave section {number} of {numsections} to element {index}")
            parts[number].append(index)
    return parts


def combine(*proxies: _engine.Proxy[C]) -> _engine.CollectionProxy[C]:
    """A section of all elements of these groups, arrays, sections and elements, which are parts of one collection."""
    if not proxies:
        raise TypeError("nothing to combine")
    whole = _engine.whole(proxies[0])
    if any(_engine.whole(proxy) != whole for proxy in proxies):
        raise Charm4PyError("only parts of one collection can be combined")
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
    """The sections that ``section_func`` gave to an element."""
    several = [chosen] if isinstance(chosen, int) else list(chosen or ())
    return [number for number in several if number >= 0]
