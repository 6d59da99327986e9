"""A picture in memory: whole, or as rows that arrive from top to bottom so that nobody has to hold all of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Crop = tuple[int, int, int, int]
"""x, y, width, height in pixels of the whole picture."""


@dataclass(frozen=True, eq=False)
class Picture:
    """``rgb``: uint8 (H, W, 3), sRGB, upright. ``alpha``: uint8 (H, W), 255 opaque, or None where all of it is opaque.

    ``exif`` (from the TIFF header on, without "Exif\\0\\0") and ``xmp``: as found, but stating orientation 1.
    ``notes``: what was left out or changed, in words for a person.
    """

    rgb: Pixels
    alpha: Pixels | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Strips:
    """A picture whose colours arrive while they are made; the other fields are as in ``Picture``.

    ``rows``: arrays uint8 (h, width_px, 3), h at least 1, that make ``height_px`` rows from top to bottom; they can be
    taken once, each before the next. ``alpha`` is whole: one byte a pixel.
    """

    width_px: int
    height_px: int
    rows: Iterator[Pixels]
    alpha: Pixels | None = None
    exif: bytes | None = None
    xmp: bytes | None = None


def gather(strips: Strips) -> Picture:
    """The whole picture of ``strips``, held once. Raises what making the rows raises."""
    rgb = np.empty((strips.height_px, strips.width_px, 3), np.uint8)
    top = 0
    for rows in strips.rows:
        rgb[top : top + len(rows)] = rows
        top += len(rows)
    assert top == strips.height_px, "strips make the whole height"
    return Picture(rgb, strips.alpha, strips.exif, strips.xmp)


def scatter(picture: Picture) -> Strips:
    """``picture`` as one strip, without a copy."""
    height_px, width_px = picture.rgb.shape[:2]
    return Strips(width_px, height_px, iter((picture.rgb,)), picture.alpha, picture.exif, picture.xmp)
