"""Exceptions of the runtime, and how exceptions travel between PEs."""

from __future__ import annotations

import pickle
import traceback
from typing import Any


class Charm4PyError(Exception):
    """An error of the runtime."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RemoteError(Exception):
    """Replaces an exception of another PE that cannot be pickled, or whose class is unknown here. Has its type and text."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text

    def __reduce__(self) -> tuple[type[RemoteError], tuple[str, str]]:
        return RemoteError, (self.kind, self.text)


def pack(error: BaseException) -> tuple[bytes | None, str, str, str]:
    """Packs an exception: pickled if possible, with its type, its text, and its tracebacks so far."""
    try:
        pickled = pickle.dumps(error)
    except Exception:
        pickled = None
    return pickled, type(error).__qualname__, str(error), story(error)


def story(error: BaseException) -> str:
    """The traceback, after those of the PEs from which the exception came."""
    earlier = getattr(error, "remote_stacktrace", "")
    own = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return f"{earlier}\n{own}" if earlier else own


def unpack(parts: tuple[bytes | None, str, str, str]) -> BaseException:
    """Unpacks an exception. Its ``remote_stacktrace`` has the tracebacks of the other PEs."""
    pickled, kind, text, tracebacks = parts
    error: BaseException | None = None
    if pickled is not None:
        try:
            loaded = pickle.loads(pickled)
            error = loaded if isinstance(loaded, BaseException) else None
        except Exception:
            pass
    if error is None:
        error = RemoteError(kind, text)
    error.remote_stacktrace = tracebacks  # type: ignore[attr-defined]
    return error
