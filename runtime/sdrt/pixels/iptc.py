"""IPTC-IIM as bytes, true of the upright picture, and what other files wrap it in: image resources, raw profiles.

Sources: IPTC-NAA Information Interchange Model 4.2; Adobe Photoshop File Formats Specification (image resource blocks);
ImageMagick's coders/png.c (raw profiles), as ExifTool and Exiv2 read them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

APP13_PREFIX = b"Photoshop 3.0\0"
RESOURCE = 0x0404
"""Number of the image resource that holds IPTC; key in Pillow's ``Image.info["photoshop"]``."""
TIFF_TAG = 33723
_SIGNATURE = b"8BIM"
_HEAD = _SIGNATURE + RESOURCE.to_bytes(2, "big") + bytes(2)
"""Of a resource without a name; four bytes of length follow."""
JPEG_PREFIX = APP13_PREFIX + _HEAD + bytes(4)
_MAX_SEGMENT_BYTES = 65533
_HEX_IN_LINE = 72

_DATA_SET = 0x1C
_ORIENTATION = 2, 131
_PREVIEW = (2, 200), (2, 201), (2, 202)
_RECORDS_OF_THE_PIXELS = 3, 7, 8, 9
"""How a raster is stored, and the raster itself."""


def upright(iptc: bytes, width_px: int, height_px: int) -> bytes:
    """The data sets for a picture of this size: the orientation is that of its sides, previews are gone.

    What cannot be parsed stays unchanged.
    """
    letter = b"L" if width_px > height_px else b"P" if width_px < height_px else b"S"
    parts, end = [], 0
    try:
        for key, start, data, end in _data_sets(iptc):
            if key == _ORIENTATION and end - data == 1:
                parts.append(iptc[start:data] + letter)
            elif key not in _PREVIEW and key[0] not in _RECORDS_OF_THE_PIXELS:
                parts.append(iptc[start:end])
    except (ValueError, IndexError):
        return iptc
    return b"".join([*parts, iptc[end:]])


def _data_sets(iptc: bytes) -> Iterator[tuple[tuple[int, int], int, int, int]]:
    """Record and number of each data set, its start, its data's start, its end. Zeros may follow the last.

    Raises ValueError and IndexError for what is no data set.
    """
    at, stop = 0, len(iptc.rstrip(b"\0"))
    while at < stop:
        if iptc[at] != _DATA_SET:
            raise ValueError("no data set")
        start, size_bytes = at + 5, int.from_bytes(iptc[at + 3 : at + 5], "big")
        if size_bytes >= 1 << 15:  # the length of the length, which follows
            start += size_bytes - (1 << 15)
            size_bytes = int.from_bytes(iptc[at + 5 : start], "big")
        if start + size_bytes > len(iptc):
            raise ValueError("cut short")
        yield (iptc[at + 1], iptc[at + 2]), at, start, start + size_bytes
        at = start + size_bytes


def in_resources(blocks: bytes) -> bytes | None:
    """IPTC among image resources; None: there is none, or it is cut short. Of several the last counts, as in Pillow."""
    found = None
    at = 0
    while blocks[at : at + 4] == _SIGNATURE and at + 7 <= len(blocks):
        kind = int.from_bytes(blocks[at + 4 : at + 6], "big")
        start = at + 6 + (2 + blocks[at + 6]) // 2 * 2 + 4  # the name has its length before it, both in even bytes
        size_bytes = int.from_bytes(blocks[start - 4 : start], "big")
        stop = start + size_bytes
        if stop > len(blocks):
            break
        if kind == RESOURCE:
            found = blocks[start:stop]
        at = stop + size_bytes % 2
    return found or None


def as_resource(iptc: bytes) -> bytes:
    """The image resource that holds it."""
    return _HEAD + len(iptc).to_bytes(4, "big") + iptc + bytes(len(iptc) % 2)


def as_segment(iptc: bytes) -> bytes:
    """The segment APP13 of a JPEG that holds it, marker included.

    The resource's last byte, which makes it even, is left out where the segment has no room for it.
    """
    body = (APP13_PREFIX + as_resource(iptc))[:_MAX_SEGMENT_BYTES]
    return b"\xff\xed" + (len(body) + 2).to_bytes(2, "big") + body


def in_profile(text: bytes) -> bytes | None:
    """IPTC in a raw profile, bare or in image resources; None: there is none, or what is there is no raw profile."""
    _, _, digits = text.lstrip().partition(b"\n")[2].partition(b"\n")  # behind lines with a name and a length
    try:
        data = bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        return None
    return data if data[:1] == bytes([_DATA_SET]) else in_resources(data)


def as_profile(iptc: bytes) -> bytes:
    """The raw profile, a text, that holds it."""
    data = as_resource(iptc)
    digits = data.hex().encode()
    ends = [*range(0, len(digits), _HEX_IN_LINE), len(digits)]
    return b"\niptc\n%8d\n" % len(data) + b"".join(digits[start:stop] + b"\n" for start, stop in pairwise(ends))
