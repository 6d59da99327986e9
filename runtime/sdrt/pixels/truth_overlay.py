"""The truth map as a picture: what is kept looks as it is, what is painted is yellow, what may be wrong is red."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sdrt.pixels.picture import Crop, Pixels


class _Look(NamedTuple):
    tint: tuple[int, int, int] | None
    words: str


_LOOKS = (
    _Look(None, "kept: as photographed"),
    _Look((255, 205, 0), "plausible: detail is painted"),
    _Look((225, 0, 30), "invented: do not rely on it"),
)
"""Of the classes 0, 1 and 2."""
_COVER = 0.6
"""Of a tint; the rest is the picture in gray."""
_INK, _PAPER = (20, 20, 20), (250, 250, 250)


def overlay(rgb: Pixels, classes: NDArray[np.uint8], cell_px: int, crop: Crop | None = None) -> Pixels:
    """The decoded picture with its classes, and a legend below it.

    Args:
        rgb: uint8 (H, W, 3), the whole picture or its ``crop``.
        classes: uint8 (rows, columns), of the whole picture's cells.
        cell_px: side of a cell.
        crop: x, y, width and height of what ``rgb`` shows; None: all.

    Returns:
        uint8 (H + legend, W, 3).
    """
    left, top, *_ = crop or (0, 0)
    height_px, width_px = rgb.shape[:2]
    rows, columns = (np.arange(height_px) + top) // cell_px, (np.arange(width_px) + left) // cell_px
    each = classes[rows][:, columns]
    result = rgb.copy()
    for truth, look in enumerate(_LOOKS):
        if look.tint is not None:
            where = each == truth
            gray = rgb[where].mean(1, keepdims=True)
            result[where] = np.rint((1 - _COVER) * gray + _COVER * np.array(look.tint)).astype(np.uint8)
    here = classes[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.concatenate([result, _legend([float((here == truth).mean()) for truth in range(len(_LOOKS))], width_px)])


def _legend(shares: list[float], width_px: int) -> Pixels:
    """A line for each class, as large as the width allows: uint8 (n, width_px, 3)."""
    font = ImageFont.load_default(size=max(8, min(width_px // 26, 40)))
    line_px = round(1.6 * max(8, min(width_px // 26, 40)))
    image = Image.new("RGB", (width_px, line_px * len(_LOOKS) + line_px // 2), _PAPER)
    draw = ImageDraw.Draw(image)
    for number, look in enumerate(_LOOKS):
        top = line_px // 4 + number * line_px
        box = (line_px // 3, top + line_px // 6, line_px, top + line_px - line_px // 6)
        draw.rectangle(box, fill=look.tint, outline=_INK)
        words = f"{100 * shares[number]:3.0f} %  {look.words}"
        draw.text((line_px + line_px // 3, top + line_px // 2), words, fill=_INK, font=font, anchor="lm")
    return np.asarray(image)
