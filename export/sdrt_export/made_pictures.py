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


def decoder_input(latents: Floats, quality_input: bool) -> Floats:
    """The decoder's input for latents (N, C, h, w): with a quality level for each position, if it takes one.

    The levels are up to two octaves from that of index 512, the same ones for the same shape.
    """
    if not quality_input:
        return np.ascontiguousarray(latents)
    count, _, height, width = latents.shape
    level = np.random.default_rng(width).uniform(-2, 2, (count, 1, height, width)).astype(np.float32)
    return np.concatenate([latents, level], axis=1)
