"""How programs start: their entry point, their arguments, their classes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Run, check, program_text, run_job


def test_the_package_has_the_names_that_programs_import(run: Run) -> None:
    program = """
    from charm4py import (charm, readonlies, Options, register, Reducer, Future, when, coro, threaded, coro_ext, Chare, Group, Array,
        ArrayMap, Channel, charm4py_version)
    from charm4py.charm import Charm4PyError
    from charm4py.threads import NotThreadedError
    import charm4py.threads, charm4py.wait, charm4py.chare, charm4py.entry_method, charm4py.reduction
    def main(args):
        print(threaded is coro, charm4py_version.split(".")[0], Charm4PyError("text").message)
        exit()
    charm.start(main)
    """
    check(run(program, 1), "True 1 text")


@pytest.mark.parametrize("pes", [1, 2, 4])
def test_the_entry_point_runs_once_as_a_coroutine_on_pe_0(run: Run, pes: int) -> None:
    program = """
    def main(args):
        charm.sleep(0.001)
        print("main", charm.myPe())
        exit()
    charm.start(main)
    print("never here")
    """
    check(run(program, pes), "main 0")


def test_the_entry_point_may_be_a_class_of_chares(run: Run) -> None:
    program = """
    class Main(Chare):
        def __init__(self, args):
            charm.sleep(0.001)
            print(args[1:], self.thisIndex, charm.myPe())
            Group(Other).done(self.thisProxy)
        @coro
        def last(self):
            charm.sleep(0.001)
            exit()
    class Other(Chare):
        def done(self, main): self.contribute(None, None, main.last)
    charm.start(Main)
    """
    check(run(program, 2, "a", "b"), "['a', 'b'] (0,) 0")


def test_the_program_gets_its_own_arguments_and_no_option_of_the_runtime(run: Run) -> None:
    program = """
    sys.argv += ["++quiet"]
    def main(args):
        print(args[0].endswith("prog.py"), args[1:])
        exit()
    charm.start(main)
    """
    for launcher in (True, False):
        options = ("-x", "++quiet", "7", "--long=1", "+word") if launcher else ("+p2", "-x", "++quiet", "7", "--long=1", "+word")
        check(run(program, 2, *options, launcher=launcher), "True ['-x', '7', '--long=1', '+word']")


def test_options_of_charm_are_taken_out_of_the_arguments_with_their_values(run: Run) -> None:
    program = """
    sys.argv += ["+LBDebug", "1"]
    def main(args):
        print(args[1:], sys.argv[1:], charm.numPes())
        exit()
    charm.start(main)
    """
    given = ("8", "4", "2000", "+balancer", "GreedyRefineLB", "+LBPeriod", "0.5", "+setcpuaffinity", "+word")
    own = ["8", "4", "2000", "+word"]
    for launcher in (True, False):
        check(run(program, 1, *given, launcher=launcher), f"{own} {own} 1")


@pytest.mark.parametrize("program", [["prog.py"], ["-m", "prog"], ["-c", "import prog"]])
@pytest.mark.parametrize("launcher", [True, False])
def test_the_number_of_pes_may_stand_behind_the_program(tmp_path: Path, program: list[str], launcher: bool) -> None:
    (tmp_path / "prog.py").write_text(
        program_text("def main(args):\n    print(charm.numPes(), args[1:])\n    exit()\ncharm.start(main)")
    )

    def start(*options: str) -> subprocess.CompletedProcess[str]:
        charmrun = ["-m", "charmrun.start", *options] if launcher else []
        command = [sys.executable, *charmrun, *program, "a", "+p2", "b"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    for job in (start(), start("+p2")):
        assert (job.returncode, job.stdout) == (0, "2 ['a', 'b']\n"), job.stderr
    if launcher:
        refused = start("+p3")
        assert refused.returncode == 64 and "+p 3 and +p 2 contradict each other" in refused.stderr


def test_a_number_of_pes_that_the_program_adds_contradicts_the_launchers(run: Run) -> None:
    job = run("sys.argv += ['+p4']\ncharm.start(lambda args: exit())", 2)
    assert job.code == 64 and "+p 2 for charmrun and +p 4 for the program contradict each other" in job.err


def test_classes_come_from_main_from_modules_and_from_where_they_were_imported(run: Run, tmp_path: Path) -> None:
    (tmp_path / "named.py").write_text(program_text("class Named(Chare):\n    def f(self): return 'named'"))
    (tmp_path / "given.py").write_text(program_text("class Given(Chare):\n    def f(self): return 'given'"))
    (tmp_path / "marked.py").write_text(program_text("@register\nclass Marked(Chare):\n    def f(self): return 'marked'"))
    program = """
    import given, marked
    class Own(Chare):
        def f(self): return "own"
    def main(args):
        import named
        for cls in (Own, named.Named, given.Given, marked.Marked):
            print(Chare(cls, onPE=1).f(ret=True).get())
        exit()
    charm.start(main, classes=[given.Given], modules=["named"])
    """
    check(run(program), "own\nnamed\ngiven\nmarked")


def test_a_class_that_other_pes_do_not_have_is_named_as_such(run: Run) -> None:
    program = """
    class Own(Chare):
        def make(self):
            class Late(Chare):
                def where(self): return charm.myPe()
            return Group(Late).where(ret=True)
    def main(args):
        # It is the same class on all PEs, whichever PE defines it first.
        for pe in range(charm.numPes()):
            charm.thisProxy[pe].exec("class New%d(Chare): f = lambda self: %d" % (pe, pe), awaitable=True).get()
        for pe in reversed(range(charm.numPes())):
            code = "class New%d(Chare): f = lambda self: %d" % (1 - pe, 1 - pe)
            charm.thisProxy[pe].exec(code, awaitable=True).get()
        print(Group(New0).f(ret=True).get(), Group(New1).f(ret=True).get())
        Chare(Own, onPE=0).make()
    charm.options.remote_exec = True
    charm.start(main)
    """
    ended = run(program)
    assert ended.out == ["[0, 0] [1, 1]"] and ended.code == 1
    assert "Own.make.<locals>.Late is defined inside a function, so other PEs do not know it: define it" in ended.err.splitlines()[0]


def test_a_start_is_refused_twice_and_chares_before_it(run: Run) -> None:
    program = """
    class Own(Chare): pass
    for early in (lambda: Group(Own), lambda: Array(Own, 2), lambda: Chare(Own), lambda: Group(int)):
        try:
            early()
        except (RuntimeError, TypeError) as e:
            print(e)
    def main(args):
        try:
            charm.start(main)
        except RuntimeError as e:
            print(e)
        exit()
    charm.start(main)
    """
    check(
        run(program, 1),
        """
        chares can be created only after charm.start()
        chares can be created only after charm.start()
        chares can be created only after charm.start()
        <class 'int'> is not a class of chares: derive it from Chare
        charm.start() is called once
        """,
    )


@pytest.mark.parametrize("launcher", [True, False])
def test_a_job_may_be_a_module_or_a_line_of_code(tmp_path: Path, launcher: bool) -> None:
    (tmp_path / "job.py").write_text(program_text("def main(args):\n    print(charm.numPes())\n    exit()\ncharm.start(main)"))
    for program in (["-m", "job"], ["-c", "import job"]):
        command = [sys.executable, "-m", "charmrun.start", "+p2", *program] if launcher else [sys.executable, *program]
        job = run_job(command, cwd=tmp_path)
        assert (job.returncode, job.stdout) == (0, "2\n" if launcher else "1\n"), job.stderr


def different(rest: str, own: str, tmp_path: Path) -> str:
    """A program in which one process has a definition that the others do not have."""
    rest, own = ("\n".join(f"    {line}" for line in text.splitlines() or ["pass"]) for text in (rest, own))
    return f"""
import os
try: mine = os.open({str(tmp_path / "first")!r}, os.O_CREAT | os.O_EXCL)
except FileExistsError: mine = None
if mine is None:
{rest}
else:
{own}
def main(args):
    print("it runs")
    exit()
charm.start(main)
"""


@pytest.mark.parametrize(
    ("rest", "own", "differences"),
    [
        ("class A(Chare): pass", "class B(Chare):\n    def go(self): pass", ["class __main__.A", "class __main__.B"]),
        ("class A(Chare):\n    def go(self, x): pass", "class A(Chare):\n    def go(self, x, y=1): pass\n    def see(self): pass", ["__main__.A.see"]),
        ("class A(Chare):\n    def go(self, x): pass", "class A(Chare):\n    'documented'\n    def go(self, y): pass", []),
        ("", "Reducer.addReducer(max)", ["reducer max"]),
        ("f = Reducer.addReducer(max)", "Reducer.addReducer(max)\nReducer.addReducer(max)", ["reducer max (number 3)"]),
    ],
)
def test_processes_with_different_programs_end_with_76_and_the_difference(
    run: Run, tmp_path: Path, rest: str, own: str, differences: list[str]
) -> None:
    ended = run(different(rest, own, tmp_path), 2)
    if not differences:
        assert (ended.code, ended.out) == (0, ["it runs"]), ended.err
        return
    assert (ended.code, ended.out) == (76, []), ended.err
    first = ended.err.splitlines()[0]
    assert first.startswith("charmrun: error[76]: the processes run different programs: only PE ")
    assert all(difference in first for difference in differences), first
    assert len(ended.err.splitlines()) == 1, ended.err


def test_a_class_that_other_processes_do_not_know_is_refused_where_chares_are_made(run: Run) -> None:
    program = """
    from charm4py.charm import Charm4PyError
    def main(args):
        class Local(Chare): pass
        for make in (lambda: Array(Local, 4), lambda: Group(Local), lambda: Chare(Local), lambda: Chare(Local, onPE=charm.numPes() - 1), lambda: Array(Local, ndims=1)):
            try:
                make()
            except Charm4PyError as e:
                print(e)
        charm.awaitCreation(Chare(Local, onPE=0))  # where it is known
        exit()
    charm.start(main)
    """
    said = "main.<locals>.Local is defined inside a function, so other PEs do not know it: define it at module level"
    check(run(program, 2), "\n".join([said] * 5))
    ended = run(program, 1)
    assert (ended.code, ended.out) == (0, [])


def test_a_class_that_only_one_process_has_imported_is_reported(run: Run, tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text("from charm4py import Chare\nclass Late(Chare): pass\n")
    program = """
    def main(args):
        import late
        charm.awaitCreation(Array(late.Late, 4))
        exit()
    charm.start(main)
    """
    ended = run(program, 2)
    first = ended.err.splitlines()[0]
    assert ended.code == 1 and "not defined on this PE" in first and "panic" not in ended.err, ended.err
    assert run(program, 1).code == 0


def test_texts_have_one_hash_in_all_processes_of_a_job(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
    import os
    class Cell(Chare):
        def hash(self): return hash("text"), os.environ["PYTHONHASHSEED"]
    def main(args):
        got = Group(Cell).hash(ret=True).get()
        print(len(set(got)), got[0][1])
        exit()
    charm.start(main)
    """
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    for options in ({}, {"launcher": False}):
        seeds = [run(program, 3, *["+p3"] * (not options.get("launcher", True)), **options).out for _ in range(2)]
        assert seeds[0][0].startswith("1 ") and seeds[0] != seeds[1]
    monkeypatch.setenv("PYTHONHASHSEED", "5")
    check(run(program, 3), "1 5")


@pytest.mark.parametrize("how", ["charmrun", "behind", "alone", "words", "shell"])
def test_several_pes_in_one_process_are_refused_before_anything_starts(tmp_path: Path, how: str) -> None:
    script = tmp_path / "prog.py"
    script.write_text(f"#!{sys.executable}\nprint('begun')\n" + program_text("charm.start(lambda args: print('main'))"))
    script.chmod(0o755)
    charmrun = [sys.executable, "-m", "charmrun.start"]
    command = {
        "charmrun": [*charmrun, "+p4", "++ppn", "2", str(script)],
        "behind": [*charmrun, str(script), "+p4", "++ppn", "2"],
        "alone": [sys.executable, str(script), "+p4", "++ppn", "4"],
        "words": [*charmrun, "+p4", "++n", "2", "-c", "print('begun')"],
        "shell": [*charmrun, "+p4", "++ppn", "2", "/usr/bin/env", sys.executable, str(script)],
    }[how]
    ended = run_job(command)
    assert ended.returncode == 64
    assert ended.stderr.count("\n") == 1 and "a process of Python has one PE" in ended.stderr, ended.stderr
    assert "main" not in ended.stdout and ("begun" not in ended.stdout or how in ("alone", "shell"))


def test_what_a_chare_starts_is_no_part_of_the_job(run: Run, tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(
        "import os\nfrom charm4py import charm\n"
        "def main(args):\n    print('child of', charm.numPes(), [name for name in os.environ if name.startswith(('CHARM4RS_BOOT', 'PMI'))])\n    exit()\n"
        "charm.start(main)\n"
    )
    program = f"""
    import os, subprocess
    class Cell(Chare):
        def go(self):
            return [subprocess.run([sys.executable, {str(tmp_path / "child.py")!r}], capture_output=True, text=True, env=env).stdout for env in (None, dict(os.environ))]
    def main(args):
        for line in sum(Group(Cell).go(ret=True).get(), []): print(line, end="")
        exit()
    charm.start(main)
    """
    check(run(program, 2), "\n".join(["child of 1 []"] * 4))
