"""Parses the segments of a JPEG file before Pillow does; repairs files that lack only their end marker.

Pillow refuses a picture for a segment of metadata that is shorter than it expects, and for a missing end marker.
Sources: ITU-T T.81 (JPEG), T.872 (its application segments), ISO 21496-1 and Ultra HDR 1.1 (gain maps).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from sdrt.pixels.declared import GAIN_MAP_NOTE, MAX_PROFILE_BYTES, Declared, Part, merged
from sdrt.pixels.iptc import APP13_PREFIX, in_resources

SIGNATURE = b"\xff\xd8\xff"

_SOS, _EOI = 0xDA, 0xD9
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))
_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_APP0, _APP2, _APP13, _APP14 = 0xE0, 0xE2, 0xED, 0xEE
_SHORTEST = ((_APP0, b"JFIF", 14), (_APP2, b"ICC_PROFILE\0", 15), (_APP14, b"Adobe", 12))
"""Marker, identifier and minimum length of a segment; libjpeg skips shorter ones too."""
_GAIN_MAPS = (b"http://ns.adobe.com/hdr-gain-map/1.0/", b"urn:iso:std:iso:ts:21496:-1\0")
_APPLE_GAIN_MAP = b"http://ns.apple.com/HDRGainMap/1.0/"
"""In the metadata of the gain map, a second picture behind the first (CIPA DC-007, MPF)."""
_FILLING = bytes(range(1, 255)) * 16
"""Bytes of all kinds but markers: what no block can read without a trace."""
_MARKER_AFTER_SCAN = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")


def examine_jpeg(stream: BinaryIO) -> Declared:
    """What the segments before the pixels declare. Moves the position of ``stream``."""
    size_bytes = stream.seek(0, io.SEEK_END)
    parts: list[Part] = []
    kept_from = at = 2
    gain_map = further_pictures = False
    resources = bytearray()  # of one picture, in as many segments as they need
    while at < size_bytes:
        stream.seek(at)
        head = stream.read(4)
        marker = head[1] if len(head) == 4 and head[0] == 0xFF else _SOS
        if marker == 0xFF:
            at += 1
            continue
        if marker in (0, _SOS, _EOI):
            break
        stop = at + 2 if marker in _WITHOUT_LENGTH else at + 2 + int.from_bytes(head[2:], "big")
        data = stream.read(max(0, stop - at - 4))
        short = any(marker == kind and data.startswith(name) and len(data) < fewest for kind, name, fewest in _SHORTEST)
        if short or marker == _APP13:
            parts.append((kept_from, at))
            kept_from = stop
        if marker == _APP13 and data.startswith(APP13_PREFIX) and len(resources) < MAX_PROFILE_BYTES:
            resources += data[len(APP13_PREFIX) :]
        gain_map = gain_map or (_APP0 < marker <= _APP2 and any(name in data for name in _GAIN_MAPS))
        further_pictures = further_pictures or (marker == _APP2 and data.startswith(b"MPF\0"))
        at = stop
    if further_pictures and not gain_map:
        stream.seek(at)
        gain_map = _APPLE_GAIN_MAP in stream.read()
    kept = merged([(0, 2), *parts, (kept_from, size_bytes)], size_bytes)
    iptc = in_resources(bytes(resources))
    info: dict[str, bytes | str] = {} if iptc is None else {"iptc": iptc}
    return Declared(kept, info, notes=(GAIN_MAP_NOTE,) if gain_map else ())


def completed(data: bytes) -> bytes | None:
    """``data``, a JPEG that Pillow considers truncated, with the end marker, if that is all that is missing.

    It is all where every scan is there and no pixel changes with what would follow in the last one.

    Raises whatever Pillow raises.
    """
    data = data.rstrip(b"\xff")  # half of the end marker
    if not _all_scans(data):
        return None
    end = bytes([0xFF, _EOI])
    pixels = _pixels(data + end)
    alike = all(np.array_equal(pixels, _pixels(data + more + end)) for more in (_FILLING, _FILLING[::-1]))
    return data + end if alike else None


def _pixels(data: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def _all_scans(data: bytes) -> bool:
    """Whether the scans that have begun code every coefficient of every component down to its last bit."""
    lowest_bit: dict[int, list[int]] = {}
    progressive = False
    for marker, segment in _segments(data):
        if marker in _FRAMES:
            progressive = marker in _PROGRESSIVE
            lowest_bit = {component: [99] * 64 for component in segment[6::3]}
        elif marker == _SOS and segment and len(segment) >= 2 * segment[0] + 4:
            count = segment[0]
            first, last, bits = segment[2 * count + 1 :][:3] if progressive else (0, 63, 0)
            for component in segment[1 : 2 * count + 1 : 2]:
                if component in lowest_bit:
                    lowest_bit[component][first : last + 1] = [bits & 15] * (min(last, 63) + 1 - first)
    return bool(lowest_bit) and not any(bit for bits in lowest_bit.values() for bit in bits)


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and data of every segment up to the end; entropy-coded data is skipped."""
    at = 2
    while found := _MARKER_AFTER_SCAN.search(data, at):
        marker, start = found[1][0], found.end()
        if marker == _EOI:
            return
        at = start
        if marker not in _WITHOUT_LENGTH:
            at += int.from_bytes(data[start : start + 2], "big")
            yield marker, data[start + 2 : at]
