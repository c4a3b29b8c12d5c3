"""liveViz: elements of an array deposit parts of an image, and clients of CCS request images.

A client sends ``lvConfig`` and ``lvImage`` to PE 0, in the format of Charm++'s own clients. :class:`Collector`, a chare there, lets the elements be called for one image
after another. The deposited parts reach it by a reduction, which concatenates parts, and adds them up once they have more pixels than the image.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

import numpy

from .ccs import handlers
from .ccs.liveviz_messages import Config as Config
from .ccs.liveviz_messages import ImageRequest as ImageRequest
from .ccs.liveviz_messages import Vector3d as Vector3d
from .ccs.liveviz_messages import check_size
from .chare import Chare, register
from .charm import charm
from .errors import Charm4PyError
from .reduction import Reducer

if TYPE_CHECKING:
    from .ccs.images import Client as Client


# Images


class Part(NamedTuple):
    """A rectangle of an image: its pixels row by row, its position, and the size of the whole image."""

    data: Any
    x: int
    y: int
    height: int
    width: int
    whole_height: int
    whole_width: int

    def pixel(self) -> int:
        return len(self.data) // (self.height * self.width)


def drawn(parts: list[Part]) -> Part:
    """Draws parts into the whole image. Overlapping values are added, up to 255; pixels outside are cut off."""
    height, width, pixel = parts[0].whole_height, parts[0].whole_width, parts[0].pixel()
    image = numpy.zeros((height, width, pixel), numpy.uint8)
    for part in parts:
        top, left = max(part.y, 0), max(part.x, 0)
        bottom, right = min(part.y + part.height, height), min(part.x + part.width, width)
        if top >= bottom or left >= right:
            continue
        pixels = numpy.frombuffer(part.data, numpy.uint8).reshape(part.height, part.width, pixel)
        pixels = pixels[top - part.y : bottom - part.y, left - part.x : right - part.x]
        there = image[top:bottom, left:right]
        # A sum that overflows a byte is smaller than its operands.
        there += pixels
        there[there < pixels] = 255
    return Part(image.tobytes(), 0, 0, height, width, height, width)


def cut(image: Part, height: int, width: int) -> bytes:
    """The image in the size that a client wants: its upper left corner, black beyond the image."""
    if (height, width) == (image.height, image.width):
        return bytes(image.data)
    found = numpy.zeros((height, width, image.pixel()), numpy.uint8)
    pixels = numpy.frombuffer(image.data, numpy.uint8).reshape(image.height, image.width, -1)
    pixels = pixels[:height, :width]
    found[: len(pixels), : pixels.shape[1]] = pixels
    return found.tobytes()


def _as_list(part: tuple[Any, ...], _: Any) -> list[tuple[Any, ...]]:
    return [part]


def _liveviz(contributions: list[list[tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
    """Merges lists of parts. They are drawn only if they have more pixels than the image."""
    parts = [Part(*part) for some in contributions for part in some]
    if any(part[5:] != parts[0][5:] or part.pixel() != parts[0].pixel() for part in parts):
        raise ValueError("parts of one image have been deposited with different sizes of the whole image")
    if sum(len(part.data) for part in parts) > parts[0].whole_height * parts[0].whole_width * parts[0].pixel():
        parts = [drawn(parts)]
    return [tuple(part) for part in parts]


JOINED = Reducer.addReducer(_liveviz, pre=_as_list)

# The program's side

#: On every PE: the collector's method that takes images, and the configuration.
collector: Any = None
config: Config = Config()


@register
class Collector(Chare):
    """On PE 0: pending requests for images, and images without a request."""

    def __init__(self, callback: Callable[[ImageRequest], Any], poll: bool, cfg: Config) -> None:
        self.callback = callback
        self.poll = poll
        self.waiting: deque[tuple[ImageRequest, Any]] = deque()
        self.images: deque[Part] = deque()
        handlers.register("lvConfig", lambda _: handlers.send_reply(cfg.to_binary()))
        handlers.register("lvImage", self.asked)

    def asked(self, data: bytes) -> None:
        """A client has requested an image."""
        request = ImageRequest.from_bytes(data)
        self.waiting.append((request, handlers.delay_reply()))
        if self.poll:
            self.serve()
        elif len(self.waiting) == 1:
            self.callback(request)

    def send(self, parts: list[tuple[Any, ...]]) -> None:
        """An image is complete."""
        if self.poll or self.waiting:
            self.images.append(drawn([Part(*part) for part in parts]))
        self.serve()

    def serve(self) -> None:
        while self.waiting and self.images:
            (request, delayed), image = self.waiting.popleft(), self.images.popleft()
            handlers.send_delayed_reply(delayed, cut(image, request.height, request.width))
            # One image at a time, since two calls of an element may overtake each other.
            if self.waiting and not self.poll:
                self.callback(self.waiting[0][0])


class LiveViz:
    """The program's interface of liveViz."""

    @classmethod
    def init(cls, cfg: Config, arr: Any, cb: Any = None, poll: bool = False) -> None:
        """Lets clients request images. Call it in a coroutine, such as the entry point.

        For each image ``cb`` is called, an entry method of a collection, with the :class:`ImageRequest`; the elements then deposit their parts. ``cb`` may
        take the place of ``arr``, which is not needed. With ``poll`` nothing is called: the elements deposit images at any time, and PE 0 keeps them
        until clients request them.
        """
        made: Any = Chare(Collector, args=[arr if cb is None else cb, poll, cfg], onPE=0)
        charm.awaitCreation(made)
        values = {"collector": made, "config": cfg}
        charm.thisProxy.updateGlobals(values, module_name=__name__, awaitable=True).get()

    @classmethod
    def deposit(cls, buffer: Any, elem: Any, x: int, y: int, ht: int, wid: int, g_ht: int, g_wid: int) -> None:
        """Deposits an element's part of an image of ``g_wid`` x ``g_ht`` pixels: ``ht`` rows of ``wid`` pixels, the first at ``x`` and ``y``.

        Each element of the collection must call it once for each image.
        """
        if collector is None:
            raise Charm4PyError("LiveViz.deposit() needs LiveViz.init() first, on any PE")
        check_size(ht, wid, config.pixel)
        check_size(g_ht, g_wid, config.pixel)
        data = memoryview(buffer).tobytes()
        if len(data) != ht * wid * config.pixel:
            raise ValueError(f"{wid} x {ht} pixels of {config.pixel} bytes are not {len(data)} bytes")
        elem.reduce(collector.send, data=(data, int(x), int(y), int(ht), int(wid), int(g_ht), int(g_wid)), reducer=JOINED)


# The client's side


def __getattr__(name: str) -> Any:
    """Imports ``Client`` on first use, as in :mod:`charm4py.ccs`."""
    if name != "Client":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .ccs.images import Client

    globals()[name] = Client
    return Client
