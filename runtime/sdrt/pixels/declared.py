"""What a file declares that Pillow does not report, and the parts of it that Pillow should see.

Metadata that are dropped anyway must not cost the picture: what Pillow stumbles over is cut out before it looks.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import BinaryIO

from sdrt.pixels.colorimetry import Encoding

MAX_PROFILE_BYTES = 2**24
GAIN_MAP_NOTE = "the gain map, which makes an HDR picture of this one, is left out"

Part = tuple[int, int]
"""Start and stop (exclusive), in bytes."""


@dataclass(frozen=True)
class Declared:
    """``parts``: the bytes that Pillow should see; None: all. ``info``: entries for ``Image.info``.

    ``encoding``: of the colors, if declared by other means than an ICC profile, which it then overrides.
    ``several``: the file holds more pictures than ``parts`` show. ``notes``: for a person.
    """

    parts: tuple[Part, ...] | None = None
    info: dict[str, bytes | str] = field(default_factory=dict)
    encoding: Encoding | None = None
    several: bool = False
    notes: tuple[str, ...] = ()


class Excerpt(io.RawIOBase):
    """A seekable stream that shows only some parts of another one."""

    def __init__(self, stream: BinaryIO, parts: Sequence[Part]) -> None:
        self._stream = stream
        self._parts = [part for part in parts if part[0] < part[1]]
        self._ends = list(accumulate(stop - start for start, stop in self._parts))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        end = self._ends[-1] if self._ends else 0
        self._at = max(0, {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: end}[whence] + offset)
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill ``buffer`` from one part, however much of it there is; 0 at the end."""
        number = bisect_right(self._ends, self._at)
        if number == len(self._parts):
            return 0
        left = self._ends[number] - self._at
        self._stream.seek(self._parts[number][1] - left)
        data = self._stream.read(min(len(buffer), left))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def merged(parts: Sequence[Part], size_bytes: int) -> tuple[Part, ...] | None:
    """Joins adjacent parts, which are ascending; None where they cover the file of ``size_bytes``."""
    joined: list[Part] = []
    for start, stop in parts:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return None if joined == [(0, size_bytes)] else tuple(joined)
