"""Float latents <-> coded symbols.

Latents here are in the latent space's normalized units, ``(raw - shift) * scale``. A symbol of channel c at a position
of step index i counts steps of ``prior.steps[c] * step_scale(i)``.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log, sqrt

import numpy as np
from numpy.typing import NDArray

from sdrt.coding.context import Canvas, Prediction, predict, table_entries
from sdrt.coding.prior import MAX_SYMBOL, Float32, Int32, Prior
from sdrt.coding.symbols import arrange, extents_of, in_latent_order, to_channels, with_extents
from sdrt.container.step_map import octaves
from sdrt.errors import UnsupportedError
from sdrt.limits import MAX_STEP_INDEX

BIT_PRICE = log(2) / 6
"""Squared steps that a bit is worth at high rates: there D = step**2 / 12 and a bit halves the step."""
_FOR_PSNR = 1.0
_PLACES = 2**15  # positions that are decided at a time
KEPT = np.float32(0.6)
"""Of a step: what is smaller is rarely worth a symbol that is not 0."""


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
    exact = _counted(latents, prior, step_indices)
    price = _price(prior, weight)
    if price == 0:
        return with_extents(np.rint(exact, out=exact), prior)
    _decide(exact, prior, step_indices, price)
    return with_extents(exact, prior)


def choose(
    latents: Float32, prior: Prior, step_indices: NDArray[np.integer], *, weight: float | None = None
) -> tuple[Float32, Float32, Float32]:
    """Chooses symbols as `quantize` does, and says what they cost. Arguments and errors are the same.

    Returns:
        Three arrays, float32 (C, h, w), in the order of the latent space: the chosen symbols, their bits, and how many
        bits more the upper of the two nearest integers takes. Bits are those of the prior's tables, without extents,
        low bits and what follows an escape.
    """
    exact = _counted(latents, prior, step_indices)
    bits, gaps = np.zeros_like(exact), np.zeros_like(exact)
    _decide(exact, prior, step_indices, _price(prior, weight), (bits, gaps))
    shown, costs, more = (in_latent_order(array, prior, np.float32) for array in (exact, bits, gaps))
    return shown, costs, more


def _counted(latents: Float32, prior: Prior, step_indices: NDArray[np.integer]) -> Float32:
    """Latents (C, h, w) in steps, float32 (h, w, C), channels in the prior's order. Raises as ``quantize``."""
    if latents.ndim != 3 or latents.shape[0] != prior.channels:
        raise ValueError(f"latents of shape {latents.shape} do not fit a prior of {prior.channels} channels")
    if not np.isfinite(latents).all():
        raise ValueError("latents are not finite")
    exact = np.asarray(arrange(latents, prior), np.float32)
    exact /= prior.steps[prior.order]
    exact /= _scales(step_indices)[:, :, None]
    return np.clip(exact, -MAX_SYMBOL, MAX_SYMBOL, out=exact)


def _price(prior: Prior, weight: float | None) -> float:
    """Squared steps that a bit is worth at a weight of bits; None is the prior's."""
    return BIT_PRICE * max(prior.bit_weight if weight is None else weight, 0.0)


def _decide(
    exact: Float32,
    prior: Prior,
    step_indices: NDArray[np.integer],
    price: float,
    costs: tuple[Float32, Float32] | None = None,
) -> None:
    """Replaces latents in steps, float32 (h, w, C), by the chosen symbols. ``price`` is lambda.

    In place and in parts: those of a large picture are hundreds of megabytes.
    ``costs``: arrays of zeros (h, w, C), for the bits of each symbol, and those that the upper integer takes more.
    """
    extents = extents_of((exact > KEPT) | (exact < -KEPT), prior)
    for extent, (start, stop) in enumerate(zip((0, *prior.extents), prior.extents, strict=False), 1):
        exact[extents[:, :, 0] < extent, start:stop] = 0
    canvas = Canvas(prior, step_indices)
    for scan in prior.scans:
        places = canvas.positions(scan)
        if scan.start < prior.offset:
            canvas.store(scan, places, np.asarray(canvas.rows(extents, places), np.int32))
            continue
        channels = slice(scan.start - prior.offset, scan.stop - prior.offset)
        prices: Float32 = np.asarray(price / prior.sensitivity[prior.order[channels]], np.float32)
        values = np.empty((len(places), scan.size), np.int32)
        for first in range(0, len(places), _PLACES):
            some = places[first : first + _PLACES]
            wanted = np.asarray(canvas.rows(exact[:, :, channels], some), np.float32)
            below = np.floor(wanted)
            prediction = predict(canvas, scan, some)
            lower, upper = (_bits(prior, prediction, below + step) for step in (0, 1))
            # How much cheaper the upper integer is, in squared steps.
            saved = 2 * (wanted - below) - 1 - prices * (upper - lower)
            values[first : first + _PLACES] = np.minimum(below + (saved > 0), MAX_SYMBOL)
            if costs is not None:
                for array, target in zip((np.where(saved > 0, upper, lower), upper - lower), costs, strict=True):
                    canvas.scatter(array, some, target[:, :, channels])
        canvas.scatter(values, places, exact[:, :, channels])
        canvas.store(scan, places, values)


def _bits(prior: Prior, prediction: Prediction, symbols: Float32) -> Float32:
    """The bits of whole numbers (positions, n), by the prior's tables; escapes without what follows them."""
    entry, _low, _high = table_entries(prior, prediction, symbols.astype(np.int32).ravel())
    return np.asarray(prior.costs[prior.row_offsets[prediction.table] + entry], np.float32).reshape(symbols.shape)


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
    latents = to_channels(coded, prior, np.float32)
    latents *= prior.steps[:, None, None]
    latents *= _scales(step_indices)
    return latents


def step_sizes(steps: Float32, step_indices: NDArray[np.integer]) -> Float32:
    """The quantizer step of each latent, float32 (C, h, w), from a prior's ``steps`` (C,) and step indices (h, w).

    Raises as ``dequantize``.
    """
    return np.asarray(steps[:, None, None] * _scales(step_indices), np.float32)
