"""Float latents <-> integer symbols.

Latents here are in the latent space's normalised units, ``(raw - shift) * scale``. A symbol of channel c at
step index i counts steps of ``prior.steps[c] * step_scale(i)``.
"""

from __future__ import annotations

import numpy as np

from sdrt.context import place, replay, table_entries
from sdrt.prior import MAX_SYMBOL, Float32, Int32, Prior


def step_scale(step_index: int) -> float:
    """``2 ** ((step_index - 512) / 64)``: 64 indices are a factor of two, larger is coarser.

    Raises ValueError outside 0..1023.
    """
    if not 0 <= step_index <= 1023:
        raise ValueError(f"step index {step_index} is not in 0..1023")
    return float(2.0 ** ((step_index - 512) / 64))


def _steps(prior: Prior, step_index: int) -> Float32:
    """float32 (C, 1, 1)."""
    return (prior.steps * np.float32(step_scale(step_index)))[:, None, None]


def quantize(latents: Float32, prior: Prior, step_index: int, *, rdo: float = 1.0) -> Int32:
    """Symbols int32 (C, h, w) of latents float32 (C, h, w).

    Raises ValueError when the latents are not finite or not of the prior's channels.
    """
    if latents.ndim != 3 or latents.shape[0] != prior.channels:
        raise ValueError(f"latents of shape {latents.shape} do not fit a prior of {prior.channels} channels")
    if not np.isfinite(latents).all():
        raise ValueError("latents are not finite")
    scaled = latents / _steps(prior, step_index)
    return np.clip(np.rint(scaled), -MAX_SYMBOL, MAX_SYMBOL).astype(np.int32)


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
    return (symbols + rebuilt) * _steps(prior, step_index)
