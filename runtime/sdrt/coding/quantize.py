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
from sdrt.coding.symbols import Coded, arrange, extents_of, in_latent_order, set_extents, to_channels, with_extents
from sdrt.container.step_map import octaves
from sdrt.errors import UnsupportedError
from sdrt.limits import MAX_STEP_INDEX

BIT_PRICE = log(2) / 6
"""Squared steps that a bit is worth at high rates: there D = step**2 / 12 and a bit halves the step."""
_FOR_PSNR = 1.0
_PLACES = 2**13  # positions that are decided at a time
_ROWS = 16  # whose extents are found at a time
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
) -> Coded:
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
        (h, w, coded channels), within +-MAX_SYMBOL, channels in the prior's order.

    Raises:
        ValueError: The latents are not finite or have another number of channels, or an index is out of range.
    """
    _check(latents, prior)
    price = _price(prior, weight)
    if price == 0:
        exact = _counted(latents, prior, _scales(step_indices))
        return with_extents(np.rint(exact, out=exact), prior)
    coded = _decide(latents, prior, step_indices, price)
    set_extents(coded, prior)
    return coded


def choose(
    latents: Float32, prior: Prior, step_indices: NDArray[np.integer], *, weight: float | None = None
) -> tuple[Float32, Float32, Float32]:
    """Chooses symbols as `quantize` does, and says what they cost. Arguments and errors are the same.

    Returns:
        Three arrays, float32 (C, h, w), in the order of the latent space: the chosen symbols, their bits, and how many
        bits more the upper of the two nearest integers takes. Bits are those of the prior's tables, without extents,
        low bits and what follows an escape.
    """
    _check(latents, prior)
    bits, gaps = (np.zeros((*latents.shape[1:], prior.channels), np.float32) for _ in range(2))
    coded = _decide(latents, prior, step_indices, _price(prior, weight), (bits, gaps))
    costs, more = (in_latent_order(array, prior, np.float32) for array in (bits, gaps))
    return to_channels(coded, prior, np.float32), costs, more


def _check(latents: Float32, prior: Prior) -> None:
    if latents.ndim != 3 or latents.shape[0] != prior.channels:
        raise ValueError(f"latents of shape {latents.shape} do not fit a prior of {prior.channels} channels")
    if not np.isfinite(latents).all():
        raise ValueError("latents are not finite")


def _counted(latents: Float32, prior: Prior, scales: Float32) -> Float32:
    """Latents (C, h, w) in steps times scales (h, w): float32 (h, w, C), channels in the prior's order."""
    return _in_steps(np.asarray(arrange(latents, prior), np.float32), prior.steps[prior.order], scales)


def _in_steps(latents: Float32, steps: Float32, scales: Float32) -> Float32:
    """Latents (..., n) in steps (n,) times scales (...), within +-MAX_SYMBOL; in place."""
    latents /= steps
    latents /= scales[..., None]
    return np.clip(latents, -MAX_SYMBOL, MAX_SYMBOL, out=latents)


def _price(prior: Prior, weight: float | None) -> float:
    """Squared steps that a bit is worth at a weight of bits; None is the prior's."""
    return BIT_PRICE * max(prior.bit_weight if weight is None else weight, 0.0)


def _decide(
    latents: Float32,
    prior: Prior,
    step_indices: NDArray[np.integer],
    price: float,
    costs: tuple[Float32, Float32] | None = None,
) -> Coded:
    """The chosen symbols, (h, w, coded channels), with the extents within which they were chosen. ``price`` is lambda.

    Latents are counted in steps part by part: those of a large picture are hundreds of megabytes.
    ``costs``: arrays of zeros (h, w, C), for the bits of each symbol, and those that the upper integer takes more.
    """
    scales = _scales(step_indices)
    canvas = Canvas(prior, step_indices)
    extents = _kept_extents(latents, prior, scales)
    for scan in prior.scans:
        places = canvas.positions(scan)
        if scan.start < prior.offset:
            canvas.store(scan, places, canvas.rows(extents, places))
            continue
        channels = slice(scan.start - prior.offset, scan.stop - prior.offset)
        own = prior.order[channels]
        prices: Float32 = np.asarray(price / prior.sensitivity[own], np.float32)
        values = np.empty((len(places), scan.size), np.int32)
        for first in range(0, len(places), _PLACES):
            some = places[first : first + _PLACES]
            y, x = canvas.cells(some)
            wanted = np.asarray(latents[own, y[:, None], x[:, None]], np.float32)
            wanted = _in_steps(wanted, prior.steps[own], scales[y, x])
            below = np.floor(wanted)
            prediction = predict(canvas, scan, some)
            lower, upper = (_bits(prior, prediction, below + step) for step in (0, 1))
            # How much cheaper the upper integer is, in squared steps.
            saved = 2 * (wanted - below) - 1 - prices * (upper - lower)
            values[first : first + _PLACES] = np.minimum(below + (saved > 0), MAX_SYMBOL)
            if costs is not None:
                for array, target in zip((np.where(saved > 0, upper, lower), upper - lower), costs, strict=True):
                    canvas.scatter(array, some, target[:, :, channels])
        canvas.store(scan, places, values)
    return canvas.coded


def _kept_extents(latents: Float32, prior: Prior, scales: Float32) -> Int32:
    """The extents that cover what is worth one, int32 (h, w, 1); (h, w, 0) where the prior codes none."""
    extents = np.empty((*scales.shape, prior.offset), np.int32)
    for first in range(0, len(extents) if prior.extents else 0, _ROWS):
        rows = slice(first, first + _ROWS)
        exact = _counted(latents[:, rows], prior, scales[rows])
        extents[rows] = extents_of((exact > KEPT) | (exact < -KEPT), prior)
    return extents


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


def dequantize(coded: Coded, prior: Prior, step_indices: NDArray[np.integer]) -> Float32:
    """Reconstructs latents: symbol times step.

    Args:
        coded: (h, w, coded channels), channels in the prior's order.
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
