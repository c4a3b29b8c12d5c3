"""``python -m charm4py.stubs prog.py other_module``: see :mod:`charm4py.stubs`."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import NoReturn, Optional, Sequence

from .classes import Chares
from .modules import Modules, Refused, shown
from .write import NAME, stub

OUTPUT = "typings"
COMMAND = "python -m charm4py.stubs"


class Parser(argparse.ArgumentParser):
    """An argument parser with this project's exit code."""

    def error(self, message: str) -> NoReturn:
        raise Refused(64, message)


def parser() -> Parser:
    made = Parser(COMMAND, description="Writes a stub by which type checkers know the methods of a program's proxies.")
    made.add_argument("modules", nargs="+", metavar="MODULE", help="a script or another file, or the name of a module; their imports are read too")
    made.add_argument("--output", default=OUTPUT, metavar="DIR", help="where the checker looks for stubs (typings)")
    made.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the stub is out of date")
    return made


def read(arguments: Sequence[str], root: Path) -> Chares:
    """The classes of chares of a program."""
    modules = Modules(root)
    for module in [modules.given(argument) for argument in arguments]:
        modules.follow(module)
    chares = Chares(modules)
    for module in sorted(modules.read.values(), key=lambda module: module.name):
        if module.local:
            for cls in module.classes:
                chares.add(cls)
            chares.add_used(module)
    if not chares.chares:
        raise Refused(65, f"no class of chares in {', '.join(arguments)}")
    return chares


def warn_of_hidden(chares: Chares, root: Path) -> None:
    """Warns of classes that the stub cannot name."""
    for module in chares.modules.read.values():
        for line, name in module.hidden if module.local else ():
            where = f"{shown(module.path, root)}:{line}"
            print(f"{where}: warning: {name} is defined inside a function, where no stub can name it", file=sys.stderr)


def run(arguments: Optional[Sequence[str]]) -> int:
    """Writes the stub, or compares it with the existing one."""
    given = parser().parse_args(arguments)
    root = Path.cwd()
    options = [] if given.output == OUTPUT else ["--output", given.output]
    command = shlex.join([*COMMAND.split(), *options, *given.modules])
    chares = read(given.modules, root)
    warn_of_hidden(chares, root)
    text = stub(chares, command)
    path = Path(given.output, f"{NAME}.pyi")
    try:
        before = path.read_text("utf-8") if path.is_file() else None
        if given.check:
            if before != text:
                print(f"{path} is {'not there' if before is None else 'out of date'}: run {command}", file=sys.stderr)
            return int(before != text)
        if before != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    except OSError as error:
        raise Refused(74, f"{path}: {error.strerror or error}") from None
    names = len(chares.chares)
    print(f"{path}: {names} class{'es' * (names != 1)} of chares")
    return 0


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs the command; returns its exit code."""
    try:
        return run(arguments)
    except Refused as refused:
        print(f"error: {refused}", file=sys.stderr)
        return refused.code


if __name__ == "__main__":
    sys.exit(main())
