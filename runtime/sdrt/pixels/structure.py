"""How far the structure of a painted picture is from that of its original, cell by cell.

Both pictures are compared in luma after a slight blur, each cell without the mean of the difference: a shift of
brightness or of color is no structure. docs/TRUTH.md has the formulas and what they leave out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdrt.pixels.picture import Pixels, Scroll

Float32 = NDArray[np.float32]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Of red, green and blue, ITU-R BT.601."""
BINOMIAL = np.array([1, 4, 6, 4, 1], np.float32) / 16
"""Along rows and columns: a Gaussian of one pixel."""

CONTRAST_FLOOR = 8.0
"""Levels, added to a cell's contrast: noise in a flat cell is not structure."""
KEPT, PLAUSIBLE = 2.0, 5.0
"""Levels: a cell is in a class where ``error ** 2 <= class * (contrast + CONTRAST_FLOOR)``."""
DEVICE_MARGIN = 2.0
"""Levels that an encoder adds to the measured error: the same cell may differ by this much on another device."""

_NOTHING = 1e-6
_FLAT = 4.0
"""Squared levels per pixel below which a gradient has no direction."""
_SPREAD = 4
"""Times that the products of gradients are blurred: a Gaussian of two pixels."""
_BLUR_PX = 2
_LINES_PX = 1 + _SPREAD * _BLUR_PX
"""Pixels around a pixel that its blurred value depends on, and its coherence."""

_BAND_PIXELS = 2**19
"""Pixels that are compared at once: floats take twelve times their room."""


class Structure(NamedTuple):
    """Two arrays float32 (rows, columns) in levels of luma, 0..255.

    ``contrast``: standard deviation of a cell of the blurred original. ``error``: that of the blurred difference.
    """

    contrast: Float32
    error: Float32


class Band(NamedTuple):
    """Rows of two pictures: ``original`` and ``difference``, luma (h, W) after the blur, with some rows around those
    ``inside``."""

    original: Float32
    difference: Float32
    inside: slice

    def structure(self, cell_px: int) -> Structure:
        """The structure of the rows inside, in ceil(rows / cell_px) x ceil(W / cell_px) cells."""
        return Structure(*(_deviations(luma[self.inside], cell_px) for luma in (self.original, self.difference)))

    def lined(self, cell_px: int) -> Float32:
        """The share of each cell's squared difference that lies along lines of the original, 0..1. Cells as above."""
        squared = np.square(self.difference)[self.inside]
        along = _means(squared * _coherence(self.original)[self.inside], cell_px)
        return np.asarray(along / np.maximum(_means(squared, cell_px), _NOTHING), np.float32)


def bands(original: Pixels, painted: Pixels | Scroll, cell_px: int) -> Iterator[Band]:
    """Two pictures uint8 (H, W, 3) in bands of whole cells, from top to bottom."""
    height_px, width_px = original.shape[:2]
    step_px, reach_px = max(1, _BAND_PIXELS // (cell_px * width_px)) * cell_px, _BLUR_PX + _LINES_PX
    for top in range(0, height_px, step_px):
        bottom = min(top + step_px, height_px)
        first, last = max(top - reach_px, 0), min(bottom + reach_px, height_px)
        before, after = _blurred(original[first:last]), _blurred(painted[first:last])
        yield Band(before, after - before, slice(top - first, bottom - first))


def compare(original: Pixels, painted: Pixels | Scroll, cell_px: int) -> Structure:
    """The structure of two pictures uint8 (H, W, 3) in ceil(H / cell_px) x ceil(W / cell_px) cells."""
    parts = [band.structure(cell_px) for band in bands(original, painted, cell_px)]
    return Structure(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def classes(structure: Structure, margin: float = DEVICE_MARGIN) -> NDArray[np.uint8]:
    """The class of each cell, uint8 (rows, columns): 0 kept, 1 plausible, 2 invented.

    ``margin``: levels that are added to the error. 0 asks whether a promise holds for the picture that was compared.
    """
    allowance = np.square(structure.error + np.float32(margin)) / (structure.contrast + np.float32(CONTRAST_FLOOR))
    return np.asarray((allowance > KEPT).astype(np.uint8) + (allowance > PLAUSIBLE), np.uint8)


def _blurred(rgb: Pixels) -> Float32:
    """Luma (H, W) after the binomial filter; the edge is repeated."""
    luma: Float32 = np.asarray(rgb.astype(np.float32) @ LUMA)
    return np.asarray(_blurred_rows(_blurred_rows(luma).T).T)


def _blurred_rows(values: Float32) -> Float32:
    padded = np.pad(values, ((2, 2), (0, 0)), mode="edge")
    blurred = np.zeros_like(values)
    for tap, weight in enumerate(BINOMIAL):
        blurred += weight * padded[tap : tap + len(values)]
    return blurred


def _coherence(luma: Float32) -> Float32:
    """How much the gradients around each pixel of (H, W) agree, 0..1: high along lines and contours, low in texture.

    The squared ratio of difference and sum of the structure tensor's eigenvalues (Bigun and Granlund, ICCV 1987).
    """
    if min(luma.shape) < 2:
        return np.zeros_like(luma)
    down, right = np.gradient(luma)
    products = [right * right, down * down, right * down]
    for _ in range(_SPREAD):
        products = [_blurred_rows(_blurred_rows(product).T).T for product in products]
    across, along, mixed = products
    return np.asarray(
        (np.square(across - along) + 4 * np.square(mixed)) / np.square(across + along + np.float32(_FLAT))
    )


def _deviations(values: Float32, cell_px: int) -> Float32:
    """The standard deviation of each cell of (H, W)."""
    exact = values.astype(np.float64)
    return np.asarray(np.sqrt(np.maximum(_means(exact**2, cell_px) - _means(exact, cell_px) ** 2, 0)), np.float32)


def _means(values: NDArray[np.floating], cell_px: int) -> NDArray[np.float64]:
    """The mean of each cell of (H, W); cells at the right and below may be cut."""
    rows, columns = np.arange(0, values.shape[0], cell_px), np.arange(0, values.shape[1], cell_px)
    heights = np.diff(np.append(rows, values.shape[0]))
    widths = np.diff(np.append(columns, values.shape[1]))
    exact = np.asarray(values, np.float64)
    return np.asarray(np.add.reduceat(np.add.reduceat(exact, rows, 0), columns, 1) / np.outer(heights, widths))
