"""``charm.pool``: functions that run wherever there is time."""

from __future__ import annotations

import pytest
from conftest import Run, check

PES = pytest.mark.parametrize("pes", [1, 2, 4])


@PES
def test_a_map_gives_the_values_in_order_however_it_is_cut(run: Run, pes: int) -> None:
    program = """
    def twice(x, y=0): return 2 * x + y
    def main(args):
        pool = charm.pool
        print(pool.map(twice, range(5)), pool.map(twice, []), pool.map(twice, (x for x in [3])), pool.map(abs, [-1]))
        print(pool.map(twice, [(1, 2), 3]), pool.map(twice, range(7), chunksize=3, ncores=1))
        print(pool.map_async(twice, [1, 2]).get(), [f.get() for f in pool.map_async(twice, [1, 2], multi_future=True)])
        print(pool.submit([(twice, 1), (str, 2), (twice, (3, 4))]))
        print(pool.submit_async([(str, 2)]).get(), [f.get() for f in pool.submit_async([(str, 2)], multi_future=True)])
        print(pool.Task(twice, (1, 2), ret=True).get(), pool.Task(twice, [1], awaitable=True).get(), pool.Task(twice, (1,)))
        assert pool.map(twice, range(10_000)) == [2 * x for x in range(10_000)]
        assert pool.map(np.sum, [np.full((2, 3), i) for i in range(50)]) == [6 * i for i in range(50)]
        exit()
    charm.start(main)
    """
    check(
        run(program, pes),
        """
        [0, 2, 4, 6, 8] [] [6] [1]
        [4, 6] [0, 2, 4, 6, 8, 10, 12]
        [2, 4] [2, 4]
        [2, '2', 10]
        ['2'] ['2']
        4 2 None
        """,
    )


@PES
def test_tasks_that_wait_for_tasks_find_workers(run: Run, pes: int) -> None:
    program = """
    @coro
    def fib(n): return n if n < 2 else sum(charm.pool.map(fib, [n - 1, n - 2]))
    @coro
    def slow(x):
        charm.sleep(0.001)
        return x
    async def awaits(x): return await charm.pool.Task(fib, (x,), ret=True)
    def main(args):
        print(charm.pool.map(fib, [11]), charm.pool.map(awaits, [3, 4]))
        assert charm.pool.map(slow, range(200)) == list(range(200))
        exit()
    charm.start(main)
    """
    check(run(program, pes), "[89] [2, 3]")


def test_whatever_a_function_holds_travels_with_it(run: Run) -> None:
    program = """
    count = 10
    def main(args):
        global count
        power = 3
        def even(n): return n == 0 or odd(n - 1)
        def odd(n): return n != 0 and even(n - 1)
        def keywords(x, y=power, *, z=4): return [x + y + z + count for _ in range(2)]
        keywords.tag = "tagged"
        print(charm.pool.map(lambda x: x ** power, [1, 2, 3]), charm.pool.map(even, [4, 7]), charm.pool.map(keywords, [0]))
        print(charm.pool.map(coro(lambda x: charm.pool.Task(lambda: x + power, (), ret=True).get()), [1]))
        import functools
        print(charm.pool.map(functools.partial(lambda a, b: a - b, 10), [1]), charm.pool.map("{}".format, [1]))
        exit()
    charm.start(main)
    """
    check(run(program, 2), "[1, 8, 27] [True, False] [[17, 17]]\n[4]\n[9] ['1']")


@PES
def test_an_exception_of_a_task_is_the_callers_and_the_worker_goes_on(run: Run, pes: int) -> None:
    program = """
    def inverse(x): return 1 // x
    @coro
    def late(x):
        charm.sleep(0.001)
        raise KeyError(x)
    def tried(what, *args, **more):
        try:
            return what(*args, **more)
        except Exception as e:
            return f"{type(e).__name__}: {e}"
    def main(args):
        try:
            charm.pool.map(inverse, [1, 0, 1])
        except ZeroDivisionError as e:
            print("raised", "in inverse" in e.remote_stacktrace)
        print(tried(charm.pool.map, late, [7]), tried(charm.pool.Task(inverse, (0,), ret=True).get))
        print([tried(f.get) for f in charm.pool.map_async(inverse, [0, 1, -1], multi_future=True)])
        # An argument that cannot be sent is an error of its own task.
        print([tried(f.get)[:9] for f in charm.pool.map_async(str, [1, (_ for _ in ()), 2] * 2, 3, multi_future=True)])
        print([tried(f.get)[:9] for f in charm.pool.map_async(lambda x: x or (_ for _ in ()), ["a", 0], 2, multi_future=True)])
        print(tried(charm.pool.map, inverse, [1], ncores=9), tried(charm.pool.map, inverse, [1], 0))
        # A closure variable without a value.
        print(tried(charm.pool.map, lambda: unset, [()]).endswith("its variable unset has no value yet"))
        print(charm.pool.map(inverse, [1] * 5))
        exit()
        unset = 0
    charm.start(main)
    """
    ended = run(program, pes)
    check(
        ended,
        f"""
        raised True
        KeyError: 7 ZeroDivisionError: integer division or modulo by zero
        ['ZeroDivisionError: integer division or modulo by zero', 1, -1]
        ['1', 'TypeError', '2', '1', 'TypeError', '2']
        ['a', 'TypeError']
        ValueError: ncores is 9: the job has {pes} PEs ValueError: portions of 0 tasks
        True
        [1, 1, 1, 1, 1]
        """,
    )


def test_a_task_without_a_waiting_caller_ends_the_job_if_it_fails_or_exits(run: Run) -> None:
    program = """
    def fail(): raise ValueError("broken")
    def leave(): sys.exit(5)
    @coro
    def leave_later():
        charm.sleep(0.001)
        sys.exit(5)
    def main(args):
        charm.pool.Task({}, ())
    charm.start(main)
    """
    ended = run(program.format("fail"))
    assert ended.code == 1 and "ValueError: broken in charm.pool.Task(fail)" in ended.err, ended.err
    for name in ("leave", "leave_later"):
        ended = run(program.format(name))
        assert (ended.code, ended.err) == (5, "")


def test_every_pe_works_and_may_ask_others_to(run: Run) -> None:
    program = """
    def where():
        # Long enough for all other PEs to get tasks.
        end = time.perf_counter() + 0.005
        while time.perf_counter() < end: pass
        return charm.myPe()
    class Asker(Chare):
        @coro
        def ask(self): return sorted(set(charm.pool.map(where, [()] * 40)))
    def main(args):
        print(charm.pool.map(where, [()] * 40, ncores=1) == [1] * 40)
        print(Group(Asker).ask(ret=True).get())
        exit()
    charm.start(main)
    """
    check(run(program, 3), "True\n[[0, 1, 2], [0, 1, 2], [0, 1, 2]]")


def test_a_master_that_works_itself_hears_of_the_others_between_its_tasks(run: Run) -> None:
    program = """
    def where(x):
        # Only PE 0's tasks are long: it must not run more of them than fit in the time in which the others run the rest.
        end = time.perf_counter() + (0.02 if charm.myPe() == 0 else 0)
        while time.perf_counter() < end: pass
        return charm.myPe()
    def main(args):
        mine = charm.pool.map(where, range(100)).count(0)
        print("few" if mine <= 20 else mine)
        exit()
    charm.start(main)
    """
    check(run(program, 2), "few")


CLASSES = """
import abc, collections, dataclasses, enum, functools
def main(args):
    power = 3
    class Point:
        "a point"
        count = 0
        def __init__(self, x): self.x = x
        def cube(self): return self.x ** power
        @classmethod
        def of(cls, x): return cls(x)
        @staticmethod
        def two(): return 2
        @property
        def double(self): return 2 * self.x
        @functools.cached_property
        def triple(self): return 3 * self.x
    class Point3(Point):
        __slots__ = ("z",)
        def __init__(self, x): super().__init__(x); self.z = x
        def me(self): return Point3
    @dataclasses.dataclass
    class Pair:
        a: int
        b: list = dataclasses.field(default_factory=list)
    Name = collections.namedtuple("Name", "first last")
    class Shape(abc.ABC):
        @abc.abstractmethod
        def area(self): ...
    class Square(Shape):
        def __init__(self, a): self.a = a
        def area(self): return self.a ** 2
    map_ = charm.pool.map
    print(map_(lambda x: Point(x).cube(), [1, 2]))
    print(map_(lambda x: (Point.of(x).double, Point.two(), Point3(x).triple, Point3(x).z, Point3(x).me() is Point3), [1, 2, 3]))
    points = map_(Point, [1, 2, 3])
    print([type(p) is Point for p in points], [p.x for p in points], map_(lambda p: p.cube(), points))
    print(all(type(p) is Point3 for p in map_(lambda p: p, [Point3(i) for i in range(50)])))
    pairs = map_(lambda p: (dataclasses.replace(p, a=p.a + 1), dataclasses.asdict(p)), [Pair(1), Pair(2, [3])])
    print(pairs, pairs[0][0] == Pair(2), map_(lambda p: dataclasses.fields(p)[0].name, [Pair(1)]))
    print(map_(lambda n: n._replace(last="x"), [(Name("a", "b"),)]), map_(lambda n: n.first, [(Name("a", "b"),)]))
    print(map_(lambda s: s.area(), [Square(3)]), map_(lambda a: isinstance(Square(a), Shape), [1]))
    def tried(f):
        try: return f()
        except Exception as e: return f"{type(e).__name__}: {e}"
    print(tried(lambda: map_(lambda a: Shape(), [1])))
    class Hello(Chare): pass
    print(tried(lambda: map_(lambda a: Hello, [1])))
    import enum
    class Color(enum.Enum): RED = 1
    print(tried(lambda: map_(lambda a: Color, [1])))
    exit()
charm.start(main)
"""


@pytest.mark.parametrize("pes", [1, 3])
def test_classes_that_functions_define_travel_with_tasks_and_are_the_same_when_they_come_back(run: Run, pes: int) -> None:
    ended = run(CLASSES, pes)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out[:7] == [
        "[1, 8]",
        "[(2, 2, 3, 1, True), (4, 2, 6, 2, True), (6, 2, 9, 3, True)]",
        "[True, True, True] [1, 2, 3] [1, 8, 27]",
        "True",
        "[(main.<locals>.Pair(a=2, b=[]), {'a': 1, 'b': []}), (main.<locals>.Pair(a=3, b=[3]), {'a': 2, 'b': [3]})] True ['a']",
        "[Name(first='a', last='x')] ['a']",
        "[9] [True]",
    ]
    refused = ["abstract class Shape", "Hello is a class of chares", "Color is an enumeration"]
    assert [text in line for text, line in zip(refused, ended.out[7:])] == [True] * 3


@pytest.mark.parametrize("chunksize", [1, 2])
def test_tuples_are_given_whole_or_as_several_arguments_as_the_function_takes_them(run: Run, chunksize: int) -> None:
    program = """
    import functools
    def one(pair): return ["one", pair]
    def two(a, b): return ["two", a, b]
    def three(a, b, c=3, *, d=4): return ["three", a, b, c, d]
    def any_(*args): return ["any", args]
    def optional(a, b=None): return ["optional", a, b]
    def named(ret): return ["named", ret]
    @functools.wraps(one)
    def dressed(a, b): return ["dressed", a, b]
    @coro
    def waits(pair): return charm.sleep(0.001) or pair
    def main(args):
        n = int(args[1])
        for f in (one, two, three, any_, optional, named, dressed, waits, max, lambda pair: pair):
            mapped = charm.pool.map(f, [(1, 2), (3, 4)], chunksize=n)
            assert mapped == charm.pool.submit([(f, (1, 2)), (f, (3, 4))], chunksize=n)
            print(mapped[1])
        exit()
    charm.start(main)
    """
    either = {
        1: "['any', (3, 4)]\n['optional', 3, 4]\n4\n",
        2: "['any', ((3, 4),)]\n['optional', (3, 4), None]\n4\n",
    }
    always = """['one', (3, 4)]\n['two', 3, 4]\n['three', 3, 4, 3, 4]\n['named', (3, 4)]\n['dressed', 3, 4]\n(3, 4)\n(3, 4)"""
    check(run(program, 2, str(chunksize)), either[chunksize] + always)
