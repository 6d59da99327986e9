"""Contexts: from the symbols decoded so far to a prediction of the next pass's symbols, in integers.

docs/PRIOR.md is the normative description; :mod:`sdrt.coding.prior` says why float32 products are exact here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sdrt.coding.prior import (
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
    Grid,
    Int32,
    Pass,
    Prior,
)

_CHUNK = 8192
_Number = TypeVar("_Number", np.int32, np.float32)


@dataclass(frozen=True, eq=False)
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
    """Symbols decoded so far, in coding order.

    ``symbols`` float32 (h + 4, w + 4, C): integers clipped to SYMBOL_LIMIT, WINDOW zeros on every side, zero where
    not decoded. ``energy`` float32 (h + 2, w + 2, C): sums of magnitudes over 3x3 windows, one cell of margin.
    ``sums`` and ``counts`` int64 (C,) are of the magnitudes so far.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.symbols = np.zeros((height + 2 * WINDOW, width + 2 * WINDOW, channels), np.float32)
        self.energy = np.zeros((height + 2, width + 2, channels), np.float32)
        self.sums = np.zeros(channels, np.int64)
        self.counts = np.zeros(channels, np.int64)

    def store(self, step: Pass, symbols: Int32) -> None:
        """Put the symbols of a pass, (positions, size), where later passes look for them."""
        channels = slice(step.start, step.stop)
        clipped = np.clip(symbols, -SYMBOL_LIMIT, SYMBOL_LIMIT).astype(np.float32)
        magnitude = np.abs(clipped)
        self.sums[channels] += magnitude.sum(0, dtype=np.float64).astype(np.int64)
        self.counts[channels] += len(symbols)
        height, width = self.height, self.width
        place(step, clipped, self.symbols[WINDOW : WINDOW + height, WINDOW : WINDOW + width])
        for grid, first, rows, columns in grids_of(step, height, width):
            part = magnitude[first : first + rows * columns].reshape(rows, columns, -1)
            for y in range(grid.y, grid.y + 3):
                for x in range(grid.x, grid.x + 3):
                    self.energy[_every(y, rows, grid.stride), _every(x, columns, grid.stride), channels] += part

    def bias(self, step: Pass, step_index: int) -> Float32:
        """What a pass's columns get at every position, float32 integers: from quality and mean magnitudes so far."""
        means = (self.sums[: step.stop] << SIZE_BITS) // np.maximum(self.counts[: step.stop], 1)
        quality = np.array([1, inverse_step(step_index)], np.int64)
        bias = (quality @ step.global_weights >> GLOBAL_BITS) + (means @ step.mean_weights >> SIZE_BITS)
        return np.asarray(bias, np.float32)

    def inputs(self, step: Pass) -> Iterator[Float32]:
        """The rows of a pass in order, in pieces of bounded size, each float32 (n, inputs)."""
        start, stop, own = step.start, step.stop, len(step.taps) * step.start
        size = stop - start
        for band in bands_of(step, self.height, self.width):
            piece = np.empty((band.rows, band.columns, own + len(step.own_taps) * size + stop), np.float32)
            for t, tap in enumerate(step.taps):
                piece[:, :, t * start : (t + 1) * start] = band.at(self.symbols, tap, WINDOW)[..., :start]
            for t, tap in enumerate(step.own_taps):
                at = own + t * size
                piece[:, :, at : at + size] = band.at(self.symbols, tap, WINDOW)[..., start:stop]
            piece[:, :, own + len(step.own_taps) * size :] = band.at(self.energy, (0, 0), 1)[..., :stop]
            yield piece.reshape(band.rows * band.columns, -1)


@dataclass(frozen=True)
class Band:
    """Some rows of a grid: positions (y + stride * i, x + stride * j) for i < rows, j < columns."""

    y: int
    x: int
    stride: int
    rows: int
    columns: int

    def at(self, array: NDArray[_Number], tap: tuple[int, int], margin: int) -> NDArray[_Number]:
        """A view (rows, columns, ...) of what lies at ``tap`` (dy, dx) from the positions.

        ``array`` has ``margin`` cells on every side.
        """
        y = _every(margin + self.y + tap[0], self.rows, self.stride)
        return array[y, _every(margin + self.x + tap[1], self.columns, self.stride)]


def bands_of(step: Pass, height: int, width: int) -> Iterator[Band]:
    """The positions of a pass in order, in pieces of bounded size."""
    for grid, _first, rows, columns in grids_of(step, height, width):
        most = max(1, _CHUNK // columns)
        for top in range(0, rows, most):
            yield Band(grid.y + grid.stride * top, grid.x, grid.stride, min(most, rows - top), columns)


def _every(first: int, count: int, stride: int) -> slice:
    return slice(first, first + stride * (count - 1) + 1, stride)


def grids_of(step: Pass, height: int, width: int) -> Iterator[tuple[Grid, int, int, int]]:
    """The grids of a pass that have positions in (height, width): (grid, first position, rows, columns)."""
    first = 0
    for grid in step.grids:
        rows = (height - grid.y + grid.stride - 1) // grid.stride
        columns = (width - grid.x + grid.stride - 1) // grid.stride
        if rows > 0 and columns > 0:
            yield grid, first, rows, columns
            first += rows * columns


def predict(prior: Prior, step: Pass, canvas: Canvas, step_index: int) -> Prediction:
    """Run a pass's network; position-major, the pass's channels innermost."""
    size, hidden = step.stop - step.start, len(step.shift)
    bias = canvas.bias(step, step_index)
    outputs = []
    for rows in canvas.inputs(step):
        active = rows @ step.weights[:, :hidden]
        active += bias[:hidden]
        active *= step.shift
        np.floor(active, out=active)
        np.maximum(active, 0, out=active)
        np.minimum(active, HIDDEN_LIMIT, out=active)
        direct = rows @ step.weights[:, hidden:]
        direct += bias[hidden:]
        total = direct.astype(np.int32)
        total <<= HIDDEN_BITS
        total += (active @ step.out_weights).astype(np.int32)
        total >>= step.out_shift
        outputs.append(total)
    output = outputs[0] if len(outputs) == 1 else np.concatenate([np.zeros((0, 2 * size), np.int32), *outputs])
    limit = SYMBOL_LIMIT << MEAN_BITS
    eighths = np.minimum(np.maximum(output[:, :size], -limit), limit).ravel()
    scale = np.minimum(np.maximum(output[:, size:], 0), SCALE_LIMIT).ravel()
    mean = (eighths + (1 << MEAN_BITS - 1)) >> MEAN_BITS
    fraction = eighths - (mean << MEAN_BITS)
    sign = (fraction >> 31) | 1
    table = prior.class_of[scale].astype(np.int32)
    table *= FRACTIONS
    table += fraction * sign
    return Prediction(mean, sign, table)


def symbols_of(step: Pass, coded: NDArray[_Number]) -> NDArray[_Number]:
    """The values of one pass, (positions, size), from all of them in coding order, (h, w, C)."""
    size = step.stop - step.start
    parts = [
        coded[grid.y :: grid.stride, grid.x :: grid.stride, step.start : step.stop].reshape(-1, size)
        for grid in step.grids
    ]
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def place(step: Pass, symbols: NDArray[np.generic], target: NDArray[np.generic]) -> None:
    """The inverse of :func:`symbols_of`: write (positions, size) into ``target`` (h, w, C)."""
    for grid, first, rows, columns in grids_of(step, target.shape[0], target.shape[1]):
        part = symbols[first : first + rows * columns].reshape(rows, columns, -1)
        target[grid.y :: grid.stride, grid.x :: grid.stride, step.start : step.stop] = part


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
