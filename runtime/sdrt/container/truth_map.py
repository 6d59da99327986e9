"""The truth map: how far each part of the painted picture is from the photograph, in the ancillary chunk ``trth``.

The encoder compares (``sdrt.pixels.structure``) and writes one class for each square cell of CELL_PX pixels of the
picture itself. docs/FORMAT.md has the coding, docs/TRUTH.md the measure. Needs neither numpy nor a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from sdrt.container.binary_coder import BinaryCoder, BinaryDecoder, BinaryEncoder

CELL_PX = 32
"""Side of a cell; those at the right and below may be cut."""


class Truth(IntEnum):
    """How true a cell is, best first; docs/TRUTH.md has the bounds."""

    KEPT = 0
    """Structure as in the photograph, within the stated error."""
    PLAUSIBLE = 1
    """The same within a wider error: texture and detail are painted, not photographed."""
    INVENTED = 2
    """No promise: structure may be another one, or be missing."""


Classes = Sequence[Sequence[int]]
"""Rows of cells, each a ``Truth``."""

_CONTEXTS = 10
_BYTES_AT_512, _MIN_BYTES = 55, 12


def cells(height_px: int, width_px: int) -> tuple[int, int]:
    """Rows and columns of the map of a picture."""
    return -(-height_px // CELL_PX), -(-width_px // CELL_PX)


def max_bytes(count: int) -> int:
    """The largest map, in bytes, that an encoder writes for ``count`` cells: 60 with the chunk header at 512x512."""
    return max(_MIN_BYTES, _BYTES_AT_512 * count // 256)


def encode_truth_map(classes: Classes) -> bytes:
    """The data of the chunk; none where every cell is kept."""
    coder = BinaryEncoder(_CONTEXTS)
    _walk(coder, classes)
    return coder.finish()


def decode_truth_map(data: bytes, height_px: int, width_px: int) -> list[list[int]]:
    """The classes of a picture of this size, row by row. Raises CorruptError."""
    rows, columns = cells(height_px, width_px)
    coder = BinaryDecoder(data, _CONTEXTS, "the truth map")
    classes = _walk(coder, [[0] * columns] * rows)
    coder.finish()
    return classes


def shares(classes: Classes) -> dict[str, float]:
    """The share of the cells that each class has, 0..1, by its name in small letters."""
    flat = [value for row in classes for value in row]
    return {truth.name.lower(): flat.count(truth) / len(flat) for truth in Truth}


def _walk(coder: BinaryCoder, source: Classes) -> list[list[int]]:
    """Codes every cell, row by row: whether it is kept, and if not, whether it is invented."""
    found: list[list[int]] = []
    for y, row in enumerate(source):
        values: list[int] = []
        for x, value in enumerate(row):
            above = found[y - 1][x] if y else None
            left = values[x - 1] if x else above
            around = (left or 0) + (above if above is not None else left or 0)
            if coder.bit(2 * around, int(value != Truth.KEPT)):
                values.append(Truth.PLAUSIBLE + coder.bit(2 * around + 1, int(value == Truth.INVENTED)))
            else:
                values.append(Truth.KEPT)
        found.append(values)
    return found
