"""Pixels <-> the float32 NCHW samples that a model takes and gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sdrt.errors import EngineError

Pixels = npt.NDArray[np.uint8]

_STRIP_ROWS = 64


def sample_region(rgb: Pixels, y_px: int, x_px: int, height_px: int, width_px: int) -> npt.NDArray[np.float32]:
    """The model's input for a rectangle of a picture, float32 (1, 3, height_px, width_px) in [-1, 1].

    ``rgb``: uint8 (H, W, 3). The rectangle starts at row ``y_px`` and column ``x_px`` and may stick out of the picture
    on any side or lie beside it: there the picture's nearest edge pixel is repeated.
    """
    top, first_row, last_row = _overlap(y_px, height_px, rgb.shape[0])
    left, first_column, last_column = _overlap(x_px, width_px, rgb.shape[1])
    bottom, right = top + last_row - first_row, left + last_column - first_column
    sample = np.empty((1, 3, height_px, width_px), np.float32)
    inside = sample[0, :, top:bottom, left:right]
    inside[...] = rgb[first_row:last_row, first_column:last_column].transpose(2, 0, 1)
    inside *= np.float32(1 / 127.5)
    inside -= np.float32(1)
    sample[0, :, top:bottom, :left] = inside[:, :, :1]
    sample[0, :, top:bottom, right:] = inside[:, :, -1:]
    sample[0, :, :top] = sample[0, :, top : top + 1]
    sample[0, :, bottom:] = sample[0, :, bottom - 1 : bottom]
    return sample


def _overlap(start: int, size: int, limit: int) -> tuple[int, int, int]:
    """Where the range start..start+size meets 0..limit: (offset in the range, first, last + 1), never empty."""
    first = min(max(start, 0), limit - 1)
    last = max(min(start + size, limit), first + 1)
    return max(0, min(first - start, size - (last - first))), first, last


def to_sample(rgb: Pixels, multiple: int) -> npt.NDArray[np.float32]:
    """A whole picture as the model's input, float32 (1, 3, H', W') in [-1, 1].

    H' and W' are the height and width of ``rgb`` (uint8 (H, W, 3)) rounded up to ``multiple``; below and to the right
    the edge is repeated.
    """
    height_px, width_px = (-(-side // multiple) * multiple for side in rgb.shape[:2])
    return sample_region(rgb, 0, 0, height_px, width_px)


def from_sample(sample: npt.NDArray[np.float32], height_px: int, width_px: int) -> Pixels:
    """The model's output, float32 (1, 3, H', W'), as uint8 (height_px, width_px, 3), cropped at the bottom and right.

    -1 becomes 0 and 1 becomes 255; values are rounded to the nearest level (ties to even) and clipped.

    Raises EngineError where the model gave values that are not numbers, so that no black picture passes for a result.
    """
    rgb = np.empty((height_px, width_px, 3), np.uint8)
    for top in range(0, height_px, _STRIP_ROWS):
        rows = slice(top, min(top + _STRIP_ROWS, height_px))
        strip = sample[0, :, rows, :width_px] * np.float32(127.5)
        strip += np.float32(127.5)
        if np.isnan(strip.min()):
            raise EngineError("the decoder returned NaN: try another device or precision")
        rgb[rows] = np.clip(np.rint(strip, out=strip), 0, 255, out=strip).transpose(1, 2, 0)
    return rgb


def as_sample(painted: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """What a decoder gives, samples (N, 3, H, W) or pixels uint8 (N, H, W, 3), as samples."""
    if painted.dtype != np.uint8:
        return painted
    return np.asarray(painted.transpose(0, 3, 1, 2) * np.float32(1 / 127.5) - np.float32(1), np.float32)
