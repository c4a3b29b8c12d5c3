"""References to objects, and how objects are kept: pickled once where they are made, and unpickled anew for each who gets one.

An object is deleted when the reference that ``put`` or ``remote`` gave is gone. A reference that has been sent by itself, inside a list or to a
chare, may be anywhere: its object stays until ``free``, or the end. Arguments of remote functions and methods are not sent so: they are replaced
by their values, and their references are held until then.
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

#: What is not longer than this lies at its home, where everybody asks for it first.
SMALL = 1024
#: An object as it is kept: pickled, with its buffers; or an exception, as exceptions travel.
Kept = tuple[str, Any, Any]


class GetTimeoutError(TimeoutError):
    """``ray.get`` has waited as long as it was to."""


class Store(ObjectStore):
    """The objects of this module."""

    #: This PE's part, when there is one.
    here: Store | None = None

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count()
        #: References that are arguments of what is to make an object: held until it has.
        self.held: dict[int, Any] = {}
        Store.here = self

    def new_id(self) -> int:
        return next(self.numbers) * state.pes + state.pe

    def update_location(self, obj_id: int, pe: int) -> None:
        self.held.pop(obj_id, None)
        super().update_location(obj_id, pe)

    def keep(self, obj_id: int, kept: Kept) -> None:
        """Keeps an object that has been made on this PE."""
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
    """Names an object that is, or will be, somewhere in the job. Give it to ``ray.get``, ``ray.wait``, or as an argument."""

    __slots__ = ("__weakref__", "_id", "_owned")

    def __init__(self, obj_id: int, owned: bool = False) -> None:
        self._id = obj_id
        #: Whether the object goes with it.
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
            # Whatever happens to be running now must not find the store changed. Another thread, or the end, leaves all as it is.
            with suppress(Exception):
                obj_id = self._id
                _engine.call_soon(lambda: store().delete_remote_objects(obj_id))

    def get(self, timeout: float | None = None) -> Any:
        """The object: waits for it."""
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
        # What goes on with a coroutine is called by nobody who is in one himself.
        store().when_anywhere(self._id, lambda: _engine.call_soon(lambda: waiter(self)))

    def _forget(self, waiter: Callable[[Any], None]) -> None:
        """Takes such a wish back: it is called all the same, once, and does nothing."""

    def _fetched(self) -> Future[None]:
        """What is ready when the object is on this PE."""
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
    """References to objects that are to be made."""
    return [ObjectRef(store().new_id(), owned=True) for _ in range(count)]


# How objects are kept


def packed(value: Any) -> Kept:
    """A copy of an object, as it is kept."""
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    functions.Pickler(file, 5, buffer_callback=buffers.append).dump(value)
    return "value", file.getvalue(), [bytearray(buffer.raw()) for buffer in buffers]


def packed_error(error: BaseException) -> Kept:
    return "error", errors.pack(error), []


def unpacked(kept: Kept) -> Any:
    """The object that is kept, or the exception that is raised. Each who gets one has its own."""
    kind, data, buffers = kept
    if kind == "error":
        raise errors.unpack(data)
    return pickle.loads(data, buffers=[bytearray(buffer) for buffer in buffers])


class Needed:
    """Stands for an argument that is the object of a reference."""

    def __init__(self, obj_id: int) -> None:
        self.obj_id = obj_id


def packed_arguments(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Kept, list[ObjectRef]]:
    """Arguments as they are sent, and the references among them."""

    def needed(argument: Any) -> Any:
        return Needed(argument._id) if isinstance(argument, ObjectRef) else argument

    refs = [argument for argument in (*args, *kwargs.values()) if isinstance(argument, ObjectRef)]
    sent = [needed(argument) for argument in args], {name: needed(argument) for name, argument in kwargs.items()}
    return packed(sent), refs


def unpacked_arguments(kept: Kept) -> tuple[list[Any], dict[str, Any]]:
    """The arguments again: waits for the objects that are needed."""
    args, kwargs = unpacked(kept)
    needed = [argument for argument in (*args, *kwargs.values()) if isinstance(argument, Needed)]
    # All of them are on their way before the first is waited for.
    fetched = [ObjectRef(argument.obj_id)._fetched() for argument in needed]
    for future in fetched:
        future.get()

    def value(argument: Any) -> Any:
        return unpacked(store().objects[argument.obj_id]) if isinstance(argument, Needed) else argument

    return [value(argument) for argument in args], {name: value(argument) for name, argument in kwargs.items()}


def perform(function: Callable[..., Any], sent: Kept, ids: Sequence[int]) -> None:
    """Calls a function in a coroutine, and keeps its results, or its exception, as objects of these numbers."""
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
    """The several results of a function."""
    if count == 1:
        return [value]
    found = list(value)
    if len(found) != count:
        raise ValueError(f"{count} results are wanted, and there are {len(found)}")
    return found
