"""What a symbol does to the bits of the symbols that are coded after it: for the encoder's decisions only.

A pass sees earlier symbols in its windows, so a symbol that is chosen one larger moves the means and the scales of
later ones. This is the derivative of their bits, taken backwards through each pass's network, with a logistic density
standing for the tables. Nothing here is normative, and nothing a decoder needs.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from sdrt.coding.context import Canvas, bands_of, symbols_of
from sdrt.coding.prior import (
    HIDDEN_BITS,
    HIDDEN_LIMIT,
    MEAN_BITS,
    SCALE_LIMIT,
    TOTAL,
    WINDOW,
    Float32,
    Int32,
    Pass,
    Prior,
)

_LEAST_SHARE = np.float32(1e-6)
_STEEPEST = np.float32(30)  # beyond, a logistic is 0 or 1 to float32


class Influence:
    """Collects, pass by pass in coding order, how each symbol of (h, w, C) bears on those coded later.

    ``slope`` float32 (h + 4, w + 4, C): bits for one more of the symbol; ``magnitude`` float32 (h + 2, w + 2, C): bits
    for one more of its magnitude; with the margins of a Canvas.
    """

    def __init__(self, prior: Prior, height: int, width: int) -> None:
        self._prior, self._size = prior, (height, width)
        self.slope = np.zeros((height + 2 * WINDOW, width + 2 * WINDOW, prior.channels), np.float32)
        self.magnitude = np.zeros((height + 2, width + 2, prior.channels), np.float32)

    def add(self, step: Pass, canvas: Canvas, step_index: int, symbols: Int32) -> None:
        """Pass on what the bits of a pass's ``symbols`` (positions, size) say to the symbols that ``canvas`` holds."""
        start, stop, own = step.start, step.stop, len(step.taps) * step.start
        size, hidden = stop - start, len(step.shift)
        bias, out_unit = canvas.bias(step, step_index), np.ldexp(np.float32(1), -step.out_shift)
        first = 0
        for band, rows in zip(bands_of(step, *self._size), canvas.inputs(step), strict=True):
            total = rows @ step.weights
            total += bias
            active = total[:, :hidden] * step.shift
            alive = (active > 0) & (active < HIDDEN_LIMIT)
            output = np.clip(active, 0, HIDDEN_LIMIT) @ step.out_weights + 2**HIDDEN_BITS * total[:, hidden:]
            output *= out_unit
            slopes = self._slopes(output, symbols[first : first + len(rows)]) * out_unit
            first += len(rows)
            hidden_slopes = (slopes @ step.out_weights.T) * alive * step.shift
            back = np.concatenate([hidden_slopes, 2**HIDDEN_BITS * slopes], 1) @ step.weights.T
            inputs = back.reshape(band.rows, band.columns, -1)
            for t, tap in enumerate(step.taps):
                band.at(self.slope, tap, WINDOW)[..., :start] += inputs[:, :, t * start : (t + 1) * start]
            for t, tap in enumerate(step.own_taps):
                at = own + t * size
                band.at(self.slope, tap, WINDOW)[..., start:stop] += inputs[:, :, at : at + size]
            energies = inputs[:, :, own + len(step.own_taps) * size :]
            for tap in ((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)):
                band.at(self.magnitude, tap, 1)[..., :stop] += energies

    def of(self, step: Pass) -> tuple[Float32, Float32]:
        """(slopes, magnitudes) of a pass's own symbols, each (positions, size)."""
        slope, magnitude = self.slope[WINDOW:-WINDOW, WINDOW:-WINDOW], self.magnitude[1:-1, 1:-1]
        return symbols_of(step, slope), symbols_of(step, magnitude)

    def _slopes(self, output: Float32, symbols: Int32) -> Float32:
        """Bits for one more of each output (n, 2 * size): means, then scales."""
        size = symbols.shape[1]
        spreads, growth = _spreads(self._prior)
        scale = np.clip(output[:, size:], 0, SCALE_LIMIT).astype(np.int32)
        spread = spreads[scale]
        residual = symbols - output[:, :size] * np.float32(2.0**-MEAN_BITS)
        distance = np.abs(residual)
        high, low = ((offset - distance) / spread for offset in (np.float32(0.5), np.float32(-0.5)))
        above, below = (1 / (1 + np.exp(-np.clip(at, -_STEEPEST, _STEEPEST))) for at in (high, low))
        bits = np.float32(1 / np.log(2)) / (spread * np.maximum(above - below, _LEAST_SHARE))
        above, below = above * (1 - above), below * (1 - below)
        for_mean = (below - above) * np.sign(residual) * bits * np.float32(2.0**-MEAN_BITS)
        for_scale = (high * above - low * below) * bits * growth[scale]
        return np.concatenate([for_mean, for_scale], 1)


@lru_cache(maxsize=8)
def _spreads(prior: Prior) -> tuple[Float32, Float32]:
    """For each scale, float32 (SCALE_LIMIT + 1,): the logistic's spread in symbols, and how it grows with the scale.

    What a scale means is only what its tables say: the spread is read from each table's share of zero.
    """
    spreads: list[float] = []
    for table, radius, low_bits in zip(prior.frequencies, prior.radius.tolist(), prior.low_bits.tolist(), strict=True):
        share = min(max(int(table[0, radius]) / TOTAL, 1e-3), 0.9999)
        spreads.append(0.5 * 2**low_bits / float(np.log((1 + share) / (1 - share))))
    rising = np.log(np.maximum.accumulate(np.array(spreads)))
    edges = np.flatnonzero(np.diff(prior.class_of)) + 1.0
    limits = np.concatenate([[1.0], edges, [SCALE_LIMIT + 1.0]])
    middles = np.sqrt(limits[:-1] * limits[1:])
    classes = np.unique(prior.class_of)
    by_scale = np.exp(np.interp(np.log(np.arange(SCALE_LIMIT + 1) + 0.5), np.log(middles), rising[classes]))
    return by_scale.astype(np.float32), np.gradient(by_scale).astype(np.float32)
