"""Patches: the parts of a picture that a classical codec keeps, in the critical chunk ``PTCH``.

The picture is divided into square cells of CELL_PX pixels. Those that the mask marks are taken from the *atlas*, a
picture of its own: the rows of cells that have a marked one, and of these the columns that have one. Where marked cells
meet others, the patch fades over a few of its own pixels. docs/FORMAT.md has the layout in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sdrt.container.binary_coder import BinaryCoder, BinaryDecoder, BinaryEncoder
from sdrt.container.fields import FieldReader, varint
from sdrt.errors import CorruptError, UnsupportedError

Coding = Literal["av1", "vp8l"]

CELL_PX = 16
CODINGS: tuple[Coding, ...] = get_args(Coding)
FEATHERS_PX = (0, 2, 4, 8)

Mask = NDArray[np.bool_]
"""bool (rows, columns): which cells of a picture are patched; at least one is."""

_MASKED = 1 << 4
_HALVED = 1 << 5
_RESERVED = 0b11 << 6
_MASK_VARINT_BYTES = 4
_CONTEXTS = 16


@dataclass(frozen=True, eq=False)
class Patches:
    """The contents of a chunk ``PTCH``.

    Attributes:
        mask: bool (ceil(height_px / 16), ceil(width_px / 16)).
        feather_px: One of FEATHERS_PX.
        coding: Of the atlas.
        stream: The atlas as a bare bitstream.
        halved: The stream holds the atlas at a half of its sides, rounded up.
    """

    mask: Mask
    feather_px: int
    coding: Coding
    stream: bytes
    halved: bool = False


def cells(height_px: int, width_px: int) -> tuple[int, int]:
    """Rows and columns of cells of a picture."""
    return -(-height_px // CELL_PX), -(-width_px // CELL_PX)


def kept_lines(mask: Mask, height_px: int, width_px: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows and the columns of pixels of a picture that its atlas is made of, ascending."""
    lines = []
    for marked, side_px in ((mask.any(axis=1), height_px), (mask.any(axis=0), width_px)):
        lines.append(np.flatnonzero(marked.repeat(CELL_PX)[:side_px]))
    return lines[0], lines[1]


def hidden(mask: Mask, shape: tuple[int, int], side_px: int, margin: int) -> Mask:
    """Which positions of a grid of ``shape`` lie, with ``margin`` positions around them, under marked cells alone.

    A position is a square of ``side_px`` pixels of the picture; what lies outside of the picture counts as marked.
    """
    bare = np.pad(~mask, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    top, bottom = (ends[:, None] for ends in _spans(shape[0], mask.shape[0], side_px, margin))
    left, right = _spans(shape[1], mask.shape[1], side_px, margin)
    return np.asarray(bare[bottom, right] - bare[top, right] - bare[bottom, left] + bare[top, left] == 0)


def _spans(count: int, limit: int, side_px: int, margin: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First cell, and last + 1, under each of ``count`` positions and ``margin`` on either side; 0..limit."""
    positions = np.arange(count)
    first = (positions - margin) * side_px // CELL_PX
    last = -((positions + 1 + margin) * -side_px // CELL_PX)
    return np.clip(first, 0, limit), np.clip(last, 0, limit)


def encode_patches(patches: Patches) -> bytes:
    """The data of the chunk. ``patches.mask`` marks at least one cell."""
    assert patches.mask.any()
    head = CODINGS.index(patches.coding) | FEATHERS_PX.index(patches.feather_px) << 2
    head |= _HALVED if patches.halved else 0
    if patches.mask.all():
        return bytes([head]) + patches.stream
    coder = BinaryEncoder(_CONTEXTS)
    _walk(coder, patches.mask.tolist())
    coded = coder.finish()
    return bytes([head | _MASKED]) + varint(len(coded)) + coded + patches.stream


def decode_patches(data: bytes, height_px: int, width_px: int) -> Patches:
    """The patches of a picture of this size, without a look at their stream.

    Raises:
        CorruptError: The data are cut short; the mask is not that of this picture, or marks none or all of its cells.
        UnsupportedError: A coding of a newer version.
    """
    reader = FieldReader(BytesIO(data))
    head = reader.take(1, "kind of patches")[0]
    if head & _RESERVED:
        raise CorruptError(f"reserved bits of the patches are set: {head & _RESERVED:#04x}")
    if head & 3 >= len(CODINGS):
        raise UnsupportedError(f"the patches have coding {head & 3}, this sdrt knows {', '.join(CODINGS)}: update sdrt")
    shape = cells(height_px, width_px)
    mask = np.ones(shape, np.bool_)
    at = 1
    if head & _MASKED:
        size_bytes = reader.varint(_MASK_VARINT_BYTES, "length of the patches' mask")
        at += len(varint(size_bytes)) + size_bytes
        mask = _decode_mask(reader.take(size_bytes, "mask of the patches"), shape)
    feather_px = FEATHERS_PX[head >> 2 & 3]
    if feather_px and mask.all():
        raise CorruptError("patches over the whole picture have nothing to fade into")
    return Patches(mask, feather_px, CODINGS[head & 3], data[at:], bool(head & _HALVED))


def _decode_mask(coded: bytes, shape: tuple[int, int]) -> Mask:
    coder = BinaryDecoder(coded, _CONTEXTS, "the mask of the patches")
    mask = np.array(_walk(coder, [[0] * shape[1]] * shape[0]), np.bool_)
    coder.finish()
    if not mask.any() or mask.all():
        raise CorruptError("the mask of the patches marks no cell, or all of them")
    return mask


def _walk(coder: BinaryCoder, source: list[list[int]]) -> list[list[int]]:
    """Codes the cells row by row, each in the context of those to the left, above and beside that."""
    above = [0] * (len(source[0]) + 2)
    found: list[list[int]] = []
    for row in source:
        now = [0] * (len(row) + 2)
        for x, marked in enumerate(row, 1):
            context = now[x - 1] + 2 * above[x] + 4 * above[x - 1] + 8 * above[x + 1]
            now[x] = coder.bit(context, int(marked))
        found.append(now[1:-1])
        above = now
    return found
