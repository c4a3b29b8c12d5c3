"""The launcher as a function of an interpreter: closed descriptors, the state of the caller, and children of chares."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import MARK, Run, Traces, WATCHDOG_S, check, program_text, run_job


@pytest.mark.parametrize("closed", list(itertools.product([False, True], repeat=3)))
def test_standard_descriptors_may_be_closed_and_what_is_printed_names_no_process_to_kill(tmp_path: Path, closed: tuple[bool, ...]) -> None:
    program = """
    import os, struct
    class Cell(Chare):
        def say(self, number): os.write(1, struct.pack("i", number) * 6)
    def main(args):
        Group(Cell).say(int(args[1]), awaitable=True).get()
        exit(3)
    charm.start(main)
    """
    (tmp_path / "prog.py").write_text(program_text(program))
    stranger = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        redirections = " ".join(f"{fd}>&-" for fd in range(3) if closed[fd])
        for launcher in (["-m", "charmrun.start", "+p2"], []):
            words = [sys.executable, *launcher, "prog.py", str(stranger.pid)]
            job = run_job(["sh", "-c", f'exec "$@" {redirections}', "sh", *words], cwd=tmp_path)
            assert (job.returncode, job.stderr) == (3, ""), redirections
        assert stranger.poll() is None, "a stranger was killed"
    finally:
        stranger.kill()
        stranger.wait()


#: The state that a job could change in the process that calls the launcher.
STATE = """
import ctypes, glob, os, resource, signal, subprocess, sys, time
def state():
    adopts = ctypes.c_int()
    ctypes.CDLL(None).prctl(37, ctypes.byref(adopts), 0, 0, 0)  # PR_GET_CHILD_SUBREAPER
    status = open("/proc/thread-self/status").read().splitlines()
    children = sorted(child for task in glob.glob("/proc/self/task/*/children") for child in open(task).read().split())
    handlers = [signal.getsignal(s) for s in sorted(signal.valid_signals())]
    return [s for s in status if s.startswith(("SigB", "SigI", "SigC"))], adopts.value, children, handlers, resource.getrlimit(resource.RLIMIT_NOFILE)
def come(*_): came.append(1)
came = []
signal.signal(signal.SIGCHLD, come)
signal.signal(signal.SIGUSR1, come)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGWINCH])
own = [subprocess.Popen(["sleep", "1000"]), subprocess.Popen(["sleep", "1000"], start_new_session=True)]
"""

#: A job whose processes leave children behind, one of them in its own session.
LEAVES = """
    import subprocess
    class Cell(Chare):
        def leave(self):
            subprocess.Popen(["sleep", "1001"])
            subprocess.Popen(["sleep", "1001"], start_new_session=True)
    def main(args):
        Group(Cell).leave(awaitable=True).get()
        exit(5)
    charm.start(main)
"""


def test_a_caller_of_the_launcher_is_as_before(tmp_path: Path) -> None:
    (tmp_path / "prog.py").write_text(program_text(LEAVES))
    caller = STATE + """
from charmrun.start import start
import threading
before = state()
for threads in (0, 1):
    stop = threading.Event()
    others = [threading.Thread(target=stop.wait) for _ in range(threads)]
    for other in others: other.start()
    assert start(["+p2", "prog.py"]) == 5
    assert start(["+p2", "nowhere.py"]) != 0
    stop.set()
    for other in others: other.join()
    assert state() == before, (state(), before)
assert [child.poll() for child in own] == [None, None]
for child in own: child.kill()
assert [child.wait() for child in own] == [-9, -9] and came
os.kill(os.getpid(), signal.SIGUSR1)
print("as before")
"""
    (tmp_path / "caller.py").write_text(caller)
    job = run_job([sys.executable, "caller.py"], cwd=tmp_path)
    assert (job.returncode, job.stdout) == (0, "as before\n"), job.stderr


def test_a_program_that_is_its_own_launcher_keeps_its_other_children(tmp_path: Path) -> None:
    end = """
    import atexit
    @atexit.register
    def look():
        if launcher == os.getpid():
            print("children", [child.poll() for child in own])
            for child in own: child.kill()
    def main(args): exit(4)
    launcher = os.getpid() if "CHARM4RS_JOB" not in os.environ else 0
    charm.start(main)
    """
    start = "import os\nif 'CHARM4RS_JOB' not in os.environ:\n" + "".join(f"    {line}\n" for line in STATE.splitlines())
    (tmp_path / "prog.py").write_text(program_text("\n") + start + program_text(end))
    job = run_job([sys.executable, "prog.py", "+p2"], cwd=tmp_path)
    assert (job.returncode, job.stdout) == (4, "children [None, None]\n"), job.stderr


def test_a_child_process_of_a_chare_is_no_part_of_the_job_however_it_ends(run: Run, tmp_path: Path) -> None:
    (tmp_path / "inner.py").write_text(program_text("def main(args): exit(int(args[1]))\ncharm.start(main)"))
    program = f"""
    import os, signal, subprocess
    def broken(): raise ValueError("on purpose")
    class Cell(Chare):
        def fine(self): return 1
        def fork(self, how):
            child = os.fork()
            if child == 0: return WAYS[how]()
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        @coro
        def fork_and_wait(self):
            child = os.fork()
            if child == 0: Future().get()
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        def run(self, *args): return subprocess.run([sys.executable, *args], env=dict(os.environ)).returncode
    WAYS = {{
        "sys.exit": lambda: sys.exit(0), "status": lambda: sys.exit(3), "text": lambda: sys.exit("text"), "exception": broken,
        "returns": lambda: None, "exit": exit, "charm.exit": lambda: charm.exit(2), "abort": lambda: charm.abort("on purpose"),
        "signal": lambda: os.kill(os.getpid(), signal.SIGTERM), "crash": lambda: os.abort(), "os._exit": lambda: os._exit(6),
    }}
    def main(args):
        cells = Group(Cell)
        for how in WAYS:
            print(how, cells[charm.numPes() - 1].fork(how, ret=True).get())
            cells.fine(ret=True).get()
        print("waits", cells[1].fork_and_wait(ret=True).get())
        script = {str(tmp_path / "inner.py")!r}
        print("nested", cells[1].run("-m", "charmrun.start", "+p2", script, "7", ret=True).get())
        print("alone", cells[1].run(script, "8", ret=True).get())
        print("own launcher", cells[1].run(script, "9", "+p2", ret=True).get())
        cells.fine(ret=True).get()
        exit()
    charm.start(main)
    """
    ways = "sys.exit 0|status 3|text 1|exception 1|returns 0|exit 0|charm.exit 2|abort 1|signal -15|crash -6|os._exit 6|waits 0"
    check(run(program), (ways + "|nested 7|alone 8|own launcher 9").replace("|", "\n"))


def test_the_tests_would_see_what_a_job_leaves_behind(tmp_path: Path) -> None:
    script = """
import os, socket, sys, tempfile, time
listens = socket.create_server(("127.0.0.1", 0))
files = [open(name, "w") for name in sys.argv[1:]]
print("ready", flush=True)
time.sleep(1000)
"""
    traces = Traces()
    files = [f"{folder}/charmrun-test-{traces.mark}" for folder in ("/dev/shm", "/tmp")]
    child = subprocess.Popen([sys.executable, "-c", script, *files], stdout=subprocess.PIPE, env={**os.environ, MARK: traces.mark})
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    traces.look()
    assert len(traces.left()) == 4
    child.kill()
    child.wait()
    assert sorted(traces.left()) == files
    for name in files:
        os.unlink(name)
    traces.assert_gone()


def test_a_prompt_is_shown_before_its_answer_is_read(tmp_path: Path) -> None:
    script = tmp_path / "prog.py"
    script.write_text(program_text("def main(args):\n    print('hello', input('name? '))\n    exit()\ncharm.start(main)\n"))
    command = [sys.executable, "-m", "charmrun.start", "+p2", str(script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as job:
        assert job.stdin is not None and job.stdout is not None
        watchdog = threading.Timer(WATCHDOG_S, job.kill)
        watchdog.start()
        assert job.stdout.read(len("name? ")) == b"name? "
        job.stdin.write(b"Ann\n")
        job.stdin.close()
        assert job.stdout.read() == b"hello Ann\n"
        assert job.wait() == 0
        watchdog.cancel()
