"""A small picture out of the strips of a large one, of which no more than a strip is held, or out of its preview."""

from __future__ import annotations

from math import ceil

import numpy as np
from PIL import Image

from sdrt.pixels.picture import Picture, Pixels, Strips

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels, of which the last ones may be cut."""

_KEPT = 3
"""Boxes are averaged down to between this and twice this many pixels for one of the thumbnail's; a Lanczos filter takes
the rest, so that edges are as smooth as if it had seen all."""


def thumbnail_sides(width_px: int, height_px: int, side_px: int) -> tuple[int, int]:
    """The sides of a thumbnail of which none is longer than ``side_px``; it is never larger than the picture."""
    scale = min(1.0, side_px / max(width_px, height_px))
    return max(1, round(width_px * scale)), max(1, round(height_px * scale))


def reduce_strips(strips: Strips, side_px: int) -> Picture:
    """The picture with no side longer than ``side_px``, 1 or more, without metadata.

    Colors of transparent pixels do not shine through: averages are weighted with alpha.

    Raises what making the rows raises.
    """
    box_px = max(1, max(strips.width_px, strips.height_px) // (_KEPT * side_px))
    parts: list[Pixels] = []
    held = np.empty((0, strips.width_px, 3), np.uint8)
    top = 0
    for rows in strips.rows:
        held = np.concatenate([held, rows])
        whole = len(held) // box_px * box_px if top + len(held) < strips.height_px else len(held)
        if whole:
            parts.append(_reduced(held[:whole], strips.alpha, top, box_px))
            held, top = held[whole:], top + whole
    sides = thumbnail_sides(strips.width_px, strips.height_px, side_px)
    pixels = _resized(np.concatenate(parts), sides, (0, 0, strips.width_px / box_px, strips.height_px / box_px))
    return Picture(pixels) if strips.alpha is None else _split(pixels)


def reduce_preview(preview: Pixels, box: Box, alpha: Pixels | None, sides: tuple[int, int]) -> Picture:
    """``box`` of ``preview``, which is of the picture that ``alpha`` is the alpha of, reduced to these sides.

    Averages are weighted with alpha, as far as the preview still tells its pixels apart.
    """
    if alpha is None:
        return Picture(_resized(preview, sides, box))
    return _split(_resized(np.dstack([preview, _seen_by(preview, box, alpha)]), sides, box))


def _seen_by(preview: Pixels, box: Box, alpha: Pixels) -> Pixels:
    """The mean of ``alpha`` over each pixel of ``preview``; beyond the picture, that of its edge."""
    high, wide = preview.shape[:2]
    down, across = high * alpha.shape[0] / box[3], wide * alpha.shape[1] / box[2]
    missing = ceil(down) - alpha.shape[0], ceil(across) - alpha.shape[1]
    whole = Image.fromarray(np.pad(alpha, ((0, missing[0]), (0, missing[1])), mode="edge"))
    return np.asarray(whole.resize((wide, high), Image.Resampling.BOX, (0, 0, across, down)))


def _split(pixels: Pixels) -> Picture:
    """uint8 (H, W, 4) -> a picture with alpha."""
    return Picture(np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3]))


def _reduced(rows: Pixels, alpha: Pixels | None, top: int, box_px: int) -> Pixels:
    """Averages of boxes, those at the right and below perhaps smaller, of rows whose first is number ``top``."""
    if alpha is not None:
        rows = np.dstack([rows, alpha[top : top + len(rows)]])
    return np.asarray(Image.fromarray(rows).reduce(box_px)) if box_px > 1 else rows


def _resized(pixels: Pixels, sides: tuple[int, int], box: Box | None = None) -> Pixels:
    image = Image.fromarray(pixels)
    if image.size == sides and box in (None, (0, 0, *sides)):
        return pixels
    return np.asarray(image.resize(sides, Image.Resampling.LANCZOS, box))
