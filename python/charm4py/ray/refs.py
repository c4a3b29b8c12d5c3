"""References to objects, and how objects are kept: pickled once where they are created, and unpickled again for each ``get``.

An object is deleted when the reference that ``put`` or ``remote`` returned is collected. A reference that was sent inside a list or to a chare may be
anywhere, so its object stays until ``free`` or the end of the job. Arguments of remote functions and methods are different: they are replaced by
their values, and their references are held until then.
"""

from __future__ import annotations

import io
import itertools
import pickle
from contextlib import suppress
from typing import Any, Callable, Generator, Sequence

from .. import _engine, errors, functions, state
from ..errors import Charm4PyError
from ..object_store import ObjectStore, home, this_pe
from ..statements import run_awaitable
from ..threads import Future

#: Objects up to this size are kept on their home PE, which every request reaches first.
SMALL = 1024
#: An object as it is kept: pickled, with its buffers; or a packed exception.
Kept = tuple[str, Any, Any]


class GetTimeoutError(TimeoutError):
    """``ray.get`` has reached its time limit."""


class Store(ObjectStore):
    """The store of the objects of this module."""

    #: This PE's part, once it exists.
    here: Store | None = None

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count()
        #: For each object to come: the references that its function needs, held until the object exists.
        self.held: dict[int, Any] = {}
        Store.here = self

    def new_id(self) -> int:
        return next(self.numbers) * state.pes + state.pe

    def update_location(self, obj_id: int, pe: int) -> None:
        self.held.pop(obj_id, None)
        super().update_location(obj_id, pe)

    def keep(self, obj_id: int, kept: Kept) -> None:
        """Keeps an object that was created on this PE."""
        at = home(obj_id)
        small = kept[0] == "error" or not kept[2] and len(kept[1]) <= SMALL
        if small and at != this_pe():
            self.thisProxy[at].insert_object_small(obj_id, kept)
        else:
            self.create_object(obj_id, kept)


def store() -> Store:
    """This PE's part of the store."""
    if Store.here is None:
        raise Charm4PyError("ray.init() has to be called first")
    return Store.here


class ObjectRef:
    """A reference to an object that exists, or will exist, on some PE. Pass it to ``ray.get``, ``ray.wait``, or as an argument."""

    __slots__ = ("__weakref__", "_id", "_owned")

    def __init__(self, obj_id: int, owned: bool = False) -> None:
        self._id = obj_id
        #: Whether the object is deleted with the reference.
        self._owned = owned

    def __reduce__(self) -> tuple[type[ObjectRef], tuple[int]]:
        self._owned = False
        return ObjectRef, (self._id,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectRef) and other._id == self._id

    def __hash__(self) -> int:
        return hash(self._id)

    def __repr__(self) -> str:
        return f"ObjectRef({self._id:x})"

    def __del__(self) -> None:
        if self._owned:
            # Later, since the running code must not see the store change. On another thread, or at the end of the job, nothing is deleted.
            with suppress(Exception):
                obj_id = self._id
                _engine.call_soon(lambda: store().delete_remote_objects(obj_id))

    def get(self, timeout: float | None = None) -> Any:
        """Waits for the object and returns it."""
        future = self._fetched()
        try:
            future.get(timeout)
        except TimeoutError:
            raise GetTimeoutError(f"no object in {timeout} seconds") from None
        return unpacked(store().objects[self._id])

    def ready(self) -> bool:
        """Whether the object is on this PE, or known to be on another."""
        return self._id in store().objects or bool(store().locations.get(self._id))

    def _when_ready(self, waiter: Callable[[Any], None]) -> None:
        # A waiter may resume a coroutine, so the hub must call it.
        store().when_anywhere(self._id, lambda: _engine.call_soon(lambda: waiter(self)))

    def _forget(self, waiter: Callable[[Any], None]) -> None:
        """Does nothing: the waiter is called once, and must ignore that."""

    def _fetched(self) -> Future[None]:
        """A future that is ready when the object is on this PE."""
        future: Future[None] = Future()
        if self._id in store().objects:
            future._settle(None)
        else:
            store().when_here(self._id, lambda: _engine.call_soon(lambda: future._settle(None)))
        return future

    def __await__(self) -> Generator[Any, None, Any]:
        yield from self._fetched().__await__()
        return unpacked(store().objects[self._id])


def new_refs(count: int) -> list[ObjectRef]:
    """References to new objects."""
    return [ObjectRef(store().new_id(), owned=True) for _ in range(count)]


# How objects are kept


def packed(value: Any) -> Kept:
    """A copy of an object in the form in which it is kept."""
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    functions.Pickler(file, 5, buffer_callback=buffers.append).dump(value)
    return "value", file.getvalue(), [bytearray(buffer.raw()) for buffer in buffers]


def packed_error(error: BaseException) -> Kept:
    return "error", errors.pack(error), []


def unpacked(kept: Kept) -> Any:
    """A new copy of an object that is kept. Raises a kept exception."""
    kind, data, buffers = kept
    if kind == "error":
        raise errors.unpack(data)
    return pickle.loads(data, buffers=[bytearray(buffer) for buffer in buffers])


class Needed:
    """Takes the place of an argument that is a reference."""

    def __init__(self, obj_id: int) -> None:
        self.obj_id = obj_id


def packed_arguments(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Kept, list[ObjectRef]]:
    """Packs arguments, and returns the references among them too."""

    def needed(argument: Any) -> Any:
        return Needed(argument._id) if isinstance(argument, ObjectRef) else argument

    refs = [argument for argument in (*args, *kwargs.values()) if isinstance(argument, ObjectRef)]
    sent = [needed(argument) for argument in args], {name: needed(argument) for name, argument in kwargs.items()}
    return packed(sent), refs


def unpacked_arguments(kept: Kept) -> tuple[list[Any], dict[str, Any]]:
    """Unpacks arguments. Waits for the objects of references."""
    args, kwargs = unpacked(kept)
    needed = [argument for argument in (*args, *kwargs.values()) if isinstance(argument, Needed)]
    # All objects are requested before the first wait.
    fetched = [ObjectRef(argument.obj_id)._fetched() for argument in needed]
    for future in fetched:
        future.get()

    def value(argument: Any) -> Any:
        return unpacked(store().objects[argument.obj_id]) if isinstance(argument, Needed) else argument

    return [value(argument) for argument in args], {name: value(argument) for name, argument in kwargs.items()}


def perform(function: Callable[..., Any], sent: Kept, ids: Sequence[int]) -> None:
    """Calls a function in a coroutine, and keeps its results or its exception as the objects with these numbers."""
    kept: list[Kept]
    try:
        args, kwargs = unpacked_arguments(sent)
        value = function(*args, **kwargs)
        if hasattr(value, "__await__") and not isinstance(value, ObjectRef):
            value = run_awaitable(value)
        kept = [packed(part) for part in parts(value, len(ids))]
    except Exception as error:
        kept = [packed_error(error)] * len(ids)
    for obj_id, each in zip(ids, kept):
        store().keep(obj_id, each)


def parts(value: Any, count: int) -> list[Any]:
    """The results of a function that has several."""
    if count == 1:
        return [value]
    found = list(value)
    if len(found) != count:
        raise ValueError(f"{count} results are wanted, and there are {len(found)}")
    return found
