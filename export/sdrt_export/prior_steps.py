"""What an error in each channel of the latents does to the pixels, and the steps and order that follow from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sdrt.network.engine import Engine
from sdrt.packs.manifest import ModelPack
from sdrt.pixels.tensors import as_sample
from sdrt_export.progress import Progress

Float32 = NDArray[np.float32]

_STEP_EXPONENT = 0.5
_SENSITIVITY_CELLS = 24  # a side: a decode for each channel adds up
_STEP_SPREAD = 2.0


def measure_sensitivity(
    pack: ModelPack, decoder: Engine, latents: Sequence[Float32], step: float, seed: int
) -> Float32:
    """Pixel error for an error of each channel, float32 (C,): squared levels of 255 for a squared latent unit.

    Each channel of latents (C, h, w) is disturbed by noise as large as rounding to ``step`` makes it, on top of
    latents that are rounded already: a decoder that is never fed exact latents is not measured on them.
    """
    random = np.random.default_rng(seed)
    channels = pack.space.channels
    noise_variance = step * step / 12
    totals = np.zeros(channels)
    with Progress("prior: what each channel does to pixels", len(latents) * channels) as progress:
        for number, picture in enumerate(latents):
            base = (np.rint(picture / step) * step).astype(np.float32)
            before = _paint(pack, decoder, base)
            for c in range(channels):
                other = base.copy()
                other[c] += random.uniform(-step / 2, step / 2, other[c].shape).astype(np.float32)
                totals[c] += float(np.square(_paint(pack, decoder, other) - before).mean()) / noise_variance
                progress.reach(number * channels + c + 1)
    return np.asarray(np.maximum(totals / len(latents), 1e-12), np.float32)


def middle(picture: Float32) -> Float32:
    """The middle of latents (C, h, w), at most _SENSITIVITY_CELLS a side."""
    y, x = (max(0, (side - _SENSITIVITY_CELLS) // 2) for side in picture.shape[1:])
    return np.ascontiguousarray(picture[:, y : y + _SENSITIVITY_CELLS, x : x + _SENSITIVITY_CELLS])


def _paint(pack: ModelPack, decoder: Engine, latents: Float32) -> Float32:
    """Levels of 0..255, not rounded, (3, H, W)."""
    raw = (latents / np.float32(pack.space.scale) + np.float32(pack.space.shift)).astype(np.float32)
    if pack.quality_input:
        level = np.full((1, *raw.shape[1:]), (pack.default_step - 512) / 64, np.float32)
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
