"""A small picture straight from the latents of a large one, for a fraction of a decoder's time.

What a decoder paints, averaged over a part of a cell, is nearly a linear function of the latents around it. No pack
ships that function: it is fitted, by least squares, to what the decoder makes of a few pieces of this very picture. So
any pack has previews, and a picture's own colors decide.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdrt.container.step_map import StepIndices
from sdrt.network.engine import Engine
from sdrt.network.transform import to_pixels
from sdrt.packs.manifest import ModelPack
from sdrt.pixels.picture import Pixels

EXACT_PX = 2**20
"""A picture of so many pixels is decoded whole in about a second on one core with models/tiny."""
SUBDIVISIONS = (1, 2, 4)
"""Pixels of a preview along a cell."""

_PIECE_PX = 512
_PIECES = (2, 3)
"""Down and across: six quarters of a megapixel are painted to learn from."""
_RIM_PX = 64
"""Of a piece, not learned from: there the decoder saw zeros where the picture goes on."""
_REACH = 1
"""Latents on each side that a cell's colors are predicted from, besides its own."""
_RIDGE = 1e-4
"""Of the mean energy of the inputs, added to each one's own: keeps the weights small where the pieces say nothing."""


def subdivision(pack: ModelPack, width_px: int, height_px: int, side_px: int) -> int | None:
    """How many pixels of a preview a cell needs so that the longest side has ``side_px``.

    ``width_px``, ``height_px``: of the coded picture. None: it is small, or the thumbnail large; decode it.
    """
    cell = pack.space.downscale
    fine = [parts for parts in SUBDIVISIONS if cell % parts == 0 and max(width_px, height_px) * parts >= side_px * cell]
    return fine[0] if fine and width_px * height_px > EXACT_PX else None


def preview(
    latents: NDArray[np.float32], pack: ModelPack, decoder: Engine, parts: int, *, indices: StepIndices
) -> Pixels:
    """``(raw - shift) * scale``, float32 (C, h, w) -> uint8 (h * parts, w * parts, 3), the colors averaged.

    Args:
        latents: Of the whole picture.
        pack: Of the decoder.
        decoder: Paints the pieces.
        parts: Pixels along a cell, a divisor of the space's downscale factor.
        indices: int64 (h, w), the step index of each latent.

    Raises:
        EngineError: As ``to_pixels``.
        ModelError: As ``to_pixels``.
    """
    _, rows, columns = latents.shape
    cell = pack.space.downscale
    inputs, colors = [], []
    rim, high, wide = _RIM_PX // cell, min(rows, _PIECE_PX // cell), min(columns, _PIECE_PX // cell)
    for top in _starts(rows, high, _PIECES[0]):
        for left in _starts(columns, wide, _PIECES[1]):
            piece = np.s_[top : top + high, left : left + wide]
            values = latents[:, top : top + high, left : left + wide]
            painted = to_pixels(values, pack, decoder, (0, 0, wide * cell, high * cell), indices=indices[piece])
            averages = painted.reshape(high, parts, cell // parts, wide, parts, cell // parts, 3).mean((2, 5))
            inner = slice(rim, max(high - rim, rim + 1)), slice(rim, max(wide - rim, rim + 1))
            colors.append(averages.transpose(0, 2, 1, 3, 4)[inner].reshape(-1, parts * parts * 3))
            around = _neighborhoods(values)
            inputs.append(around[inner].reshape(-1, around.shape[-1]))
    weights = _least_squares(np.concatenate(inputs), np.concatenate(colors))
    result = np.empty((rows, parts, columns, parts, 3), np.uint8)
    padded = np.pad(latents, ((0, 0), (_REACH, _REACH), (0, 0)), mode="edge")
    for row in range(rows):  # row by row: neighborhoods of all take nine times the room of the latents
        line = _neighborhoods(padded[:, row : row + 2 * _REACH + 1])[_REACH] @ weights
        result[row] = np.clip(np.rint(line), 0, 255).reshape(columns, parts, parts, 3).swapaxes(0, 1)
    return result.reshape(rows * parts, columns * parts, 3)


def _starts(length: int, piece: int, count: int) -> list[int]:
    """Where ``count`` pieces begin, fewer where they would overlap, as far from each other and both ends as can be."""
    fitting = max(1, min(count, length // piece))
    gap = (length - fitting * piece) / (fitting + 1)
    return [int(gap + number * (piece + gap)) for number in range(fitting)]


def _neighborhoods(latents: NDArray[np.float32]) -> NDArray[np.float32]:
    """(C, h, w) -> (h, w, inputs): the latents around each position, edges repeated, and a one."""
    _, rows, columns = latents.shape
    padded = np.pad(latents, ((0, 0), (_REACH, _REACH), (_REACH, _REACH)), mode="edge")
    around = range(2 * _REACH + 1)
    planes = [padded[:, dy : dy + rows, dx : dx + columns] for dy in around for dx in around]
    stacked: NDArray[np.float32] = np.concatenate([*planes, np.ones((1, rows, columns), np.float32)])
    return np.moveaxis(stacked, 0, -1)


def _least_squares(inputs: NDArray[np.float32], colors: NDArray[np.float64]) -> NDArray[np.float32]:
    """The weights, (inputs, colors), that give ``colors`` (n, colors) from ``inputs`` (n, inputs)."""
    values = inputs.astype(np.float64)
    energy = values.T @ values
    energy[np.diag_indices_from(energy)] += _RIDGE * np.trace(energy) / len(energy)
    weights = np.linalg.solve(energy, values.T @ colors)
    return weights.astype(np.float32)


def preview_box(pack: ModelPack, width_px: int, height_px: int, parts: int) -> tuple[float, float, float, float]:
    """The part of a preview, in its pixels, that is the coded picture; the rest continues it to whole cells."""
    scale = parts / pack.space.downscale
    return 0, 0, width_px * scale, height_px * scale
