"""Float latents <-> integer symbols.

Latents here are in the latent space's normalised units, ``(raw - shift) * scale``. A symbol of channel c at
step index i counts steps of ``prior.steps[c] * step_scale(i)``.
"""

from __future__ import annotations

import numpy as np

from sdrt.coding.context import Canvas, Prediction, place, predict, replay, symbols_of, table_entries
from sdrt.coding.influence import Influence
from sdrt.coding.prior import MAX_SYMBOL, Float32, Int32, Prior

BIT_PRICE = np.float32(np.log(2) / 6)
"""Squared steps that a bit is worth at high rates: there D = step**2 / 12 and a bit halves the step."""
_TRUST = np.float32(0.7)  # in slopes: they are taken at a point, and a decision is a whole step
_UNREST_BITS = np.float32(0.6)  # that a changed decision costs later symbols beyond its slope: measured, about


_STRENGTH_FOR_PSNR = 1.0


def strength_for_psnr(prior: Prior) -> float:
    """The strength of decisions that saves most bits at equal PSNR; eyes want a weaker one, the prior's own."""
    return max(prior.decisions, _STRENGTH_FOR_PSNR)


def step_scale(step_index: int) -> float:
    """``2 ** ((step_index - 512) / 64)``: 64 indices are a factor of two, larger is coarser.

    Raises ValueError outside 0..1023.
    """
    if not 0 <= step_index <= 1023:
        raise ValueError(f"step index {step_index} is not in 0..1023")
    return float(2.0 ** ((step_index - 512) / 64))


def _steps(prior: Prior, step_index: int) -> Float32:
    """float32 (C, 1, 1)."""
    return np.asarray((prior.steps * np.float32(step_scale(step_index)))[:, None, None])


def quantize(latents: Float32, prior: Prior, step_index: int, *, rdo: float | None = None) -> Int32:
    """Symbols int32 (C, h, w) of latents float32 (C, h, w).

    ``rdo`` weighs bits against error: 0 rounds to the nearest, 1 is where a bit buys as much as a finer step would
    at high rates, None is what the prior was found to serve best. Decisions are made in coding order, each under the
    contexts that the earlier ones left behind; then once more, knowing what each does to the bits of later ones.

    Raises ValueError when the latents are not finite or not of the prior's channels.
    """
    if latents.ndim != 3 or latents.shape[0] != prior.channels:
        raise ValueError(f"latents of shape {latents.shape} do not fit a prior of {prior.channels} channels")
    if not np.isfinite(latents).all():
        raise ValueError("latents are not finite")
    rdo = prior.decisions if rdo is None else rdo
    # Of large pictures every array here has tens of megabytes: each is let go as soon as it has served.
    exact = latents / _steps(prior, step_index)
    np.clip(exact, -MAX_SYMBOL, MAX_SYMBOL, out=exact)
    if rdo <= 0:
        return np.asarray(np.rint(exact, out=exact), np.int32)
    wanted = np.ascontiguousarray(exact[prior.order].transpose(1, 2, 0))
    del exact
    coded = _decisions(wanted, prior, step_index, prior.sensitivity[prior.order] / (BIT_PRICE * np.float32(rdo)))
    symbols = np.empty(latents.shape, np.int32)
    symbols[prior.order] = coded.transpose(2, 0, 1)
    return symbols


def _decisions(wanted: Float32, prior: Prior, step_index: int, weights: Float32) -> Int32:
    """Symbols (h, w, C) of ``wanted`` (h, w, C), both in coding order; weights (C,) are bits a squared step."""
    coded = np.empty(wanted.shape, np.int32)
    influence = Influence(prior, wanted.shape[0], wanted.shape[1])
    for again in (False, True):
        canvas = Canvas(prior.channels, wanted.shape[0], wanted.shape[1])
        for step in prior.passes:
            prediction = predict(prior, step, canvas, step_index)
            later = (symbols_of(step, coded), *influence.of(step)) if again else None
            values = _decide(prior, prediction, symbols_of(step, wanted), weights[step.start : step.stop], later)
            if not again:
                influence.add(step, canvas, step_index, values)
            place(step, values, coded)
            canvas.store(step, values)
        del canvas
    return coded


def _decide(
    prior: Prior,
    prediction: Prediction,
    exact: Float32,
    weights: Float32,
    later: tuple[Int32, Float32, Float32] | None,
) -> Int32:
    """The cheaper of the two integers around each value (positions, size); weights (size,) are bits a squared step.

    ``later``: what was decided before, and the slope and magnitude of its influence on later symbols, of that shape.
    """
    below = np.floor(exact)
    costs = []
    for candidate in (below, below + 1):
        symbols = candidate.astype(np.int32)
        entry, _low, _high = table_entries(prior, prediction, symbols.ravel())
        place_of = prior.row_offsets[prediction.table] + entry
        rebuilt = candidate + (prior.centre_offsets[place_of] * prediction.sign).reshape(exact.shape)
        cost = prior.costs[place_of].reshape(exact.shape) + weights * np.square(exact - rebuilt)
        if later is not None:
            before, slope, magnitude = later
            cost += _TRUST * (slope * candidate + magnitude * np.abs(candidate))
            cost += _UNREST_BITS * (symbols != before)
        costs.append(cost)
    return np.asarray(np.minimum(below + (costs[1] < costs[0]), MAX_SYMBOL), np.int32)


def dequantize(symbols: Int32, prior: Prior, step_index: int) -> Float32:
    """Latents float32 (C, h, w) of symbols int32 (C, h, w): each rebuilt where its table says its cell's mean lies."""
    coded = np.ascontiguousarray(symbols[prior.order].transpose(1, 2, 0))
    centres = np.empty(coded.shape, np.float32)
    for step, values, prediction in replay(prior, coded, step_index):
        entry, _low, _high = table_entries(prior, prediction, values.ravel())
        centre = prior.centre_offsets[prior.row_offsets[prediction.table] + entry]
        place(step, (centre * prediction.sign).reshape(values.shape), centres)
    rebuilt = np.empty(symbols.shape, np.float32)
    rebuilt[prior.order] = centres.transpose(2, 0, 1)
    return (symbols.astype(np.float32) + rebuilt) * _steps(prior, step_index)
