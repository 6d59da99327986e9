"""The .sdl container, version 1: ``pack`` writes it, ``unpack`` reads it. This page is the normative layout;
docs/FORMAT.md repeats it word for word and says the rest (limits, refusals, versions, what the parts mean).

::

    size    field
    3       magic, "SDL"
    1       version, 1
    2       bits 0..9 step_index; bit 10 set when chunks follow; bits 11..15 reserved, 0
    1..3    width_px - 1, varint
    1..3    height_px - 1, varint
    4       identity of the latent space: what the integers mean
    4       identity of the prior: how the integers became bytes
    [chunks, only if bit 10 is set]
      1       number of chunks, 1..16
      each, in strictly ascending order of kind:
        4       kind, four ASCII letters; an upper-case first letter marks a critical chunk
        1..4    number of data bytes, varint
        n       data
    n       payload: the entropy coder's bytes, up to the checksum
    4       CRC-32 (as zlib and PNG compute it) of every byte before it

Integers are little endian. A varint holds seven bits in each byte, the lowest first; every byte but the last has
bit 7 set, and the shortest form is the only valid one. Bits are numbered from the lowest, 0.

A picture of 768 x 512 pixels, step_index 512, with a payload of five bytes, is 27 bytes:

::

    53 44 4c        magic
    01              version 1
    00 02           step_index 512, no chunks
    ff 05           width_px - 1 = 767
    ff 03           height_px - 1 = 511
    a1 b2 c3 d4     latent space
    0f 1e 2d 3c     prior
    68 65 6c 6c 6f  payload
    b5 32 14 94     CRC-32
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass, replace
from math import ceil

from sdrt.container.fields import FieldReader, varint
from sdrt.errors import CorruptError, LimitError, NotSdlError, UnsupportedError
from sdrt.limits import DEFAULT_MAX_PIXELS, MAX_ANCILLARY_BYTES, MAX_STEP_INDEX, check_pixels
from sdrt.streams import Readable, read_at_most

SUFFIX = ".sdl"
MEDIA_TYPE = "image/x-sdl"
MAGIC = b"SDL"
VERSION = 1
MAX_SIDE_PX = 2**21
"""The largest width and height: three bytes of varint, so that a file without chunks spends at most 24 bytes."""
MAX_CHUNKS = 16
MAX_CRITICAL_BYTES = 2**28 - 1
MAX_FILE_BYTES = 2**30

RESAMPLINGS = (1, 2, 4, 8)
"""Factors by which the sides of the coded picture may be smaller than the picture's."""

ALPHA = b"ALPH"
PATCHES = b"PTCH"
SCALE = b"SCAL"
STEP_MAP = b"STEP"
TRUTH = b"trth"
KNOWN_CRITICAL = frozenset({ALPHA, PATCHES, SCALE, STEP_MAP})

_CHUNKS_PRESENT = 1 << 10
_RESERVED = 0b11111 << 11
_IDENTITY_BYTES = 4
_SIDE_VARINT_BYTES = 3
_LENGTH_VARINT_BYTES = 4
_CRC_BYTES = 4
_SHORTEST_FILE = len(MAGIC) + 1 + 2 + 1 + 1 + 2 * _IDENTITY_BYTES + _CRC_BYTES


@dataclass(frozen=True)
class Chunk:
    """An optional part of a file. ``kind``: four ASCII letters; ``data``: any bytes."""

    kind: bytes
    data: bytes

    @property
    def critical(self) -> bool:
        """Whether a reader that does not know this kind must refuse the file (an upper-case first letter)."""
        return self.kind[:1].isupper()


@dataclass(frozen=True)
class SdlFile:
    """The contents of one .sdl file.

    Attributes:
        width_px, height_px: 1..2**21, of the picture itself, without padding.
        space_identity: Of the latent space, 4 bytes.
        prior_identity: Of the prior, 4 bytes.
        step_index: 0..1023.
        payload: The entropy coder's bytes.
        chunks: At most 16, no kind twice; ``unpack`` returns them in ascending order of kind.
    """

    width_px: int
    height_px: int
    space_identity: bytes
    prior_identity: bytes
    step_index: int
    payload: bytes
    chunks: tuple[Chunk, ...] = ()

    def chunk(self, kind: bytes) -> bytes | None:
        """The data of the chunk of this kind, or None when there is none."""
        return next((chunk.data for chunk in self.chunks if chunk.kind == kind), None)

    @property
    def resampling(self) -> int:
        """The factor by which the coded picture's sides are smaller than the picture's: one of RESAMPLINGS.

        Raises:
            CorruptError: Chunk SCAL is invalid. ``unpack`` has checked it.
        """
        scale = self.chunk(SCALE)
        if scale is None:
            return 1
        if len(scale) != 1 or not 1 <= scale[0] < len(RESAMPLINGS):
            raise CorruptError(f"chunk {SCALE.decode('ascii')} must be one byte from 1 to {len(RESAMPLINGS) - 1}")
        return RESAMPLINGS[scale[0]]

    @property
    def coded_px(self) -> tuple[int, int]:
        """Width and height in pixels of the coded picture."""
        factor = self.resampling
        return ceil(self.width_px / factor), ceil(self.height_px / factor)


def resampling_chunks(resampling: int) -> tuple[Chunk, ...]:
    """The chunks that make ``SdlFile.resampling`` equal ``resampling``."""
    return () if resampling == 1 else (Chunk(SCALE, bytes([RESAMPLINGS.index(resampling)])),)


def pack(file: SdlFile) -> bytes:
    """Serializes a file. Equal contents give equal bytes: chunks are sorted.

    Raises:
        LimitError: A side, a chunk or the file exceeds the limits of the format.
        UnsupportedError: An identity that is not 4 bytes, an invalid or repeated chunk kind, or a step_index out of
            range.
    """
    for name, side_px in (("width", file.width_px), ("height", file.height_px)):
        if not 1 <= side_px <= MAX_SIDE_PX:
            raise LimitError(f"the {name} is {side_px} pixels, an .sdl file holds 1 to {MAX_SIDE_PX}")
    if not 0 <= file.step_index <= MAX_STEP_INDEX:
        raise UnsupportedError(f"step_index is {file.step_index}, an .sdl file holds 0 to {MAX_STEP_INDEX}")
    for name, identity in (("latent space", file.space_identity), ("prior", file.prior_identity)):
        if len(identity) != _IDENTITY_BYTES:
            raise UnsupportedError(f"the identity of the {name} has {len(identity)} bytes, not {_IDENTITY_BYTES}")
    word = file.step_index | (_CHUNKS_PRESENT if file.chunks else 0)
    head = MAGIC + bytes([VERSION]) + word.to_bytes(2, "little")
    head += varint(file.width_px - 1) + varint(file.height_px - 1) + file.space_identity + file.prior_identity
    body = b"".join((head, _pack_chunks(file.chunks), file.payload))
    _check_file_bytes(len(body) + _CRC_BYTES)
    return body + zlib.crc32(body).to_bytes(_CRC_BYTES, "little")


def unpack(data: bytes, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> SdlFile:
    """Parses a whole .sdl file. No number in the file sizes an allocation: only slices of the data are taken.

    Args:
        data: The bytes of the file.
        max_pixels: Larger pictures are refused; None: no limit.

    Raises, in this order: magic (NotSdlError); file size (LimitError); version
    (UnsupportedError if newer, CorruptError if 0); shortest length and checksum (CorruptError); reserved bits
    (CorruptError); width and height (CorruptError); ``max_pixels`` (LimitError); the chunks, one after
    another: form, order and length (CorruptError), size of an ancillary one (LimitError), an unknown critical one
    (UnsupportedError); the value of chunk SCAL (CorruptError). Every single flipped bit and every truncation is
    refused.
    """
    _check_magic(data[: len(MAGIC)])
    _check_file_bytes(len(data))
    check_version(bytes(data[len(MAGIC) : len(MAGIC) + 1]))
    if len(data) < _SHORTEST_FILE:
        raise CorruptError(f"the file is truncated: {len(data)} bytes, the shortest .sdl file has {_SHORTEST_FILE}")
    end = len(data) - _CRC_BYTES
    if zlib.crc32(memoryview(data)[:end]) != int.from_bytes(data[end:], "little"):
        raise CorruptError("the checksum does not match: the file is truncated or altered")
    stream = io.BytesIO(memoryview(data)[len(MAGIC) + 1 : end])
    return replace(_read_header(stream, max_pixels), payload=stream.read())


def read_header(stream: Readable, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> SdlFile:
    """Reads an .sdl file up to its payload; ``payload`` is empty in the result.

    Takes no more from ``stream`` than that. Raises as ``unpack`` does, but for the file's size and its checksum: an
    altered header may pass here.
    """
    start = read_at_most(stream, len(MAGIC) + 1)
    _check_magic(start[: len(MAGIC)])
    check_version(start[len(MAGIC) :])
    return _read_header(stream, max_pixels)


def _check_magic(start: bytes) -> None:
    if not start:
        raise NotSdlError("not an .sdl file: it is empty")
    if start != MAGIC:
        raise NotSdlError("not an .sdl file: it does not start with the bytes SDL")


def check_version(version: bytes) -> None:
    """Refuses unknown versions. ``version``: the byte after the magic, or b"" if the file ends there.

    Raises UnsupportedError for a newer one, CorruptError for 0.
    """
    if version > bytes([VERSION]):
        raise UnsupportedError(f"the file has format version {version[0]}, this sdrt reads {VERSION}: update sdrt")
    if version == b"\0":
        raise CorruptError("the file has format version 0, which does not exist")


def _read_header(stream: Readable, max_pixels: int | None) -> SdlFile:
    """Parses the fields between the version and the payload."""
    reader = FieldReader(stream)
    word = int.from_bytes(reader.take(2, "flags"), "little")
    if word & _RESERVED:
        raise CorruptError(f"reserved bits are set: {word & _RESERVED:#06x}")
    width_px = reader.varint(_SIDE_VARINT_BYTES, "width") + 1
    height_px = reader.varint(_SIDE_VARINT_BYTES, "height") + 1
    check_pixels(width_px, height_px, max_pixels)
    space_identity = reader.take(_IDENTITY_BYTES, "identity of the latent space")
    prior_identity = reader.take(_IDENTITY_BYTES, "identity of the prior")
    file = SdlFile(
        width_px=width_px,
        height_px=height_px,
        space_identity=space_identity,
        prior_identity=prior_identity,
        step_index=word & MAX_STEP_INDEX,
        payload=b"",
        chunks=_unpack_chunks(reader) if word & _CHUNKS_PRESENT else (),
    )
    _ = file.resampling  # validates it
    return file


def _pack_chunks(chunks: tuple[Chunk, ...]) -> bytes:
    if not chunks:
        return b""
    if len(chunks) > MAX_CHUNKS:
        raise LimitError(f"{len(chunks)} chunks, an .sdl file holds at most {MAX_CHUNKS}")
    parts = [bytes([len(chunks)])]
    previous = b""
    for chunk in sorted(chunks, key=lambda chunk: chunk.kind):
        if not _is_kind(chunk.kind):
            raise UnsupportedError(f"chunk kind {chunk.kind!r} is not four ASCII letters")
        if chunk.kind == previous:
            raise UnsupportedError(f"two chunks of kind {chunk.kind.decode('ascii')}")
        _check_chunk_bytes(chunk.kind, len(chunk.data))
        parts += [chunk.kind, varint(len(chunk.data)), chunk.data]
        previous = chunk.kind
    return b"".join(parts)


def _unpack_chunks(reader: FieldReader) -> tuple[Chunk, ...]:
    count = reader.take(1, "number of chunks")[0]
    if not 1 <= count <= MAX_CHUNKS:
        raise CorruptError(f"the file announces {count} chunks, 1 to {MAX_CHUNKS} are possible")
    chunks: list[Chunk] = []
    previous = b""
    for _ in range(count):
        kind = reader.take(4, "chunk kind")
        if not _is_kind(kind):
            raise CorruptError(f"chunk kind {kind!r} is not four ASCII letters")
        name = kind.decode("ascii")
        if kind <= previous:
            raise CorruptError(f"chunk {name} is repeated or out of order")
        size_bytes = reader.varint(_LENGTH_VARINT_BYTES, f"length of chunk {name}")
        _check_chunk_bytes(kind, size_bytes)
        chunk = Chunk(kind, reader.take(size_bytes, f"chunk {name}"))
        if chunk.critical and kind not in KNOWN_CRITICAL:
            raise UnsupportedError(f"the file needs chunk {name}, which this sdrt does not know: update sdrt")
        chunks.append(chunk)
        previous = kind
    return tuple(chunks)


def _check_file_bytes(size_bytes: int) -> None:
    if size_bytes > MAX_FILE_BYTES:
        raise LimitError(f"the file has {size_bytes} bytes, an .sdl file has at most {MAX_FILE_BYTES}")


def _check_chunk_bytes(kind: bytes, size_bytes: int) -> None:
    limit_bytes = MAX_CRITICAL_BYTES if kind[:1].isupper() else MAX_ANCILLARY_BYTES
    if size_bytes > limit_bytes:
        raise LimitError(f"chunk {kind.decode('ascii')} has {size_bytes} bytes, at most {limit_bytes} are possible")


def _is_kind(kind: bytes) -> bool:
    return len(kind) == 4 and kind.isalpha()
