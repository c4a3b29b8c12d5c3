"""``charm.pool``: runs functions on the PEs that have time for them.

The PE that maps a function is the *master* of that pool job, and every PE is a *worker*, the master too. The master divides the tasks into
*portions*. It gives each worker one portion, and a second one in advance as long as there are enough for all. A worker runs portions in the order of
arrival, sends the results of a portion in one message, and gets the next portion. The number of tasks in a portion follows from the time that the
worker's tasks have taken so far: short tasks cost few messages, and long tasks are balanced well. Between portions, and every millisecond inside
long ones, the PE runs other work.

A task that is a coroutine does not block its worker while it waits, so tasks may wait for tasks.
"""

from __future__ import annotations

import inspect
import itertools
import pickle
from collections import deque
from time import perf_counter
from typing import Any, Callable, Iterable, Iterator, Sequence

from . import _engine, entry_method, errors, functions, state, threads
from .chare import Chare
from .ending import UnawaitedAnswer
from .threads import Future

#: The aimed duration of a portion, and how long a worker runs before the PE may run other work.
PORTION_S = 1e-3
#: The length of that pause. The PE becomes idle in it, and an idle PE sends the messages that it has collected.
PAUSE_S = 2e-5

#: A task: the number of the job's function, and its arguments.
Item = tuple[int, tuple[Any, ...]]


class Pool:
    """The pool of tasks. Any PE may use it. Methods that wait must be called in a coroutine."""

    def __init__(self, pool_scheduler: Any = None) -> None:
        """``pool_scheduler`` is accepted without effect."""

    def map(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1, ncores: int = -1) -> list[Any]:
        """Returns the list of ``func(x)`` for each ``x``. Waits for the results.

        A tuple becomes several arguments or one, as ``func`` accepts it. If ``func`` accepts both, it becomes several, or one if ``chunksize`` is above 1.
        At least ``chunksize`` tasks travel together. ``ncores`` PEs work, or all. Raises the first exception of a task.
        """
        values: list[Any] = self.map_async(func, iterable, chunksize, ncores).get()
        return values

    def map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        ncores: int = -1,
        multi_future: bool = False,
    ) -> Any:
        """Like :meth:`map`, but returns a future of the list; with ``multi_future``, a list with a future for each task."""
        spread = spreads(func, chunksize)
        return begin([func], [(0, arguments(item, spread)) for item in iterable], chunksize, ncores, multi_future)

    def submit(self, iterable: Iterable[tuple[Callable[..., Any], Any]], chunksize: int = 1, ncores: int = -1) -> list[Any]:
        """Like :meth:`map`, for pairs of a function and its argument (or a tuple of its arguments)."""
        values: list[Any] = self.submit_async(iterable, chunksize, ncores).get()
        return values

    def submit_async(
        self,
        iterable: Iterable[tuple[Callable[..., Any], Any]],
        chunksize: int = 1,
        ncores: int = -1,
        multi_future: bool = False,
    ) -> Any:
        """Like :meth:`submit`, but returns a future of the list; with ``multi_future``, a list with a future for each task."""
        numbers: dict[Callable[..., Any], int] = {}
        spread: dict[Callable[..., Any], Callable[[int], bool]] = {}
        items = []
        for function, args in iterable:
            if function not in numbers:
                numbers[function], spread[function] = len(numbers), spreads(function, chunksize)
            items.append((numbers[function], arguments(args, spread[function])))
        return begin(list(numbers), items, chunksize, ncores, multi_future)

    def Task(self, func: Callable[..., Any], args: Sequence[Any], ret: bool = False, awaitable: bool = False) -> Any:
        """Runs ``func(*args)`` on some PE. Returns a future of its value if ``ret`` or ``awaitable`` is true, otherwise ``None``.

        Without a future, an exception ends the job.
        """
        (future,) = begin([func], [(0, tuple(args))], 1, -1, True)
        if ret or awaitable:
            return future
        future._when_ready(lambda _: end_if_failed(func, future))
        return None


def end_if_failed(func: Callable[..., Any], future: Future[Any]) -> None:
    try:
        future._result()
    except BaseException as error:
        unawaited_answer(func).error(error)


def unawaited_answer(func: Callable[..., Any]) -> UnawaitedAnswer:
    return UnawaitedAnswer(f"charm.pool.Task({getattr(func, '__qualname__', func)})")


def arguments(item: Any, spread: Callable[[int], bool]) -> tuple[Any, ...]:
    return item if isinstance(item, tuple) and spread(len(item)) else (item,)


def spreads(function: Callable[..., Any], chunksize: int) -> Callable[[int], bool]:
    """Says for a function whether a tuple of a given length becomes that many arguments, rather than one."""
    try:
        least, most = entry_method.positional(inspect.signature(function, follow_wrapped=False).parameters.values())
    except (TypeError, ValueError):  # some functions written in C have no signature
        least, most = 0, entry_method.MANY
    one_fits = least <= 1 <= most
    if chunksize > 1:
        return lambda count: not one_fits
    return lambda count: least <= count <= most or not one_fits


class PoolScheduler(Chare):
    """For programs that create a pool, ``Pool(Chare(PoolScheduler, onPE=0))``. All pools are the same one, which needs no scheduler."""


# The master


class Job:
    """The tasks of one call of the pool, on the PE of the caller."""

    def __init__(self, number: int, funcs: list[bytes], items: list[Item], chunksize: int, pes: list[int]) -> None:
        self.number = number
        self.functions = funcs
        self.items = items
        self.chunksize = chunksize
        self.pes = pes
        self.given = 0
        self.back = 0
        #: The number of tasks that each worker has run, and their seconds: workers differ in speed.
        self.work_done = {pe: (0, 0.0) for pe in pes}
        #: Takes the values or errors from a position on. Returns false if the job must stop.
        self.take: Callable[[int, list[Any]], bool]

    def portion(self, pe: int) -> int:
        """The number of tasks in a worker's next portion."""
        left = len(self.items) - self.given
        share = left // (2 * len(self.pes))
        tasks, seconds = self.work_done[pe]
        wanted = int(PORTION_S * tasks / max(seconds, 1e-9))
        return min(left, max(self.chunksize, min(wanted, share)))

    def give(self, pe: int) -> None:
        """Gives a worker its next portion."""
        count = self.portion(pe)
        if count > 0:
            first, self.given = self.given, self.given + count
            self.send(pe, first, count)

    def send(self, pe: int, first: int, count: int) -> None:
        which, args = zip(*self.items[first : first + count])
        used = {number: self.functions[number] for number in set(which)}
        portion = (this_pe(), self.number, first, used, which if len(used) > 1 else which[0])
        try:
            try:
                runtime()[pe]._pool_work(*portion, functions.as_they_travel(list(args)))
            except Exception as error:
                runtime()[pe]._pool_work(*portion, by_value(list(args), error))
        except Exception as error:
            # An argument cannot be sent: this is an error of its task only.
            if count > 1:
                for at in range(first, first + count):
                    self.send(pe, at, 1)
            else:
                failed = {0: errors.pack(error)}
                _engine.call_soon(lambda: done(pe, self.number, first, [None], failed, 0.0))

    def begin(self) -> None:
        for pe in self.pes:
            self.give(pe)
        self.give_in_advance(self.pes)

    def give_in_advance(self, pes: Sequence[int]) -> None:
        """Gives workers their next portions in advance. The last portions go to the workers that are idle first."""
        for pe in pes:
            if len(self.items) - self.given > len(self.pes):
                self.give(pe)

    def done(self, pe: int, first: int, values: list[Any], seconds: float) -> None:
        """A worker has run a portion."""
        self.back += len(values)
        tasks, before = self.work_done[pe]
        self.work_done[pe] = tasks + len(values), before + seconds
        if not self.take(first, values) or self.back == len(self.items):
            del jobs[self.number]
        else:
            self.give(pe)


def by_value(values: list[Any], error: Exception) -> tuple[int, bytes]:
    """Packs by value what could not be sent because of ``error``: other PEs may not have its classes."""
    try:
        return len(values), functions.dumps(values)
    except Exception:
        raise error from None


def received(values: Any) -> list[Any]:
    """Values that were sent in either form."""
    unpacked: list[Any] = pickle.loads(values[1]) if isinstance(values, tuple) else values
    return unpacked


#: The pool jobs of which this PE is the master.
jobs: dict[int, Job] = {}
numbers: Iterator[int] = itertools.count()
#: The PE with which the next job begins, relative to this one: jobs with few tasks start round-robin.
turn = 0


def begin(funcs: list[Callable[..., Any]], items: list[Item], chunksize: int, ncores: int, multi_future: bool) -> Any:
    """Starts a pool job and returns its future or futures."""
    if chunksize < 1:
        raise ValueError(f"portions of {chunksize} tasks")
    pes = workers(ncores, len(items))
    job = Job(next(numbers), [functions.dumps(function) for function in funcs], items, chunksize, pes)
    futures: list[Future[Any]] = [Future() for _ in (items if multi_future else [None])]
    job.take = each_its_own(futures) if multi_future else all_in_one(futures[0], len(items))
    if items:
        jobs[job.number] = job
        job.begin()
    elif not multi_future:
        futures[0].send([])
    return futures if multi_future else futures[0]


def workers(ncores: int, tasks: int) -> list[int]:
    """The workers of a job. This PE comes last, since it has other work."""
    global turn
    pes = runtime_pes()
    if ncores == 0 or ncores < -1 or ncores > pes:
        raise ValueError(f"ncores is {ncores}: the job has {pes} PEs")
    count = pes if ncores == -1 else ncores
    first, turn = turn, (turn + min(count, tasks)) % pes
    return [(this_pe() + 1 + first + i) % pes for i in range(count)]


def all_in_one(future: Future[Any], count: int) -> Callable[[int, list[Any]], bool]:
    """Collects the values into a list for the future. The first error ends the job."""
    result: list[Any] = [None] * count
    missing = count

    def take(first: int, values: list[Any]) -> bool:
        nonlocal missing
        for value in values:
            if isinstance(value, Failure):
                future.send(value.error())
                return False
        result[first : first + len(values)] = values
        missing -= len(values)
        if missing == 0:
            settle(future, result)
        return True

    return take


def each_its_own(futures: list[Future[Any]]) -> Callable[[int, list[Any]], bool]:
    def take(first: int, values: list[Any]) -> bool:
        for at, value in enumerate(values, first):
            if isinstance(value, Failure):
                futures[at].send(value.error())
            else:
                settle(futures[at], value)
        return True

    return take


def settle(future: Future[Any], value: Any) -> None:
    """Gives a future of this PE a value that is already a copy."""
    _engine.call_soon(lambda: future._settle(value))


class Failure:
    """An exception in place of a value."""

    def __init__(self, packed: tuple[bytes | None, str, str, str]) -> None:
        self.packed = packed

    def error(self) -> BaseException:
        return errors.unpack(self.packed)


def done(pe: int, number: int, first: int, sent: Any, failed: dict[int, Any], seconds: float) -> None:
    """A worker has run a portion; called on the master's PE."""
    job = jobs.get(number)
    if job is not None:  # otherwise the job has failed before
        values = received(sent)
        for at, packed in failed.items():
            values[at] = Failure(packed)
        job.done(pe, first, values, seconds)


# The worker


class Portion:
    """Some tasks of a job, on the worker's PE."""

    def __init__(self, master: int, number: int, first: int, tasks: list[tuple[Any, tuple[Any, ...]]]) -> None:
        self.master = master
        self.number = number
        self.first = first
        self.tasks = tasks
        self.begun = 0
        self.missing = len(tasks)
        self.values: list[Any] = [None] * len(tasks)
        self.failed: dict[int, Any] = {}
        self.seconds = 0.0

    def run_one(self) -> None:
        """Begins the next task, and ends it unless it waits."""
        function, args = self.tasks[self.begun]
        outcome = Outcome(self, self.begun)
        self.begun += 1
        if hasattr(function, "_charm_coro"):
            threads.start(None, function, args, {}, outcome)
            return
        try:
            value = function(*args)
        except BaseException as error:
            outcome.error(error)
        else:
            if inspect.iscoroutine(value):
                threads.run_async(None, value, outcome)
            else:
                outcome.value(value)

    def send(self) -> None:
        """Sends the results to the master."""
        try:
            self.post(self.values)
        except Exception as error:
            # A value cannot be sent: this is an error of its task only.
            for at, value in enumerate(self.values):
                try:
                    functions.dumps(value)
                except Exception as reason:
                    self.values[at] = None
                    self.failed[at] = errors.pack(TypeError(f"a task's value cannot be sent: {reason}"))
            self.post(by_value(self.values, error))

    def post(self, values: Any) -> None:
        runtime()[self.master]._pool_done(this_pe(), self.number, self.first, values, self.failed, self.seconds)


class Outcome:
    """Takes the value or exception of a task."""

    __slots__ = ("at", "begun", "portion")

    def __init__(self, portion: Portion, at: int) -> None:
        self.portion = portion
        self.at = at
        self.begun = perf_counter()

    def value(self, value: Any) -> None:
        portion = self.portion
        portion.values[self.at] = value
        portion.missing -= 1
        portion.seconds += perf_counter() - self.begun
        if portion.missing == 0:
            portion.send()

    def error(self, error: BaseException) -> None:
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            unawaited_answer(self.portion.tasks[self.at][0]).error(error)
            return
        self.portion.failed[self.at] = errors.pack(error)
        self.value(None)


class Worker:
    """The portions that this PE must run."""

    def __init__(self) -> None:
        self.portions: deque[Portion] = deque()
        #: How long it has run since the PE last polled for other work, and whether a poll is pending.
        self.worked_s = 0.0
        self.looking = False

    def add(self, portion: Portion) -> None:
        self.portions.append(portion)
        if not self.looking:
            self.go_on()

    def go_on(self) -> None:
        """Runs tasks for as long as it may."""
        begun = perf_counter() - self.worked_s
        while self.portions and self.worked_s < PORTION_S:
            portion = self.portions[0]
            portion.run_one()
            if portion.begun == len(portion.tasks):
                self.portions.popleft()
            self.worked_s = perf_counter() - begun
        if self.portions:
            self.look_around()

    def look_around(self) -> None:
        """Continues after the work that has arrived for the PE by now.

        The engine runs messages of a PE to itself before it polls the network again, but timers only after that poll. The message that a timer
        sends queues behind what the poll has found. So a PE with long tasks handles messages of other PEs between any two tasks.
        """
        self.looking = True
        _engine.after(PAUSE_S, lambda: runtime()[this_pe()]._pool_go_on())

    def looked(self) -> None:
        self.looking = False
        self.worked_s = 0.0
        self.go_on()


worker = Worker()


def work(master: int, number: int, first: int, funcs: dict[int, bytes], which: Any, sent: Any) -> None:
    """Takes a portion for this PE. ``which`` is the number of the function for all tasks, or a number for each."""
    try:
        loaded = {n: functions.loads(function) for n, function in funcs.items()}
        args = received(sent)
    except Exception as error:
        failure = errors.pack(error)
        count = sent[0] if isinstance(sent, tuple) else len(sent)
        runtime()[master]._pool_done(this_pe(), number, first, [None] * count, dict.fromkeys(range(count), failure), 0.0)
        return
    each = itertools.repeat(which) if isinstance(which, int) else which
    worker.add(Portion(master, number, first, [(loaded[n], a) for n, a in zip(each, args)]))


# This PE and the runtime's group


def runtime() -> Any:
    return state.runtime


def this_pe() -> int:
    return state.pe


def runtime_pes() -> int:
    return state.pes
