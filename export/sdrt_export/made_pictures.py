"""Pictures to compare graphs on: made up, so that nothing need be installed, in sizes that no kernel was made for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

CASES = ((1, 9, 13), (2, 5, 7), (1, 16, 3), (2, 1, 1))
"""Batch, latent height, latent width."""


def make_picture(batch: int, height: int, width: int, downscale: int) -> Floats:
    """Gradients, edges, texture and a little noise, (batch, 3, height * downscale, width * downscale) in [-1, 1]."""
    generator = np.random.default_rng(height * 1000 + width)
    rows, columns = np.mgrid[0 : height * downscale, 0 : width * downscale].astype(np.float32)
    picture = np.empty((batch, 3, *rows.shape), dtype=np.float32)
    for item in range(batch):
        for channel in range(3):
            angle, frequency = generator.uniform(0, np.pi), generator.uniform(0.02, 0.3)
            wave = np.sin((rows * np.cos(angle) + columns * np.sin(angle)) * frequency)
            edge = np.sign(rows - columns * generator.uniform(0.3, 2.0) + generator.uniform(-20, 20))
            noise = generator.normal(0, 0.05, rows.shape)
            picture[item, channel] = np.clip(0.5 * wave + 0.3 * edge + noise, -1, 1)
    return picture


def with_level(sample: Floats, downscale: int) -> Floats:
    """A sample (N, 3, H, W) with a quality level for each cell, up to two octaves from that of index 512."""
    count, _, height, width = sample.shape
    shape = (count, 1, height // downscale, width // downscale)
    level = np.random.default_rng(width).uniform(-2, 2, shape).astype(np.float32)
    return np.concatenate([sample, level.repeat(downscale, axis=2).repeat(downscale, axis=3)], axis=1)


def decoder_input(latents: Floats, sample: Floats) -> Floats:
    """The decoder's input for latents (N, C, h, w) of ``sample``: with the quality level, if the sample has one."""
    cell = sample.shape[2] // latents.shape[2]
    return np.ascontiguousarray(np.concatenate([latents, sample[:, 3:, ::cell, ::cell]], axis=1))
