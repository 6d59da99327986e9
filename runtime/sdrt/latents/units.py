"""Raw latents, as a VAE's encoder gives them, <-> the normalized ones that are quantized, with every check."""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdrt.errors import ArgumentError
from sdrt.packs.manifest import LatentSpace

Latents = NDArray[np.float32]


def to_raw(normalized: Latents, space: LatentSpace) -> Latents:
    """``normalized / scale + shift``, float32 of the same shape: what the VAE's decoder takes."""
    return np.asarray(normalized / np.float32(space.scale) + np.float32(space.shift), np.float32)


def to_normalized(
    latents: ArrayLike, space: LatentSpace, width_px: int, height_px: int, *, scaled: bool
) -> NDArray[np.float32]:
    """The normalized latents of a picture, checked.

    Args:
        latents: Floats (C, h, w), or (1, C, h, w) as programs keep them.
        space: What they are latents of.
        width_px, height_px: Of the picture as it is coded; the grid is this over ``space.downscale``, rounded up.
        scaled: Whether they are ``(raw - shift) * scale`` already.

    Returns:
        float32 (C, h, w), a new array.

    Raises:
        ArgumentError: No numbers, another shape, or values that float32 cannot hold.
    """
    try:
        array = np.array(latents, np.float32)
    except (TypeError, ValueError):
        raise ArgumentError("latents must be an array of numbers") from None
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    wanted = (space.channels, ceil(height_px / space.downscale), ceil(width_px / space.downscale))
    if array.shape != wanted:
        raise ArgumentError(
            f"latents of a picture of {width_px}x{height_px} pixels in the space {space.id} have the shape {wanted}, "
            f"not {array.shape}"
        )
    if not scaled:
        with np.errstate(over="ignore", invalid="ignore"):
            array -= np.float32(space.shift)
            array *= np.float32(space.scale)
    if not np.isfinite(array).all():
        raise ArgumentError("latents must be finite numbers")
    return array
