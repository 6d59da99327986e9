"""Adaptive quantization: finer steps where a picture is smooth, coarser ones where it is busy.

At one step for all, busy parts take nearly all the bits, and errors show where little hides them. The bits of a part
are nearly proportional to its symbols that are not 0 (He & Mitra, "A unified rate-distortion analysis framework for
transform coding", 2001), so their number stands for activity.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdrt.coding.quantize import KEPT, step_scale
from sdrt.container import step_map
from sdrt.container.step_map import Offsets
from sdrt.limits import MAX_STEP_INDEX

STRENGTH = 0.25
"""Octaves of the step for each octave of activity."""
FINEST, COARSEST = -1.0, 0.5
"""Octaves. Coarser steps yet cost texture."""
FLOOR = 0.25
"""Added to the symbols of a position, that parts without any have an activity."""
_SYMBOL_BYTES = 0.5
"""What a symbol that is not 0 costs, roughly, with all that surrounds it: .37 to .55 on Kodak with models/tiny."""
_MAX_SHARE = 1 / 64
"""Of the file: a map that takes more is not worth it."""
_CHUNK_BYTES = 6
"""Of a step map beside its data: kind, length, and perhaps the first count of chunks."""


def adapted(
    latents: NDArray[np.float32],
    steps: NDArray[np.float32],
    downscale: int,
    step_index: int,
    offsets: Offsets | None = None,
) -> Offsets | None:
    """The step map of a picture: what its activity asks for, added to what the caller asks for.

    Args:
        latents: float32 (C, h, w), normalized units.
        steps: float32 (C,), of the prior that they will be coded under.
        downscale: Pixels along a side of a latent position.
        step_index: 0..1023, about where the file will be coded: decides which symbols are not 0.
        offsets: The caller's, int8, of the cells of this grid; None: all are 0.

    Returns:
        int8 (rows, columns); ``offsets`` as they are if the map would take more of the file than it gives.
    """
    scale = np.float32(KEPT * step_scale(step_index))
    symbols = np.zeros(latents.shape[1:], np.int32)
    for channel, step in zip(latents, steps, strict=True):  # one by one: large pictures have gigabytes of latents
        symbols += np.abs(channel) > scale * step
    side = step_map.cells(1, 1, downscale)[2]
    counts = _cell_sums(symbols, side) / _cell_sums(np.ones_like(symbols), side)
    activity = np.log2(counts + FLOOR)
    # In float32 what a last bit of a logarithm moves from halfway between two offsets is back: all round it alike.
    relative = (activity - activity.mean()).astype(np.float32)
    octaves = np.clip(STRENGTH * relative, FINEST, COARSEST)
    added = np.rint(octaves * (step_map.OCTAVE / step_map.UNIT)).astype(np.int8)
    asked = 0 if offsets is None else offsets
    both = np.asarray(np.clip(added + asked, -step_map.MAX_OFFSET, step_map.MAX_OFFSET), np.int8)
    file_bytes = _SYMBOL_BYTES * float(symbols.sum())
    if not both.any() or len(step_map.encode_step_map(both)) + _CHUNK_BYTES > _MAX_SHARE * file_bytes:
        return offsets
    return both


def likely_step(latents: NDArray[np.float32], steps: NDArray[np.float32], budget_bytes: float) -> int:
    """The step index at which a file of these latents is likely to take so many bytes. Arguments as of ``adapted``."""
    ends = np.zeros(MAX_STEP_INDEX + 2, np.int64)  # how many latents become 0 at each step index
    for channel, step in zip(latents, steps, strict=True):
        with np.errstate(divide="ignore"):
            octaves = np.log2(np.abs(channel) / (KEPT * step))
        indices = np.clip(np.ceil(step_map.NEUTRAL_INDEX + step_map.OCTAVE * octaves), 0, MAX_STEP_INDEX + 1)
        ends += np.bincount(indices.astype(np.int64).ravel(), minlength=len(ends))
    symbols = ends[::-1].cumsum()[::-1][1:]
    return int(np.argmin(symbols > budget_bytes / _SYMBOL_BYTES))


def _cell_sums(values: NDArray[np.int32], side: int) -> NDArray[np.int64]:
    rows, columns = (np.arange(0, length, side) for length in values.shape)
    return np.asarray(np.add.reduceat(np.add.reduceat(values, rows, 0), columns, 1), np.int64)
