"""Real Jupyter kernels, with the client of notebooks."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Iterator

import pytest
from conftest import WATCHDOG_S

pytest.importorskip("ipykernel", reason="the kernel needs ipykernel, which is not installed")

from jupyter_client.kernelspec import KernelSpecManager  # noqa: E402
from jupyter_client.manager import KernelManager  # noqa: E402


class Notebook:
    """A kernel with the requests of a notebook."""

    def __init__(self, prefix: Path, pes: int) -> None:
        command = [sys.executable, "-m", "charm4py.kernel", "install", "--prefix", str(prefix), "--pes", str(pes)]
        subprocess.run(command, check=True, capture_output=True, timeout=WATCHDOG_S)
        self.spec = prefix / "share/jupyter/kernels" / f"charm4py-{pes}" / "kernel.json"
        specs = KernelSpecManager(kernel_dirs=[str(self.spec.parent.parent)], ensure_native_kernel=False)
        self.manager = KernelManager(kernel_name=f"charm4py-{pes}", kernel_spec_manager=specs)
        # Its own directory, since IPython keeps a history.
        self.manager.start_kernel(env={**os.environ, "IPYTHONDIR": str(prefix / "ipython")})
        self.client = self.manager.client()
        self.client.start_channels()
        self.connect()

    def connect(self) -> None:
        """Waits until the kernel replies, also on the channel on which it publishes."""
        self.client.wait_for_ready(timeout=WATCHDOG_S)
        heard = False
        while not heard:
            with suppress(queue.Empty):
                heard = any(True for _ in self.messages(self.send("0"), 1))

    def send(self, code: str, **settings: Any) -> str:
        self.printed = ""
        sent: str = self.client.execute(code, **settings)
        return sent

    def messages(self, sent: str, timeout_s: float = WATCHDOG_S) -> Iterator[dict[str, Any]]:
        """What the kernel publishes for a request, until it is idle again."""
        while True:
            message = self.client.get_iopub_msg(timeout=timeout_s)
            if message["parent_header"].get("msg_id") != sent:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return
            yield message

    def outcome(self, sent: str) -> tuple[str, str]:
        """Runs a cell; returns its output, and its value or error."""
        value = ""
        for message in self.messages(sent):
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                self.printed += content["text"]
            elif kind == "execute_result":
                value = content["data"]["text/plain"]
            elif kind == "error":
                value = "\n".join(content["traceback"])
        return self.printed, value

    def cell(self, code: str) -> tuple[str, str]:
        return self.outcome(self.send(code))

    def wait_for(self, sent: str, text: str) -> None:
        """Waits until a cell has printed something."""
        messages = self.messages(sent)
        while text not in self.printed:
            message = next(messages)
            if message["msg_type"] == "stream":
                self.printed += message["content"]["text"]

    def reply(self, sent: str) -> dict[str, Any]:
        while True:
            message = self.client.get_shell_msg(timeout=WATCHDOG_S)
            if message["parent_header"]["msg_id"] == sent:
                content: dict[str, Any] = message["content"]
                return content

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel()


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    notebook = Notebook(tmp_path_factory.mktemp("jupyter"), 2)
    yield notebook
    notebook.close()


CELL = """
import math as m

class Cell(Chare):
    def floor(self): return m.floor(2.5) + charm.myPe()
    def say(self): print("said by", charm.myPe())
    def fail(self): raise KeyError("broken")

cells = Group(Cell)
cells.floor(ret=True).get()
"""


def test_cells_may_wait_and_definitions_reach_every_pe(notebook: Notebook) -> None:
    assert notebook.cell(CELL) == ("", "[2, 3]")
    assert notebook.cell("await cells[1].floor(ret=True)") == ("", "3")
    assert notebook.cell("[await future for future in [c.floor(ret=True) for c in (cells[0], cells[1])]]") == ("", "[2, 3]")
    assert notebook.cell("factor = 3\ncharm.pool.map(lambda x: x * factor + m.floor(2.5), [1, 2])") == ("", "[5, 8]")
    assert notebook.cell("charm.waitQD(); charm.numPes()") == ("", "2")
    assert notebook.cell("_ + 1") == ("", "3")


def test_what_any_pe_prints_is_shown_while_the_cell_runs(notebook: Notebook) -> None:
    notebook.cell(CELL)
    sent = notebook.send("print('first')\ngo = Future()\ncells.say()\nawait go")
    notebook.wait_for(sent, "first")
    notebook.wait_for(sent, "said by 0")
    notebook.wait_for(sent, "said by 1")
    notebook.manager.interrupt_kernel()
    assert "KeyboardInterrupt" in notebook.outcome(sent)[1]


def test_an_exception_is_shown_with_where_it_was_raised_and_the_kernel_lives(notebook: Notebook) -> None:
    notebook.cell(CELL)
    sent = notebook.send("cells[1].fail(ret=True).get()")
    assert notebook.reply(sent)["ename"] == "KeyError"
    value = notebook.outcome(sent)[1]
    assert "where it was raised:" in value and "in fail" in value
    assert "only futures of charm4py" in notebook.cell("class No:\n    def __await__(self): yield 1\nawait No()")[1]
    # A call that needs PE 0's variables raises on another PE.
    assert "NameError" in notebook.cell("here = 1\nclass Here(Chare):\n    only = here")[1]
    assert notebook.cell("6 * 7") == ("", "42")


@pytest.mark.parametrize("line", ["Future().get()", "while True: pass", "await Future()", "charm.sleep(1000)", "input()"])
def test_an_interrupt_gives_up_the_cell_and_nothing_else(notebook: Notebook, line: str) -> None:
    notebook.cell(CELL)
    sent = notebook.send(f"print('begun')\n{line}", allow_stdin=True)
    notebook.wait_for(sent, "begun")
    if line == "input()":
        notebook.client.get_stdin_msg(timeout=WATCHDOG_S)
    notebook.manager.interrupt_kernel()
    assert notebook.reply(sent)["ename"] == "KeyboardInterrupt"
    assert "KeyboardInterrupt" in notebook.outcome(sent)[1]
    assert notebook.cell("cells.floor(ret=True).get()") == ("", "[2, 3]")


def test_an_interrupt_between_cells_does_nothing(notebook: Notebook) -> None:
    notebook.manager.interrupt_kernel()
    assert notebook.cell("1 + 1") == ("", "2")


def test_pe_0_goes_on_while_the_user_is_asked_something(notebook: Notebook) -> None:
    notebook.cell("class Asked(Chare):\n    def add(self, x): return x + 1")
    sent = notebook.send(
        "later = Future()\ncharm.scheduleCallableAfter(later.send, 0, [41])\n"
        "class Before(Chare):\n    def __init__(self, done): done(charm.myPe())\n"
        "answer = input('how many? ')\nlater.ready(), answer",
        allow_stdin=True,
    )
    asked = notebook.client.get_stdin_msg(timeout=WATCHDOG_S)
    assert asked["content"]["prompt"] == "how many? "
    notebook.client.input("three")
    assert notebook.outcome(sent)[1] == "(True, 'three')"


def test_names_are_completed_and_explained(notebook: Notebook) -> None:
    notebook.cell(CELL + "\nforty_two = 42")
    assert "forty_two" in notebook.reply(notebook.client.complete("forty_"))["matches"]
    assert any("Cell" in match for match in notebook.reply(notebook.client.complete("cells = Group(Ce"))["matches"])
    assert "Group" in notebook.reply(notebook.client.inspect("Group"))["data"]["text/plain"]


def processes_of(notebook: Notebook) -> list[int]:
    """The processes of the job, with its launcher."""
    pids = notebook.cell("import os\nclass Who(Chare):\n    def pid(self): return os.getpid(), os.getppid()\nGroup(Who).pid(ret=True).get()")
    return sorted({pid for pair in eval(pids[1]) for pid in pair})


def await_end(pids: list[int]) -> None:
    """Waits until all have ended. A zombie counts as ended: its parent may not have waited for it yet."""
    until = time.monotonic() + WATCHDOG_S
    while left := [pid for pid in pids if lives(pid)]:
        assert time.monotonic() < until, f"still there: {left}"


def lives(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    return False


def test_a_restart_and_the_end_leave_no_process_behind(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path, 2)
    assert json.loads(notebook.spec.read_text())["display_name"] == "charm4py (2 PEs)"
    first = processes_of(notebook)
    assert len(first) == 3
    notebook.cell("kept = 1")
    notebook.manager.restart_kernel()
    await_end(first)
    notebook.connect()
    assert "NameError" in notebook.cell("kept")[1]
    second = processes_of(notebook)
    notebook.close()
    await_end(second)


def test_a_cell_may_end_the_kernel(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path, 1)
    pids = processes_of(notebook)
    notebook.send("exit()")
    await_end(pids)
    notebook.close()
