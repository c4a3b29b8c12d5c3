"""liveViz: elements of an array deposit parts of an image, which clients of CCS ask for.

A client asks PE 0 for ``lvConfig`` and ``lvImage``, in the form that liveViz's own clients use. :class:`Collector`, a chare there, has the elements called, one image
after another; what they deposit comes to it by a reduction that joins parts, and adds up those that have become more than the image.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional

import numpy

from .ccs import handlers
from .ccs.wire import REPLY_MAX
from .chare import Chare, register
from .errors import Charm4PyError
from .reduction import Reducer

if TYPE_CHECKING:
    from .ccs.images import Client as Client

#: An image has no more pixels on a side, and no more bytes.
SIDE_MAX = 1 << 15
BYTES_MAX = min(REPLY_MAX, 256 << 20)


@dataclass
class Config:
    """What a client is told of the images. ``isPush``: it is to ask for one after another by itself."""

    version: int = 1
    isColor: bool = True
    isPush: bool = True
    is3d: bool = False
    min: tuple[float, float, float] = (0.0, 0.0, 0.0)
    max: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def pixel(self) -> int:
        """Bytes of a pixel."""
        return 3 if self.isColor else 1

    def to_binary(self) -> bytes:
        """As it is sent."""
        corners = struct.pack(">6d", *self.min, *self.max) if self.is3d else b""
        return struct.pack(">4i", self.version, self.isColor, self.isPush, self.is3d) + corners

    @classmethod
    def from_bytes(cls, data: bytes) -> Config:
        """What was sent."""
        if len(data) not in (16, 64):
            raise ValueError(f"{len(data)} bytes are no configuration of liveViz")
        version, color, push, is_3d = struct.unpack_from(">4i", data)
        config = cls(version, bool(color), bool(push), bool(is_3d))
        if len(data) == 64:
            corners = struct.unpack_from(">6d", data, 16)
            config.min, config.max = corners[:3], corners[3:]
        return config


class Vector3d(NamedTuple):
    """A vector or a point of a client's view."""

    x: float = 0.0
    y: float = 0.0
    z: float = 0.0


@dataclass
class ImageRequest:
    """What a client asks for: the size of the image, and in 3D the axes of the screen, its origin, and the range of depths."""

    version: int
    request_type: int
    width: int
    height: int
    x: Optional[Vector3d] = None
    y: Optional[Vector3d] = None
    z: Optional[Vector3d] = None
    o: Optional[Vector3d] = None
    minZ: float = 0.0
    maxZ: float = 0.0

    def to_binary(self) -> bytes:
        """As it is sent."""
        sent = struct.pack(">4i", self.version, self.request_type, self.width, self.height)
        if self.x is not None:
            vectors = [vector or Vector3d() for vector in (self.x, self.y, self.z, self.o)]
            sent += struct.pack(">14d", *(part for vector in vectors for part in vector), self.minZ, self.maxZ)
        return sent

    @classmethod
    def from_bytes(cls, data: bytes) -> ImageRequest:
        """What was sent, checked."""
        if len(data) not in (16, 128):
            raise ValueError(f"{len(data)} bytes are no request for an image")
        request = cls(*struct.unpack_from(">4i", data))
        check_size(request.height, request.width, 3)
        if len(data) == 128:
            parts = struct.unpack_from(">14d", data, 16)
            request.x, request.y, request.z, request.o = (Vector3d(*parts[at : at + 3]) for at in range(0, 12, 3))
            request.minZ, request.maxZ = parts[12:]
        return request


def check_size(height: int, width: int, pixel: int) -> None:
    if not (0 < width <= SIDE_MAX and 0 < height <= SIDE_MAX and width * height * pixel <= BYTES_MAX):
        raise ValueError(f"an image cannot have {width} x {height} pixels")


# Images


class Part(NamedTuple):
    """A rectangle of an image: its pixels by rows, where they are, and the size of the whole image."""

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
    """The whole image. Where parts overlap their values are added, up to 255; what is outside is cut off."""
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
        # Adds, and what is too large for a byte has come out smaller than it was.
        there += pixels
        there[there < pixels] = 255
    return Part(image.tobytes(), 0, 0, height, width, height, width)


def cut(image: Part, height: int, width: int) -> bytes:
    """As a client wants it: the upper left corner, black where the image has ended."""
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
    """Merges parts: none is touched unless they have become more than the image."""
    parts = [Part(*part) for some in contributions for part in some]
    if any(part[5:] != parts[0][5:] or part.pixel() != parts[0].pixel() for part in parts):
        raise ValueError("parts of one image have been deposited with different sizes of the whole image")
    if sum(len(part.data) for part in parts) > parts[0].whole_height * parts[0].whole_width * parts[0].pixel():
        parts = [drawn(parts)]
    return [tuple(part) for part in parts]


JOINED = Reducer.addReducer(_liveviz, pre=_as_list)

# The program's side

#: On every PE: the chare that images go to, and the configuration.
collector: Any = None
config: Config = Config()


@register
class Collector(Chare):
    """On PE 0: who wants an image, and images that nobody has wanted yet."""

    def __init__(self, callback: Callable[[ImageRequest], Any], poll: bool, cfg: Config) -> None:
        self.callback = callback
        self.poll = poll
        self.waiting: deque[tuple[ImageRequest, Any]] = deque()
        self.images: deque[Part] = deque()
        handlers.register("lvConfig", lambda _: handlers.send_reply(cfg.to_binary()))
        handlers.register("lvImage", self.asked)

    def asked(self, data: bytes) -> None:
        """A client wants an image."""
        request = ImageRequest.from_bytes(data)
        self.waiting.append((request, handlers.delay_reply()))
        if self.poll:
            self.serve()
        elif len(self.waiting) == 1:
            self.callback(request)

    def send(self, parts: list[tuple[Any, ...]]) -> None:
        """An image is there."""
        if self.poll or self.waiting:
            self.images.append(drawn([Part(*part) for part in parts]))
        self.serve()

    def serve(self) -> None:
        while self.waiting and self.images:
            (request, delayed), image = self.waiting.popleft(), self.images.popleft()
            handlers.send_delayed_reply(delayed, cut(image, request.height, request.width))
            # One after another: two calls of an element may overtake each other.
            if self.waiting and not self.poll:
                self.callback(self.waiting[0][0])


class LiveViz:
    """How a program takes part."""

    @classmethod
    def init(cls, cfg: Config, arr: Any, cb: Any = None, poll: bool = False) -> None:
        """Lets clients ask for images, each of which ``cb``, an entry method of a collection that takes the :class:`ImageRequest`, has its elements deposit.

        ``cb`` may take the place of ``arr``, which is not needed. With ``poll`` nothing is called: the elements deposit images when they like, which are kept on PE 0
        until clients ask. To be called in a coroutine, such as the entry point.
        """
        from .charm import charm

        made: Any = Chare(Collector, args=[arr if cb is None else cb, poll, cfg], onPE=0)
        charm.awaitCreation(made)
        values = {"collector": made, "config": cfg}
        charm.thisProxy.updateGlobals(values, module_name=__name__, awaitable=True).get()

    @classmethod
    def deposit(cls, buffer: Any, elem: Any, x: int, y: int, ht: int, wid: int, g_ht: int, g_wid: int) -> None:
        """Gives an element's part of an image of ``g_wid`` x ``g_ht`` pixels: ``ht`` rows of ``wid`` pixels, the first of which is at ``x`` and ``y``.

        Each element of the collection does so once for each image.
        """
        if collector is None:
            raise Charm4PyError("LiveViz.deposit(): LiveViz.init() comes first, on any PE")
        check_size(ht, wid, config.pixel)
        check_size(g_ht, g_wid, config.pixel)
        data = memoryview(buffer).tobytes()
        if len(data) != ht * wid * config.pixel:
            raise ValueError(f"{wid} x {ht} pixels of {config.pixel} bytes are not {len(data)} bytes")
        elem.reduce(collector.send, data=(data, int(x), int(y), int(ht), int(wid), int(g_ht), int(g_wid)), reducer=JOINED)


# The client's side


def __getattr__(name: str) -> Any:
    """``Client``, as in :mod:`charm4py.ccs`."""
    if name != "Client":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .ccs.images import Client

    globals()[name] = Client
    return Client
