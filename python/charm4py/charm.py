"""``charm``: the job, as a program sees it."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import traceback
from typing import Any, Callable, Iterable, Iterator, NoReturn, Sequence, TypeVar

from greenlet import getcurrent

from . import _engine, ccs, sections, state, stats, tasks, threads, trees, waiters
from .chare import Chare, Group, creation, defined_by, let_constructor_wait, program, start_registering
from .errors import Charm4PyError
from .ending import UnawaitedAnswer, abort, keep_module, leave
from .hooks import Hooks
from .pool import Pool
from .reduction import Reducer
from .runtime import Runtime
from .threads import Future

C = TypeVar("C")

charm4py_version = "1.1"
#: The variables by which charmrun, and the launchers of sites, tell a process its place in the job.
BOOT = ("CHARM4RS_BOOT", "PMI_FD", "PMI_RANK", "PMI_SIZE", "PMIX_NAMESPACE", "PMIX_RANK")


class Charm:
    """The job, as a program sees it. There is one object, ``charm``."""

    Charm4PyError = Charm4PyError

    def __init__(self) -> None:
        self.options = state.options
        self.reducers = Reducer
        self.pool = Pool()
        self._called = False

    @property
    def started(self) -> bool:
        """Whether the job runs on this PE."""
        return state.started

    @property
    def thisProxy(self) -> Any:
        """The proxy of the runtime's own group: see :mod:`charm4py.runtime`."""
        return state.runtime

    # Start and end

    def start(
        self,
        entry: Any = None,
        classes: Iterable[type] = (),
        modules: Iterable[str] = (),
        interactive: bool = False,
    ) -> NoReturn:
        """Runs the program on every PE. Does not return.

        ``entry`` is a function or a class of chares that takes the program's arguments; it runs on PE 0, as a coroutine. ``modules`` are
        imported first. With ``interactive`` there is a prompt in place of ``entry``.
        """
        self._called = True
        if entry is None and not interactive:
            raise Charm4PyError("charm.start() needs an entry point: a function, or a class of chares, that takes args")
        if interactive:
            # Not above: the prompt is itself a program, which calls charm; and few programs need it.
            from .interactive import prompt

            entry = prompt
            self.options.remote_exec = True
        self._line_by_line()
        _engine.set_hooks(Hooks)
        launched = BOOT[0] in os.environ
        if self.started:
            raise RuntimeError("charm.start() is called once")
        args = _engine.join(sys.argv)
        # A process that this one starts is no part of the job.
        for name in BOOT:
            os.environ.pop(name, None)
        pes, processes = _engine.shape()
        if processes < pes:
            if launched or processes > 1:
                count = f"{pes} PEs in {processes} process{'es' * (processes > 1)}"
                _engine.refuse(64, f"{count}: a process of Python has one PE; leave out ++ppn")
            self._launch(pes)
        # The runtime's options are removed from sys.argv too.
        sys.argv[:] = map(os.fsdecode, args)
        threads.begin()
        for module in modules:
            importlib.import_module(module)
        start_registering()
        server = _engine.server()
        code = _engine.run(lambda: self._begin(entry, list(sys.argv), server))
        if ccs.handlers.server is not None:
            ccs.handlers.server.close()
        keep_module("__main__")
        leave(code)

    def _begin(self, entry: Any, args: list[str], server: tuple[int, str | None, str | None] | None) -> None:
        """Starts the program on PE 0, when all PEs are running."""

        def begin() -> None:
            if server is not None:
                self._serve(server)
            self._enter_program(entry, args)

        # The runtime's group exists on all PEs before any chare of the program.
        _engine.created(Group(Runtime), begin)

    def _serve(self, options: tuple[int, str | None, str | None]) -> None:
        """Starts the server for clients of CCS."""
        from .ccs.server import opened

        ccs.handlers.server = opened(options, self)
        address, port = ccs.handlers.server.start()
        print(f"ccs: Server IP = {address}, Server port = {port} $", flush=True)

    @staticmethod
    def _enter_program(entry: Any, args: list[str]) -> None:
        if isinstance(entry, type):
            if not hasattr(entry.__init__, "_charm_coro"):  # type: ignore[misc]
                let_constructor_wait(entry)
            program.append(entry)
            Chare(entry, [args], onPE=0)
        else:
            unawaited = UnawaitedAnswer(getattr(entry, "__qualname__", "the entry point"))
            threads.start(None, entry, (args,), {}, waiters.MainAnswer(unawaited))

    def _launch(self, pes: int) -> NoReturn:
        """Becomes the launcher, if several PEs are asked for without one."""
        spec = sys.modules["__main__"].__spec__
        if spec is not None:
            program = ["-m", spec.name, *sys.argv[1:]]
        elif sys.argv[0] == "-c":
            program = ["-c", _code_of_the_command_line(), *sys.argv[1:]]
        else:
            program = sys.argv
        arguments = [f"+p{pes}", *program]
        from charmrun.start import start

        sys.exit(start(arguments))

    @staticmethod
    def _line_by_line() -> None:
        for stream in (sys.stdout, sys.stderr):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(line_buffering=True)

    def exit(self, code: int = 0) -> None:
        """Ends the job with an exit status."""
        _engine.exit(int(code))

    def abort(self, message: str) -> None:
        """Ends the job with status 1, a message and a stack trace."""
        stack = "".join(traceback.format_stack()[:-1]).rstrip()
        abort(1, f"{message}\nTraceback (most recent call last):\n{stack}")

    # Clients outside of the job

    def CcsRegisterHandler(self, name: str, handler: Callable[[bytes], Any]) -> None:
        """Registers ``handler(data)`` for the requests with this name that clients of CCS send to this PE; see :mod:`charm4py.ccs`."""
        ccs.handlers.register(name, handler)

    def CcsIsRemoteRequest(self) -> bool:
        """Whether the running code is a handler that has not replied yet."""
        return ccs.handlers.is_remote_request()

    def CcsSendReply(self, message: Any) -> None:
        """Replies to the client with bytes, a buffer or a text. A handler that sends no reply replies with nothing."""
        ccs.handlers.send_reply(message)

    def CcsDelayReply(self) -> ccs.DelayedReply:
        """Delays the reply. The result may be kept, or sent to another PE, for ``CcsSendDelayedReply``."""
        return ccs.handlers.delay_reply()

    def CcsSendDelayedReply(self, delayed: ccs.DelayedReply, message: Any) -> None:
        """Sends a delayed reply, from any PE."""
        ccs.handlers.send_delayed_reply(delayed, message)

    # Older names

    Future = Future

    def createFuture(self, num_vals: int = 1, *, senders: int | None = None) -> threads.Future[Any]:
        """An older name of ``Future``."""
        return Future(num_vals if senders is None else senders)

    def register(self, cls: type, collections: Any = None) -> None:
        """Accepted without effect: every class of chares is registered when it is defined."""

    def addReducer(
        self,
        func: Callable[[list[Any]], Any],
        pre: Callable[[Any, Any], Any] | None = None,
        post: Callable[[Any], Any] | None = None,
    ) -> None:
        """Does the same as ``Reducer.addReducer``."""
        Reducer.addReducer(func, pre, post)

    def LBTurnInstrumentOn(self) -> None:
        """Accepted without effect."""

    def LBTurnInstrumentOff(self) -> None:
        """Accepted without effect."""

    # Where am I

    def myPe(self) -> int:
        """The number of the PE on which this code runs."""
        return state.pe

    def numPes(self) -> int:
        """The number of PEs in the job."""
        return state.pes

    def myHost(self) -> int:
        """The number of this PE's host."""
        return state.host

    def numHosts(self) -> int:
        """The number of hosts in the job."""
        return len(state.hosts)

    def getHostPes(self, host: int) -> list[int]:
        """The PEs of a host."""
        return list(state.hosts[host])

    def getHostFirstPe(self, host: int) -> int:
        """The first PE of a host."""
        return state.hosts[host][0]

    def getHostNumPes(self, host: int) -> int:
        """The number of PEs on a host."""
        return len(state.hosts[host])

    def getPeHost(self, pe: int) -> int:
        """The host of a PE."""
        return next(host for host, pes in enumerate(state.hosts) if pe in pes)

    def getPeHostRank(self, pe: int) -> int:
        """The rank of a PE among the PEs of its host."""
        return state.hosts[self.getPeHost(pe)].index(pe)

    def getTopoTreeEdges(
        self, pe: int, root_pe: int, pes: Sequence[int] | None = None, bfactor: int = 4
    ) -> tuple[int | None, list[int]]:
        """The parent (``None`` for the root) and the children of a PE in a spanning tree over ``pes``, or over all PEs. The tree enters each host once."""
        over = self._tree(root_pe, range(state.pes) if pes is None else pes, bfactor)
        if pe not in over:
            raise ValueError(f"PE {pe} is not in the tree")
        return trees.edges(pe, root_pe, over, bfactor, self.getPeHost)

    def getTopoSubtrees(self, root_pe: int, pes: Sequence[int], bfactor: int = 4) -> list[list[int]]:
        """The subtrees below the root of a spanning tree over ``pes``, at most ``bfactor``. Each is a list that begins with its root."""
        return trees.subtrees(root_pe, self._tree(root_pe, pes, bfactor), bfactor, self.getPeHost)

    def _tree(self, root: int, pes: Sequence[int], branches: int) -> list[int]:
        """The PEs of a spanning tree, checked."""
        over = list(pes)
        wrong = [pe for pe in over if not 0 <= pe < state.pes]
        if wrong:
            raise ValueError(f"there is no PE {wrong[0]}: the job has {state.pes}")
        if root not in over:
            raise ValueError(f"the root, PE {root}, is not among the tree's PEs")
        if branches < 1:
            raise ValueError(f"a tree with {branches} branches")
        return over

    def printStats(self) -> None:
        """Prints calls, seconds, messages and bytes of this PE, for each method. Needs ``charm.options.profiling``."""
        stats.show()

    def print_dbg(self, *args: Any, **kwargs: Any) -> None:
        """Prints like ``print``, after the PE and the host."""
        print(f"PE {state.pe} of {state.pes}, {os.uname().nodename}:", *args, **kwargs)

    # Sections

    def split(
        self,
        proxy: _engine.Proxy[C],
        numsections: int,
        section_func: Callable[[Any], Any] | None = None,
        elems: Sequence[Iterable[Any]] | None = None,
    ) -> list[_engine.CollectionProxy[C]]:
        """Splits a group, an array or a section into sections: see :func:`charm4py.sections.split`."""
        return sections.split(proxy, numsections, section_func, elems)

    def combine(self, *proxies: Any) -> Any:
        """Makes one section of groups, arrays, sections and elements: see :func:`charm4py.sections.combine`."""
        return sections.combine(*proxies)

    # Waiting

    def awaitCreation(self, *proxies: Any) -> None:
        """Waits until all chares of these collections exist. This PE must have created them."""
        for proxy in proxies:
            creation(proxy).get()

    def wait(self, objs: Iterable[Any]) -> None:
        """Waits until all these futures and channels are ready."""
        for _ in self.iwait(objs):
            pass

    def iwait(self, objs: Iterable[Any]) -> Iterator[Any]:
        """Yields futures and channels in the order in which they become ready."""
        pending: list[Any] = []
        for thing in objs:
            if thing.ready():
                yield thing
            else:
                pending.append(thing)
        ready: list[Any] = []
        waiting: threads.Coroutine | None = None

        def woken(thing: Any) -> None:
            nonlocal waiting
            ready.append(thing)
            if waiting is not None:
                coroutine, waiting = waiting, None
                coroutine.resume()

        for thing in pending:
            thing._when_ready(woken)
        try:
            for _ in range(len(pending)):
                if not ready:
                    coroutine = getcurrent()
                    if not isinstance(coroutine, threads.Coroutine):
                        raise threads.NotThreadedError("charm.wait() waits, which only coroutines can")
                    waiting = coroutine
                    coroutine.since = _engine.coarse_now()
                    threads.Hub.greenlet.switch()
                yield ready.pop(0)
        finally:  # also if the caller stops early, or is interrupted
            waiting = None
            for thing in pending:
                thing._forget(woken)

    def sleep(self, seconds: float) -> None:
        """Suspends the coroutine for so many seconds. The PE runs other work meanwhile."""
        future: Future[None] = Future()
        _engine.after(seconds, future.send)
        future.get()

    def scheduleCallableAfter(self, callable_obj: Callable[..., Any], seconds: float, args: Sequence[Any] = ()) -> None:
        """Calls ``callable_obj(*args)`` on this PE after so many seconds."""
        _engine.after(seconds, lambda: callable_obj(*args))

    def startQD(self, callback: Any) -> None:
        """Calls ``callback`` when the job is quiescent: nothing runs, is queued, or is in transit."""
        _engine.quiescence(callback)

    def waitQD(self) -> None:
        """Waits until the job is quiescent."""
        future: Future[None] = Future()
        self.startQD(future.send)
        future.get()


charm = Charm()


def make_loop() -> Any:
    """Makes the PE's event loop of asyncio, for tasks that need it."""
    from .aio import Loop

    return Loop()


tasks.running.make_loop = make_loop


def _code_of_the_command_line() -> str:
    """The code that ``python -c`` runs."""
    words: Iterator[str] = iter(getattr(sys, "orig_argv", [])[1:])
    for word in words:
        if word in ("-W", "-X"):
            next(words, None)
        elif word.startswith("-") and not word.startswith("--") and "c" in word:
            return word[word.index("c") + 1 :] or next(words)
    raise Charm4PyError("several PEs for a line of code need charmrun: python -m charmrun.start +p2 -c CODE")


def never_started() -> None:
    """Prints an error if a script defines chares and ends without a job. (For a process of a job the launcher prints it.)"""
    failed = getattr(sys, "last_value", None) is not None
    if not (charm._called or failed or BOOT[0] in os.environ) and defined_by("__main__"):
        print(f"{sys.argv[0]}: error: the script ended without calling charm.start()", file=sys.stderr)


atexit.register(never_started)
