"""What the engine calls in the package. The engine finds each function by its name here."""

from __future__ import annotations

from . import chare, combined, conditions, entry_method, errors, program, reduction, sections, state, threads, wait, waiters
from .ending import ending, kept_modules


class Hooks:
    """The engine keeps this class until the process ends."""

    Charm4PyError = errors.Charm4PyError
    Future = threads.Future
    bind = staticmethod(entry_method.bind)
    contribution = staticmethod(reduction.contribution)
    cut = staticmethod(sections.cut)
    differences = staticmethod(program.differences)
    ending = staticmethod(ending)
    enter = staticmethod(state.enter)
    finish = staticmethod(reduction.finish)
    kept_modules = kept_modules
    merge = staticmethod(reduction.merge)
    names_of = staticmethod(chare.names_of)
    no_method = staticmethod(chare.no_method)
    pack_error = staticmethod(errors.pack)
    parameter = staticmethod(entry_method.parameter)
    program = staticmethod(program.described)
    recheck = staticmethod(conditions.recheck)
    reduce_over_several = staticmethod(combined.reduce)
    reducer = staticmethod(reduction.kind_of)
    run_special = staticmethod(wait.run)
    unpack_error = staticmethod(errors.unpack)
    waits = staticmethod(waiters.waits)
