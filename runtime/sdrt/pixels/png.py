"""Writes PNG files row by row. Pillow's writer needs the whole picture in memory, and twice the time.

Every row is stored as its difference from Paeth's prediction. Choosing among all five filters for each row saves less
than 0.1 % on the pictures that decoders paint, and costs as much time again as the compression.
Source: https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping

import numpy as np

from sdrt.pixels.iptc import as_profile
from sdrt.pixels.metadata import ITEMS, Metadata, is_utf8
from sdrt.pixels.picture import Pixels, Strips
from sdrt.streams import Sink

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB, _RGBA = 2, 6
_PAETH = 4
_LEVEL = 4
"""With Z_FILTERED within 0.5 % of level 6's bytes, in 40 % of its time."""
_BAND_PX = 2**18
"""Pixels that are filtered at once: a dozen arrays of this size stay in a processor's cache or near it."""


def write_png(strips: Strips, stream: Sink, texts: Mapping[str, str] | None = None) -> None:
    """Write a PNG of 8 bits, RGB or RGBA, with its metadata, see ``Metadata``. Holds one band of it at a time.

    ``texts``: keyword -> what a ``tEXt`` chunk says under it, both Latin-1.

    Raises what making the rows raises, and what ``stream.write`` raises.
    """
    kind = _RGB if strips.alpha is None else _RGBA
    stream.write(_SIGNATURE)
    _write_chunk(stream, b"IHDR", struct.pack(">IIBBBBB", strips.width_px, strips.height_px, 8, kind, 0, 0, 0))
    for chunk, data in _items(strips.metadata):
        _write_chunk(stream, chunk, data)
    for keyword, text in (texts or {}).items():
        _write_chunk(stream, b"tEXt", f"{keyword}\0{text}".encode("latin-1"))
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_FILTERED)
    above = np.zeros((1, strips.width_px, 3 if strips.alpha is None else 4), np.uint8)
    top, band = 0, max(1, _BAND_PX // strips.width_px)
    for strip in strips.rows:
        for first in range(0, len(strip), band):
            rows = strip[first : first + band]
            if strips.alpha is not None:
                rows = np.dstack([rows, strips.alpha[top : top + len(rows)]])
            _write_chunk(stream, b"IDAT", compressor.compress(_filtered(rows, above)))
            above = rows[-1:].copy()
            top += len(rows)
    assert top == strips.height_px, "strips make the whole height"
    _write_chunk(stream, b"IDAT", compressor.flush())
    _write_chunk(stream, b"IEND", b"")


def _items(metadata: Metadata) -> Iterator[tuple[bytes, bytes]]:
    """Kind and data of the PNG chunk of each item that is present, its bytes as they are, or as a raw profile.

    A text that is no UTF-8 goes into the chunk whose readers take it for Latin-1; zero bytes, of which the standard has
    none in texts, stay in either.
    """
    for name, item in ITEMS.items():
        data: bytes | None = getattr(metadata, name)
        if data is None:
            continue
        if not item.png_text:
            yield item.png, data
        elif item.png_profile:
            yield b"zTXt", item.png + b"\0\0" + zlib.compress(as_profile(data))
        elif is_utf8(data):
            yield b"iTXt", item.png + b"\0" * 5 + data
        else:
            yield b"tEXt", item.png + b"\0" + data


def _write_chunk(stream: Sink, kind: bytes, data: bytes) -> None:
    if data or kind == b"IEND":  # a compressor gives nothing until it has enough
        stream.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))


def _filtered(rows: Pixels, above: Pixels) -> bytes:
    """Rows (h, W, channels) below the row ``above`` (1, W, channels) as PNG has them: filter type, then differences."""
    height, width, channels = rows.shape
    upper = np.concatenate([above, rows[:-1]])
    padded = np.zeros((2, height, width + 1, channels), np.int16)  # a column of zeros before the first
    padded[0, :, 1:], padded[1, :, 1:] = rows, upper
    left, up, corner = padded[0, :, :-1], padded[1, :, 1:], padded[1, :, :-1]
    from_left, from_up = up - corner, left - corner
    from_corner = np.abs(from_left + from_up)
    np.abs(from_left, out=from_left)
    np.abs(from_up, out=from_up)
    nearest = np.where(
        (from_left <= from_up) & (from_left <= from_corner), left, np.where(from_up <= from_corner, up, corner)
    )
    lines = np.empty((height, 1 + width * channels), np.uint8)
    lines[:, 0] = _PAETH
    lines[:, 1:] = (rows - nearest.astype(np.uint8)).reshape(height, -1)
    return lines.tobytes()
