"""A picture in memory, whole or as an iterator of rows from top to bottom."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from sdrt.errors import ArgumentError
from sdrt.pixels.metadata import Metadata

Pixels = npt.NDArray[np.uint8]
Crop = tuple[int, int, int, int]
"""x, y, width, height in pixels of the whole picture."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A whole picture in memory.

    Attributes:
        rgb: uint8 (H, W, 3), sRGB, upright.
        alpha: uint8 (H, W), 255 is opaque; None where all of the picture is.
        metadata: See ``Metadata``.
        notes: What reading left out or changed, in words for a person.

    Raises:
        ArgumentError: An array of another type or shape.
    """

    rgb: Pixels
    alpha: Pixels | None = None
    metadata: Metadata = field(default_factory=Metadata)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sides = self.rgb.shape[:2]
        if self.rgb.dtype != np.uint8 or self.rgb.shape != (*sides, 3) or 0 in sides or len(sides) != 2:
            raise ArgumentError(f"rgb must be uint8 (H, W, 3), it is {self.rgb.dtype} {self.rgb.shape}")
        if self.alpha is not None and (self.alpha.dtype != np.uint8 or self.alpha.shape != sides):
            raise ArgumentError(f"alpha must be uint8 {sides}, it is {self.alpha.dtype} {self.alpha.shape}")


@dataclass(frozen=True, eq=False)
class Strips:
    """A picture whose rows are computed while they are iterated.

    Attributes:
        width_px: Of the whole picture.
        height_px: Of the whole picture.
        rows: Arrays uint8 (h, width_px, 3), h at least 1, that make ``height_px`` rows from top to bottom. They can be
            taken once, each before the next.
        alpha: uint8 (height_px, width_px), whole: one byte a pixel; None where all of the picture is opaque.
        metadata: See ``Metadata``.
        synthetic: Whether a network painted some of it.
    """

    width_px: int
    height_px: int
    rows: Iterator[Pixels]
    alpha: Pixels | None = None
    metadata: Metadata = field(default_factory=Metadata)
    synthetic: bool = False

    def for_file(self, *, strip: bool) -> Strips:
        """The same with the metadata for an output file: XMP states whether it is synthetic. ``strip``: no metadata."""
        metadata = self.metadata.painted() if self.synthetic else self.metadata
        return replace(self, metadata=Metadata() if strip else metadata)


def gather(strips: Strips) -> Picture:
    """Collects ``strips`` into one array. Raises what computing the rows raises."""
    rgb = np.empty((strips.height_px, strips.width_px, 3), np.uint8)
    top = 0
    for rows in strips.rows:
        rgb[top : top + len(rows)] = rows
        top += len(rows)
    assert top == strips.height_px, "strips make the whole height"
    return Picture(rgb, strips.alpha, strips.metadata)


def scatter(picture: Picture) -> Strips:
    """``picture`` as one strip, without a copy."""
    height_px, width_px = picture.rgb.shape[:2]
    return Strips(width_px, height_px, iter((picture.rgb,)), picture.alpha, picture.metadata)


class Scroll:
    """The rows of ``strips``, in windows that move down: no more than a window and a strip are held."""

    def __init__(self, strips: Strips) -> None:
        self._rows, self._top = strips.rows, 0
        self._held = np.empty((0, strips.width_px, 3), np.uint8)

    def __getitem__(self, window: slice) -> Pixels:
        """Rows from ``start``, at least that of the window before, to ``stop``, exclusive."""
        self._held, self._top = self._held[window.start - self._top :], window.start
        while len(self._held) < window.stop - window.start:
            self._held = self._held.copy()  # lets go of the strip that it was in before the next one is made
            self._held = np.concatenate([self._held, next(self._rows)])
        return self._held[: window.stop - window.start]


def checked_crop(crop: Crop | None, width_px: int, height_px: int) -> Crop:
    """``crop`` of a picture of this size; None stands for all of it.

    Raises ArgumentError for anything but four integers, and for a part that does not lie in the picture.
    """
    if crop is None:
        return 0, 0, width_px, height_px
    try:
        x, y, wide, high = map(operator.index, crop)
    except (TypeError, ValueError):
        raise ArgumentError(f"crop is {crop!r}, it must be four integers: x, y, width and height") from None
    if min(x, y) < 0 or min(wide, high) < 1 or x + wide > width_px or y + high > height_px:
        raise ArgumentError(
            f"the crop {wide}x{high} at {x},{y} does not lie in the picture of {width_px}x{height_px} pixels"
        )
    return x, y, wide, high
