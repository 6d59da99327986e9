"""The step map: an offset of the quantizer's step index for each cell, in the critical chunk ``STEP``.

A cell is a square of CELL_PX pixels of the coded picture, as many whole latent positions as lie in it. Its offset
counts UNIT step indices, MAX_OFFSET at most each way. docs/FORMAT.md has the coding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdrt.container.binary_coder import BinaryCoder, BinaryDecoder, BinaryEncoder
from sdrt.errors import CorruptError
from sdrt.limits import MAX_STEP_INDEX

NEUTRAL_INDEX = 512
"""The step index at which the quantizer's steps are those of the prior."""
OCTAVE = 64
"""Step indices that double the steps."""

CELL_PX = 64
UNIT = OCTAVE // 4
MAX_OFFSET = 7

StepIndices = NDArray[np.int64]
"""int64 (h, w), 0..1023: the step index at each latent position."""
Offsets = NDArray[np.int8]
"""int8 (rows, columns), each within +-MAX_OFFSET."""

# Where each kind of decision keeps its probabilities; three classes of how much the neighbors differ.
_ZERO_AT, _SIGN_AT, _MORE_AT = 0, 3, 6
_CONTEXTS = _MORE_AT + 2 * MAX_OFFSET


def octaves(step_indices: NDArray[np.integer]) -> NDArray[np.float64]:
    """log2 of the steps, relative to those of NEUTRAL_INDEX, float64 of the same shape. Larger is coarser."""
    return np.asarray((step_indices - NEUTRAL_INDEX) / OCTAVE, np.float64)


def cells(rows: int, columns: int, downscale: int) -> tuple[int, int, int]:
    """The size of the step map of a latent grid of ``rows`` x ``columns``.

    Returns:
        Rows and columns of the map, and the latent positions along a side of a cell.
    """
    side = max(1, CELL_PX // downscale)
    return -(-rows // side), -(-columns // side), side


def spread(offsets: Offsets | None, step_index: int, rows: int, columns: int, downscale: int) -> StepIndices:
    """The step index of every latent position.

    Args:
        offsets: Of each cell; None: all are 0.
        step_index: Of the file.
        rows, columns: Of the latent grid.
        downscale: Pixels along a side of a latent position.

    Returns:
        int64 (rows, columns), 0..1023.

    Raises:
        ValueError: The map has another size than this grid needs.
    """
    if offsets is None:
        return np.full((rows, columns), step_index, np.int64)
    *shape, side = cells(rows, columns, downscale)
    if offsets.shape != tuple(shape):
        raise ValueError(f"a step map of {offsets.shape} cells does not fit a grid of {tuple(shape)}")
    wide = np.repeat(np.repeat(offsets.astype(np.int64), side, axis=0), side, axis=1)[:rows, :columns]
    return np.clip(step_index + UNIT * wide, 0, MAX_STEP_INDEX)


def reduced(offsets: Offsets, factor: int) -> Offsets:
    """The map of the picture reduced by ``factor``: each cell takes the finest offset of the cells that it covers."""
    if factor == 1:
        return offsets
    rows, columns = (np.arange(0, side, factor) for side in offsets.shape)
    return np.asarray(np.minimum.reduceat(np.minimum.reduceat(offsets, rows, 0), columns, 1))


def encode_step_map(offsets: Offsets) -> bytes:
    """The data of the chunk.

    Raises:
        ValueError: an offset is out of range, or all are 0: such a file has no step map.
    """
    if offsets.ndim != 2 or not offsets.any() or np.abs(offsets.astype(int)).max() > MAX_OFFSET:
        raise ValueError(f"offsets of a step map are within +-{MAX_OFFSET} and not all 0")
    coder = BinaryEncoder(_CONTEXTS)
    _walk(coder, offsets.astype(int).tolist())
    return coder.finish()


def decode_step_map(data: bytes, shape: tuple[int, int]) -> Offsets:
    """The offsets, int8 of ``shape``. Raises CorruptError."""
    coder = BinaryDecoder(data, _CONTEXTS, "the step map")
    values = _walk(coder, [[0] * shape[1] for _ in range(shape[0])])
    coder.finish()
    offsets = np.array(values, np.int8)
    if not offsets.any():
        raise CorruptError("the step map is flat: such a file has none")
    return offsets


def _walk(coder: BinaryCoder, source: list[list[int]]) -> list[list[int]]:
    """Codes every cell, row by row, as the difference from a prediction from its left and upper neighbors."""
    found: list[list[int]] = []
    for y, row in enumerate(source):
        values: list[int] = []
        for x, value in enumerate(row):
            left = values[x - 1] if x else (found[y - 1][x] if y else 0)
            above = found[y - 1][x] if y else left
            promised = (left + above) >> 1
            values.append(promised + _difference(coder, min(2, abs(left - above)), value - promised))
            if abs(values[-1]) > MAX_OFFSET:
                raise CorruptError(f"the step map holds an offset beyond {MAX_OFFSET}")
        found.append(values)
    return found


def _difference(coder: BinaryCoder, activity: int, difference: int) -> int:
    if not coder.bit(_ZERO_AT + activity, int(difference != 0)):
        return 0
    negative = coder.bit(_SIGN_AT + activity, int(difference < 0))
    size = 1
    while size < 2 * MAX_OFFSET and coder.bit(_MORE_AT + size - 1, int(abs(difference) > size)):
        size += 1
    return -size if negative else size
