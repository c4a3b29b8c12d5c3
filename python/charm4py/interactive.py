"""The interactive mode: a prompt on PE 0 at which any line may wait.

    charmrun +p4 ++interactive

The lines run one after another in a coroutine. Another thread reads them, so that the PE can run other work meanwhile. Imports and definitions of
classes and functions reach every PE before the next line; variables exist only on PE 0. An interrupt cancels the running statement, or the
lines that are being typed. The end of the input ends the job.
"""

from __future__ import annotations

import ast
import atexit
import code
import inspect
import os
import sys
import termios
import threading
from contextlib import contextmanager, nullcontext, suppress
from types import CodeType, FunctionType, ModuleType
from typing import Any, Callable, Iterator

from . import functions, statements, threads
from .chare import Chare
from .charm import charm

HISTORY = "~/.charm4py_history"
#: The character of Ctrl-C.
INTERRUPT = "\x03"


class Prompt(Chare):
    """``self`` at a prompt or in a notebook: a chare on PE 0."""

    def __init__(self) -> None:
        program = sys.modules["__main__"].__dict__
        program.update(self=self, future=future)


def future(num_vals: int = 1) -> threads.Future[Any]:
    """At a prompt: creates a future, which is also ``_f``."""
    made = sys.modules["__main__"].__dict__["_f"] = threads.Future(num_vals)
    return made


def begin_names() -> None:
    """Defines ``self`` and ``future`` for what is typed. To be called in a coroutine of PE 0."""
    charm.awaitCreation(Chare(Prompt, onPE=0))


def begin_program() -> None:
    """Makes a ``__main__`` that has only the names that the package exports."""
    import charm4py

    program = ModuleType("__main__")
    program.__spec__ = sys.modules["__main__"].__spec__
    program.__dict__.update({name: getattr(charm4py, name) for name in charm4py.__all__})
    sys.modules["__main__"] = program


class Console(code.InteractiveConsole):
    """The prompt. Its methods run in a coroutine."""

    def __init__(self) -> None:
        # What is typed is the program, so its names are in __main__, as on other PEs.
        super().__init__(sys.modules["__main__"].__dict__)
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self.is_terminal = sys.stdin.isatty()
        #: Whether an interrupt that is typed while a line is read is a part of the line.
        self.reads_interrupts = False
        self.source = ""

    def run(self) -> None:
        """Reads lines until there are no more."""
        more = False
        while True:
            try:
                line = self.raw_input("... " if more else ">>> ")
            except EOFError:
                if more:
                    self.push("")  # ends the pending statement
                return
            except KeyboardInterrupt:
                self.write("\nKeyboardInterrupt\n")
                self.resetbuffer()
                more = False
            else:
                more = self.push(line)

    def interrupted(self) -> None:
        """An interrupt has arrived while no statement runs, and not as a part of a line."""
        self.resetbuffer()
        if self.is_terminal:
            self.write("\nKeyboardInterrupt\n>>> ")

    def raw_input(self, prompt: str = "") -> str:
        """Reads the next line, after the output so far was printed."""
        read: list[Any] = []
        arguments = (prompt if self.is_terminal else "", read, self.reads_interrupts)
        threading.Thread(target=read_line, args=arguments, daemon=True).start()
        statements.wait_until(lambda: read)
        if isinstance(read[0], BaseException):
            raise read[0]
        line: str = read[0]
        return line

    def runsource(self, source: str, filename: str = "<input>", symbol: str = "single") -> bool:
        self.source = source
        return super().runsource(source, filename, symbol)

    def runcode(self, code: CodeType) -> None:
        statements.run(lambda: self.execute(code))

    def execute(self, code: CodeType) -> None:
        try:
            if code.co_flags & inspect.CO_COROUTINE:
                statements.run_awaitable(FunctionType(code, self.locals)())
            else:
                exec(code, self.locals)
            # Only definitions that PE 0 has run without an exception.
            wanted = statements.definitions(ast.parse(self.source).body)
            if wanted:
                statements.tell_all(ast.unparse(ast.Module(wanted, [])))
        except SystemExit:
            raise
        except BaseException as error:
            self.showtraceback()
            story = getattr(error, "remote_stacktrace", None)
            if story:
                self.write(f"\nwhere it was raised:\n{story}")


def read_line(prompt: str, read: list[Any], reads_interrupts: bool) -> None:
    """In a thread: reads a line, or notes the exception."""
    try:
        with interrupts_as_text() if reads_interrupts else nullcontext():
            line = input(prompt)
        if reads_interrupts and INTERRUPT in line:
            import readline

            readline.remove_history_item(readline.get_current_history_length() - 1)
            raise KeyboardInterrupt
        read.append(line)
    except BaseException as error:
        read.append(error)


@contextmanager
def interrupts_as_text() -> Iterator[None]:
    """Makes Ctrl-C an ordinary character at the terminal: a signal could not end the line that another thread reads."""
    settings = termios.tcgetattr(0)
    *others, characters = settings
    without = list(characters)
    without[termios.VINTR] = b"\0"
    termios.tcsetattr(0, termios.TCSADRAIN, [*others, without])
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, settings)


def prompt(args: list[str]) -> None:
    """The entry point of the interactive mode."""
    functions.local_modules.add("__main__")
    begin_names()
    console = Console()
    if console.is_terminal:
        use_terminal()
        console.reads_interrupts = begin_readline(console.locals)
        if not charm.options.quiet:
            print(f"Python {sys.version.split()[0]} on {charm.numPes()} PEs. Lines may wait; the end of input (Ctrl-D) ends the job.")
    statements.take_interrupts(console.interrupted)
    console.run()
    charm.exit()


def use_terminal() -> None:
    """Connects the output to the terminal: a launcher forwards output by lines, which would hold back a prompt."""
    if not sys.stdout.isatty():
        terminal = os.open(os.ttyname(0), os.O_RDWR | os.O_NOCTTY)
        for descriptor in (1, 2):
            os.dup2(terminal, descriptor)
        os.close(terminal)


def begin_readline(names: Any) -> bool:
    """Sets up completion and a persistent history, if readline exists. Returns whether Ctrl-C ends a line as a character in it."""
    try:
        import readline
        import rlcompleter
    except ImportError:
        return False
    completer = rlcompleter.Completer(names).complete
    readline.set_completer(guarded(completer))
    readline.parse_and_bind("tab: complete")
    history = os.path.expanduser(HISTORY)
    with suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(1000)
    atexit.register(write_history, readline, history)
    # For GNU readline: insert the next character literally, then end the line.
    readline.parse_and_bind(r'"\C-c": "\C-v\C-c\C-j"')
    return "libedit" not in (readline.__doc__ or "")


def write_history(readline: Any, path: str) -> None:
    with suppress(OSError):
        readline.write_history_file(path)


def guarded(complete: Callable[[str, int], str | None]) -> Callable[[str, int], str | None]:
    """Completion without exceptions: it inspects objects from the thread that reads, and objects of the engine's thread may raise."""

    def completed(text: str, state: int) -> str | None:
        try:
            return complete(text, state)
        except BaseException:
            return None

    return completed


def main() -> None:
    """``python -m charm4py.interactive``."""
    begin_program()
    charm.start(interactive=True)


if __name__ == "__main__":
    # Import the module under its name, which it must have on every PE, rather than as __main__.
    from charm4py.interactive import main as begin

    begin()
