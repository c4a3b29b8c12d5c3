"""The kernel itself: IPython's kernel, whose messages another thread reads and PE 0 handles. Only :mod:`charm4py.kernel` imports it.

The PE's thread runs the engine, and cells and other requests in coroutines. ZeroMQ's loop runs in its own thread and waits for the results. Neither
blocks the other, except by Python's lock.
"""

from __future__ import annotations

import ast
import asyncio
import concurrent.futures
import inspect
import queue
import sys
import threading
from contextvars import copy_context
from functools import partial
from typing import Any, Callable

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from ipykernel.zmqshell import ZMQInteractiveShell

from . import statements, threads

#: The name of the function by which a cell sends a definition to the other PEs.
TELL = "__charm4py_tell__"
#: Work for the PE from the reading thread; ``None`` at the end.
inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()


def serve(arguments: list[str]) -> None:
    """Serves a notebook in a coroutine, until the kernel is shut down."""
    statements.take_interrupts()
    thread = threading.Thread(target=read, args=(arguments,), name="Jupyter", daemon=True)
    thread.start()
    while True:
        statements.wait_until(lambda: not inbox.empty())
        work = inbox.get()
        if work is None:
            break
        work()
    thread.join()


def read(arguments: list[str]) -> None:
    """In the other thread: reads messages until the kernel is shut down."""
    try:
        asyncio.set_event_loop(asyncio.new_event_loop())
        app = App.instance()
        app.initialize(arguments)
        app.start()
    finally:
        inbox.put(None)


async def on_the_pe(handler: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Runs the handler of a message in a coroutine of the PE."""
    answer: concurrent.futures.Future[Any] = concurrent.futures.Future()
    context = copy_context()

    def run() -> Any:
        value = handler(*args, **kwargs)
        return statements.run_awaitable(value) if inspect.iscoroutine(value) else value

    def work() -> None:
        try:
            answer.set_result(statements.run(run, context))
        except BaseException as error:
            answer.set_exception(error)

    inbox.put(work)
    return await asyncio.wrap_future(answer)


class Shell(ZMQInteractiveShell):
    """IPython's shell, whose statements may wait."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.loop_runner = statements.run_awaitable
        self.ast_transformers.append(Teller())
        self.user_ns[TELL] = statements.tell_all
        self.user_ns_hidden[TELL] = statements.tell_all

    def _showtraceback(self, etype: Any, evalue: Any, stb: list[str]) -> None:
        story = getattr(evalue, "remote_stacktrace", None)
        super()._showtraceback(etype, evalue, [*stb, f"\nwhere it was raised:\n{story}"] if story else stb)


class Teller(ast.NodeTransformer):
    """Lets a cell send each definition to the other PEs before it continues."""

    def visit_Module(self, module: ast.Module) -> ast.Module:
        body: list[ast.stmt] = []
        for statement in module.body:
            body.append(statement)
            for definition in statements.definitions([statement]):
                call = ast.Call(ast.Name(TELL, ast.Load()), [ast.Constant(ast.unparse(definition))], [])
                body.append(ast.copy_location(ast.Expr(call), definition))
        module.body = body
        return ast.fix_missing_locations(module)


class Kernel(IPythonKernel):
    """IPython's kernel, whose requests run on the PE."""

    shell_class = Shell

    def __init__(self, **settings: Any) -> None:
        super().__init__(user_module=sys.modules["__main__"], **settings)
        for kind in ("comm_open", "comm_msg", "comm_close"):
            self.shell_handlers[kind] = partial(on_the_pe, self.shell_handlers[kind])

    def pre_handler_hook(self) -> None:
        """Does nothing: the PE handles signals."""

    def post_handler_hook(self) -> None:
        """Does nothing: the PE handles signals."""

    async def do_execute(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await on_the_pe(super().do_execute, *args, **kwargs)
        except KeyboardInterrupt:  # just before the cell, or after it
            return {"status": "error", "ename": "KeyboardInterrupt", "evalue": "", "traceback": []}

    async def do_complete(self, *args: Any) -> Any:
        return await on_the_pe(super().do_complete, *args)

    async def do_inspect(self, *args: Any, **kwargs: Any) -> Any:
        return await on_the_pe(super().do_inspect, *args, **kwargs)

    def _input_request(self, prompt: str, ident: Any, parent: Any, password: bool = False) -> str:
        """Reads input from the notebook's user. The PE can run other work meanwhile."""
        if threads.can_wait():
            while self.stdin_socket.poll(0):
                self.stdin_socket.recv_multipart()
            sys.stdout.flush()
            asked = {"prompt": prompt, "password": password}
            self.session.send(self.stdin_socket, "input_request", asked, parent, ident=ident)
            statements.wait_until(lambda: self.stdin_socket.poll(0))
            _, reply = self.session.recv(self.stdin_socket)
            value: str = reply["content"]["value"]
            if value == "\x04":
                raise EOFError
            return value
        typed: str = super()._input_request(prompt, ident, parent, password)
        return typed


class App(IPKernelApp):
    """IPython's application, which creates the kernel's sockets."""

    kernel_class = Kernel

    def init_signal(self) -> None:
        """Does nothing: the PE handles signals."""
