"""Bare AV1 and VP8L bitstreams of still pictures: strips the AVIF or WebP container, and restores it.

An AVIF file of one picture spends some 290 bytes on boxes; a WebP file 20. Here a picture is the bare bitstream: an AV1
sequence header and one frame (the AV1 specification's low-overhead format), or a VP8L image-stream (RFC 9649). The size
of the picture is read from the stream itself before any decoder sees it.

Sources: AV1 Bitstream & Decoding Process Specification, 5.3 (OBUs) and 5.5 (sequence header); ISO/IEC 14496-12 and
23008-12 (boxes); AV1 Image File Format; RFC 9649, 3.4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from sdrt.errors import CorruptError

_SEQUENCE_HEADER, _TEMPORAL_DELIMITER, _FRAME = 1, 2, 6
_HAS_SIZE = 2
_VP8L_SIGNATURE = 0x2F


@dataclass(frozen=True)
class SequenceHeader:
    """The fields of an AV1 sequence header that an AVIF file repeats.

    ``profile``: 0 (4:2:0 or gray) or 1 (4:4:4). ``level``: seq_level_idx. ``width_px``, ``height_px``: of the frame.
    """

    profile: int
    level: int
    width_px: int
    height_px: int
    gray: bool


def av1_stream(avif: bytes) -> bytes:
    """The bare bitstream of an AVIF file of one opaque picture, as libavif writes it.

    Raises CorruptError for any other layout.
    """
    at = 0
    while at + 8 <= len(avif):
        size_bytes, kind = struct.unpack_from(">I4s", avif, at)
        if kind == b"mdat":
            units = _units(avif[at + 8 : at + size_bytes])
            stream = b"".join(_unit(kind, body) for kind, body in units if kind != _TEMPORAL_DELIMITER)
            read_sequence_header(stream)
            return stream
        if size_bytes < 8:
            break
        at += size_bytes
    raise CorruptError("the AVIF file holds no media data")


def avif_file(stream: bytes) -> bytes:
    """The AVIF file of a bare bitstream, for Pillow. Raises as ``read_sequence_header``."""
    header = read_sequence_header(stream)
    channels = 1 if header.gray else 3
    configuration = bytes([0x81, header.profile << 5 | header.level, 0x10 if header.gray else 0, 0])
    if header.profile == 0:
        configuration = configuration[:2] + bytes([configuration[2] | 0x0C, 0])
    properties = b"".join(
        (
            _full_box(b"ispe", struct.pack(">II", header.width_px, header.height_px)),
            _full_box(b"pixi", bytes([channels, *[8] * channels])),
            _box(b"av1C", configuration),
        )
    )
    associations = _full_box(b"ipma", struct.pack(">IHB3B", 1, 1, 3, 1, 2, 0x83))
    item = _box(b"infe", b"\x02\0\0\0" + struct.pack(">HH4s", 1, 0, b"av01") + b"\0")
    kind = _box(b"ftyp", b"avif\0\0\0\0avifmif1miaf")

    def meta(offset: int) -> bytes:
        location = struct.pack(">BBHHHHII", 0x44, 0, 1, 1, 0, 1, offset, len(stream))
        parts = (
            _full_box(b"hdlr", bytes(4) + b"pict" + bytes(13)),
            _full_box(b"pitm", struct.pack(">H", 1)),
            _full_box(b"iloc", location),
            _full_box(b"iinf", struct.pack(">H", 1) + item),
            _box(b"iprp", _box(b"ipco", properties) + associations),
        )
        return _full_box(b"meta", b"".join(parts))

    return kind + meta(len(kind) + len(meta(0)) + 8) + _box(b"mdat", stream)


def read_sequence_header(stream: bytes) -> SequenceHeader:
    """Parses the sequence header of a bare AV1 bitstream.

    Raises CorruptError unless the stream is one sequence header and one frame of a single still picture of 8 bits whose
    size no frame can change (reduced_still_picture_header), to the last byte.
    """
    units = _units(stream)
    if [kind for kind, _ in units] != [_SEQUENCE_HEADER, _FRAME]:
        raise CorruptError("the patches' AV1 stream is not one sequence header and one frame")
    bits = _Bits(units[0][1])
    profile, still, reduced = bits.take(3), bits.take(1), bits.take(1)
    if profile > 1 or not still or not reduced:
        raise CorruptError("the patches' AV1 stream is not a still picture of profile 0 or 1")
    level = bits.take(5)
    wide, high = bits.take(4) + 1, bits.take(4) + 1
    width_px, height_px = bits.take(wide) + 1, bits.take(high) + 1
    bits.take(6)  # tools: superblocks, intra filters, superres, CDEF, restoration
    if bits.take(1):
        raise CorruptError("the patches' AV1 stream has more than 8 bits a sample")
    gray = bool(profile == 0 and bits.take(1))
    return SequenceHeader(profile, level, width_px, height_px, gray)


def vp8l_stream(webp: bytes) -> bytes:
    """The bare image-stream of a lossless WebP file. Raises CorruptError for any other layout."""
    if webp[8:16] != b"WEBPVP8L":
        raise CorruptError("the WebP file is not a plain lossless one")
    return webp[20 : 20 + int.from_bytes(webp[16:20], "little")]


def webp_file(stream: bytes) -> bytes:
    """The WebP file of a bare VP8L image-stream, for Pillow."""
    padded = stream + b"\0" * (len(stream) % 2)
    chunk = b"WEBPVP8L" + len(stream).to_bytes(4, "little") + padded
    return b"RIFF" + len(chunk).to_bytes(4, "little") + chunk


def vp8l_size(stream: bytes) -> tuple[int, int]:
    """Width and height in pixels that a VP8L image-stream begins with. Raises CorruptError for any other stream."""
    if len(stream) < 5 or stream[0] != _VP8L_SIGNATURE or stream[4] >> 5:
        raise CorruptError("the patches' stream does not start with a VP8L header")
    word = int.from_bytes(stream[1:5], "little")
    return (word & 0x3FFF) + 1, (word >> 14 & 0x3FFF) + 1


def _units(data: bytes) -> list[tuple[int, bytes]]:
    """Kind and contents of the OBUs, each with its size, that make up ``data``."""
    units = []
    at = 0
    while at < len(data):
        head = data[at]
        if head & 0x87 != _HAS_SIZE:  # reserved bits, an extension, or no size
            raise CorruptError("the patches' AV1 stream holds an unsupported OBU")
        size_bytes, at = _leb128(data, at + 1)
        if at + size_bytes > len(data):
            raise CorruptError("the patches' AV1 stream is truncated")
        units.append((head >> 3, data[at : at + size_bytes]))
        at += size_bytes
    return units


def _unit(kind: int, body: bytes) -> bytes:
    size, rest = b"", len(body)
    while rest > 0x7F:
        size += bytes([rest & 0x7F | 0x80])
        rest >>= 7
    return bytes([kind << 3 | _HAS_SIZE]) + size + bytes([rest]) + body


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(4):
        if at + place >= len(data):
            break
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise CorruptError("the patches' AV1 stream has invalid sizes")


class _Bits:
    """Bits of a sequence header, the highest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise CorruptError("the patches' AV1 sequence header is truncated")
        return self._value >> self._left & (1 << count) - 1


def _box(kind: bytes, data: bytes) -> bytes:
    return (8 + len(data)).to_bytes(4, "big") + kind + data


def _full_box(kind: bytes, data: bytes) -> bytes:
    return _box(kind, bytes(4) + data)
