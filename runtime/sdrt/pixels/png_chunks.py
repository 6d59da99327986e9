"""Parses the chunks of a PNG file before Pillow does, and passes on only those that it needs for the pixels.

Pillow refuses a picture for a text of more than 1 MiB or a wrong checksum in a comment, takes a text with the keyword
"interlace" for its own note of interlacing, and does not read cICP. Here, as in libpng, a broken ancillary chunk is
left out. Of an animation the default image is kept. Source: https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from sdrt.limits import MAX_ANCILLARY_BYTES
from sdrt.pixels.colorimetry import Encoding, from_cicp, from_gamma
from sdrt.pixels.declared import MAX_PROFILE_BYTES, Declared, Part, merged
from sdrt.pixels.iptc import in_profile
from sdrt.pixels.metadata import ITEMS

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FRAME_BYTES = 12
"""Around a chunk's data: length, kind and checksum."""
_KEYWORD_BYTES = 80
"""With the zero behind it. iTXt has four more zeros and flags at least."""
_UNIT = 100_000
"""gAMA and cHRM count in 1/100000."""
_FIXED_BYTES = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"acTL": 8}
_CHUNKS = {
    b"tRNS": "transparency",
    b"iCCP": "icc_profile",
    b"cICP": "cicp",
    b"sRGB": "srgb",
    b"gAMA": "gamma",
    b"cHRM": "corners",
    b"acTL": "frames",
    **{item.png: name for name, item in ITEMS.items() if not item.png_text},
}
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_TEXTS = {item.png: name for name, item in ITEMS.items() if item.png_text}
_TEXTS |= {b"exif": "exif", b"Raw profile type exif": "Raw profile type exif"}
"""Chunks and text keywords that are used -> the name of the item, Pillow's where it has one."""
_PROFILES = [name for name, item in ITEMS.items() if item.png_profile]
_MAX_PROFILE_TEXT_BYTES = 3 * MAX_ANCILLARY_BYTES
"""Two digits a byte and the ends of lines."""
_BEFORE_PIXELS = (*_FIXED_BYTES, b"iCCP", b"tRNS")
_TRANSPARENCY_BYTES = {0: (2, 2), 2: (6, 6), 3: (1, 256)}
"""Color type -> minimum and maximum bytes of tRNS."""
_WITHOUT_PALETTE = (2, 6)
"""Color types for which PLTE is a suggestion to screens of few colors."""


class _Chunk(NamedTuple):
    """``kind``: four letters, or nothing where what follows is no chunk. ``stop``: its end, or the file's."""

    kind: bytes
    start: int
    stop: int


class _BrokenError(Exception):
    """An invalid chunk; the message continues after its name."""


def examine_png(stream: BinaryIO) -> Declared:
    """What the chunks of a PNG declare; the first of each kind counts. Moves the position of ``stream``.

    Broken critical chunks are left to Pillow.
    """
    parts: list[Part] = [(0, len(SIGNATURE))]
    found: dict[str, bytes] = {}
    seen: set[str | bytes] = set()
    notes: list[str] = []
    color_type, pictures = -1, 0
    for chunk in _chunks(stream):
        kind, start, stop = chunk
        if (kind[:1].isupper() or not kind) and (kind != b"PLTE" or color_type not in _WITHOUT_PALETTE):
            parts.append((start, stop))
            if kind == b"IHDR" and kind not in seen:
                stream.seek(start)
                color_type = stream.read(18)[-1]
        pictures += kind == b"fcTL" or (kind == b"IDAT" and kind not in seen and not pictures)
        name = _TEXTS.get(_keyword(stream, chunk)) if kind in _TEXT_CHUNKS else _CHUNKS.get(kind)
        late = kind in _BEFORE_PIXELS and b"IDAT" in seen
        if name is not None and name not in seen and not late:
            try:
                if kind == b"tRNS":
                    _check_transparency(stream, chunk, color_type)
                    parts.append((start, stop))
                elif name in _PROFILES:
                    found[name] = _profile(stream, chunk)
                else:
                    found[name] = _ancillary(stream, chunk)
            except _BrokenError as error:
                notes.append(f"PNG chunk {kind.decode('ascii')} {error}: ignored")
        seen.update({kind, name or ""})
    encoding = _encoding(found, notes)
    several = "frames" in found and pictures > 1
    info: dict[str, bytes | str] = {name: found[name] for name in ("icc_profile", *ITEMS) if name in found}
    if "Raw profile type exif" in found:
        info["Raw profile type exif"] = found["Raw profile type exif"].decode("latin-1")
    return Declared(merged(parts, stream.seek(0, io.SEEK_END)), info, encoding, several, tuple(notes))


def _chunks(stream: BinaryIO) -> Iterator[_Chunk]:
    end = stream.seek(0, io.SEEK_END)
    at = len(SIGNATURE)
    kind = b""
    while at < end and kind != b"IEND":
        stream.seek(at)
        head = stream.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if not (len(kind) == 4 and kind.isascii() and kind.isalpha()):
            yield _Chunk(b"", at, end)
            return
        yield _Chunk(kind, at, min(at + _FRAME_BYTES + length, end))
        at += _FRAME_BYTES + length


def _keyword(stream: BinaryIO, chunk: _Chunk) -> bytes:
    stream.seek(chunk.start + 8)
    return stream.read(_KEYWORD_BYTES).partition(b"\0")[0]


def _profile(stream: BinaryIO, chunk: _Chunk) -> bytes:
    """The bytes of a raw profile. Raises _BrokenError."""
    data = in_profile(_ancillary(stream, chunk, _MAX_PROFILE_TEXT_BYTES))
    if data is None:
        raise _BrokenError("has no IPTC in its raw profile")
    return data


def _ancillary(stream: BinaryIO, chunk: _Chunk, max_text_bytes: int = MAX_ANCILLARY_BYTES) -> bytes:
    """The value of an ancillary chunk. Raises _BrokenError."""
    kind = chunk.kind
    if kind in _FIXED_BYTES:
        data = _read(stream, chunk, _FIXED_BYTES[kind])
        if len(data) < _FIXED_BYTES[kind] or (kind == b"gAMA" and not any(data)):
            raise _BrokenError("is too short or 0")
        return data
    if kind == b"iCCP":
        profile = _read(stream, chunk, MAX_PROFILE_BYTES).partition(b"\0")[2]
        return _inflated(profile[1:], MAX_PROFILE_BYTES)
    if kind not in _TEXT_CHUNKS:
        return _read(stream, chunk, MAX_ANCILLARY_BYTES)
    data = _read(stream, chunk, _KEYWORD_BYTES + 4 + max_text_bytes)
    text = data.partition(b"\0")[2]
    if kind == b"zTXt":
        return _inflated(text[1:], max_text_bytes)
    if kind == b"iTXt":
        compressed, text = text[:1] == b"\1", text[2:].partition(b"\0")[2].partition(b"\0")[2]
        return _inflated(text, max_text_bytes) if compressed else text
    return text


def _check_transparency(stream: BinaryIO, chunk: _Chunk, color_type: int) -> None:
    minimum, maximum = _TRANSPARENCY_BYTES.get(color_type, (1, 0))
    if not minimum <= len(_read(stream, chunk, maximum)) <= maximum:
        raise _BrokenError("is too short")


def _read(stream: BinaryIO, chunk: _Chunk, limit_bytes: int) -> bytes:
    """The data of a chunk, checksum verified. Raises _BrokenError."""
    stream.seek(chunk.start)
    size_bytes = int.from_bytes(stream.read(4), "big")
    if size_bytes > limit_bytes:
        raise _BrokenError(f"has {size_bytes} bytes, at most {limit_bytes} are of use")
    data = stream.read(4 + size_bytes + 4)
    if len(data) < 8 + size_bytes:
        raise _BrokenError("is cut short")
    if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "big"):
        raise _BrokenError("has a wrong checksum")
    return data[4:-4]


def _inflated(data: bytes, limit_bytes: int) -> bytes:
    """Raises _BrokenError."""
    try:
        plain = zlib.decompressobj().decompress(data, limit_bytes + 1)
    except zlib.error:
        raise _BrokenError("cannot be inflated") from None
    if len(plain) > limit_bytes:
        raise _BrokenError(f"inflates to more than {limit_bytes} bytes")
    return plain


def _encoding(found: dict[str, bytes], notes: list[str]) -> Encoding | None:
    """In the order of the standard: cICP, iCCP, sRGB, then gAMA and cHRM. None for a profile, or without any."""
    if "cicp" in found:
        primaries, transfer, matrix, full_range = found["cicp"]
        encoding = from_cicp(primaries, transfer, narrow=full_range == 0)
        if encoding is not None and matrix == 0:
            return encoding
        notes.append(f"PNG chunk cICP has code points {primaries}, {transfer}, {matrix}, which are unknown: ignored")
    if "icc_profile" in found:
        return None
    if "srgb" in found:
        return Encoding()
    gamma = int.from_bytes(found["gamma"], "big") / _UNIT if "gamma" in found else None
    corners = [value / _UNIT for value in struct.unpack(">8I", found["corners"])] if "corners" in found else None
    return from_gamma(gamma, corners)
