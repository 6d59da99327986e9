"""TIFF's directories: the first without the tags that its picture does not need, and the size of inner pictures.

Source: TIFF 6.0, libtiff's tif_dir.h, and the BigTIFF design.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

SIGNATURES = {b"II*\0": "<", b"MM\0*": ">"}
_ENTRY_BYTES = 12
_BIG = {b"II+\0": "<", b"MM\0+": ">"}
_WIDTH, _HEIGHT = 256, 257
_NUMBERS = {3: "H", 4: "I", 16: "Q"}
"""Types in which a directory states a side."""
_OF_THE_PIXELS = frozenset(
    {
        *range(254, 260),  # kind, sides, bits, compression
        *(262, 263, 266),  # photometric interpretation, thresholding, fill order
        *(273, 274, 277, 278, 279),  # strips, orientation
        *(284, 290, 291, 292, 293, 297, 301, 317, 318, 319, 320),  # planes, gray, fax, predictor, colors
        *(321, 322, 323, 324, 325, 326, 327, 328, 330),  # halftones, tiles, fax, inner directories
        *(332, 333, 334, 336, 338, 339, 340, 341, 347),  # inks, more samples, their format, JPEG's tables
        *range(512, 522),  # JPEG as TIFF 6.0 had it
        *(529, 530, 531, 532),  # YCbCr
        *(34675, 50706),  # ICC profile; DNG's version, by which a raw file is known
    }
)


def without_metadata(data: bytes) -> bytes:
    """The file with a shorter first directory, byte for byte as long; the same where it needs all of its tags.

    Raises struct.error where there is no first directory.
    """
    order = SIGNATURES[data[:4]]
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    end = start + 2 + _ENTRY_BYTES * count
    entries = [data[at : at + _ENTRY_BYTES] for at in range(start + 2, end, _ENTRY_BYTES)]
    kept = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] in _OF_THE_PIXELS]
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + data[end : end + 4]
    return data[:start] + directory + data[start + len(directory) :]


def pixels_at(stream: BinaryIO, offset: int) -> int:
    """The pixels, width times height, of the picture of a directory at ``offset``; 0 where it states none.

    Moves the position of ``stream``. Raises OSError, ValueError, struct.error.
    """
    stream.seek(0)
    signature = stream.read(4)
    big = signature in _BIG
    order = _BIG[signature] if big else SIGNATURES.get(signature, "<")
    head, count, entry_bytes = ("HHQ", "Q", 20) if big else ("HHI", "H", _ENTRY_BYTES)
    stream.seek(offset)
    (entries,) = struct.unpack(order + count, stream.read(struct.calcsize(order + count)))
    sides = dict.fromkeys((_WIDTH, _HEIGHT), 0)
    for _ in range(min(entries, 0xFFFF)):
        entry = stream.read(entry_bytes)
        tag, kind, _count = struct.unpack_from(order + head, entry)
        if tag in sides and kind in _NUMBERS:
            (sides[tag],) = struct.unpack_from(order + _NUMBERS[kind], entry, struct.calcsize(order + head))
    return sides[_WIDTH] * sides[_HEIGHT]
