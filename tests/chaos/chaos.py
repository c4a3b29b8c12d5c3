"""Kills, stops and cuts off processes of jobs at random instants, and checks that each job ends as the contract says.

A trial is one job and one or two faults. Everything in it comes from the seed and its number: `--seed S --trial N` runs it again (the
machine's timing cannot be replayed). Knows nothing of how jobs are built: it starts them as users do, and observes them from outside.

The checks after each job: it has ended in bounded time; its status is one that the faults explain; a failure's first line is on standard
error, once, with the status; no process, listening socket, shared-memory object or temporary file of it is left.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
MARK = "CHARMRUN_TEST_JOB"
LINE = re.compile(r"charmrun: error\[(\d+)\]: .*, pe=(-|\d+) host=\S+ pid=\d+$")
#: Nothing of a job is left after this many seconds from its launcher's end (the contract), and a reserve for a busy machine.
GONE_S = 1.0
BUSY_S = 2.0
#: An agent considers a silent launcher gone after 5 s.
CUT_S = 6.0
#: A job that takes this much longer than its faults explain hangs.
HANG_S = 30.0
PES = 3

PYTHON = '''
import os, sys
from charm4py import *
class Node(Chare):
    def ready(self): print("ready", os.getpid(), flush=True)
    def poke(self, n): return n
def main(args):
    nodes = Group(Node)
    nodes.ready(awaitable=True).get()
    for i in range(int(args[1]) // 5):
        nodes.poke(i, ret=True).get()
        charm.sleep(0.005)
    print("left", flush=True)
    exit()
charm.start(main)
'''

SERVERS = '''mkdir -p /run/sshd
i=0
for name in $CHARM4RS_HOSTS; do
    "$CHARM4RS_ON" on $i /usr/sbin/sshd -D -e -f "$FOLDER/sshd_config" 2>"$FOLDER/log$i" </dev/null >/dev/null &
    i=$((i + 1))
done
echo "$CHARM4RS_HOSTS"
read -r _ || true
'''


@dataclass(frozen=True)
class Fault:
    """An act, its victim, and the time: seconds after the job's start (`start`), after all its PEs have joined, or around its end."""

    act: str
    victim: str
    instant: str
    at: float


@dataclass
class Trial:
    number: int
    language: str
    transport: str
    faults: list[Fault]
    life_ms: int
    #: Its processes leave children behind, in their group and in a session of their own.
    children: bool = False

    def __str__(self) -> str:
        faults = " and ".join(f"{f.act} {f.victim} at {f.instant} {f.at:+.3f} s" for f in self.faults)
        children = ", with children" if self.children else ""
        return f"trial {self.number}: {self.language} over {self.transport}, {self.life_ms} ms{children}: {faults}"


@dataclass
class Outcome:
    wrong: list[tuple[str, str]] = field(default_factory=list)
    done: list[Fault] = field(default_factory=list)


def processes(mark: str) -> list[int]:
    """Running processes of a job: those that have inherited its mark."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                if wanted in Path(entry.path, "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


def descendants(pid: int) -> list[int]:
    """The same, quickly, for a job of one host with this launcher: processes that have left the launcher's tree are not found."""
    found = [pid]
    for parent in found:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                found += [int(child) for child in Path(f"/proc/{parent}/task/{task}/children").read_text().split()]
        except OSError:
            pass
    return found


def of(pid: int) -> tuple[str, int, str]:
    """Name, parent and command line of a process."""
    try:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
        return status["Name"], int(status["PPid"]), Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (OSError, KeyError, ValueError):
        return "", 0, ""


def victims(pids: list[int], launcher: int) -> dict[str, list[int]]:
    """The processes of a job, by their role."""
    found: dict[str, list[int]] = collections.defaultdict(list)
    found["launcher"] = [launcher]
    known = {pid: of(pid) for pid in pids}
    agents = {pid for pid, (_, _, line) in known.items() if line.rstrip().endswith("++agent") and not line.startswith("ssh")}
    for pid, (name, parent, line) in sorted(known.items()):
        if name == "charmrun-guard":
            found["guardian"].append(pid)
        elif pid != launcher and line == known.get(parent, ("", 0, ""))[2]:
            continue  # it has not executed its program yet: its role is not known
        elif pid in agents:
            found["agent"].append(pid)
        elif line.startswith("ssh "):
            found["shell"].append(pid)
        elif parent == launcher or parent in agents:
            found["PE"].append(pid)
    return found


def listening(pids: list[int]) -> set[str]:
    """Inodes of the listening sockets of these processes."""
    mine = set()
    for pid in pids:
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                target = os.readlink(f"/proc/{pid}/fd/{fd}")
                if target.startswith("socket:["):
                    mine.add(target[8:-1])
        except OSError:
            pass
    return mine & all_listening()


def all_listening() -> set[str]:
    inodes = set()
    for name, state, at, inode in (("tcp", "0A", 3, 9), ("tcp6", "0A", 3, 9), ("unix", "00010000", 3, 6)):
        try:
            rows = [line.split() for line in Path("/proc/net", name).read_text().splitlines()[1:]]
        except OSError:
            continue
        inodes |= {row[inode] for row in rows if len(row) > inode and row[at] == state}
    return inodes


class Hosts:
    """Two hosts made of network namespaces, with ssh servers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "hosts"
        subprocess.run([ROOT / "ci/keys", self.folder], check=True)
        self.child = subprocess.Popen([ROOT / "ci/hosts", "2", "bash", "-c", SERVERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      text=True, env={**os.environ, "FOLDER": str(self.folder)})
        assert self.child.stdout is not None
        self.names = self.child.stdout.readline().split()
        (self.folder / "nodelist").write_text("\n".join(self.names))
        until = time.monotonic() + 20
        while not all("Server listening" in self.log(i) for i in range(2)):
            assert time.monotonic() < until, "the servers of ssh do not start"
            time.sleep(0.01)

    def log(self, host: int) -> str:
        path = self.folder / f"log{host}"
        return path.read_text() if path.exists() else ""

    def run(self, *words: str) -> list[str]:
        return [str(ROOT / "ci/hosts"), *words]

    def plug(self, how: str) -> None:
        subprocess.run(self.run(how, "1"), env=self.env(), check=True)

    def env(self) -> dict[str, str]:
        return {**os.environ, "CHARM4RS_HOSTS": " ".join(self.names)}

    def close(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()
        self.child.wait()


class Chaos:
    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args = args
        self.folder = folder
        self.skipped: list[str] = []
        self.root = os.geteuid() == 0
        self.counts: collections.Counter[tuple[str, str, str, str]] = collections.Counter()
        self.wrong: collections.Counter[str] = collections.Counter()
        self.trials = 0
        #: The number of jobs that were over before their fault.
        self.missed = 0
        self.begins: dict[tuple[str, str], float] = {}
        self.hosts: Hosts | None = None
        (folder / "prog.py").write_text(PYTHON)
        self.kinds = self.find_kinds()
        # A private /dev/shm and /tmp for each job, whose contents are the job's.
        probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True) if shutil.which("unshare") else None
        self.apart = probe is not None and probe.returncode == 0
        if not self.apart:
            self.skipped.append("what jobs leave in /dev/shm and /tmp (a mount namespace needs root)")

    def find_kinds(self) -> list[tuple[str, str]]:
        languages = ["rust"]
        if subprocess.run([self.args.python, "-c", "import charm4py"], capture_output=True).returncode == 0:
            languages.append("python")
        else:
            self.skipped.append(f"Python ({self.args.python} has no charm4py)")
        transports = ["shm", "tcp"]
        libraries = subprocess.run(["sh", "-c", "ldconfig -p"], capture_output=True, text=True).stdout
        for library, transport in (("libfabric.so.1", "ofi"), ("libucp.so.0", "ucx")):
            if library in libraries:
                transports.append(transport)
            else:
                self.skipped.append(f"{transport} (there is no {library})")
        locked = any(line.startswith("root:!") for line in Path("/etc/shadow").read_text().splitlines()) if self.root else True
        if self.root and not locked and Path("/usr/sbin/sshd").exists() and not self.args.no_hosts:
            try:
                self.hosts = Hosts(self.folder)
                transports.append("hosts")
            except (OSError, AssertionError, subprocess.SubprocessError) as error:
                self.skipped.append(f"several hosts ({error})")
        else:
            self.skipped.append("several hosts and cuts (network namespaces and sshd need root)")
        kinds = [(language, transport) for language in languages for transport in transports]
        kinds.append(("rust", "threads"))
        only = self.args.only
        return [kind for kind in kinds if not only or only in " ".join(kind)]

    # One trial

    def plan(self, number: int) -> Trial:
        rng = random.Random(f"{self.args.seed}/{number}")
        language, transport = rng.choice(self.kinds)
        victims = ["PE", "PE", "PE", "launcher", "guardian"]
        if transport == "hosts":
            victims += ["agent", "shell", "cut"]
        faults = []
        for _ in range(2 if rng.random() < 0.3 else 1):
            victim = rng.choice(victims)
            instant = rng.choice(["start", "running", "ending"])
            at = {"start": rng.random(), "running": rng.uniform(0, 0.15), "ending": rng.uniform(-0.05, 0.03)}[instant]
            act = "cut" if victim == "cut" else "stop" if rng.random() < 0.12 else "kill"
            faults.append(Fault(act, "host" if victim == "cut" else victim, instant, at))
        faults.sort(key=lambda fault: ["start", "running", "ending"].index(fault.instant))
        return Trial(number, language, transport, faults, rng.randrange(200, 500), rng.random() < 0.5)

    def command(self, trial: Trial, mark: str) -> tuple[list[str], dict[str, str]]:
        life = str(trial.life_ms)
        target = Path(self.args.target)
        rust = trial.language == "rust"
        children = ["sh", "-c", 'sleep 1000 & setsid sleep 1000 & exec "$@"', "sh"] if trial.children else []
        program = [str(target / "faulty"), "ready-and-leave", life] if rust else [str(self.folder / "prog.py"), life]
        if children and not rust:
            children.append(self.args.python)
        program = children + program
        launcher = [str(target / "charmrun")] if rust else [self.args.python, "-m", "charmrun.start"]
        env = {**os.environ, MARK: mark, "RUST_BACKTRACE": "0", "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": "/tmp"}
        words = [*launcher, f"+p{PES}", "++timeout", "8"]
        if trial.transport != "threads":
            words += ["++ppn", "1"]
        if trial.transport == "hosts":
            assert self.hosts is not None
            env["CHARM4RS_HOSTS"] = " ".join(self.hosts.names)
            folder = self.hosts.folder
            words += ["++nodelist", f"{folder}/nodelist", "++remote-shell", f"ssh -F {folder}/ssh_config"]
            return self.hosts.run("on", "0", *words, *program), env
        if trial.transport != "threads":
            words += ["++transport", trial.transport]
        words += program
        if self.apart:
            own = self.folder / mark
            for name in ("shm", "tmp"):
                (own / name).mkdir(parents=True)
            mounts = f"mount --bind {own}/shm /dev/shm && " + ("" if str(self.folder).startswith("/tmp/") else f"mount --bind {own}/tmp /tmp && ")
            words = ["unshare", "--mount", "sh", "-c", mounts + 'exec "$@"', "sh", *words]
        return words, env

    @staticmethod
    def mark_of(trial: Trial) -> str:
        return f"chaos-{os.getpid()}-{trial.number}"

    def run(self, trial: Trial) -> Outcome:
        outcome = Outcome()
        mark = self.mark_of(trial)
        words, env = self.command(trial, mark)
        began = time.monotonic()
        job = subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.folder)
        out: list[bytes] = []
        ready = threading.Event()
        ready_at: list[float] = []
        errors: list[bytes] = []

        def read_output() -> None:
            assert job.stdout is not None
            for line in job.stdout:
                out.append(line)
                if not ready_at and sum(text.startswith(b"ready") for text in out) == PES:
                    ready_at.append(time.monotonic())
                    ready.set()
            ready.set()

        readers = [threading.Thread(target=read_output, daemon=True), threading.Thread(target=lambda: errors.append(job.stderr.read()), daemon=True)]
        for reader in readers:
            reader.start()
        sockets: set[str] = set()
        stopped: list[int] = []
        times: dict[tuple[str, str], float] = {}
        cut = False
        for fault in trial.faults:
            if fault.instant == "start":
                usual = self.begins.get((trial.language, trial.transport), 1.0)
                wait = began + fault.at * usual - time.monotonic()
                ready.wait(max(0.0, wait))
            else:
                ready.wait(HANG_S)
                wait = (ready_at or [time.monotonic()])[0] + fault.at + (trial.life_ms / 1000 if fault.instant == "ending" else 0) - time.monotonic()
                time.sleep(max(0.0, wait))
            # A victim that does not exist yet will appear soon.
            while True:
                pids = processes(mark) if trial.transport == "hosts" else descendants(job.pid)
                found = victims(pids, job.pid)
                if fault.act == "cut" or found.get(fault.victim) or fault.instant != "start" or job.poll() is not None or ready.is_set():
                    break
                time.sleep(0.001)
            if job.poll() is not None:
                break
            if fault is trial.faults[0]:
                sockets |= listening(pids)
            if fault.act == "cut":
                assert self.hosts is not None
                self.hosts.plug("cut")
                cut = True
            else:
                there = found.get(fault.victim) or []
                if not there:
                    continue
                rng = random.Random(f"{self.args.seed}/{trial.number}/{fault.at}")
                pid = rng.choice(there)
                if self.args.sabotage and fault.victim == "launcher":
                    for guardian in found.get("guardian", []):
                        self.signal(guardian, signal.SIGKILL)
                try:
                    os.kill(pid, signal.SIGKILL if fault.act == "kill" else signal.SIGSTOP)
                except OSError:
                    continue
                if fault.act == "stop":
                    stopped.append(pid)
                    if fault.victim == "launcher":
                        # A stopped launcher is not dead: it continues after a while, whatever happens otherwise, and before the hosts give it up.
                        threading.Timer(1.5, self.signal, (pid, signal.SIGCONT)).start()
                times[fault.act, fault.victim] = time.monotonic()
            outcome.done.append(fault)
        done = outcome.done
        acted = time.monotonic()
        try:
            code: int | None = job.wait(max(0.0, HANG_S + 12 - (time.monotonic() - acted)))
        except subprocess.TimeoutExpired:
            code = None
        ended = time.monotonic()
        if code is None:
            outcome.wrong.append(("hang", f"still there after {ended - began:.1f} s: {[of(pid) for pid in processes(mark)]}"))
        # No process kills the children if launcher and guardian are killed at once, or the guardian is stopped.
        unguarded = ("kill", "launcher") in times and (
            ("stop", "guardian") in times or abs(times.get(("kill", "guardian"), 0) - times["kill", "launcher"]) < 0.3)
        if unguarded and trial.children and not self.args.sabotage:
            self.end_all(mark)
        self.look_for_what_is_left(mark, sockets, stopped, cut, outcome)
        if cut and self.hosts is not None:
            self.hosts.plug("mend")
        if code is None:
            self.end(mark, job)
        for reader in readers:
            reader.join(5)
        text = b"".join(errors).decode(errors="replace")
        if code is not None:
            self.check_end(code, text, ended - acted, out, outcome)
        if not done and code == 0 and ready_at:
            self.begins[trial.language, trial.transport] = ready_at[0] - began
        if self.apart:
            shutil.rmtree(self.folder / mark, ignore_errors=True)
        if outcome.wrong and self.args.verbose:
            print(text, flush=True)
        return outcome

    @staticmethod
    def signal(pid: int, number: signal.Signals) -> None:
        try:
            os.kill(pid, number)
        except OSError:
            pass

    def end_all(self, mark: str) -> None:
        while pids := processes(mark):
            for pid in pids:
                self.signal(pid, signal.SIGKILL)

    def end(self, mark: str, job: subprocess.Popen[bytes]) -> None:
        self.end_all(mark)
        job.kill()
        job.wait()

    def look_for_what_is_left(self, mark: str, sockets: set[str], stopped: list[int], cut: bool, outcome: Outcome) -> None:
        """Measures the contract's time; a stopped guardian is not counted as a leftover."""
        since = time.monotonic()
        guardians = {pid for pid in stopped if of(pid)[0] == "charmrun-guard"}
        while True:
            left = [pid for pid in processes(mark) if pid not in guardians]
            listens = sockets & all_listening() if not left else sockets
            if not left and not listens:
                break
            # A host that was cut off receives nothing: its agent waits for some seconds.
            if time.monotonic() - since > GONE_S + BUSY_S + (CUT_S if cut else 0):
                outcome.wrong.append(("leftover", f"processes {[(pid, *of(pid)) for pid in left]}, sockets {listens}"))
                break
            time.sleep(0.01)
        for pid in guardians:
            self.signal(pid, signal.SIGKILL)
        for pid in processes(mark):
            self.signal(pid, signal.SIGKILL)
        if self.apart:
            files = [str(path.relative_to(self.folder / mark)) for path in (self.folder / mark).glob("*/*")]
            if files:
                outcome.wrong.append(("leftover", f"files {files}"))

    def check_end(self, code: int, text: str, took: float, out: list[bytes], outcome: Outcome) -> None:
        done = outcome.done
        allowed, limit = self.expected(done)
        # A job that has done all its work may be over before its fault happens.
        if code not in allowed and not (code == 0 and b"left\n" in out):
            outcome.wrong.append(("code", f"{code} is not one of {sorted(allowed)}: {text[:600]!r}"))
        if took > limit + HANG_S:
            outcome.wrong.append(("hang", f"{took:.1f} s after the fault"))
        first = [line for line in text.splitlines() if not line.startswith(("charmrun: warning: ", "charmrun: waiting "))]
        if code > 0:
            match = LINE.match(first[0]) if first else None
            if match is None or int(match[1]) != code or text.count("error[") != 1:
                outcome.wrong.append(("first line", f"{code} with {text[:600]!r}"))
        elif code == 0 and (first or b"left\n" not in out):
            outcome.wrong.append(("first line", f"0 with {text[:600]!r}, {out}"))

    @staticmethod
    def expected(done: list[Fault]) -> tuple[set[int], float]:
        """The statuses that these faults explain, and the time limit of the end."""
        if not done:
            return {0}, 5
        allowed: set[int] = set()
        harmless = True
        limit = 2.0
        for fault in done:
            if fault.victim == "launcher":
                if fault.act == "kill":
                    allowed.add(-9)
                    harmless = False
            elif fault.victim == "PE":
                allowed |= {137} if fault.act == "kill" else {69}
                harmless &= fault.instant == "ending"
            elif fault.victim in ("agent", "shell", "host"):
                allowed.add(69)
                harmless &= fault.instant == "ending"
            limit = max(limit, 2.0 if fault.act == "kill" else 12.0)
        # With two faults, other processes may have noticed first that one is gone.
        if len(done) > 1 and allowed & {137}:
            allowed.add(69)
        if harmless:
            allowed.add(0)
        return allowed, limit

    # All of them

    def go(self) -> int:
        for what in self.skipped:
            print(f"chaos: skipped: {what}")
        names = ", ".join(" over ".join(kind) for kind in self.kinds)
        print(f"chaos: seed {self.args.seed}; {names}", flush=True)
        for language, transport in self.kinds:
            # The duration of a start: the instants of faults during the start are fractions of it.
            outcome = self.run(Trial(-1 - self.trials, language, transport, [], 10))
            self.trials += 1
            if outcome.wrong:
                print(f"chaos: WITHOUT A FAULT {language} over {transport}: {outcome.wrong}", flush=True)
                self.wrong.update(kind for kind, _ in outcome.wrong)
        self.trials = 0
        until = time.monotonic() + self.args.seconds
        # The meaning of a number depends on the selected kinds of jobs.
        only = f" --only '{self.args.only}'" if self.args.only else ""
        numbers = [self.args.trial] if self.args.trial is not None else range(1 << 30)
        for number in numbers:
            if self.args.trial is None and (time.monotonic() > until or self.args.kills and self.done()["kill"] >= self.args.kills):
                break
            trial = self.plan(number)
            if self.args.verbose:
                print(trial, flush=True)
            try:
                outcome = self.run(trial)
            except KeyboardInterrupt:
                self.end_all(self.mark_of(trial))
                break
            self.trials += 1
            self.missed += not outcome.done
            if self.args.verbose:
                print(f"    done {len(outcome.done)} of {len(trial.faults)}", flush=True)
            for fault in outcome.done:
                self.counts[fault.act, fault.victim, fault.instant, trial.transport] += 1
            for kind, what in outcome.wrong:
                self.wrong[kind] += 1
                print(f"chaos: {kind.upper()} in {trial}\n    {what}\n    again: ci/chaos --seed {self.args.seed} --trial {number}{only}", flush=True)
        self.table()
        if self.hosts is not None:
            self.hosts.close()
        return 1 if sum(self.wrong.values()) else 0

    def done(self) -> collections.Counter[str]:
        """The number of faults by act."""
        faults: collections.Counter[str] = collections.Counter()
        for (act, *_), count in self.counts.items():
            faults[act] += count
        return faults

    def table(self) -> None:
        transports = sorted({key[3] for key in self.counts})
        print(f"\n{'':28}" + "".join(f"{name:>9}" for name in transports))
        for row in sorted({key[:3] for key in self.counts}):
            cells = [self.counts[(*row, name)] for name in transports]
            print(f"{' '.join(row):28}" + "".join(f"{cell:9}" for cell in cells))
        faults = self.done()
        wrong = ", ".join(f"{name} {self.wrong[kind]}" for name, kind in
                          (("hangs", "hang"), ("wrong codes", "code"), ("missing first lines", "first line"), ("leftovers", "leftover")))
        print(f"chaos: {self.trials} jobs, {self.missed} over before their fault; kills {faults['kill']}, stops {faults['stop']}, cuts {faults['cut']}; {wrong}; seed {self.args.seed}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="ci/chaos", description="Random faults in jobs of all kinds.")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="until so many processes have been killed")
    parser.add_argument("--trial", type=int, help="only this one of the seed's trials")
    parser.add_argument("--only", default="", help="only kinds of jobs whose language and transport contain this, as in 'rust ucx'")
    parser.add_argument("--no-hosts", action="store_true")
    parser.add_argument("--target", default=str(ROOT / "target/debug"), help="the folder of charmrun and faulty")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has charm4py")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--sabotage", action="store_true", help="kill guardians together with launchers: this tool must then find leftovers")
    args = parser.parse_args()
    # Also if a shell has started it in the background.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if args.seconds == float("inf") and not args.kills and args.trial is None:
        args.seconds = 60.0
    args.python = os.path.abspath(shutil.which(args.python) or args.python)
    args.target = os.path.abspath(args.target)
    base = Path(args.target).parent / "chaos"
    base.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=base))
    try:
        return Chaos(args, folder).go()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
