"""The runtime's own group, ``charm.thisProxy``, and ``readonlies``."""

from __future__ import annotations

import sys
from typing import Any, Callable, Sequence

from . import _engine, ccs, combined, pool, state, statements, stats, threads
from .chare import Array, Chare
from .errors import Charm4PyError
from .reduction import Reducer


class Readonlies:
    """Values that the entry point on PE 0 sets first, and every PE reads.

    An assignment waits until all PEs have the value: a chare or a call that follows may reach a PE faster by another way.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if state.started and state.pe == 0 and state.pes > 1:
            told = state.runtime._set_readonly(name, value, awaitable=True)
            if threads.can_wait():
                told.get()


readonlies = Readonlies()


class Runtime(Chare):
    """The runtime's chare on every PE: ``charm.thisProxy`` is the proxy of all. Its calls take ``ret`` and ``awaitable``."""

    def __init__(self) -> None:
        state.runtime = self.thisProxy

    def _set_readonly(self, name: str, value: Any) -> None:
        object.__setattr__(readonlies, name, value)

    def _pool_work(self, *portion: Any) -> None:
        pool.work(*portion)

    def _pool_go_on(self) -> None:
        pool.worker.looked()

    def _pool_done(self, *result: Any) -> None:
        pool.done(*result)

    def _reduced_part(self, partial: combined.Partial) -> None:
        combined.reduced(partial)

    def _define(self, source: str) -> None:
        if state.pe != 0:  # which has run it already
            statements.define(source)

    def _show(self, stream: str, text: str) -> None:
        getattr(sys, stream).write(text)

    def _ccs_request(self, number: int, name: str, data: bytes) -> None:
        ccs.handlers.run(number, name, data)

    def _ccs_reply(self, number: int, status: int, reply: bytes) -> None:
        if ccs.handlers.server is not None:
            ccs.handlers.server.answered(number, status, reply)

    def updateGlobals(self, global_dict: dict[str, Any], module_name: str = "__main__") -> None:
        """Sets global names of a module on the PE."""
        sys.modules[module_name].__dict__.update(global_dict)

    def createArray(
        self,
        cls: type,
        dims: Any = None,
        ndims: int = -1,
        args: Sequence[Any] = (),
        map: Any = None,
        useAtSync: bool = False,
        cb: Any = None,
    ) -> Any:
        """Creates an array like :func:`charm4py.Array`. ``cb``, if given, gets its proxy."""
        proxy: Any = Array(cls, dims, ndims, args, map, useAtSync)
        if cb is not None:
            cb(proxy)
        return proxy

    def exec(self, code: str, module_name: str = "__main__") -> None:
        """Runs code in a module. Needs ``charm.options.remote_exec``."""
        allow_remote_execution()
        exec(code, sys.modules[module_name].__dict__)

    def rexec(self, code: str, module_name: str = "__main__") -> None:
        """An older name of :meth:`exec`."""
        self.exec(code, module_name)

    def eval(self, expression: str, module_name: str = "__main__") -> Any:
        """Evaluates an expression in a module. Needs ``charm.options.remote_exec``."""
        allow_remote_execution()
        return eval(expression, sys.modules[module_name].__dict__)

    def registerNewChareType(self, name: str, source: str) -> None:
        """Defines a class of chares in ``__main__`` from its source. Needs ``charm.options.remote_exec``."""
        allow_remote_execution()
        exec(source, sys.modules["__main__"].__dict__)
        defined = sys.modules["__main__"].__dict__.get(name)
        if not (isinstance(defined, type) and issubclass(defined, Chare)):
            raise Charm4PyError(f"the source defines no class of chares called {name}")

    def addReducer(
        self,
        func: Callable[[list[Any]], Any],
        pre: Callable[[Any, Any], Any] | None = None,
        post: Callable[[Any], Any] | None = None,
    ) -> None:
        """Does the same as ``Reducer.addReducer``."""
        Reducer.addReducer(func, pre, post)

    def exit(self, code: Any = 0) -> None:
        """Ends the job."""
        _engine.exit(code if isinstance(code, int) else 0)

    def myPe(self) -> int:
        """The number of the PE."""
        return state.pe

    def printStats(self) -> None:
        """Prints the statistics of the PE; see ``charm.printStats``."""
        stats.show()

    def LBTurnInstrumentOn(self) -> None:
        """Accepted without effect."""

    def LBTurnInstrumentOff(self) -> None:
        """Accepted without effect."""


def allow_remote_execution() -> None:
    if not state.options.remote_exec:
        raise Charm4PyError("remote execution is off: set charm.options.remote_exec on every PE before charm.start()")
