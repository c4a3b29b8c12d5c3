"""The interactive mode: through a pipe, and at a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import textwrap
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import WATCHDOG_S, Ended

CHARMRUN = ["-m", "charmrun.start", "++interactive"]
MODULE = ["-m", "charm4py.interactive"]


def typed(lines: str, pes: int = 2, command: list[str] = CHARMRUN) -> Ended:
    job = subprocess.run(
        [sys.executable, *command, f"+p{pes}"],
        input=textwrap.dedent(lines).lstrip(),
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
    )
    return Ended(job.returncode, job.stdout.splitlines(), job.stderr)


PROGRAM = """
    charm.options.interactive.verbose = 0
    factor = 3
    import math as m
    class Cell(Chare):
        def floor(self): return m.floor(2.5) + charm.myPe() + helped()

    def helped(): return 10

    cells = Group(Cell)
    cells.floor(ret=True).get()
    charm.sleep(0.001)
    charm.pool.map(lambda x: x * factor + m.floor(2.5), [1, 2])
    class Cell(Chare):
        def floor(self): return "another"

    Group(Cell).floor(ret=True).get() == ["another"] * charm.numPes(), cells[0].floor(ret=True).get()
    for i in range(2):
        print(charm.numPes(), i)
"""


@pytest.mark.parametrize("command", [CHARMRUN, MODULE], ids=["charmrun", "module"])
@pytest.mark.parametrize("pes", [1, 3])
def test_lines_may_wait_and_definitions_reach_every_pe(command: list[str], pes: int) -> None:
    # The last statement is incomplete when the input ends.
    ended = typed(PROGRAM, pes, command)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == [
        str([12 + pe for pe in range(pes)]),
        "[5, 8]",
        "(True, 12)",
        f"{pes} 0",
        f"{pes} 1",
    ]


def test_a_prompt_has_self_and_future_and_code_may_be_run_everywhere() -> None:
    lines = """
    charm.options.interactive.verbose = 0
    class Cell(Chare):
        def tell(self, future): future.send(self.thisIndex)
        def other(self): return 1

    cells = Group(Cell)
    cells[1].tell(future())
    _f.get()
    self.thisIndex, charm.myPe(), isinstance(self, Chare)
    ready = 0
    charm.scheduleCallableAfter(self.thisProxy.wake, 0.01) if hasattr(self.thisProxy, "wake") else exec("ready = 1")
    self.wait("ready == 1")
    eval("ready + 1")
    charm.thisProxy.exec("x = charm.myPe() * 2", awaitable=True).get()
    charm.thisProxy.eval("x", ret=True).get()
    [name for name in dir(cells) if name in ("tell", "other", "ckLocalBranch")]
    """
    ended = typed(lines)
    assert ended.code == 0 and ended.err == "", ended.err
    assert ended.out == ["1", "((0,), 0, True)", "2", "[0, 2]", "['ckLocalBranch', 'other', 'tell']"]


@pytest.mark.parametrize("pes", [1, 3])
def test_classes_of_the_prompt_travel_with_tasks(pes: int) -> None:
    ended = typed(
        """
        charm.options.interactive.verbose = 0
        import collections
        Name = collections.namedtuple("Name", "first last")
        factor = 3
        class Told:
            def __init__(self, x): self.x = x

        class Cell(Chare):
            def pe(self): return charm.myPe()

        Made = type("Made", (Told,), {"times": lambda self: self.x * factor})
        charm.pool.map(lambda x: Name(x, 1), [1, 2])
        [type(value) is Told for value in charm.pool.map(Told, [1, 2])], [type(value) is Made for value in charm.pool.map(Made, [1])]
        charm.pool.map(lambda x: Made(x).times(), [1, 2])
        charm.pool.map(lambda made: made.times(), [Made(5)])
        charm.pool.map(coro(lambda pe: Chare(Cell, onPE=pe).pe(ret=True).get()), [0])
        """,
        pes,
    )
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == ["[Name(first=1, last=1), Name(first=2, last=1)]", "([True, True], [True])", "[3, 6]", "[15]", "[0]"]


def test_an_exception_is_shown_with_where_it_was_raised_and_the_prompt_goes_on() -> None:
    ended = typed(
        """
        1/0
        class Bad(Chare):
            def fail(self): raise KeyError("broken")

        Chare(Bad, onPE=1).fail(ret=True).get()
        print(
        )
        def f(:
        class Here(Chare):
            only = here

        here = 1
        class Here(Chare):
            only = here

        print("goes on")
        """
    )
    assert ended.code == 0 and ended.out == ["charm4py: on every PE now: class Bad(Chare):", "", "goes on"]
    for text in ("ZeroDivisionError", "where it was raised:\nTraceback", "in fail", "SyntaxError"):
        assert text in ended.err
    # Variables exist only on PE 0: a call that needs them raises on another PE.
    assert ended.err.count("NameError: name 'here' is not defined") == 3


@pytest.mark.parametrize(("line", "code"), [("exit(7)", 7), ("sys.exit(0)", 0), ("charm.exit(3)", 3), ("", 0)])
def test_a_line_may_end_the_job_and_so_does_the_end_of_the_input(line: str, code: int) -> None:
    ended = typed(f"import sys\n{line}\n")
    assert (ended.code, ended.err) == (code, "")


def test_a_script_may_begin_with_a_prompt(tmp_path: Path) -> None:
    script = tmp_path / "prog.py"
    script.write_text(
        "from charm4py import *\nclass Cell(Chare):\n    def pe(self): return charm.myPe()\ncharm.start(interactive=True)\n"
    )
    ended = typed("Group(Cell).pe(ret=True).get()\n", 2, ["-m", "charmrun.start", "+p2", str(script)])
    assert (ended.code, ended.out, ended.err) == (0, ["[0, 1]"], "")


class Terminal:
    """A job with a prompt, at its own terminal."""

    def __init__(self, home: Path) -> None:
        self.child, self.master = pty.fork()
        if self.child == 0:
            # A shell that starts the tests in the background ignores it.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            environment = {**os.environ, "HOME": str(home), "TERM": "xterm"}
            os.execve(sys.executable, [sys.executable, *CHARMRUN, "+p2"], environment)
        self.watchdog = threading.Timer(WATCHDOG_S, os.kill, (self.child, signal.SIGKILL))
        self.watchdog.daemon = True
        self.watchdog.start()
        self.seen = ""

    def expect(self, pattern: str) -> str:
        """Reads up to a match, and returns the text before it."""
        while (found := re.search(pattern, self.seen)) is None:
            try:
                self.seen += os.read(self.master, 4096).decode()
            except OSError:
                raise AssertionError(f"not printed: {pattern}, but: {self.seen}") from None
        before, self.seen = self.seen[: found.start()], self.seen[found.end() :]
        return before

    def has_printed(self, pattern: str) -> bool:
        """Reads the available output, and that of the next moment."""
        while select.select([self.master], [], [], 0.05)[0] and not re.search(pattern, self.seen):
            self.seen += os.read(self.master, 4096).decode()
        return re.search(pattern, self.seen) is not None

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> tuple[int, list[object]]:
        """Waits for the end, and returns the status and the settings of the terminal."""
        # The pending output must be read: the job waits for that. An error means that no process has the terminal any more.
        with suppress(OSError):
            while os.read(self.master, 4096):
                pass
        status = os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])
        settings = termios.tcgetattr(self.master)
        self.watchdog.cancel()
        os.close(self.master)
        return status, settings


def test_a_terminal_has_a_prompt_with_completion_and_history(tmp_path: Path) -> None:
    pytest.importorskip("readline")
    terminal = Terminal(tmp_path)
    assert "on 2 PEs" in terminal.expect(">>> ")
    terminal.type("[charm.options.pickle_p\t + 37]\n")
    assert "[42]" in terminal.expect(">>> ")
    terminal.type("Cell = type('Cell', (Chare,), {'twice': lambda self: 2 * self.thisIndex})\n")
    terminal.expect(">>> ")
    terminal.type("pair = Group(Cell, onPEs=[0])\n")
    terminal.expect(">>> ")
    terminal.type("pair.twi\t(ret=True).get() + [21]\n")
    assert "[0, 21]" in terminal.expect(">>> ")
    terminal.type("charm.sleep(0.001)\n")
    terminal.expect(">>> ")
    terminal.type("\x04")
    assert terminal.end()[0] == 0
    history = (tmp_path / ".charm4py_history").read_text()
    assert "[charm.options.pickle_protocol + 37]\n" in history and "pair.twice(ret=True).get() + [21]\ncharm.sleep(0.001)" in history


def test_an_interrupt_at_the_prompt_gives_up_what_is_being_typed(tmp_path: Path) -> None:
    pytest.importorskip("readline")
    terminal = Terminal(tmp_path)
    before = termios.tcgetattr(terminal.master)
    terminal.expect(">>> ")
    for lines in (["1 +"], ["def f():", "    return 1"], []):
        for line in lines[:-1]:
            terminal.type(line + "\n")
            terminal.expect(r"\.\.\. ")
        terminal.type("".join(lines[-1:]))
        terminal.expect(re.escape("".join(lines[-1:])))
        assert termios.tcgetattr(terminal.master) != before
        terminal.type("\x03")
        terminal.expect("KeyboardInterrupt\r\n>>> ")
    terminal.type("6 * 7, 'f' in globals()\n")
    terminal.expect(re.escape("(42, False)"))
    terminal.expect(">>> ")
    terminal.type("\x04")
    assert terminal.end() == (0, before)
    assert "\x03" not in (tmp_path / ".charm4py_history").read_text()


WAITS = ["Future().get()", "await Future()", "charm.sleep(1000)", "exec('while True: pass')", "charm.pool.map(forever, [1])"]


@pytest.mark.parametrize("line", WAITS)
def test_an_interrupt_gives_up_the_statement_and_nothing_else(tmp_path: Path, line: str) -> None:
    pytest.importorskip("readline")
    terminal = Terminal(tmp_path)
    before = termios.tcgetattr(terminal.master)
    terminal.expect(">>> ")
    terminal.type("def forever(x): charm.sleep(1000)\n\n")
    terminal.expect("on every PE now")
    terminal.expect(">>> ")
    terminal.type("forever = coro(forever)\n")
    terminal.expect(">>> ")
    for _ in range(3):
        terminal.type(f"print(6 * 7); {line}\n")
        terminal.expect("42\r\n")
        terminal.type("\x03")
        terminal.expect(r"KeyboardInterrupt\r\n(.*\r\n)*>>> ")
    terminal.type("exit(3)\n")
    assert terminal.end() == (3, before)


def test_a_second_interrupt_while_nothing_reacts_ends_the_job(tmp_path: Path) -> None:
    pytest.importorskip("readline")
    terminal = Terminal(tmp_path)
    before = termios.tcgetattr(terminal.master)
    terminal.expect(">>> ")
    terminal.type("import signal, time\n")
    terminal.expect(">>> ")
    terminal.type("print(6 * 7); signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGURG]); time.sleep(1000)\n")
    terminal.expect("42\r\n")
    # Two signals at once reach the process as one.
    while not terminal.has_printed(r"error\[130\]"):
        terminal.type("\x03")
    assert terminal.end() == (130, before)


def test_interrupts_give_up_statements_of_a_prompt_that_reads_from_a_pipe_too() -> None:
    command = [sys.executable, *CHARMRUN, "+p2"]
    was = signal.signal(signal.SIGINT, signal.default_int_handler)  # who started the tests may have had it ignored
    try:
        job = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, was)
    assert job.stdin is not None and job.stdout is not None
    job.stdin.write("print('begun', flush=True); Future().get()\n")
    job.stdin.flush()
    assert job.stdout.readline() == "begun\n"
    job.send_signal(signal.SIGINT)
    out, err = job.communicate("print('goes on')\n", timeout=WATCHDOG_S)
    assert (job.returncode, out) == (0, "goes on\n") and "KeyboardInterrupt" in err
