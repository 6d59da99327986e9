"""Context modeling: predicts the symbols of a scan from those already decoded, in integer arithmetic.

docs/PRIOR.md is normative; :mod:`sdrt.coding.prior` explains why the float32 products are exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sdrt.coding.prior import (
    BAND,
    FRACTIONS,
    GLOBAL_BITS,
    HIDDEN_BITS,
    HIDDEN_LIMIT,
    MEAN_BITS,
    SCALE_LIMIT,
    SIZE_BITS,
    SYMBOL_LIMIT,
    WINDOW,
    Float32,
    Int32,
    Prior,
    Scan,
)
from sdrt.coding.symbols import Coded, narrowest
from sdrt.container.step_map import NEUTRAL_INDEX, OCTAVE

Positions = NDArray[np.int64]
"""Flat indices into a canvas; its margins count as cells."""

_CHUNK = 8192
_Number = TypeVar("_Number", bound=np.generic)
_NEIGHBORHOOD = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


@dataclass(frozen=True, eq=False)
class Prediction:
    """The predicted distributions of a scan's symbols. The coded residual is ``sign * (symbol - mean)``.

    Attributes:
        mean: int16 (n,), n = positions x channels, channels innermost: the rounded mean.
        sign: int8 (n,), -1 or 1.
        table: int16 (n,), the frequency table: class * FRACTIONS + fraction of the mean.
    """

    mean: NDArray[np.int16]
    sign: NDArray[np.int8]
    table: NDArray[np.int16]


def inverse_step(step_index: int) -> int:
    """The network's quality input, ``32 * 2**((512 - step_index) / 64)`` rounded: 8192..0 for step indices 0..1023."""
    octave, part = divmod(NEUTRAL_INDEX - step_index, OCTAVE)
    return (_POWERS[part] << 8 + octave) + 2**15 >> 16


def _integer_root_powers() -> tuple[int, ...]:
    """floor(2**13 * 2**(i / OCTAVE)) for i in 0..63: part of the format, so by integer roots, not by a libm's pow."""
    values = []
    for i in range(OCTAVE):
        target, low, high = 2 ** (13 * OCTAVE + i), 2**13, 2**14
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if middle**OCTAVE <= target else (low, middle)
        values.append(low)
    return tuple(values)


_POWERS = _integer_root_powers()


class Canvas:
    """Symbols decoded so far, channels in the prior's order, and the features that later scans derive from them.

    Flat arrays over positions, WINDOW cells of margin on every side, zero where nothing is decoded:

    Attributes:
        symbols: (cells, channels), in the smallest type that holds them, see ``sdrt.coding.symbols``.
        energy: int16 (cells, near channels), sums of magnitudes over 3x3 windows. Magnitudes are clipped to
            SYMBOL_LIMIT, here and below.
        bands, bands_around: int16 (cells, bands), magnitudes of the channels behind, summed over a band and clipped
            again, at the position, and these over its 3x3 window.
        sums, counts: int64 (near channels,), of the magnitudes so far.
    """

    def __init__(self, prior: Prior, step_indices: NDArray[np.integer]) -> None:
        """An empty canvas.

        Args:
            prior: The prior that the symbols are coded under.
            step_indices: int (h, w), 0..1023: the step index at each position.
        """
        self.prior = prior
        height, width = int(step_indices.shape[0]), int(step_indices.shape[1])
        self.height, self.width = height, width
        self._stride = width + 2 * WINDOW
        cells, channels = (height + 2 * WINDOW) * self._stride, prior.coded_channels
        self.symbols: Coded = np.zeros((cells, channels), narrowest(0))
        self._largest = 0  # magnitude of a symbol
        self.energy = np.zeros((cells, prior.near), np.int16)
        self.bands = np.zeros((cells, -(-(channels - prior.near) // BAND)), np.int16)
        self.bands_around = np.zeros_like(self.bands)
        self.sums, self.counts = np.zeros(prior.near, np.int64), np.zeros(prior.near, np.int64)
        self.step_indices = step_indices
        indices = np.zeros((height + 2 * WINDOW, self._stride), np.int64)
        indices[WINDOW:-WINDOW, WINDOW:-WINDOW] = step_indices
        self._indices = indices.ravel()
        self._qualities = np.unique(step_indices)

    @property
    def coded(self) -> Coded:
        """The symbols without the margins, (h, w, channels): a view."""
        inner = slice(WINDOW, -WINDOW)
        return self.symbols.reshape(-1, self._stride, self.symbols.shape[1])[inner, inner]

    def offset(self, dy: int, dx: int) -> int:
        """The offset of a tap, ``dy`` rows down and ``dx`` columns right, in flat indices."""
        return dy * self._stride + dx

    def positions(self, scan: Scan) -> Positions:
        """The positions that a scan codes: grid by grid, each in raster order, without those of too small an extent."""
        parts = []
        for grid in scan.grids:
            rows = np.arange(grid.y, self.height, grid.stride) + WINDOW
            columns = np.arange(grid.x, self.width, grid.stride) + WINDOW
            parts.append((rows[:, None] * self._stride + columns).ravel())
        places = np.concatenate(parts) if len(parts) > 1 else parts[0]
        if scan.min_extent:
            places = places[self.symbols[places, 0] >= scan.min_extent]
        return places

    def cells(self, places: Positions) -> tuple[Positions, Positions]:
        """Rows and columns of ``places``, without margins."""
        y, x = np.divmod(places, self._stride)
        return y - WINDOW, x - WINDOW

    def rows(self, array: NDArray[_Number], places: Positions) -> NDArray[_Number]:
        """Gathers from ``array`` (h, w, ...), without margins, at ``places``: (positions, ...)."""
        found: NDArray[_Number] = array[self.cells(places)]
        return found

    def scatter(self, values: NDArray[np.generic], places: Positions, target: NDArray[np.generic]) -> None:
        """Scatters ``values`` (positions, ...) into ``target`` (h, w, ...) at ``places``: the inverse of ``rows``."""
        target[self.cells(places)] = values

    def store(self, scan: Scan, places: Positions, values: Int32) -> None:
        """Records the symbols of a scan, int32 (positions, channels), as context for later scans."""
        magnitudes = np.abs(values)
        self._largest = max(self._largest, int(magnitudes.max(initial=0)))
        self.symbols = self.symbols.astype(narrowest(self._largest), copy=False)
        self.symbols[places, scan.start : scan.stop] = values
        magnitude = np.minimum(magnitudes, SYMBOL_LIMIT).astype(np.int16)
        if scan.wide:
            first, last = (scan.start - self.prior.near) // BAND, scan.bands[1]
            edges = np.arange(0, scan.size, BAND)
            magnitude = np.minimum(np.add.reduceat(magnitude, edges, axis=1, dtype=np.int16), SYMBOL_LIMIT)
            self.bands[places, first:last] = magnitude
            around, channels = self.bands_around, slice(first, last)
        else:
            channels = slice(scan.start, scan.stop)
            self.sums[channels] += magnitude.sum(0, dtype=np.int64)
            self.counts[channels] += len(places)
            around = self.energy
        for tap in _NEIGHBORHOOD:
            around[places + self.offset(*tap), channels] += magnitude

    def bias(self, scan: Scan, places: Positions) -> tuple[Float32, NDArray[np.int64]]:
        """The biases of a scan's first layer, from the quality and the mean magnitudes.

        Returns:
            float32 (step indices in use, hidden + 2 * channels), whole numbers; and int64 (positions,), the row that
            applies to each position.
        """
        shown = scan.mean_weights.shape[0]
        means = (self.sums[:shown] << SIZE_BITS) // np.maximum(self.counts[:shown], 1)
        quality = np.array([[1, inverse_step(int(index))] for index in self._qualities], np.int64)
        bias = quality @ scan.global_weights >> GLOBAL_BITS
        bias[:, : scan.mean_weights.shape[1]] += means @ scan.mean_weights >> SIZE_BITS
        return bias.astype(np.float32), np.searchsorted(self._qualities, self._indices[places])

    def seen(self, places: Positions, channels: slice) -> Coded:
        """The symbols of ``channels`` at ``places``, (positions, channels), clipped to SYMBOL_LIMIT."""
        found = self.symbols[places, channels]
        return found if self._largest <= SYMBOL_LIMIT else np.clip(found, -SYMBOL_LIMIT, SYMBOL_LIMIT)

    def inputs(self, scan: Scan, places: Positions) -> Float32:
        """The inputs of a scan's network, float32 (positions, inputs)."""
        near, own = scan.near, slice(scan.start, scan.stop)
        shown = near if scan.wide else scan.stop
        parts: list[NDArray[np.generic]] = [self.seen(places + self.offset(*tap), slice(near)) for tap in scan.taps]
        if not scan.wide:
            parts += [self.seen(places + self.offset(*tap), own) for tap in scan.own_taps]
        parts.append(self.energy[places, :shown])
        here, around = scan.bands
        if around:
            parts += [self.bands[places, :here], self.bands_around[places, :around]]
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def own(self, scan: Scan, places: Positions) -> tuple[Float32, Float32]:
        """The contribution of neighbors in the same channels to the means and scales of a wide scan.

        Returns:
            Means and scales, each float32 (positions, channels), whole numbers.
        """
        total = np.zeros((2, len(places), scan.size), np.float32)
        for tap, mean_weight, scale_weight in zip(scan.own_taps, *scan.own_weights, strict=True):
            values = self.seen(places + self.offset(*tap), slice(scan.start, scan.stop))
            total[0] += values * mean_weight
            total[1] += np.abs(values) * scale_weight
        return total[0], total[1]


def predict(canvas: Canvas, scan: Scan, places: Positions) -> Prediction:
    """Runs a scan's network at ``places``. The order of the result is position-major, the scan's channels innermost."""
    prior, size, hidden = canvas.prior, scan.size, scan.hidden
    bias, which = canvas.bias(scan, places)
    shape, limit = (len(places), size), SYMBOL_LIMIT << MEAN_BITS
    mean, sign, table = np.empty(shape, np.int16), np.empty(shape, np.int8), np.empty(shape, np.int16)
    for first in range(0, len(places), _CHUNK):
        part = slice(first, first + _CHUNK)
        some = places[part]
        added = bias[which[part]] if len(bias) > 1 else bias
        rows = canvas.inputs(scan, some)
        sums = rows @ scan.weights
        active = sums[:, :hidden] + added[:, :hidden]
        active *= scan.shift
        np.floor(active, out=active)
        np.clip(active, 0, HIDDEN_LIMIT, out=active)
        direct = np.concatenate(canvas.own(scan, some), axis=1) if scan.wide else sums[:, hidden:]
        direct = direct + added[:, hidden:]
        total = direct.astype(np.int32)
        total <<= HIDDEN_BITS
        total += (active @ scan.out_weights).astype(np.int32)
        total >>= scan.out_shift
        eighths = np.clip(total[:, :size], -limit, limit)
        scale = np.clip(total[:, size:], 0, SCALE_LIMIT)
        rounded = (eighths + (1 << MEAN_BITS - 1)) >> MEAN_BITS
        fraction = eighths - (rounded << MEAN_BITS)
        mean[part], sign[part] = rounded, (fraction >> 31) | 1
        table[part] = prior.class_of[scale]
        table[part] *= FRACTIONS
        table[part] += np.abs(fraction)
    return Prediction(mean.ravel(), sign.ravel(), table.ravel())


def replay(prior: Prior, coded: Coded, step_indices: NDArray[np.integer]) -> Iterator[tuple[Scan, Int32, Prediction]]:
    """The predictions for known symbols, as a decoder would make them.

    Args:
        prior: The prior that the symbols are coded under.
        coded: (h, w, coded channels), as `sdrt.coding.symbols.with_extents` returns them.
        step_indices: int (h, w), 0..1023.

    Yields:
        Each scan in coding order, with its symbols, int32 (positions, channels), and their prediction.
    """
    canvas = Canvas(prior, step_indices)
    for scan in prior.scans:
        places = canvas.positions(scan)
        values: Int32 = np.asarray(canvas.rows(coded[:, :, scan.start : scan.stop], places), np.int32)
        yield scan, values, predict(canvas, scan, places)
        canvas.store(scan, places, values)


def table_entries(prior: Prior, prediction: Prediction, symbols: Int32) -> tuple[Int32, Int32, Int32]:
    """Splits symbols, int32 (n,), into what is coded.

    Returns:
        Three int32 (n,): the entry of the frequency table (the last one is the escape), the low bits, and the residual
        without its low bits.
    """
    classes = prediction.table // FRACTIONS
    high = symbols - prediction.mean
    high *= prediction.sign
    bits = prior.low_bits[classes]
    low = high & (1 << bits) - 1
    high >>= bits
    radius = prior.radius[classes]
    entry = high + radius
    escaped = np.abs(high) > radius
    entry[escaped] = 2 * radius[escaped] + 1
    return entry, low, high
