"""A command that tells every type checker the methods of a program's proxies: ``python -m charm4py.stubs prog.py other_module``.

A proxy has a method for each of its class's, with ``ret`` and ``awaitable`` besides, and with another result. mypy's plugin says so of any program;
other checkers have no plugins, but they prefer a project's own stubs to what a package says. All that the package says of proxies is in one stub,
the package ``charm4py_proxies``, so the command writes that one again, as ``typings/charm4py_proxies.pyi``, with the program's methods in it. (A part of
``charm4py`` itself could not be replaced alone: its directory in ``typings`` would hide the package.)

Each method there says by its ``self`` whose it is::

    def twice(self: ElementProxy[prog.Cell], x: int, *, ret: Literal[True]) -> Future[int]: ...

so whatever gives an ``ElementProxy[Cell]`` gives its methods: arrays, indices, slices, ``self.thisProxy``, a parameter's annotation. A class inherits
because ``ElementProxy[Pair]`` is an ``ElementProxy[Cell]``.

The program is read and never run: ``modules.py`` finds and reads modules, ``classes.py`` knows classes, bases and methods, ``annotations.py`` says
a module's expressions in the stub, ``write.py`` makes its text, and ``__main__.py`` is the command.
"""
