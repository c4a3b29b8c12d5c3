"""The object ``charm``: places, trees, globals, remote execution, statistics, options; and jobs started from Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Run, check, program_text


@pytest.mark.parametrize("pes", [1, 3])
def test_a_pe_knows_where_it_is(run: Run, pes: int) -> None:
    program = """
    class Member(Chare):
        def where(self):
            assert charm.numPes() == {pes} and charm.numHosts() == 1 and charm.myHost() == 0
            assert charm.getHostPes(0) == list(range({pes})) and charm.getHostFirstPe(0) == 0 and charm.getHostNumPes(0) == {pes}
            assert charm.getPeHost(charm.myPe()) == 0 and charm.getPeHostRank(charm.myPe()) == charm.myPe()
            return charm.myPe()
    def main(args):
        print(Group(Member).where(ret=True).get())
        charm.print_dbg("here")
        exit()
    charm.start(main)
    """
    ended = run(program.replace("{pes}", str(pes)), pes)
    assert ended.code == 0, ended.err
    assert ended.out[0] == str(list(range(pes)))
    assert ended.out[1].startswith(f"PE 0 of {pes}, ") and ended.out[1].endswith(": here")


def test_every_pe_is_reached_once_by_the_trees_over_any_pes(run: Run) -> None:
    program = """
    def walk(root, pes, **how):
        seen, todo = [], [root]
        while todo:
            pe = todo.pop()
            seen.append(pe)
            parent, children = charm.getTopoTreeEdges(pe, root, pes, **how)
            assert len(children) <= how.get("bfactor", 4) and (parent is None) == (pe == root)
            assert all(charm.getTopoTreeEdges(child, root, pes, **how)[0] == pe for child in children)
            todo += children
        return sorted(seen)
    def main(args):
        assert walk(0, None) == [0, 1, 2, 3] and walk(2, None) == [0, 1, 2, 3]
        for branches in (1, 2, 3, 8):
            for pes in ([0, 1, 2, 3], [3, 1], [2], [1, 0, 3]):
                for root in pes:
                    assert walk(root, pes, bfactor=branches) == sorted(pes), (branches, pes, root)
                    parts = charm.getTopoSubtrees(root, pes, branches)
                    assert sorted([root] + [pe for part in parts for pe in part]) == sorted(pes) and len(parts) <= branches
                    assert [part[0] for part in parts] == charm.getTopoTreeEdges(root, root, pes, branches)[1]
        for wrong in (lambda: charm.getTopoTreeEdges(0, 1, [0, 2]), lambda: charm.getTopoTreeEdges(3, 0, [0, 2]),
                      lambda: charm.getTopoSubtrees(0, [0, 4])):
            try:
                wrong()
            except ValueError as e:
                print(e)
        exit()
    charm.start(main)
    """
    check(
        run(program, 4),
        """
        the root, PE 1, is not among the tree's PEs
        PE 3 is not in the tree
        there is no PE 4: the job has 4
        """,
    )


def test_a_tree_enters_each_host_once() -> None:
    from charm4py.trees import edges, subtrees

    def host(pe: int) -> int:
        return pe // 5

    for count in (1, 4, 5, 6, 23, 60):
        pes = list(range(count))
        for root in (0, count // 2, count - 1):
            for branches in (1, 2, 4):
                parent = {pe: edges(pe, root, pes, branches, host)[0] for pe in pes}
                entries = [host(pe) for pe in pes if parent[pe] is None or host(parent[pe]) != host(pe)]
                assert len(entries) == len(set(entries)), (count, root, branches)
                assert len(subtrees(root, pes, branches, host)) <= branches


@pytest.mark.parametrize("pes", [1, 2])
def test_the_runtimes_own_proxy_serves_every_pe(run: Run, pes: int) -> None:
    program = """
    X = 0
    def longest(parts): return max(parts, key=len)
    class Reader(Chare):
        def read(self): return X, readonlies.size
        def long(self, done): self.reduce(done, "x" * (charm.myPe() + 1), Reducer.longest)
    class Item(Chare):
        def __init__(self, x): self.x = x
        def get(self): return self.x + self.thisIndex[0]
    def main(args):
        readonlies.size = [1, 2]
        all, last = charm.thisProxy, charm.numPes() - 1
        all.updateGlobals({"X": 5}, awaitable=True).get()
        readers = Group(Reader)
        assert readers.read(ret=True).get() == [(5, [1, 2])] * charm.numPes()
        assert all.myPe(ret=True).get() == list(range(charm.numPes()))
        all.addReducer(longest, awaitable=True).get()
        done = Future()
        readers.long(done)
        assert done.get() == "x" * charm.numPes()
        made = Future()
        all[last].createArray(Item, 3, args=[10], cb=made)
        assert made.get().get(ret=True).get() == [10, 11, 12]
        assert all[last].createArray(Item, 2, args=[1], ret=True).get().get(ret=True).get() == [1, 2]
        all.LBTurnInstrumentOn(awaitable=True).get()
        all.LBTurnInstrumentOff(awaitable=True).get()
        all[last].exit(4)
    charm.start(main)
    """
    assert run(program, pes).code == 4


def test_code_is_run_remotely_only_if_every_pe_has_agreed(run: Run) -> None:
    program = """
    X = 1
    if sys.argv[1] == "agreed": charm.options.remote_exec = True
    def main(args):
        all = charm.thisProxy
        calls = {"exec": lambda: all.exec("X = 7", "__main__", awaitable=True).get(),
                 "eval": lambda: all[1].eval("X + 1", "__main__", ret=True).get(),
                 "type": lambda: all.registerNewChareType("New", "class New(Chare):\\n  def f(self): return X", awaitable=True).get(),
                 "new": lambda: Group(New).f(ret=True).get()}
        for name, call in calls.items():
            try:
                print(name, call())
            except (charm.Charm4PyError, NameError) as e:
                print(name, type(e).__name__, str(e).split(":")[0])
        exit()
    charm.start(main)
    """
    check(run(program, 2, "agreed"), "exec None\neval 8\ntype None\nnew [7, 7]")
    off = "Charm4PyError remote execution is off"
    check(run(program, 2, "not"), f"exec {off}\neval {off}\ntype {off}\nnew NameError name 'New' is not defined")


def test_the_statistics_count_calls_messages_and_bytes_by_method(run: Run) -> None:
    program = """
    charm.options.profiling = True
    class Cell(Chare):
        def take(self, x): pass
        @coro
        def slow(self, f):
            charm.sleep(0.01)
            until = time.perf_counter() + 0.05
            while time.perf_counter() < until: pass
    def main(args):
        cell = Chare(Cell, onPE=1)
        for _ in range(5): cell.take(np.zeros(1000), awaitable=True).get()
        cell.slow(1, awaitable=True).get()
        charm.thisProxy[int(args[1])].printStats(awaitable=True).get()
        exit()
    charm.start(main)
    """
    first, second = (run(program, 2, pe).out for pe in ("0", "1"))
    assert (first[0], second[0]) == ("Statistics of PE 0 of 2", "Statistics of PE 1 of 2")

    def row(lines: list[str], name: str) -> list[float]:
        (line,) = [line for line in lines if line.startswith(name + " ")]
        return [float(figure) for figure in line.split()[1:]]

    calls, seconds, sent, sent_bytes, received, received_bytes = row(second, "Cell.take")
    assert (calls, sent, sent_bytes, received) == (5, 0, 0, 5) and 40_000 <= received_bytes < 41_000
    calls, seconds, sent, sent_bytes, received, received_bytes = row(first, "Cell.take")
    assert (calls, seconds, sent, received) == (0, 0, 5, 0) and 40_000 <= sent_bytes < 41_000
    # The time of a coroutine is that in which it ran, not that in which it waited.
    assert row(second, "Cell.slow")[0] == 1 and row(second, "Cell.slow")[1] >= 0.05
    assert row(second, "all")[0] >= 7


def test_there_are_no_statistics_unless_they_were_asked_for(run: Run) -> None:
    program = """
    def main(args):
        try:
            charm.printStats()
        except charm.Charm4PyError as e:
            print(e.message.split(":")[0])
        exit()
    charm.start(main)
    """
    check(run(program, 1), "nothing was counted")


def test_arguments_that_stay_on_their_pe_are_references_if_the_program_asks(run: Run) -> None:
    program = """
    charm.options.local_msg_optim = True
    class Cell(Chare):
        def same(self, value, number, key=None): return id(value) == number, key
        def take(self, value): value.append(self.thisIndex)
    def main(args):
        group, array, value = Group(Cell), Array(Cell, 4), [1]
        charm.awaitCreation(group, array)
        print([group[pe].same(value, id(value), key="k", ret=True).get() for pe in range(2)])
        print([array[i].same(value, id(value), ret=True).get()[0] for i in range(4)])
        group.take(value, awaitable=True).get()  # a broadcast copies
        try:
            group[1].take(lambda: 1)
        except TypeError as e:
            print(str(e).split(":")[0])
        print(value)
        exit()
    charm.start(main)
    """
    check(
        run(program),
        """
        [(True, 'k'), (False, 'k')]
        [True, True, False, False]
        the argument value of Cell.take cannot be sent
        [1]
        """,
    )


def test_jobs_are_started_from_python_one_after_another(tmp_path: Path) -> None:
    (tmp_path / "prog.py").write_text(program_text("""
        def main(args):
            print("job", args[1], charm.numPes())
            charm.exit(int(args[1]))
        charm.start(main)
    """))
    (tmp_path / "starter.py").write_text(
        "from charmrun.start import start\n"
        "print('ended', [start(['+p2', 'prog.py', status]) for status in ('3', '0')])\n"
    )
    job = subprocess.run([sys.executable, "starter.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert job.returncode == 0, job.stderr
    assert sorted(job.stdout.splitlines()) == ["ended [3, 0]", "job 0 2", "job 3 2"]


def test_the_runtimes_own_chares_are_known_on_every_pe_before_the_program_begins(run: Run) -> None:
    program = """
    charm.options.remote_exec = True
    def main(args):
        # This call uses no path by which other PEs could get the values first.
        print(charm.thisProxy[3].eval("charm.thisProxy is not None", ret=True).get())
        exit()
    charm.start(main)
    """
    check(run(program, 4), "True")


def test_readonlies_are_on_every_pe_before_what_is_made_after_them(run: Run) -> None:
    # A chare that PE 0 creates creates others, on PEs that may get them before the messages of PE 0.
    program = """
    class Tally(Chare):
        made = 0
        def total(self): return self.made
    class Node(Chare):
        def __init__(self, depth):
            readonlies.tally.ckLocalBranch().made += readonlies.one
            for _ in range(3 if depth else 0):
                Chare(Node, args=[depth - 1])
    def main(args):
        readonlies.one = 1
        readonlies.tally = Group(Tally)
        Chare(Node, args=[4])
        charm.waitQD()
        print(sum(readonlies.tally.total(ret=True).get()))
        exit()
    charm.start(main)
    """
    for _ in range(4):
        check(run(program, 8), "121")
