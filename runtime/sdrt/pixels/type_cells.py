"""Finds type, line art and screens in a picture: what is drawn has flat ground right beside hard edges.

A photograph's ground is never flat to the level where its edges are hard: its sensor and its lens see to that.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdrt.pixels.picture import Pixels

Cells = NDArray[np.bool_]


class _Look(NamedTuple):
    """What a cell that looks drawn has. ``flat``, ``hard``: levels between neighbors that are still one ground, and
    that are the edge of a stroke; ``flat_share``, ``hard_share``: minimum shares of its pixels; ``neighbors``: cells of
    the 3 x 3 around it, itself among them, that look so too, for type does not stand alone.
    """

    flat: int
    flat_share: float
    hard: int
    hard_share: float
    neighbors: int


_SURE = _Look(1, 0.5, 64, 0.06, 5)
"""What photographs do not have: of Kodak's 24 none, of 210 training pictures one in more than 1 % of its cells."""
_LIKELY = _Look(2, 0.4, 40, 0.04, 4)
"""What drawn things have, and branches before a sky; it counts only in pictures that have enough that is sure."""
_SURE_SHARE = 0.005
_BAND_CELLS = 64


def type_cells(rgb: Pixels, cell_px: int) -> Cells:
    """Which square cells of a picture hold drawn things: bool (ceil(H / cell_px), ceil(W / cell_px)).

    ``rgb``: uint8 (H, W, 3). It is looked at in bands, so that memory does not grow with the picture.
    """
    shape = -(-rgb.shape[0] // cell_px), -(-rgb.shape[1] // cell_px)
    sure, likely = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    for first in range(0, shape[0], _BAND_CELLS):
        cells = slice(first, first + _BAND_CELLS)
        band = rgb[first * cell_px : (first + _BAND_CELLS) * cell_px]
        sure[cells], likely[cells] = _drawn(band, cell_px)
    sure &= _around(sure) >= _SURE.neighbors
    if sure.sum() < _SURE_SHARE * sure.size:
        return np.zeros(shape, np.bool_)
    return likely & (_around(likely) >= _LIKELY.neighbors)


def equal_share(rgb: Pixels) -> float:
    """Share of the pixels of uint8 (H, W, 3) whose green is that of the pixel before: near 1 in flats and diagrams."""
    green = rgb[:, :, 1].ravel()
    return float((green[1:] == green[:-1]).mean()) if green.size > 1 else 1.0


def widened(cells: Cells) -> Cells:
    """``cells`` and the eight around each."""
    return _around(cells) > 0


def cell_sums(values: NDArray[np.float32], cell_px: int) -> NDArray[np.float32]:
    """Sums over the square cells of float32 (H, W); those at the right and below may be cut."""
    rows = np.add.reduceat(values, np.arange(0, values.shape[0], cell_px), axis=0)
    return np.asarray(np.add.reduceat(rows, np.arange(0, values.shape[1], cell_px), axis=1), np.float32)


def _drawn(rgb: Pixels, cell_px: int) -> tuple[Cells, Cells]:
    """The cells that look as _SURE says, and as _LIKELY says."""
    green = rgb[:, :, 1].astype(np.int16)
    steps = np.zeros(green.shape, np.int16)
    steps[:, :-1] = np.abs(np.diff(green, axis=1))
    steps[:-1] = np.maximum(steps[:-1], np.abs(np.diff(green, axis=0)))
    count = cell_sums(np.ones(green.shape, np.float32), cell_px)
    found = []
    for look in (_SURE, _LIKELY):
        flat = cell_sums((steps <= look.flat).astype(np.float32), cell_px)
        hard = cell_sums((steps >= look.hard).astype(np.float32), cell_px)
        found.append((flat >= look.flat_share * count) & (hard >= look.hard_share * count))
    return found[0], found[1]


def _around(cells: Cells) -> NDArray[np.intp]:
    """How many of the 3 x 3 cells around each are set, itself among them."""
    padded = np.pad(cells, 1).astype(np.intp)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return np.asarray(rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:])
