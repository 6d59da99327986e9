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
from sdrt.container.step_map import octaves
from sdrt.errors import UnsupportedError
from sdrt.limits import MAX_STEP_INDEX

BIT_PRICE = np.float32(np.log(2) / 6)
"""Squared steps that a bit is worth at high rates: there D = step**2 / 12 and a bit halves the step."""
_FOR_PSNR = 1.0
_KEPT = np.float32(0.6)  # of a step: what is smaller is not worth an extent of its own


def bit_weight_for_psnr(prior: Prior) -> float:
    """The weight of bits that saves the most bits at equal PSNR. The prior's own is smaller: tuned for perception."""
    return max(prior.bit_weight, _FOR_PSNR)


def step_scale(step_index: int) -> float:
    """The factor of the quantizer steps at a step index: ``2 ** ((step_index - 512) / 64)``. Larger is coarser.

    Args:
        step_index: 0..1023; 64 indices are a factor of two.

    Raises:
        ValueError: The index is out of range.
    """
    return float(_scales(np.array(step_index)))


def _scales(step_indices: NDArray[np.integer]) -> Float32:
    """``step_scale`` of each position, float32 of the same shape. Raises ValueError for an index outside 0..1023."""
    if step_indices.min() < 0 or step_indices.max() > MAX_STEP_INDEX:
        raise ValueError(f"step indices {step_indices.min()}..{step_indices.max()} are not in 0..{MAX_STEP_INDEX}")
    return np.exp2(octaves(step_indices)).astype(np.float32)


def quantize(
    latents: Float32, prior: Prior, step_indices: NDArray[np.integer], *, weight: float | None = None
) -> Int32:
    """Quantizes latents by rate-distortion optimization.

    Greedy, in coding order: each symbol becomes the one of the two nearest integers with the smaller Lagrangian cost,
    squared error + lambda * bits. Bits are those of the prior, given the symbols chosen before.

    Args:
        latents: float32 (C, h, w), normalized units.
        prior: The prior that they will be coded under.
        step_indices: int (h, w), 0..1023.
        weight: The weight of bits: lambda relative to its high-rate value, where a bit saved costs as much error as a
            coarser step would. 0 rounds to the nearest integer. None: ``prior.bit_weight``.

    Returns:
        int32 (h, w, coded channels), within +-MAX_SYMBOL, channels in the prior's order.

    Raises:
        ValueError: The latents are not finite or have another number of channels, or an index is out of range.
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
    """The chosen symbols, int32 (h, w, C), for latents in steps, float32 (h, w, C). ``price`` is lambda."""
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
    """The cheaper of the two integers around each value (positions, n). ``weights`` (n,): bits per squared step."""
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
    """The coarsest step index at which plain rounding has an error of at most ``max_error``.

    Args:
        latents: float32 (C, h, w), finite, normalized units.
        prior: The prior that they will be coded under.
        max_error: RMS error divided by the RMS of the latents, above 0.
        finest: The smallest index to consider.
        steps: Maps a step index of the file to the index at each position, int (h, w).

    Returns:
        ``finest`` to 1023, found by bisection.

    Raises:
        UnsupportedError: The error at ``finest`` is larger; the message states it.
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
    """Reconstructs latents: symbol times step.

    Args:
        coded: int32 (h, w, coded channels), channels in the prior's order.
        prior: The prior that they were coded under.
        step_indices: int (h, w), 0..1023.

    Returns:
        float32 (C, h, w), normalized units.

    Raises:
        ValueError: An index is out of range.
    """
    latents = to_channels(coded, prior).astype(np.float32)
    latents *= prior.steps[:, None, None]
    latents *= _scales(step_indices)
    return latents


def step_sizes(prior: Prior, step_indices: NDArray[np.integer]) -> Float32:
    """The quantizer step of each latent, float32 (C, h, w), for step indices (h, w). Raises as ``dequantize``."""
    return np.asarray(prior.steps[:, None, None] * _scales(step_indices), np.float32)
