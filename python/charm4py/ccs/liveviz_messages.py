"""The messages of liveViz: requests of clients, and the configuration that they get."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple, Optional

from .wire import REPLY_MAX

#: The limits of an image: pixels on a side, and bytes.
SIDE_MAX = 1 << 15
BYTES_MAX = min(REPLY_MAX, 256 << 20)


@dataclass
class Config:
    """The configuration that a client gets. With ``isPush`` it requests one image after another."""

    version: int = 1
    isColor: bool = True
    isPush: bool = True
    is3d: bool = False
    min: tuple[float, float, float] = (0.0, 0.0, 0.0)
    max: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def pixel(self) -> int:
        """The bytes of a pixel."""
        return 3 if self.isColor else 1

    def to_binary(self) -> bytes:
        """Its binary form."""
        corners = struct.pack(">6d", *self.min, *self.max) if self.is3d else b""
        return struct.pack(">4i", self.version, self.isColor, self.isPush, self.is3d) + corners

    @classmethod
    def from_bytes(cls, data: bytes) -> Config:
        """Reads the binary form."""
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
    """A request for an image: its size, and in 3D the axes of the screen, the origin, and the range of depths."""

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
        """Its binary form."""
        sent = struct.pack(">4i", self.version, self.request_type, self.width, self.height)
        if self.x is not None:
            vectors = [vector or Vector3d() for vector in (self.x, self.y, self.z, self.o)]
            sent += struct.pack(">14d", *(part for vector in vectors for part in vector), self.minZ, self.maxZ)
        return sent

    @classmethod
    def from_bytes(cls, data: bytes) -> ImageRequest:
        """Reads and checks the binary form."""
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
