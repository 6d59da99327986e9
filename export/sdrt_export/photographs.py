"""Photographs of a folder as crops, for fitting priors and calibrating graphs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdrt.errors import ImageError, SdrtError
from sdrt.pixels.load import load

CROP_PX = 384
SUFFIXES = {".webp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".avif", ".bmp"}


def list_images(folder: Path) -> list[Path]:
    """All pictures of a folder in name order. Raises ImageError when there are fewer than four."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if len(found) < 4:
        raise ImageError(f"{folder}: {len(found)} pictures there; a prior needs at least 4, and likes hundreds")
    return found


def crops(paths: list[Path], count: int, cell_px: int, seed: int) -> list[tuple[bool, NDArray[np.uint8]]]:
    """``count`` crops as (held out, uint8 (H, W, 3)), the same for the same arguments.

    Pictures whose name ends in 0, or else every eighth, are held out. Sides are at most CROP_PX, a multiple of
    ``cell_px``; large photographs are downsampled a little at random. With few pictures each gives several crops.
    Pictures that cannot be read are skipped.
    """
    random = np.random.default_rng(seed)
    held = {p for p in paths if p.stem.endswith("0")} or set(paths[::8])
    order = [paths[i] for i in random.permutation(len(paths))][:count]
    each = max(1, min(8, count // len(order)))
    result = []
    for path in order:
        try:
            rgb = load(path).rgb
        except SdrtError as error:
            print(f"  skipped: {error}", file=sys.stderr)
            continue
        for _ in range(each):
            factor = 1.0 if random.random() < 0.6 else random.uniform(1, 1.6)
            side = int(min(CROP_PX * factor, *rgb.shape[:2]))
            y, x = random.integers(rgb.shape[0] - side + 1), random.integers(rgb.shape[1] - side + 1)
            crop = rgb[y : y + side, x : x + side]
            size = max(cell_px, min(CROP_PX, side) // cell_px * cell_px)
            if side != size:
                crop = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC))
            result.append((path in held, np.ascontiguousarray(crop)))
    return result
