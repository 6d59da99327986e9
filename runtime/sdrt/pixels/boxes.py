"""Parses the boxes of AVIF, HEIF and JPEG 2000 files for color information and gain maps that Pillow ignores.

Sources: ISO/IEC 14496-12 (boxes), 23008-12 (HEIF: items and their properties), 15444-1 annex I (JP2), 21496-1 (gain
maps).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO

from sdrt.pixels.colorimetry import Encoding, from_cicp
from sdrt.pixels.declared import GAIN_MAP_NOTE, MAX_PROFILE_BYTES, Declared

_MAX_BOX_BYTES = MAX_PROFILE_BYTES + 2**20
_MAX_BOXES = 2**14
"""Limit of boxes in a box and of items with properties: a grid of so many tiles exceeds every size limit."""
_APPLE_GAIN_MAP = b"urn:com:apple:photo:2020:aux:hdrgainmap"
_JP2_SPACES = (12, 15, 16, 17, 18)
"""Enumerated color spaces that Pillow decodes to CMYK, gray or sRGB: CMYK, bilevel, sRGB, gray, sYCC."""


def is_boxes(prefix: bytes) -> bool:
    """Whether a file that begins with these 12 bytes is made of boxes."""
    return prefix[4:8] == b"ftyp" or prefix[:12] == b"\0\0\0\x0cjP  \r\n\x87\n"


def examine_boxes(stream: BinaryIO) -> Declared:
    """What the boxes of a file declare about its first picture. Moves the position of ``stream``.

    Broken boxes say nothing: whether such a file can be read is for Pillow's decoder to say.
    """
    try:
        for kind, data in _outer_boxes(stream):
            if kind == b"meta":
                return _examine_meta(data[4:])
            if kind == b"jp2h":
                return _examine_jp2(data)
    except (struct.error, IndexError):
        pass
    return Declared()


def without_metadata(data: bytes) -> bytes:
    """The file with its EXIF and XMP items renamed to an unknown type, so that decoders skip them; same length."""
    for kind in (b"Exif", b"mime"):
        data = data.replace(b"\0\0" + kind, b"\0\0skip")
    return data


def _outer_boxes(stream: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Type and contents of the top-level boxes that are used."""
    end = stream.seek(0, io.SEEK_END)
    at = 0
    while at + 8 <= end:
        stream.seek(at)
        size_bytes, kind = struct.unpack(">I4s", stream.read(8))
        header_bytes = 8
        if size_bytes == 1:
            (size_bytes,) = struct.unpack(">Q", stream.read(8))
            header_bytes = 16
        size_bytes = size_bytes or end - at
        if size_bytes < header_bytes:
            return
        if kind in (b"meta", b"jp2h") and size_bytes <= _MAX_BOX_BYTES:
            yield kind, stream.read(size_bytes - header_bytes)
        at += size_bytes


def _inner_boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    for _ in range(_MAX_BOXES):
        if at + 8 > len(data):
            return
        size_bytes, kind = struct.unpack_from(">I4s", data, at)
        size_bytes = size_bytes or len(data) - at
        if size_bytes < 8:
            return
        yield kind, data[at + 8 : at + size_bytes]
        at += size_bytes


def _examine_meta(data: bytes) -> Declared:
    boxes = dict(_inner_boxes(data))
    properties_of = dict(_inner_boxes(boxes.get(b"iprp", b"")))
    properties = list(_inner_boxes(properties_of.get(b"ipco", b"")))
    items = [item for kind, item in _inner_boxes(boxes.get(b"iinf", b"")[6:]) if kind == b"infe"]
    own = [properties[place - 1] for place in _primary(boxes, properties_of) if 1 <= place <= len(properties)]
    colors = [color for kind, color in own or properties if kind == b"colr"]
    gain_map = any(item[8:12] == b"tmap" for item in items) or any(_APPLE_GAIN_MAP in held for _, held in properties)
    notes: tuple[str, ...] = (GAIN_MAP_NOTE,) if gain_map else ()
    if any(color[:4] in (b"prof", b"rICC") for color in colors):
        return Declared(notes=notes)
    for color in colors:
        if color[:4] == b"nclx":
            primaries, transfer = struct.unpack_from(">HH", color, 4)
            encoding = from_cicp(primaries, transfer)
            if encoding is None:
                notes += (f"it declares color code points {primaries}, {transfer}, which are unknown: ignored",)
            return Declared(encoding=encoding, notes=notes)
    return Declared(notes=notes)


def _primary(boxes: dict[bytes, bytes], properties_of: dict[bytes, bytes]) -> list[int]:
    """The 1-based indices of the properties of the primary item."""
    pitm, ipma = boxes.get(b"pitm", b""), properties_of.get(b"ipma", b"")
    if len(pitm) < 6 or len(ipma) < 8:
        return []
    primary = int.from_bytes(pitm[4:6] if pitm[0] == 0 else pitm[4:8], "big")
    id_bytes = 2 if ipma[0] == 0 else 4
    place_bytes = 2 if ipma[3] & 1 else 1
    at = 8
    for _ in range(min(int.from_bytes(ipma[4:8], "big"), _MAX_BOXES)):
        item, count = int.from_bytes(ipma[at : at + id_bytes], "big"), ipma[at + id_bytes]
        at += id_bytes + 1
        if item == primary:
            places = [ipma[at + place_bytes * index :][:place_bytes] for index in range(count)]
            return [int.from_bytes(place, "big") & ((1 << (8 * place_bytes - 1)) - 1) for place in places]
        at += place_bytes * count
    return []


def _examine_jp2(data: bytes) -> Declared:
    for kind, color in _inner_boxes(data):
        if kind != b"colr":
            continue
        if color[0] in (2, 3):
            return Declared(info={"icc_profile": color[3:]})
        space = int.from_bytes(color[3:7], "big")
        if color[0] == 1 and space in _JP2_SPACES:
            return Declared(encoding=Encoding())
        return Declared(notes=(f"its JPEG 2000 color space {space} is not known: treated as sRGB",))
    return Declared()
