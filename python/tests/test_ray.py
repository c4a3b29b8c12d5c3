"""``charm4py.ray``, and the store of objects under it."""

from __future__ import annotations

import pytest
from conftest import Run, check
from test_interactive import typed

HEAD = """
import gc
from charm4py import ray
from charm4py.ray.refs import Store
@ray.remote
def add(a, b=1): return a + b
@ray.remote
def slow(seconds): charm.sleep(seconds); return seconds
@ray.remote
def bad(): raise ValueError("no")
def told(f):
    try:
        print(f())
    except Exception as e:
        print(type(e).__name__, e)
"""


def indented(program: str) -> str:
    return "\n".join("    " + line for line in HEAD.splitlines()) + program


@pytest.mark.parametrize("pes", [1, 3])
def test_remote_functions_take_objects_by_their_references(run: Run, pes: int) -> None:
    program = """
    @ray.remote
    def where(): return charm.myPe()
    @ray.remote
    def fib(n): return n if n < 2 else sum(ray.get([fib.remote(n - 1), fib.remote(n - 2)]))
    @ray.remote
    def nested(refs): return sum(ray.get(refs))
    @ray.remote
    async def later(ref): return await add.remote(ref)
    @ray.remote(num_returns=2, num_cpus=1)
    def two(): return 1, "two"
    def main(args):
        told(lambda: add.remote(1))
        ray.init()
        ray.init(num_cpus=4)
        print(ray.get(add.remote(1)), add(3, 4), ray.get(add.remote(add.remote(1, 2), b=add.remote(5))), ray.get(later.remote(ray.put(6))))
        print(set(ray.get([where.remote() for _ in range(8)])) == set(range(charm.numPes())))
        print(ray.get(fib.remote(8)), ray.get(nested.remote([add.remote(1), add.remote(2)])), ray.get(two.remote()))
        print(ray.get(two.options(num_returns=1).remote()))
        one = 1
        local = ray.remote(lambda x: x + one)
        print(ray.get(local.remote(4)))
        exit()
    charm.start(main)
    """
    check(
        run(indented(program), pes),
        """
        Charm4PyError ray.init() has to be called first
        2 7 9 7
        True
        21 5 [1, 'two']
        (1, 'two')
        5
        """,
    )


def test_each_who_gets_an_object_has_a_copy_of_its_own(run: Run) -> None:
    program = """
    @ray.remote
    def zeros(n): return np.zeros(n)
    @ray.remote
    def spoil(x): x[0] = 5; return float(x.sum())
    def main(args):
        ray.init()
        array, values = zeros.remote(100_000), [1, 2]
        kept = ray.put(values)
        values.append(3)
        ray.get(kept).append(4)
        print([ray.get(spoil.remote(array)) for _ in range(4)], ray.get(array).sum(), ray.get(kept), ray.get(ray.put(len))("four"))
        exit()
    charm.start(main)
    """
    check(run(indented(program), 2), "[5.0, 5.0, 5.0, 5.0] 0.0 [1, 2] 4")


def test_an_exception_is_raised_where_its_object_is_wanted(run: Run) -> None:
    program = """
    @ray.remote(num_returns=2)
    def one(): return [1]
    def main(args):
        ray.init()
        told(lambda: ray.get(bad.remote()))
        told(lambda: ray.get([add.remote(1), add.remote(bad.remote())]))
        told(lambda: ray.get(add.remote(1, 2, 3)))
        told(lambda: ray.get(one.remote()))
        told(lambda: add.remote(open("/dev/null")))
        for wrong in (lambda: ray.get(3), lambda: ray.put(ray.put(1)), lambda: ray.remote(5), lambda: ray.wait([]), lambda: ray.wait([add.remote(1)] * 2)):
            try:
                wrong()
            except (TypeError, ValueError) as e:
                print(type(e).__name__)
        try:
            ray.get(bad.remote())
        except ValueError as e:
            print("in bad" in e.remote_stacktrace)
        exit()
    charm.start(main)
    """
    out = run(indented(program), 2)
    assert out.code == 0, out.err
    assert out.out[:2] == ["ValueError no", "ValueError no"] and "positional argument" in out.out[2], out.out
    assert out.out[3] == "ValueError 2 results are wanted, and there are 1" and out.out[4].startswith("TypeError cannot pickle")
    assert out.out[5:] == ["TypeError", "TypeError", "TypeError", "ValueError", "ValueError", "True"]


@pytest.mark.parametrize("pes", [1, 2])
def test_actors_run_their_methods_in_the_order_of_the_calls(run: Run, pes: int) -> None:
    program = """
    @ray.remote
    class Counter:
        def __init__(self, start=0): self.seen, self.n = [], start
        def inc(self, by=1): self.seen.append(by); self.n += by; return self.n
        def slow(self, by): n = self.n; charm.sleep(0.01); self.n = n + by; return self.n
        def all(self): return self.seen
        def pe(self): return charm.myPe()
        def fail(self): raise KeyError("x")
        async def mark(self): self.seen.append("mark")
        async def ask(self, other): return await other.inc.remote()
        @coro
        def twice(self, other): return ray.get(other.inc.remote()) * 2
        @staticmethod
        def static(x): return x
    @ray.remote
    def use(counter): return ray.get([counter.inc.remote() for _ in range(3)])
    def main(args):
        ray.init()
        c, d = Counter.remote(slow.remote(0.1)), Counter.remote(start=5)
        refs = [c.inc.remote(i) for i in range(20)]
        c.mark.remote()
        c.inc.remote(0)
        print(ray.get(refs[-1]), ray.get(c.all.remote()) == [*range(20), "mark", 0], ray.get([c.slow.remote(1), c.slow.remote(1)]))
        print(ray.get([c.pe.remote(), d.pe.remote()]) == [0, charm.numPes() - 1], ray.get(c.static.remote(3)))
        print(ray.get(d.ask.remote(d)), ray.get(d.twice.remote(d)), ray.get(use.remote(d)))
        for f in (lambda: ray.get(c.fail.remote()), lambda: c.nic, lambda: c.inc(), lambda: Counter()):
            told(f)
        try:
            ray.get(Counter.remote(1, 2).inc.remote())
        except TypeError as e:
            print(str(e).endswith("__init__() takes from 1 to 2 positional arguments but 3 were given"))
        @ray.remote
        class Local:
            def f(self): return "local"
        print(ray.get(Local.remote().f.remote()), c == c, dir(d)[:2])
        exit()
    charm.start(main)
    """
    check(
        run(indented(program), pes),
        """
        190.1 True [191.1, 192.1]
        True 3
        6 14 [8, 9, 10]
        KeyError 'x'
        AttributeError Counter has no method nic (did you mean 'inc'?)
        TypeError Counter.inc is a method of an actor: Counter.inc.remote() calls it
        TypeError Counter is remote: Counter.remote() makes an actor of it
        True
        local True ['all', 'ask']
        """,
    )


def test_wait_gives_what_is_ready_first_and_what_is_not(run: Run) -> None:
    program = """
    def main(args):
        ray.init()
        refs = [slow.remote(seconds) for seconds in (5, 0.01, 0.02)]
        ready, others = ray.wait(refs, num_returns=2)
        print(ready == refs[1:], others == refs[:1], ray.get(ready))
        print(ray.wait(others, timeout=0.01) == ([], others), ray.wait(refs, timeout=0) == ([refs[1]], [refs[0], refs[2]]))
        for f in (lambda: ray.get(refs, timeout=0.01), lambda: ray.get(refs[0], timeout=0.01)):
            try:
                f()
            except ray.GetTimeoutError as e:
                print(isinstance(e, TimeoutError))
        print(ray.get(refs[1:], timeout=5), [ref.get() for ref in charm.iwait(refs[1:])])
        exit()
    charm.start(main)
    """
    check(run(indented(program), 2), "True True [0.01, 0.02]\nTrue True\nTrue\nTrue\n[0.01, 0.02] [0.01, 0.02]")


def test_references_are_waited_for_as_futures_are(run: Run) -> None:
    program = """
    def main(args):
        ray.init()
        refs, future = [slow.remote(0.1), slow.remote(0.01)], Future()
        print([ray.get(ref) for ref in charm.iwait(refs)])
        for _ in range(3): assert ray.wait([future, refs[0]], num_returns=2, timeout=0.01) == ([refs[0]], [future])
        future.send("sent")
        print(future.get(), ray.wait([future, refs[0]], num_returns=2)[1])
        exit()
    charm.start(main)
    """
    check(run(indented(program)), "[0.01, 0.1]\nsent []")


def test_an_object_goes_with_its_reference_unless_that_was_sent(run: Run) -> None:
    program = """
    class Counts(Chare):
        def objects(self): return len(Store.here.objects)
        def hold(self, ref): self.ref = ref
        @coro
        def held(self): return ray.get(self.ref).sum()
    def main(args):
        ray.init()
        counts = Group(Counts)
        for _ in range(20):
            refs = [ray.put(np.ones(1000)), slow.remote(0.001)]
            ray.get(add.remote(refs[0], refs[1]))
            slow.remote(0.001)
        kept = ray.put(np.ones(10))
        counts[1].hold(kept, awaitable=True).get()
        del refs, kept
        gc.collect()
        charm.waitQD()
        print(counts.objects(ret=True).get(), counts[1].held(ret=True).get(), counts.objects(ret=True).get())
        freed = ray.put(1)
        ray.free(freed)
        charm.waitQD()
        print(counts.objects(ret=True).get())
        exit()
    charm.start(main)
    """
    check(run(indented(program), 2), "[1, 0] 10.0 [1, 1]\n[1, 1]")


@pytest.mark.parametrize("pes", [1, 3])
def test_an_object_store_brings_objects_to_whom_asks_for_them(run: Run, pes: int) -> None:
    program = """
    def main(args):
        store, last = Group(ObjectStore), charm.numPes() - 1
        ids = [0, 1, 2, 3]
        for i in ids:
            store[i % charm.numPes()].request_location_object(i, last)
        for i in ids:
            store[0].create_object(i, f"object {i}")
        charm.waitQD()
        print([store[last].lookup_object(i, ret=True).get() for i in ids], [store[last].lookup_location(7, ret=True).get()])
        for i in ids:
            store[last].lookup_location(i)
        charm.waitQD()
        print([store[last].lookup_location(i, ret=True).get() for i in ids])
        for i in ids:
            store[i % charm.numPes()].delete_remote_objects(i)
        charm.waitQD()
        print([store[pe].lookup_object(i, ret=True).get() for i in ids for pe in range(charm.numPes())] == [None] * 4 * charm.numPes())
        exit()
    charm.start(main)
    """
    check(run(program, pes), "['object 0', 'object 1', 'object 2', 'object 3'] [-1]\n[0, 0, 0, 0]\nTrue")


def test_what_is_defined_at_a_prompt_may_be_remote() -> None:
    lines = """
    charm.options.interactive.verbose = 0
    from charm4py import ray
    ray.init()
    factor = 3
    @ray.remote
    def scaled(x): return x * factor

    @ray.remote
    class Pe:
        def get(self): return charm.myPe()

    ray.get([scaled.remote(i) for i in range(4)])
    ray.get([Pe.remote().get.remote() for _ in range(2)])
    """
    ended = typed(lines)
    assert ended.code == 0 and ended.err == "", ended.err
    assert ended.out == ["[0, 3, 6, 9]", "[0, 1]"]
