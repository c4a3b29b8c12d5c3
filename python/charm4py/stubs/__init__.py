"""A command that tells every type checker the methods of a program's proxies: ``python -m charm4py.stubs prog.py other_module``.

A proxy has a method for each entry method of its class, with ``ret`` and ``awaitable`` in addition, and with another result. mypy has a plugin for this.
Other checkers have no plugins, but they prefer a project's own stubs to those of a package. The package has all types of proxies in one stub, the
package ``charm4py_proxies``. The command writes that stub again as ``typings/charm4py_proxies.pyi``, with the program's methods in it. (A part of
``charm4py`` itself could not be replaced alone: its directory in ``typings`` would hide the package.)

The ``self`` of each method there names the class::

    def twice(self: ElementProxy[prog.Cell], x: int, *, ret: Literal[True]) -> Future[int]: ...

so everything of type ``ElementProxy[Cell]`` has its methods: elements of arrays, ``self.thisProxy``, annotated parameters. Methods are inherited
because ``ElementProxy[Pair]`` is an ``ElementProxy[Cell]``.

The program is read and never run. ``modules.py`` finds and reads modules, ``classes.py`` finds classes, bases and methods, ``annotations.py`` translates
expressions into the stub, ``write.py`` writes its text, and ``__main__.py`` is the command.
"""
