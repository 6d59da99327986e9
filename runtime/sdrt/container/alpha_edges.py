"""Alpha coding 3, for masks that are mostly 0 and 255: an adaptive binary range coder along their edges.

Blocks of 16 x 16 pixels that are all 0 or all 255 are named as such; only the pixels of the others are coded, one by
one, each from its neighbors. The same code encodes and decodes: ``bit`` either encodes its argument or returns the
decoded bit. docs/FORMAT.md specifies it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sdrt.container.binary_coder import BinaryCoder, BinaryDecoder, BinaryEncoder
from sdrt.errors import CorruptError

Plane = npt.NDArray[np.uint8]

BLOCK = 16
MAX_MIXED_BLOCKS = 2048
"""Planes with more blocks than this (a second or two of work) use the other codings."""
MAX_RADIUS = 63

_TRANSPARENT, _MIXED, _OPAQUE = range(3)
_CLASS = bytes([_TRANSPARENT, *[_MIXED] * 254, _OPAQUE])
_NEIGHBORHOODS = 3**6
_ACTIVITIES = 4
_MAX_PREFIX = 7

# Where each kind of decision keeps its probabilities.
_BLOCK_AT = 0
_SOFT_AT = _BLOCK_AT + 2 * 9
_OPAQUE_AT = _SOFT_AT + _NEIGHBORHOODS
_ZERO_AT = _OPAQUE_AT + _NEIGHBORHOODS
_SIGN_AT = _ZERO_AT + _ACTIVITIES
_PREFIX_AT = _SIGN_AT + _ACTIVITIES
_SUFFIX_AT = _PREFIX_AT + _ACTIVITIES * (_MAX_PREFIX + 1)
_CONTEXTS = _SUFFIX_AT + (_MAX_PREFIX + 1) * _MAX_PREFIX


def encode_edges(alpha: Plane, radius: int) -> bytes | None:
    """The bytes of a plane, uint8 (H, W), soft values within ``radius`` (0..63).

    None where there is nothing or too much to walk through, or most of it is soft, which this coding is not made for.
    """
    assert 0 <= radius <= MAX_RADIUS
    blocks = _block_classes(alpha)
    mixed = int((blocks == _MIXED).sum())
    soft_px = int(((alpha > 0) & (alpha < 255)).sum())
    if not 1 <= mixed <= MAX_MIXED_BLOCKS or 2 * soft_px > mixed * BLOCK * BLOCK:
        return None
    soft = soft_px > 0
    encoder = BinaryEncoder(_CONTEXTS)
    _walk_blocks(encoder, blocks)
    _walk_pixels(encoder, blocks, alpha, alpha.shape, radius=radius, soft=soft)
    return bytes([radius | soft << 7]) + encoder.finish()


def decode_edges(data: bytes, height_px: int, width_px: int) -> Plane:
    """The plane, uint8 (height_px, width_px), that ``encode_edges`` wrote.

    Python's work is a step for each block and for each pixel of a mixed one, of which there are few; the rest of the
    plane is filled at once.

    Raises CorruptError for bytes that are no such plane.
    """
    if not data or data[0] & 0x40:
        raise CorruptError("the alpha plane has no valid parameter")
    decoder = BinaryDecoder(data[1:], _CONTEXTS, "the alpha plane")
    blocks = _walk_blocks(decoder, np.zeros((-(-height_px // BLOCK), -(-width_px // BLOCK)), np.uint8))
    if not 1 <= int((blocks == _MIXED).sum()) <= MAX_MIXED_BLOCKS:
        raise CorruptError(f"the alpha plane has no blocks with edges, or more than {MAX_MIXED_BLOCKS}")
    alpha = _walk_pixels(decoder, blocks, None, (height_px, width_px), radius=data[0] & 0x3F, soft=data[0] >= 0x80)
    decoder.finish()
    if not np.array_equal(_block_classes(alpha), blocks):
        raise CorruptError("the alpha plane has a block that is not as mixed as it says")
    return alpha


def _block_classes(alpha: Plane) -> Plane:
    height_px, width_px = alpha.shape
    padded = np.pad(alpha, ((0, -height_px % BLOCK), (0, -width_px % BLOCK)), mode="edge")
    tiles = padded.reshape(padded.shape[0] // BLOCK, BLOCK, -1, BLOCK)
    low, high = tiles.min(axis=(1, 3)), tiles.max(axis=(1, 3))
    classes: Plane = np.where(high == 0, _TRANSPARENT, np.where(low == 255, _OPAQUE, _MIXED)).astype(np.uint8)
    return classes


def _walk_blocks(coder: BinaryCoder, blocks: Plane) -> Plane:
    """The class of each block from those to its left and above: those of ``blocks`` are what an encoder codes, those
    that are returned are what a decoder finds."""
    above = [_TRANSPARENT] * blocks.shape[1]
    rows = blocks.tolist()
    for classes in rows:
        left = _TRANSPARENT
        for x, wanted in enumerate(classes):
            context = _BLOCK_AT + 2 * (3 * above[x] + left)
            left = _MIXED
            if not coder.bit(context, wanted == _MIXED):
                left = _OPAQUE if coder.bit(context + 1, wanted == _OPAQUE) else _TRANSPARENT
            classes[x] = left
        above = classes
    return np.array(rows, np.uint8)


def _walk_pixels(
    coder: BinaryCoder, blocks: Plane, source: Plane | None, shape: tuple[int, int], *, radius: int, soft: bool
) -> Plane:
    """Code the pixels of the mixed blocks, row by row through the whole plane.

    ``source``, uint8 of ``shape``, is what an encoder codes, None in a decoder. Returns what a decoder finds.
    """
    height_px, width_px = shape
    step = 2 * radius + 1
    values = np.array([0, 0, 255], np.uint8)[blocks]  # mixed blocks are 0 until they are read
    found = np.repeat(np.repeat(values, BLOCK, axis=0)[:height_px], BLOCK, axis=1)[:, :width_px]
    for block_row in np.flatnonzero((blocks == _MIXED).any(axis=1)).tolist():
        mixed = np.flatnonzero(blocks[block_row] == _MIXED).tolist()
        top = block_row * BLOCK
        two_above, one_above = _with_margins(found, top - 2), _with_margins(found, top - 1)
        for y in range(top, min(top + BLOCK, height_px)):
            now = _with_margins(found, y)
            wanted = bytes(width_px) if source is None else source[y].tobytes()
            for block in mixed:
                for x in range(block * BLOCK + 2, min(block * BLOCK + BLOCK, width_px) + 2):
                    west, north, north_west, north_east = now[x - 1], one_above[x], one_above[x - 1], one_above[x + 1]
                    neighborhood = (
                        _CLASS[west]
                        + 3 * _CLASS[north]
                        + 9 * _CLASS[north_west]
                        + 27 * _CLASS[north_east]
                        + 81 * _CLASS[now[x - 2]]
                        + 243 * _CLASS[two_above[x]]
                    )
                    value = wanted[x - 2]
                    if not (soft and coder.bit(_SOFT_AT + neighborhood, _CLASS[value] == _MIXED)):
                        now[x] = 255 * coder.bit(_OPAQUE_AT + neighborhood, value == 255)
                        continue
                    low, high = (west, north) if west < north else (north, west)
                    prediction = min(max(west + north - north_west, low, 1), high if high > 1 else 1, 254)
                    span = abs(west - north) + abs(north - north_west) + abs(north - north_east)
                    error = value - prediction
                    steps = (abs(error) + radius) // step
                    steps = _walk_steps(coder, (span > 16) + (span > 64) + (span > 200), -steps if error < 0 else steps)
                    now[x] = min(max(prediction + steps * step, 1), 254)
            found[y] = np.frombuffer(now, np.uint8, width_px, 2)
            two_above, one_above = one_above, now
    return found


def _with_margins(plane: Plane, y: int) -> bytearray:
    """Row ``y`` with two zeros before and after it; all zeros above the plane."""
    row = plane[y].tobytes() if y >= 0 else bytes(plane.shape[1])
    return bytearray(2) + row + bytes(2)


def _walk_steps(coder: BinaryCoder, activity: int, steps: int) -> int:
    """Codes a signed number: a zero flag, the sign, then the magnitude in Exp-Golomb code."""
    if not coder.bit(_ZERO_AT + activity, steps != 0):
        return 0
    negative = coder.bit(_SIGN_AT + activity, steps < 0)
    size = abs(steps)
    prefix = 0
    prefix_at = _PREFIX_AT + activity * (_MAX_PREFIX + 1)
    while coder.bit(prefix_at + prefix, size >> (prefix + 1) != 0):
        prefix += 1
        if prefix > _MAX_PREFIX:
            raise CorruptError("the alpha plane holds an error beyond 255")
    found = 1
    for place in range(prefix - 1, -1, -1):
        found = found << 1 | coder.bit(_SUFFIX_AT + prefix * _MAX_PREFIX + place, size >> place & 1)
    return -found if negative else found
