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
    if _engine.index(proxy) is not None:
        proxy = _engine.whole(proxy)
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

    ``elems`` has the indices of each; for one section it may be the list of its indices. ``section_func`` gets each element, on its PE, and returns the number of its section, several of
    them, or a negative one for none. Without either, each section gets as many elements as the others, or one more, in
    the order of their indices.
    """
    if numsections < 1:
        raise ValueError(f"{numsections} sections")
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


def are_indices(elems: Sequence[Any], extent: Sequence[int] | None) -> bool:
    """Whether these are indices, and not lists of them: of a list that has one tuple the number of dimensions tells it."""
    if any(isinstance(elem, int) for elem in elems):
        return True
    tuples = all(isinstance(elem, tuple) and all(isinstance(part, int) for part in elem) for elem in elems)
    return tuples and (len(elems) != 1 or extent is None or len(elems[0]) == len(extent))


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


def combine(*proxies: Any) -> Any:
    """A section of all elements of these groups, arrays, sections and elements; of several collections a :class:`Combined`."""
    if not proxies:
        raise TypeError("nothing to combine")
    parts = [part for proxy in proxies for part in (proxy.parts if isinstance(proxy, Combined) else [proxy])]
    of: dict[Any, list[Any]] = {}
    for part in parts:
        of.setdefault(_engine.whole(part), []).append(part)
    sections = [united(whole, its) for whole, its in of.items()]
    return sections[0] if len(sections) == 1 else Combined(sections)


class Combined:
    """Parts of several collections, also of different classes: they are called together. No reduction goes over them."""

    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return CombinedMethod(self.parts, [getattr(part, name) for part in self.parts])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Combined) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(tuple(self.parts))

    def __reduce__(self) -> Any:
        return Combined, (self.parts,)

    def issec(self) -> bool:
        """Whether it names a section."""
        return True


class CombinedMethod:
    """A method of each of them."""

    def __init__(self, parts: list[Any], methods: list[Any]) -> None:
        self.parts = parts
        self.methods = methods

    def __call__(self, *args: Any, ret: bool = False, awaitable: bool = False, **kwargs: Any) -> Any:
        if not (ret or awaitable):
            for method in self.methods:
                method(*args, **kwargs)
            return None
        result: threads.Future[Any] = threads.Future()
        answers = [method(*args, ret=ret, awaitable=not ret, **kwargs) for method in self.methods]
        # Of values the list is in the order of the indices, whatever collection they are of.
        indices = [part.__charm_present__(ret=True) for part in self.parts] if ret else []
        when_all([*answers, *indices], lambda: give(result, gathered(answers, indices)))
        return result


def gathered(answers: list[threads.Future[Any]], indices: list[threads.Future[Any]]) -> Any:
    """What the calls of several collections give: their values, or the first exception, or nothing."""
    if not indices:
        return next((error for error in map(outcome, answers) if isinstance(error, Exception)), None)
    found: list[tuple[Index, Any]] = []
    for answer, index in zip(answers, indices):
        values, there = outcome(answer), outcome(index)
        for value in (values, there):
            if isinstance(value, Exception):
                return value
        found += zip([tupled(at) for at in there], values)
    return [value for _, value in sorted(found, key=lambda pair: pair[0])]


def give(future: threads.Future[Any], value: Any) -> None:
    """Lets a future of this PE have a value as it stands, or an exception raised."""
    if isinstance(value, Exception):
        future.send(value)
    else:
        future._settle(value)


def outcome(future: threads.Future[Any]) -> Any:
    """A future's value, or the exception in its place."""
    try:
        return future._result()
    except Exception as error:
        return error


def when_all(futures: list[threads.Future[Any]], then: Callable[[], None]) -> None:
    """Calls ``then`` when all futures have their values."""
    missing = len(futures)

    def ready(_: Any) -> None:
        nonlocal missing
        missing -= 1
        if missing == 0:
            then()

    for future in futures:
        future._when_ready(ready)


def united(whole: Any, proxies: Sequence[Any]) -> Any:
    """A section of all elements of these parts of one collection; what is not a part but all of it as it is."""
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
    """The sections that ``section_func`` gave to an element."""
    several = [chosen] if isinstance(chosen, int) else list(chosen or ())
    return [number for number in several if number >= 0]
