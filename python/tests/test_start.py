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
        # Whoever defines it first, and second: it is the same class everywhere.
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
    assert "the chare's class is not defined on this PE: define it at its module's level" in ended.err.splitlines()[0]


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
        chares are made after charm.start()
        chares are made after charm.start()
        chares are made after charm.start()
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
