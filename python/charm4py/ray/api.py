"""The functions that programs call; see the package's text."""

from __future__ import annotations

from types import FunctionType
from typing import Any, Callable, Iterable, Sequence

from .. import functions, state
from ..chare import Group, creation
from ..entry_method import coro
from ..pool import Pool
from ..threads import Future
from .actors import RemoteClass
from .refs import GetTimeoutError, Kept, ObjectRef, Store, new_refs, packed, packed_arguments, perform, store

__all__ = ["free", "get", "get_object_store", "init", "is_initialized", "put", "remote", "shutdown", "wait"]


def init(*_args: Any, **_options: Any) -> None:
    """Creates the store of objects. Call it once, in a coroutine, before other functions of this module. Ray's arguments are accepted without effect."""
    if Store.here is None:
        creation(Group(Store)).get()


def is_initialized() -> bool:
    """Whether :func:`init` was called."""
    return Store.here is not None


def shutdown() -> None:
    """Accepted without effect: the store ends with the job."""


def get_object_store() -> Any:
    """The proxy of the store, a group."""
    return store().thisProxy


def remote(*args: Any, **options: Any) -> Any:
    """Decorates a function, so that ``function.remote(...)`` runs it on some PE, or a class, so that ``cls.remote(...)`` creates an actor.

    With ``@remote(num_returns=n)`` the function has several results. Ray's other options are accepted without effect.
    """
    if len(args) == 1 and not options:
        return made_remote(args[0], 1)
    if args:
        raise TypeError("@ray.remote takes no positional arguments: use it alone, or with options by name")
    return lambda decorated: made_remote(decorated, options.get("num_returns", 1))


def made_remote(decorated: Any, num_returns: int) -> Any:
    if isinstance(decorated, FunctionType):
        remote = RemoteFunction(decorated, num_returns)
        decorated.remote, decorated.options = remote, remote.options  # type: ignore[attr-defined]
        return decorated
    if isinstance(decorated, type):
        return RemoteClass(decorated)
    raise TypeError(f"@ray.remote decorates functions and classes, not {decorated!r}")


class RemoteFunction:
    """``function.remote``, and the result of ``function.options(...)``."""

    def __init__(self, function: Callable[..., Any], num_returns: int) -> None:
        self.function, self.num_returns = function, num_returns

    def options(self, *, num_returns: int = 1, **_options: Any) -> RemoteFunction:
        """The function, with ``num_returns`` results."""
        return RemoteFunction(self.function, num_returns)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the function on some PE. Returns a reference to its result, or a list of references if it has several."""
        sent, needed = packed_arguments(args, kwargs)
        refs = new_refs(self.num_returns)
        ids = [ref._id for ref in refs]
        store().held.update((obj_id, needed) for obj_id in ids)
        Pool().Task(run_task, (functions.dumps(self.function), sent, ids))
        return refs[0] if self.num_returns == 1 else refs

    __call__ = remote


@coro
def run_task(function: bytes, sent: Kept, ids: Sequence[int]) -> None:
    """A task of the pool. It may wait for objects, and so may the function."""
    perform(lambda *args, **kwargs: functions.loads(function)(*args, **kwargs), sent, ids)


def put(value: Any) -> ObjectRef:
    """Keeps a copy of an object on this PE, and returns a reference to it."""
    if isinstance(value, ObjectRef):
        raise TypeError("ray.put() takes an object, not a reference to one")
    (ref,) = new_refs(1)
    store().create_object(ref._id, packed(value))
    return ref


def get(refs: Any, timeout: float | None = None) -> Any:
    """Waits for the object of a reference, or for the objects of a list of references, and returns it or them. Raises an exception in place of an object."""
    if isinstance(refs, (ObjectRef, Future)):
        return refs.get(timeout)
    if not isinstance(refs, (list, tuple)):
        raise TypeError(f"ray.get() takes references or a list of them, not {refs!r}")
    for ref in refs:
        if isinstance(ref, ObjectRef):
            store().when_here(ref._id, lambda: None)  # requests all objects before it waits for the first
    if timeout is None:
        return [get(ref) for ref in refs]
    _, missing = wait_for(refs, len(refs), timeout)
    if missing:
        raise GetTimeoutError(f"{len(missing)} of {len(refs)} objects are missing after {timeout} seconds")
    return [get(ref) for ref in refs]


def wait(
    futures: Sequence[Any], num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
) -> tuple[list[Any], list[Any]]:
    """Waits until ``num_returns`` objects exist, or for ``timeout`` seconds. Returns the references of those, and the other references."""
    futures = list(futures)
    if not 0 < num_returns <= len(futures):
        raise ValueError(f"ray.wait() cannot wait for {num_returns} of {len(futures)} objects")
    if len(set(futures)) < len(futures):
        raise ValueError("ray.wait() takes each reference once")
    return wait_for(futures, num_returns, timeout)


def wait_for(futures: Sequence[Any], count: int, timeout: float | None) -> tuple[list[Any], list[Any]]:
    ready: set[int] = set()
    enough: Future[None] = Future()

    def woken(at: int) -> Callable[[Any], None]:
        def seen(_: Any) -> None:
            ready.add(at)
            if len(ready) == count:
                enough._settle(None)

        return seen

    waiters: list[tuple[Any, Callable[[Any], None]]] = []
    for at, future in enumerate(futures):
        if future.ready():
            woken(at)(future)
        else:
            waiters.append((future, woken(at)))
            future._when_ready(waiters[-1][1])
    if len(ready) < count:
        try:
            enough.get(timeout)
        except TimeoutError:
            pass
    for future, waiter in waiters:
        future._forget(waiter)
    first = sorted(ready)[:count]
    return [futures[at] for at in first], [future for at, future in enumerate(futures) if at not in first]


def free(refs: Iterable[ObjectRef] | ObjectRef) -> None:
    """Deletes objects on all PEs. They must not be used any more."""
    for ref in [refs] if isinstance(refs, ObjectRef) else refs:
        ref._owned = False
        store().thisProxy[ref._id % pes()].delete_remote_objects(ref._id)


def pes() -> int:
    return state.pes
