"""liveViz's messages: what a client asks for, and what it is told of the images."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple, Optional

from .wire import REPLY_MAX

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
