"""Contexts: from the symbols decoded so far to a prediction of the next pass's symbols, in integers.

docs/PRIOR.md is the normative description; :mod:`sdrt.prior` says why float32 products are exact here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdrt.prior import (
    ENERGY_LIMIT,
    FRACTIONS,
    GLOBAL_BITS,
    HIDDEN_BITS,
    HIDDEN_LIMIT,
    MEAN_BITS,
    SCALE_LIMIT,
    SYMBOL_LIMIT,
    WINDOW,
    Float32,
    Int32,
    Pass,
    Prior,
)

_CHUNK = 8192


@dataclass(frozen=True)
class Prediction:
    """What a pass knows of its symbols before they are coded; all (n,) over positions x channels.

    The coded residual is ``sign * (symbol - mean)``; ``table`` = class * FRACTIONS + fraction.
    """

    mean: Int32
    sign: Int32
    table: Int32


def inverse_step(step_index: int) -> int:
    """The network's quality input: ``32 * 2**((512 - step_index) / 64)`` in integers: 0..8192 for 0..1023."""
    octave, part = divmod(512 - step_index, 64)
    return (_POWERS[part] << 8 + octave) + 2**15 >> 16


def _integer_root_powers() -> tuple[int, ...]:
    """floor(2**13 * 2**(i / 64)) for i in 0..63: part of the format, so by integer roots, not by a libm's pow."""
    values = []
    for i in range(64):
        target, low, high = 2 ** (13 * 64 + i), 2**13, 2**14
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if middle**64 <= target else (low, middle)
        values.append(low)
    return tuple(values)


_POWERS = _integer_root_powers()


class Canvas:
    """Symbols decoded so far, in coding order, padded by WINDOW zeros on every side.

    ``symbols`` float32 (h + 4, w + 4, C), integers clipped to SYMBOL_LIMIT; ``energy`` float32 (h, w, C) is the
    sum of the magnitudes in the 3x3 window; ``sums`` and ``counts`` int64 (C,) are of magnitudes coded so far.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.symbols = np.zeros((height + 2 * WINDOW, width + 2 * WINDOW, channels), np.float32)
        self.energy = np.zeros((height, width, channels), np.float32)
        self.sums = np.zeros(channels, np.int64)
        self.counts = np.zeros(channels, np.int64)

    def coset_shape(self, coset: tuple[int, int]) -> tuple[int, int]:
        return (self.height - coset[0] + 1) // 2, (self.width - coset[1] + 1) // 2

    def store(self, step: Pass, symbols: Int32) -> None:
        """Put the symbols of a pass, (positions, size), where later passes look for them."""
        channels = slice(step.start, step.stop)
        clipped = np.clip(symbols, -SYMBOL_LIMIT, SYMBOL_LIMIT)
        self.sums[channels] += np.abs(clipped).sum(0, dtype=np.int64)
        self.counts[channels] += len(symbols)
        place(step, clipped, self.symbols[WINDOW : WINDOW + self.height, WINDOW : WINDOW + self.width])
        size = np.abs(self.symbols[1:-1, 1:-1, channels])
        across = size[:, :-2] + size[:, 1:-1] + size[:, 2:]
        total = across[:-2] + across[1:-1] + across[2:]
        self.energy[:, :, channels] = np.minimum(total, ENERGY_LIMIT)

    def global_features(self, step_index: int) -> NDArray[np.int64]:
        """int64 (2 + C,): one, inverse step, and mean magnitude so far in sixteenths, zero where none is known."""
        means = 16 * self.sums // np.maximum(self.counts, 1)
        return np.concatenate([[1, inverse_step(step_index)], means]).astype(np.int64)

    def inputs(self, step: Pass) -> Iterator[Float32]:
        """The rows of a pass in order, in pieces of bounded size, each float32 (n, T * stop + stop)."""
        taps, stop = step.taps, step.stop
        for y0, x0 in step.cosets:
            rows, columns = self.coset_shape((y0, x0))
            band = max(1, _CHUNK // max(columns, 1))
            for top in range(0, rows if columns else 0, band):
                n = min(band, rows - top)
                piece = np.empty((n, columns, len(taps) + 1, stop), np.float32)
                for t, (dy, dx) in enumerate(taps):
                    y, x = WINDOW + y0 + 2 * top + dy, WINDOW + x0 + dx
                    piece[:, :, t] = self.symbols[y : y + 2 * n - 1 : 2, x : x + 2 * columns - 1 : 2, :stop]
                y = y0 + 2 * top
                piece[:, :, -1] = self.energy[y : y + 2 * n - 1 : 2, x0::2, :stop]
                yield piece.reshape(n * columns, (len(taps) + 1) * stop)


def predict(prior: Prior, step: Pass, canvas: Canvas, step_index: int) -> Prediction:
    """Run a pass's network; position-major, the pass's channels innermost."""
    size, hidden = step.stop - step.start, len(step.shift)
    bias = (canvas.global_features(step_index) @ step.global_weights >> GLOBAL_BITS).astype(np.float32)
    outputs = []
    for rows in canvas.inputs(step):
        sums = rows @ step.weights
        sums += bias
        active = np.floor(sums[:, :hidden] * step.shift)
        np.clip(active, 0, HIDDEN_LIMIT, out=active)
        direct = sums[:, hidden:].astype(np.int32) << HIDDEN_BITS
        outputs.append((active @ step.out_weights).astype(np.int32) + direct >> step.out_shift)
    output = np.concatenate(outputs) if outputs else np.zeros((0, 2 * size), np.int32)
    limit = SYMBOL_LIMIT << MEAN_BITS
    eighths = np.clip(output[:, :size], -limit, limit).ravel()
    scale = np.clip(output[:, size:], 0, SCALE_LIMIT).ravel()
    half = 1 << MEAN_BITS - 1
    mean = (eighths + half) >> MEAN_BITS
    fraction = eighths - (mean << MEAN_BITS)
    sign = np.where(fraction < 0, np.int32(-1), np.int32(1))
    table = prior.class_of[scale].astype(np.int32) * FRACTIONS + fraction * sign
    return Prediction(mean, sign, table)


def symbols_of(step: Pass, coded: Int32) -> Int32:
    """The symbols of one pass, (positions, size), from all of them in coding order, (h, w, C)."""
    parts = [coded[y::2, x::2, step.start : step.stop].reshape(-1, step.stop - step.start) for y, x in step.cosets]
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def place(step: Pass, symbols: NDArray[np.generic], target: NDArray[np.generic]) -> None:
    """The inverse of :func:`symbols_of`: write (positions, size) into ``target`` (h, w, C)."""
    first = 0
    for y, x in step.cosets:
        part = target[y::2, x::2, step.start : step.stop]
        count = part.shape[0] * part.shape[1]
        part[...] = symbols[first : first + count].reshape(part.shape)
        first += count


def replay(prior: Prior, coded: Int32, step_index: int) -> Iterator[tuple[Pass, Int32, Prediction]]:
    """Every pass with its symbols (positions, size) and prediction, for known symbols (h, w, C) in coding order."""
    canvas = Canvas(prior.channels, coded.shape[0], coded.shape[1])
    for step in prior.passes:
        symbols = symbols_of(step, coded)
        yield step, symbols, predict(prior, step, canvas, step_index)
        canvas.store(step, symbols)


def table_entries(prior: Prior, prediction: Prediction, symbols: Int32) -> tuple[Int32, Int32, Int32]:
    """(entry of its table, low bits, residual above them), each (n,), of symbols (n,)."""
    classes = prediction.table // FRACTIONS
    residual = prediction.sign * (symbols - prediction.mean)
    bits = prior.low_bits[classes]
    high = residual >> bits
    radius = prior.radius[classes]
    entry = np.where(np.abs(high) <= radius, high + radius, 2 * radius + 1)
    return entry, residual - (high << bits), high
