"""One picture's latents and conditions, as trainers keep them in files of several kinds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdrt.latents.units import Latents


@dataclass(frozen=True, eq=False)
class LatentSample:
    """Latents of one picture, and what a trainer stores with them.

    Attributes:
        key: Its name, without a suffix; "/" parts folders in a tar.
        latents: float32 (C, h, w), raw: as the VAE's encoder gives them.
        flipped: The same of the picture mirrored left to right; None where there are none.
        alpha: uint8 (H, W) of the picture's pixels, 255 is opaque; None where nothing is said.
        original_size: Width and height in pixels before the trainer resized the picture; None: not known.
        crop_ltrb: Left, top, right and bottom of the picture in the trainer's bucket, as it computed them; None: not
            known.
    """

    key: str
    latents: Latents
    flipped: Latents | None = None
    alpha: NDArray[np.uint8] | None = None
    original_size: tuple[int, int] | None = None
    crop_ltrb: tuple[int, int, int, int] | None = None

    def size_px(self, downscale: int) -> tuple[int, int]:
        """Width and height of the picture in pixels: those of alpha, else those of the whole grid."""
        if self.alpha is not None:
            return self.alpha.shape[1], self.alpha.shape[0]
        return self.latents.shape[2] * downscale, self.latents.shape[1] * downscale
