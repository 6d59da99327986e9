"""Photographs for fitting and calibration: lists a folder, and cuts crops."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdrt.errors import ImageError, SdrtError
from sdrt.pixels.load import load

CROP_PX = 384
SUFFIXES = {".webp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".avif", ".bmp"}
"""Of photographs that are looked for in a folder, in lower case: to fit, to train and to measure."""
MAX_CROPS = 8
"""Of one photograph, where there are few."""

Pixels = NDArray[np.uint8]
T = TypeVar("T")


def find_photographs(folder: Path) -> list[Path]:
    """All photographs of a folder and of those below it, in name order; empty where there is no such folder."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []


def held_out(paths: Sequence[Path]) -> set[Path]:
    """The photographs that nothing is ever trained on or fitted to: those whose name, without its ending, ends in 0, or
    else every eighth."""
    return {path for path in paths if path.stem.endswith("0")} or set(paths[::8])


def list_images(folder: Path) -> list[Path]:
    """All photographs of a folder in name order. Raises ImageError when there are fewer than four."""
    found = find_photographs(folder)
    if len(found) < 4:
        raise ImageError(f"{folder}: {len(found)} pictures there; at least 4 are required, hundreds recommended")
    return found


class CropPlan:
    """Which crops are cut out of which photographs, the same for the same arguments.

    Some photographs are held out (``held_out``). With few photographs each gives several crops.
    """

    def __init__(self, paths: list[Path], count: int, cell_px: int, seed: int) -> None:
        """``count`` crops in all, one or more; sides are at most CROP_PX and multiples of ``cell_px``."""
        self.random = np.random.default_rng(seed)
        self.held = held_out(paths)
        self.order = [paths[index] for index in self.random.permutation(len(paths))][:count]
        self.each = max(1, min(MAX_CROPS, count // len(self.order)))
        self._cell_px = cell_px

    def cut(self, path: Path) -> list[Pixels]:
        """The crops of one photograph, uint8 (H, W, 3); none, with a word on stderr, where it cannot be read.

        Photographs must be cut in the plan's order: large ones are downsampled a little at random.
        """
        try:
            rgb = load(path).rgb
        except SdrtError as error:
            print(f"  skipped: {error}", file=sys.stderr)
            return []
        return [self._crop(rgb) for _ in range(self.each)]

    def _crop(self, rgb: Pixels) -> Pixels:
        factor = 1.0 if self.random.random() < 0.6 else self.random.uniform(1, 1.6)
        side = int(min(CROP_PX * factor, *rgb.shape[:2]))
        y, x = (self.random.integers(rgb.shape[axis] - side + 1) for axis in (0, 1))
        crop = rgb[y : y + side, x : x + side]
        size = max(self._cell_px, min(CROP_PX, side) // self._cell_px * self._cell_px)
        if side != size:
            crop = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC))
        return np.ascontiguousarray(crop)


def spread(items: list[T], count: int) -> list[T]:
    """At most ``count`` of them, evenly chosen: neighbors are often alike."""
    return items[:: max(1, len(items) // count)][:count]


def crops(paths: list[Path], count: int, cell_px: int, seed: int) -> Iterator[tuple[bool, Pixels]]:
    """All crops of a plan as (held out, uint8 (H, W, 3)). Pictures that cannot be read are skipped."""
    plan = CropPlan(paths, count, cell_px, seed)
    for path in plan.order:
        for crop in plan.cut(path):
            yield path in plan.held, crop
