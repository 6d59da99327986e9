"""A small picture out of the strips of a large one, of which no more than a strip is held."""

from __future__ import annotations

import numpy as np
from PIL import Image

from sdrt.pixels.picture import Picture, Pixels, Strips

_KEPT = 2
"""Boxes are averaged down to between this and twice this many pixels for one of the thumbnail's; a Lanczos filter takes
the rest, so that edges are as smooth as if it had seen all."""


def thumbnail(strips: Strips, side_px: int) -> Picture:
    """The picture with no side longer than ``side_px``, 1 or more, without metadata; never enlarged.

    Colors of transparent pixels do not shine through: averages are weighted with alpha.

    Raises what making the rows raises.
    """
    longest_px = max(strips.width_px, strips.height_px)
    box_px = max(1, longest_px // (_KEPT * side_px))
    parts: list[Pixels] = []
    held = np.empty((0, strips.width_px, 3), np.uint8)
    top = 0
    for rows in strips.rows:
        held = np.concatenate([held, rows])
        whole = len(held) // box_px * box_px
        if top + len(held) == strips.height_px:
            whole = len(held)
        if whole:
            parts.append(_reduced(held[:whole], strips.alpha, top, box_px))
            held, top = held[whole:], top + whole
    image = Image.fromarray(np.concatenate(parts))
    scale = min(1.0, side_px / longest_px)
    size = max(1, round(strips.width_px * scale)), max(1, round(strips.height_px * scale))
    pixels = np.asarray(image if image.size == size else image.resize(size, Image.Resampling.LANCZOS))
    alpha = None if strips.alpha is None else np.ascontiguousarray(pixels[..., 3])
    return Picture(np.ascontiguousarray(pixels[..., :3]), alpha)


def _reduced(rows: Pixels, alpha: Pixels | None, top: int, box_px: int) -> Pixels:
    """Averages of boxes, those at the right and below perhaps smaller, of rows whose first is number ``top``."""
    if alpha is not None:
        rows = np.dstack([rows, alpha[top : top + len(rows)]])
    return np.asarray(Image.fromarray(rows).reduce(box_px)) if box_px > 1 else rows
