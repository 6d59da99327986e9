"""Float latents <-> coded symbols.

Latents here are in the latent space's normalized units, ``(raw - shift) * scale``. A symbol of channel c at a position
of step index i counts steps of ``prior.steps[c] * step_scale(i)``.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from sdrt.coding.context import Canvas, Prediction, predict, table_entries
from sdrt.coding.prior import MAX_SYMBOL, Float32, Int32, Prior
from sdrt.coding.symbols import arrange, to_channels, with_extents
from sdrt.container.sdl import MAX_STEP_INDEX
from sdrt.errors import UnsupportedError

BIT_PRICE = np.float32(np.log(2) / 6)
"""Squared steps that a bit is worth at high rates: there D = step**2 / 12 and a bit halves the step."""
_FOR_PSNR = 1.0
_KEPT = np.float32(0.6)  # of a step: what is smaller is not worth an extent of its own


def bit_weight_for_psnr(prior: Prior) -> float:
    """The weight of bits that saves the most bits at equal PSNR. The prior's own is smaller: tuned for perception."""
    return max(prior.bit_weight, _FOR_PSNR)


def step_scale(step_index: int) -> float:
    """``2 ** ((step_index - 512) / 64)``: 64 indices are a factor of two, larger is coarser.

    Raises:
        ValueError: outside 0..1023.
    """
    if not 0 <= step_index <= 1023:
        raise ValueError(f"step index {step_index} is not in 0..1023")
    return float(2.0 ** ((step_index - 512) / 64))


def _scales(step_indices: NDArray[np.integer]) -> Float32:
    """float32 (h, w): `step_scale` of each position."""
    if step_indices.min() < 0 or step_indices.max() > 1023:
        raise ValueError(f"step indices {step_indices.min()}..{step_indices.max()} are not in 0..1023")
    return np.exp2((step_indices - 512) / 64).astype(np.float32)


def quantize(
    latents: Float32, prior: Prior, step_indices: NDArray[np.integer], *, weight: float | None = None
) -> Int32:
    """Coded symbols of latents.

    Each is decided in coding order, under the contexts that earlier decisions left behind: the cheaper, in bits and
    squared error, of the two integers around it.

    Args:
        latents: float32 (C, h, w).
        prior: what they will be coded under.
        step_indices: (h, w), 0..1023.
        weight: of bits against error, the Lagrangian's lambda in units of its value at high rates: 0 rounds to the
            nearest, 1 is where a bit buys as much as a finer step would, None is the prior's own.

    Returns:
        int32 (h, w, coded channels).

    Raises:
        ValueError: the latents are not finite or not of the prior's channels, or an index is out of range.
    """
    if latents.ndim != 3 or latents.shape[0] != prior.channels:
        raise ValueError(f"latents of shape {latents.shape} do not fit a prior of {prior.channels} channels")
    if not np.isfinite(latents).all():
        raise ValueError("latents are not finite")
    weight = prior.bit_weight if weight is None else weight
    exact = np.asarray(arrange(latents, prior), np.float32)
    exact /= prior.steps[prior.order]
    exact /= _scales(step_indices)[:, :, None]
    np.clip(exact, -MAX_SYMBOL, MAX_SYMBOL, out=exact)
    if weight <= 0:
        return with_extents(np.rint(exact).astype(np.int32), prior)
    extents = with_extents((np.abs(exact) > _KEPT).astype(np.int32), prior)[:, :, : prior.offset]
    decided = _decisions(exact, extents, prior, step_indices, np.float32(weight) * BIT_PRICE)
    return with_extents(decided, prior)


def _decisions(
    exact: Float32, extents: Int32, prior: Prior, step_indices: NDArray[np.integer], price: np.float32
) -> Int32:
    """Symbols (h, w, C), each one of the two integers around its exact value, (h, w, C); ``price`` is of a bit."""
    symbols = np.zeros(exact.shape, np.int32)
    canvas = Canvas(prior, step_indices)
    for scan in prior.scans:
        places = canvas.positions(scan)
        if scan.start < prior.offset:
            values = np.asarray(canvas.rows(extents, places), np.int32)
        else:
            channels = slice(scan.start - prior.offset, scan.stop - prior.offset)
            weights: Float32 = np.asarray(prior.sensitivity[prior.order[channels]] / price, np.float32)
            wanted = np.asarray(canvas.rows(exact, places)[:, channels], np.float32)
            values = _decide(prior, predict(canvas, scan, places), wanted, weights)
            canvas.scatter(values, places, symbols[:, :, channels])
        canvas.store(scan, places, values)
    return symbols


def _decide(prior: Prior, prediction: Prediction, exact: Float32, weights: Float32) -> Int32:
    """The cheaper of the two integers around each value (positions, n); weights (n,) are bits a squared step."""
    below = np.floor(exact)
    costs = []
    for candidate in (below, below + 1):
        entry, _low, _high = table_entries(prior, prediction, candidate.astype(np.int32).ravel())
        bits = prior.costs[prior.row_offsets[prediction.table] + entry].reshape(exact.shape)
        costs.append(bits + weights * np.square(exact - candidate))
    return np.asarray(np.minimum(below + (costs[1] < costs[0]), MAX_SYMBOL), np.int32)


def coarsest_within(
    latents: Float32, prior: Prior, max_error: float, *, finest: int, steps: Callable[[int], NDArray[np.integer]]
) -> int:
    """The coarsest step index at which rounding leaves an error of at most ``max_error``.

    Args:
        latents: float32 (C, h, w), finite.
        prior: what they will be coded under.
        max_error: root mean square error over root mean square of the latents, above 0.
        finest: the smallest index that may be taken.
        steps: the indices (h, w) that an index of the file means.

    Raises:
        UnsupportedError: ``finest`` leaves more; its error is named.
    """
    power = float(np.square(latents, dtype=np.float64).mean())

    def error(index: int) -> float:
        indices = steps(index)
        rounded = dequantize(quantize(latents, prior, indices, weight=0), prior, indices)
        noise = float(np.square(latents - rounded, dtype=np.float64).mean())
        return sqrt(noise / power) if noise else 0.0

    fine, coarse = finest, MAX_STEP_INDEX + 1
    if error(fine) > max_error:
        raise UnsupportedError(
            f"a latent error of {max_error:g} cannot be reached: the finest step leaves {error(fine):.4f}"
        )
    while fine + 1 < coarse:  # the error at `fine` is small enough, whatever lies between
        middle = (fine + coarse) // 2
        fine, coarse = (middle, coarse) if error(middle) <= max_error else (fine, middle)
    return fine


def dequantize(coded: Int32, prior: Prior, step_indices: NDArray[np.integer]) -> Float32:
    """Latents float32 (C, h, w) of coded symbols (h, w, coded channels); indices (h, w)."""
    latents = to_channels(coded, prior).astype(np.float32)
    latents *= prior.steps[:, None, None]
    latents *= _scales(step_indices)
    return latents


def step_sizes(prior: Prior, step_indices: NDArray[np.integer]) -> Float32:
    """The step of each latent, float32 (C, h, w); indices (h, w)."""
    return np.asarray(prior.steps[:, None, None] * _scales(step_indices), np.float32)
