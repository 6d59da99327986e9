"""Reads the EXIF tags that affect the pixels, and corrects them in place for upright pixels.

Nothing moves, because makers' notes point into the whole; only the end may go. Source: CIPA DC-008 (Exif 3.0).
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PREFIX = b"Exif\x00\x00"
"""The prefix of EXIF in JPEG and Pillow. sdrt stores EXIF without it, from the TIFF header on."""

_SHORT, _LONG = 3, 4
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 129: 1}
_ORIENTATION = 0x0112
_EXIF_DIRECTORY, _GPS_DIRECTORY, _INTEROP_DIRECTORY = 0x8769, 0x8825, 0xA005
_WIDTHS, _HEIGHTS = (0x0100, 0xA002), (0x0101, 0xA003)
_RESOLUTIONS = ((0x011A, 0x011B), (0xA20E, 0xA20F))
"""Across and down: of the picture and of the focal plane."""
_SUBJECT = (0x9214, 0xA214)
"""Where the subject is, in pixels of the picture before it was turned."""
_SUB_PICTURES = 0x014A
_THUMBNAIL = ((0x0201, 0x0202), (0x0111, 0x0117))
"""Offsets and sizes of a thumbnail's bytes: as JPEG, as strips."""
_MAX_DIRECTORIES, _MAX_STRIPS = 8, 256
_COLOR_SPACE, _INTEROP_INDEX = 0xA001, 0x0001


@dataclass(frozen=True)
class Entry:
    """One tag. ``at``: offset of its twelve bytes. ``value``: offset of its value, ``size_bytes`` long."""

    tag: int
    kind: int
    count: int
    at: int
    value: int
    size_bytes: int


@dataclass(frozen=True)
class Directory:
    """``next_at``: the position of the offset of the next directory."""

    start: int
    entries: tuple[Entry, ...]
    next_at: int


class Exif:
    """EXIF bytes from the TIFF header on. Raises ValueError without such a header or a first directory."""

    def __init__(self, data: bytes) -> None:
        order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(data[:4])
        if order is None:
            raise ValueError("no TIFF header")
        self._order = order
        self._data = bytearray(data)
        try:
            self._image = self._directory(self._number(4, 4))
        except struct.error:
            raise ValueError("no first directory") from None
        self._detail = self._below(self._image, _EXIF_DIRECTORY)
        self._others = (self._below(self._image, _GPS_DIRECTORY), self._below(self._detail, _INTEROP_DIRECTORY))

    @property
    def orientation(self) -> int | None:
        """1..8; 1 for any other number; None without the tag."""
        stated = [self._number(entry.value, entry.size_bytes) for entry in self._orientations()]
        return None if not stated else stated[-1] if 1 <= stated[-1] <= 8 else 1

    @property
    def adobe_rgb(self) -> bool:
        """Whether the colors are Adobe RGB, stated as a DCF option file (R03) or in the way of older cameras."""
        found = self._entries(self._detail, _COLOR_SPACE)
        spaces = [self._number(e.value, 2) for e in found if e.kind == _SHORT and e.count == 1]
        indices = [self._data[e.value : e.value + 3] for e in self._entries(self._others[1], _INTEROP_INDEX)]
        return bool(spaces) and (spaces[0] == 2 or (spaces[0] == 0xFFFF and indices[:1] == [b"R03"]))

    def upright(self, orientation: int, width_px: int, height_px: int) -> bytes:
        """The bytes for a picture of this size that was turned from ``orientation`` to 1.

        The orientation, the sides and the resolutions are put right; thumbnails, and where the subject was before the
        picture was turned, are gone. All else is byte for byte as it was.
        """
        for entry in self._orientations():
            self._put(entry, 1)
        for directory in (self._image, self._detail):
            for tags, side_px in ((_WIDTHS, width_px), (_HEIGHTS, height_px)):
                for tag in tags:
                    for entry in self._entries(directory, tag):
                        if entry.kind in (_SHORT, _LONG) and entry.count == 1:
                            self._put(entry, side_px)
            for pair in _RESOLUTIONS if orientation >= 5 else ():
                across, down = (list(self._entries(directory, tag)) for tag in pair)
                if across and down:
                    one, other = (slice(entry.at + 2, entry.at + 12) for entry in (across[0], down[0]))
                    self._data[one], self._data[other] = self._data[other], self._data[one]
        self._remove_thumbnails()
        gone = (_SUB_PICTURES, *(_SUBJECT if orientation != 1 else ()))
        for directory in (self._image, self._detail):
            if directory is not None and any(entry.tag in gone for entry in directory.entries):
                self._rewrite(directory, gone)
        return bytes(self._data)

    def _number(self, at: int, size_bytes: int) -> int:
        if at + size_bytes > len(self._data):
            raise struct.error("beyond the end")
        return int.from_bytes(self._data[at : at + size_bytes], "little" if self._order == "<" else "big")

    def _directory(self, start: int) -> Directory:
        """Raises struct.error."""
        count = self._number(start, 2)
        entries = []
        for at in range(start + 2, min(start + 2 + 12 * count, len(self._data) - 11), 12):
            tag, kind, values, offset = struct.unpack_from(f"{self._order}HHII", self._data, at)
            size_bytes = _TYPE_BYTES.get(kind, 1) * values
            entries.append(Entry(tag, kind, values, at, at + 8 if size_bytes <= 4 else offset, size_bytes))
        return Directory(start, tuple(entries), start + 2 + 12 * count)

    def _below(self, directory: Directory | None, tag: int) -> Directory | None:
        for entry in self._entries(directory, tag):
            try:
                return self._directory(self._number(entry.value, 4))
            except struct.error:
                return None
        return None

    @staticmethod
    def _entries(directory: Directory | None, tag: int) -> Iterator[Entry]:
        return (entry for entry in (directory.entries if directory is not None else ()) if entry.tag == tag)

    def _orientations(self) -> list[Entry]:
        found = self._entries(self._image, _ORIENTATION)
        return [entry for entry in found if entry.kind in (_SHORT, _LONG) and entry.count == 1]

    def _put(self, entry: Entry, number: int) -> None:
        """Writes one number; as LONG if it does not fit SHORT."""
        if entry.kind == _LONG or number > 0xFFFF:
            struct.pack_into(f"{self._order}HII", self._data, entry.at + 2, _LONG, 1, number)
        else:
            struct.pack_into(f"{self._order}H", self._data, entry.at + 8, number)

    def _rewrite(self, directory: Directory, without: tuple[int, ...]) -> None:
        rest = bytes(self._data[directory.next_at : directory.next_at + 4])
        kept = [bytes(self._data[e.at : e.at + 12]) for e in directory.entries if e.tag not in without]
        coded = struct.pack(f"{self._order}H", len(kept)) + b"".join(kept) + rest
        self._data[directory.start : directory.start + len(coded)] = coded

    def _remove_thumbnails(self) -> None:
        """Unlinks the directories after the first. Bytes that only they use become zeros, or are cut off at the end."""
        kept = [extent for held in (self._image, self._detail, *self._others) for extent in self._extents(held)]
        gone = []
        link = self._image.next_at
        with contextlib.suppress(struct.error):  # the chain ends where it leads out of the bytes
            for _ in range(_MAX_DIRECTORIES):
                if not (start := self._number(link, 4)):
                    break
                thumbnail = self._directory(start)
                gone += [*self._extents(thumbnail), *self._thumbnail(thumbnail)]
                link = thumbnail.next_at
        if self._image.next_at + 4 <= len(self._data):
            self._data[self._image.next_at : self._image.next_at + 4] = bytes(4)
        if not gone:
            return
        needed = self._covered(kept)
        end = int(needed.nonzero()[0].max()) + 1
        import numpy as np  # only here: to open an .sdl file in Pillow takes none

        np.frombuffer(self._data, np.uint8)[self._covered(gone) & ~needed] = 0
        del self._data[min((start for start, _ in gone if start >= end), default=len(self._data)) :]

    def _covered(self, extents: list[tuple[int, int]]) -> npt.NDArray[np.bool_]:
        """The bytes that any of them use."""
        import numpy as np

        change = np.zeros(len(self._data) + 1, np.int32)
        ends = np.minimum(np.array(extents, np.int64), len(self._data))
        np.add.at(change, ends[:, 0], 1)
        np.add.at(change, ends[:, 1], -1)
        covered: npt.NDArray[np.bool_] = np.cumsum(change[:-1]) > 0
        return covered

    @staticmethod
    def _extents(directory: Directory | None) -> list[tuple[int, int]]:
        if directory is None:
            return []
        far = [(e.value, e.value + e.size_bytes) for e in directory.entries if e.size_bytes > 4]
        return [(directory.start, directory.next_at + 4), *far]

    def _thumbnail(self, directory: Directory) -> Iterator[tuple[int, int]]:
        for offset_tag, size_tag in _THUMBNAIL:
            offsets, sizes = (list(self._numbers(directory, tag)) for tag in (offset_tag, size_tag))
            yield from ((offset, offset + size) for offset, size in zip(offsets, sizes, strict=False))

    def _numbers(self, directory: Directory, tag: int) -> Iterator[int]:
        entry = next(self._entries(directory, tag), None)
        if entry is not None and entry.kind in (_SHORT, _LONG):
            each = _TYPE_BYTES[entry.kind]
            stop = min(entry.value + each * min(entry.count, _MAX_STRIPS), len(self._data) - each + 1)
            yield from (self._number(at, each) for at in range(entry.value, stop, each))
