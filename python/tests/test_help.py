"""Help and introspection of proxies show the docstrings and signatures of the class of chares."""

from __future__ import annotations

from conftest import Run

PROGRAM = '''
import inspect, pydoc

class Cell(Chare):
    """A cell of the grid."""

    def twice(self, x: int, more: str = "") -> int:
        """Gives twice x."""

    @coro
    def wait_for(self, future, **options): pass

    @staticmethod
    def title(a, ret=2):
        """Gives a title."""

def shown(thing):
    print(pydoc.render_doc(thing, renderer=pydoc.plaintext))

def main(args):
    cells = Array(Cell, 4)
'''


def test_help_on_a_proxy_shows_its_class_and_entry_methods(run: Run) -> None:
    ended = run(PROGRAM + "    shown(cells)\n    shown(cells[1])\n    exit()\ncharm.start(main)\n", 1)
    assert ended.code == 0, ended.err
    text = "\n".join(ended.out)
    for line in ("<array of Cell>", "<Cell[1]>", "    A cell of the grid.", "    twice(x: int, more: str = '') -> int", "        Gives twice x."):
        assert line in ended.out, text
    assert "title(a, ret=2)" in text and "_engine" not in text and "__" not in text, text


def test_help_on_a_method_of_a_proxy_shows_the_entry_method(run: Run) -> None:
    ended = run(PROGRAM + "    shown(cells.twice)\n    shown(cells[0].title)\n    exit()\ncharm.start(main)\n", 1)
    assert ended.code == 0, ended.err
    keywords = "*, ret: bool = False, awaitable: bool = False"
    for line in (f"twice(x: int, more: str = '', {keywords}) -> 'Future[list[int]] | None'", "    Gives twice x.", "    Gives a title."):
        assert line in ended.out, ended.out
    assert "_engine" not in "\n".join(ended.out)


def test_methods_of_proxies_can_be_inspected(run: Run) -> None:
    ended = run(
        PROGRAM
        + """
    method = cells[2].twice
    print(method.__name__, method.__qualname__, method.__doc__, method)
    print(inspect.signature(cells.wait_for))
    print(inspect.signature(cells[0].title))
    print(inspect.signature(method).return_annotation)
    print({"title", "twice", "wait_for", "ckLocalBranch"} <= set(dir(cells)))
    print(type(cells).__doc__, inspect.isclass(Method))
    class Holder: kept = method
    print(Holder().kept == method)
    try:
        cells.twcie
    except AttributeError as error:
        print(error)
    exit()

from charm4py import Method
charm.start(main)
""",
        1,
    )
    assert ended.code == 0, ended.err
    assert ended.out == [
        "twice Cell.twice Gives twice x. <entry method Cell.twice of <Cell[2]>>",
        "(future, *, ret: bool = False, awaitable: bool = False, **options)",
        "(a, ret=2, *, awaitable: bool = False)",
        "Future[int] | None",
        "True",
        "Names chares: one, or all of a collection. Its methods are their entry methods. True",
        "True",
        "Cell has no entry method twcie (did you mean 'twice'?)",
    ]
