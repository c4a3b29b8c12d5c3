"""Actors: objects on a PE whose methods run one after another, in the order of the calls of each caller."""

from __future__ import annotations

import inspect
from collections import deque
from functools import partial
from typing import Any, Callable

from greenlet import getcurrent

from .. import _engine, functions, state, threads
from ..chare import Chare
from ..entry_method import meant
from ..ending import UnawaitedAnswer
from .refs import Kept, ObjectRef, new_refs, packed_arguments, packed_error, perform, store, unpacked_arguments

#: How many calls this PE has sent to each actor.
sent: dict[Any, int] = {}
#: The PE on which the next actor is created.
turn = 0


class Actor(Chare):
    """The chare behind an actor's handle."""

    def __init__(self, made_of: bytes, args: Kept) -> None:
        self.instance: Any = None
        self.failed: Kept | None = None
        #: Calls that are ready to run; calls that arrived too early, by caller and turn; and each caller's next turn.
        self.calls: deque[tuple[str, Kept, list[int]]] = deque()
        self.early: dict[int, dict[int, tuple[str, Kept, list[int]]]] = {}
        self.turns: dict[int, int] = {}
        self.begin(lambda: self.work(made_of, args))

    def call(self, caller: int, turn: int, name: str, args: Kept, ids: list[int]) -> None:
        """A call of a method has arrived."""
        early = self.early.setdefault(caller, {})
        early[turn] = name, args, ids
        next_turn = self.turns.get(caller, 0)
        while next_turn in early:
            self.calls.append(early.pop(next_turn))
            next_turn += 1
        self.turns[caller] = next_turn
        if not self.working:
            self.begin(self.work_on)

    def begin(self, function: Callable[[], None]) -> None:
        self.working = True
        threads.start(self, function, (), {}, UnawaitedAnswer(f"an actor, index {self.thisIndex}"))

    def start(self, worker: Any, *performed: Any) -> None:
        threads.start(self, perform, performed, {}, UnawaitedAnswer(f"an actor of {type(self.instance).__name__}"))
        worker.resume()

    def work(self, made_of: bytes, args: Kept) -> None:
        """Creates the object, then runs the calls that have arrived meanwhile."""

        def make(*args: Any, **kwargs: Any) -> None:
            self.instance = functions.loads(made_of).cls(*args, **kwargs)  # type: ignore[attr-defined]

        try:
            perform_now(make, args)
        except Exception as error:
            self.failed = packed_error(error)
        self.work_on()

    def work_on(self) -> None:
        while self.calls:
            name, args, ids = self.calls.popleft()
            if self.failed is not None:
                for obj_id in ids:
                    store().keep(obj_id, self.failed)
                continue
            method = getattr(self.instance, name, None)
            run = caller_of(self.instance, name)
            if inspect.iscoroutinefunction(method) or hasattr(method, "_charm_coro"):
                # Other calls run while it waits. This is a coroutine, so the hub begins the method and then resumes this one.
                _engine.call_soon(partial(self.start, getcurrent(), run, args, ids))
                threads.pause("an actor")
            else:
                perform(run, args, ids)
        self.working = False


def caller_of(instance: Any, name: str) -> Callable[..., Any]:
    return lambda *args, **kwargs: getattr(instance, name)(*args, **kwargs) if name else None


def perform_now(function: Callable[..., Any], sent: Kept) -> None:
    """Calls a function, without catching its exceptions."""
    args, kwargs = unpacked_arguments(sent)
    function(*args, **kwargs)


class RemoteClass:
    """A class whose objects are actors; ``remote`` creates one."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.__name__, self.__qualname__, self.__module__, self.__doc__ = cls.__name__, cls.__qualname__, cls.__module__, cls.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{self.__qualname__} is remote: {self.__qualname__}.remote() makes an actor of it")

    def __reduce__(self) -> Any:
        if functions.is_in_module(self) and self.__module__ not in functions.local_modules:
            return self.__qualname__
        return RemoteClass, (self.cls,)

    def options(self, **_options: Any) -> RemoteClass:
        """Accepted without effect."""
        return self

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """Creates an actor, on the next PE round-robin."""
        global turn
        store()
        packed, refs = packed_arguments(args, kwargs)
        proxy: Any = Chare(Actor, [functions.dumps(self), packed], onPE=turn % state.pes)
        turn += 1
        names = frozenset(name for name in dir(self.cls) if callable(inspect.getattr_static(self.cls, name, None)) or is_bound(self.cls, name))
        handle = ActorHandle(proxy, self.__qualname__, names)
        if refs:
            # The references are held until the constructor has run: this empty call runs after it.
            handle._call("", (), {}, 1, refs)
        return handle


def is_bound(cls: type, name: str) -> bool:
    return isinstance(inspect.getattr_static(cls, name, None), (staticmethod, classmethod))


class ActorHandle:
    """A handle of an actor; ``handle.method.remote(...)`` calls a method."""

    __slots__ = ("_class_name", "_names", "_proxy")

    def __init__(self, proxy: Any, class_name: str, names: frozenset[str]) -> None:
        self._proxy, self._class_name, self._names = proxy, class_name, names

    def __reduce__(self) -> Any:
        return ActorHandle, (self._proxy, self._class_name, self._names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._proxy == self._proxy

    def __hash__(self) -> int:
        return hash(self._proxy)

    def __repr__(self) -> str:
        return f"<actor {self._class_name}>"

    def __dir__(self) -> list[str]:
        return sorted(name for name in self._names if not name.startswith("__"))

    def __getattr__(self, name: str) -> ActorMethod:
        if name.startswith("__") or name not in self._names:
            raise AttributeError(f"{self._class_name} has no method {name}{meant(name, self._names)}")
        return ActorMethod(self, name)

    def _call(self, name: str, args: Any, kwargs: dict[str, Any], num_returns: int, held: Any = ()) -> list[ObjectRef]:
        packed, needed = packed_arguments(args, kwargs)
        refs = new_refs(num_returns)
        turn = sent.get(self._proxy, 0)
        sent[self._proxy] = turn + 1
        store().held.update((ref._id, (needed, held)) for ref in refs)
        self._proxy.call(state.pe, turn, name, packed, [ref._id for ref in refs])
        return refs


class ActorMethod:
    """A method of an actor."""

    def __init__(self, handle: ActorHandle, name: str, num_returns: int = 1) -> None:
        self.handle, self.name, self.num_returns = handle, name, num_returns

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        called = f"{self.handle._class_name}.{self.name}"
        raise TypeError(f"{called} is a method of an actor: {called}.remote() calls it")

    def options(self, *, num_returns: int = 1, **_options: Any) -> ActorMethod:
        """The method, with ``num_returns`` results."""
        return ActorMethod(self.handle, self.name, num_returns)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the method. Returns a reference to its result, or a list of references if it has several."""
        refs = self.handle._call(self.name, args, kwargs, self.num_returns)
        return refs[0] if self.num_returns == 1 else refs
