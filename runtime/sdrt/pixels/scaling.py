"""Pictures at a half, a quarter or an eighth of their sides, and back.

At the smallest rates a painted quarter of the pixels, enlarged, shows more than all of them painted at very low
rates: JPEG XL calls it resampling, AV1 superres. Sides that the factor does not divide are continued by edge repetition
before, and cropped after. Factors are powers of two: strips and crops then see the filter at the same fractions.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdrt.pixels.picture import Crop, Pixels

_REACH_PX = 2
"""Small pixels around its own that a cubic filter looks at when it enlarges."""
_BLOCK_ROWS = 32
"""Small rows that are enlarged at once: floats take twelve times the room of pixels."""


def reduce(rgb: Pixels, factor: int) -> Pixels:
    """uint8 (H, W, 3) -> (ceil(H / factor), ceil(W / factor), 3) by a Lanczos filter; ``rgb`` itself for factor 1."""
    if factor == 1:
        return rgb
    height_px, width_px = (ceil(side / factor) for side in rgb.shape[:2])
    missing = height_px * factor - rgb.shape[0], width_px * factor - rgb.shape[1]
    if any(missing):
        rgb = np.pad(rgb, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    return np.asarray(Image.fromarray(rgb).resize((width_px, height_px), Image.Resampling.LANCZOS))


def window_of(crop: Crop, factor: int, width_px: int, height_px: int) -> Crop:
    """The part of the small picture (``width_px`` x ``height_px``) that ``crop`` of the large one is enlarged from."""
    if factor == 1:
        return crop
    x, y, wide, high = crop
    left, top = max(x // factor - _REACH_PX, 0), max(y // factor - _REACH_PX, 0)
    right = min(ceil((x + wide) / factor) + _REACH_PX, width_px)
    bottom = min(ceil((y + high) / factor) + _REACH_PX, height_px)
    return left, top, right - left, bottom - top


def enlarge(rows: Iterator[Pixels], window: Crop, factor: int, crop: Crop) -> Iterator[Pixels]:
    """Strips uint8 (n, width, 3) of ``window``, as ``window_of`` gives it, -> strips of ``crop``, top to bottom.

    The filter is Catmull & Rom's (cubic, a = -1/2); around the small picture its edge is repeated. Every strip and
    every crop has the pixels of the whole picture.
    """
    if factor == 1:
        yield from rows
        return
    x, y, wide, high = crop
    left, top, _, small_rows = window
    first, stop = y // factor, ceil((y + high) / factor)  # the small rows that are to be enlarged
    columns = slice(x % factor, x % factor + wide)
    sides = _missing(x // factor, ceil((x + wide) / factor), left, left + window[2])
    held = np.empty((0, window[2], 3), np.uint8)
    for strip in rows:
        held = np.concatenate([held, strip])
        known = top + len(held)
        until = stop if known == top + small_rows else min(known - _REACH_PX, stop)
        while first < until:
            last = min(first + _BLOCK_ROWS, until)
            ends = _missing(first, last, top, known)
            part = held[max(first - _REACH_PX - top, 0) : last + _REACH_PX - top]
            block = np.pad(part, (ends, sides, (0, 0)), mode="edge").astype(np.float32)
            enlarged = _enlarge_rows(_enlarge_rows(block, factor).swapaxes(0, 1), factor).swapaxes(0, 1)
            wanted = slice(max(y - first * factor, 0), y + high - first * factor)
            yield np.clip(np.rint(enlarged[wanted, columns]), 0, 255).astype(np.uint8)
            first = last
        unused = max(first - _REACH_PX - top, 0)
        held, top, small_rows = held[unused:], top + unused, small_rows - unused


def _missing(start: int, stop: int, known_start: int, known_stop: int) -> tuple[int, int]:
    """How far the filter's reach around start..stop sticks out of what is known, on both sides."""
    return max(known_start - start + _REACH_PX, 0), max(stop + _REACH_PX - known_stop, 0)


def _enlarge_rows(block: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """(n + 2 * reach, ...) -> (n * factor, ...)."""
    count = len(block) - 2 * _REACH_PX
    taps = np.arange(-_REACH_PX, _REACH_PX + 1)
    distance = np.abs((np.arange(factor)[:, None] + 0.5) / factor - 0.5 - taps)
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0)).astype(np.float32)
    enlarged = np.zeros((count, factor, *block.shape[1:]), np.float32)
    for tap in range(len(taps)):
        for phase in range(factor):
            enlarged[:, phase] += weights[phase, tap] * block[tap : tap + count]
    return enlarged.reshape(count * factor, *block.shape[1:])
