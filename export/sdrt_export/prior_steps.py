"""What an error in each channel of the latents does to the pixels, and the steps and order that follow from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sdrt.network.engine import Engine
from sdrt.network.transform import quality_level
from sdrt.packs.manifest import ModelPack
from sdrt.pixels.tensors import as_sample
from sdrt_export.progress import Progress

Float32 = NDArray[np.float32]

_STEP_EXPONENT = 0.5
_SENSITIVITY_CELLS = 24  # a side: a decode for each channel adds up
_STEP_SPREAD = 2.0
_MIN_QUARTERED = 16  # latents a side


def measure_sensitivity(
    pack: ModelPack, decoder: Engine, latents: Sequence[Float32], step: float, seed: int
) -> Float32:
    """Pixel error for an error of each channel, float32 (C,): squared levels of 255 for a squared latent unit.

    Each channel of latents (C, h, w) is disturbed by noise as large as rounding to ``step`` makes it, on top of
    latents that are rounded already: a decoder that is never fed exact latents is not measured on them. A decode
    disturbs one channel in each quarter of the picture. What leaks over the borders between them is small.
    """
    random = np.random.default_rng(seed)
    channels, downscale = pack.space.channels, pack.space.downscale
    noise_variance = step * step / 12
    totals = np.zeros(channels)
    with Progress("prior: what each channel does to pixels", len(latents) * channels) as progress:
        for number, picture in enumerate(latents):
            base = (np.rint(picture / step) * step).astype(np.float32)
            before = _paint(pack, decoder, base)
            parts = _quarters(*base.shape[1:])
            parts = parts[number % len(parts) :] + parts[: number % len(parts)]
            for first in range(0, channels, len(parts)):
                other = base.copy()
                disturbed = list(zip(range(first, channels), parts, strict=False))
                for c, (y0, y1, x0, x1) in disturbed:
                    other[c, y0:y1, x0:x1] += random.uniform(-step / 2, step / 2, (y1 - y0, x1 - x0)).astype(np.float32)
                error = np.square(_paint(pack, decoder, other) - before).mean(0)
                for c, (y0, y1, x0, x1) in disturbed:
                    here = error[y0 * downscale : y1 * downscale, x0 * downscale : x1 * downscale]
                    totals[c] += float(here.mean()) / noise_variance
                progress.reach(number * channels + disturbed[-1][0] + 1)
    return np.asarray(np.maximum(totals / len(latents), 1e-12), np.float32)


def _quarters(rows: int, columns: int) -> list[tuple[int, int, int, int]]:
    """First and last row and column of each quarter; of what is too small for quarters, all."""
    if min(rows, columns) < _MIN_QUARTERED:
        return [(0, rows, 0, columns)]
    y, x = rows // 2, columns // 2
    return [(y0, y1, x0, x1) for y0, y1 in ((0, y), (y, rows)) for x0, x1 in ((0, x), (x, columns))]


def middle(picture: Float32) -> Float32:
    """The middle of latents (C, h, w), at most _SENSITIVITY_CELLS a side."""
    y, x = (max(0, (side - _SENSITIVITY_CELLS) // 2) for side in picture.shape[1:])
    return np.ascontiguousarray(picture[:, y : y + _SENSITIVITY_CELLS, x : x + _SENSITIVITY_CELLS])


def _paint(pack: ModelPack, decoder: Engine, latents: Float32) -> Float32:
    """Levels of 0..255, not rounded, (3, H, W)."""
    raw = (latents / np.float32(pack.space.scale) + np.float32(pack.space.shift)).astype(np.float32)
    level = quality_level(pack, raw.shape[1], raw.shape[2], None)
    if level is not None:
        raw = np.concatenate([raw, level])
    return np.asarray(np.clip(as_sample(decoder.run(raw[None]))[0], -1, 1) * np.float32(127.5))


def base_steps(sensitivity: Float32) -> Float32:
    """Steps (C,) that spend bits where pixels notice, geometric mean 1.

    At high rates the least distortion has ``step**2 * sensitivity`` equal for all channels; at the rates of this
    codec channels fade out below their step, so only a part of that is applied, and within a factor of two.
    """
    steps = sensitivity.astype(np.float64) ** (-0.5 * _STEP_EXPONENT)
    steps = np.clip(steps / np.exp(np.log(steps).mean()), 1 / _STEP_SPREAD, _STEP_SPREAD)
    return np.asarray(steps / np.exp(np.log(steps).mean()), np.float32)


def channel_order(latents: Sequence[Float32], steps: Float32) -> NDArray[np.int64]:
    """Coding order of the channels: those with the most to say first, for they tell the others most."""
    variance = np.mean([(picture / steps[:, None, None]).var((1, 2)) for picture in latents], 0)
    return np.argsort(-variance, kind="stable")
