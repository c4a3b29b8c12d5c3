"""The client of liveViz: a program outside of the job requests images."""

from __future__ import annotations

from . import client
from .liveviz_messages import Config, ImageRequest


class Client(client.Client):
    """A client that requests images."""

    def config(self) -> Config:
        """The configuration of the program's images."""
        return Config.from_bytes(self.request("lvConfig"))

    def image(self, width: int, height: int, timeout: float | None = None) -> bytes:
        """The next image, row by row: one byte for each pixel, or three if it has colors."""
        return self.request("lvImage", ImageRequest(1, 0, width, height).to_binary(), timeout=timeout)
