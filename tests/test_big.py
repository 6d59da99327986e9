"""Laws of big pictures: memory and time of whole processes, with the default pack and through the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bench.process import Run, measure

ROOT = Path(__file__).resolve().parents[1]
SIDES_PX = (2000, 5000)
LIMIT_MB = 1500
"""What 100 megapixels may take."""


def big_photo(photos: list[Path], side_px: int) -> NDArray[np.uint8]:
    """Photographs laid side by side until (side_px, side_px, 3) is full: no tile is like its neighbor."""
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in photos]
    big = np.empty((side_px, side_px, 3), np.uint8)
    count, y = 0, 0
    while y < side_px:
        x, high = 0, min(picture.shape[0] for picture in pictures)
        while x < side_px:
            picture = pictures[count % len(pictures)]
            part = big[y : y + high, x : x + picture.shape[1]]
            part[...] = picture[: part.shape[0], : part.shape[1]]
            x, count = x + picture.shape[1], count + 1
        y += high
    return big


@pytest.mark.slow
def test_memory_and_time_of_big_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 4 to 25 megapixels, memory grows so slowly that 100 stay below LIMIT_MB, and CPU time no faster than pixels.

    Decoding to PNG holds no whole picture: each further pixel takes less than its own three bytes and its latents.
    """
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "runtime"))
    photos = sorted((ROOT / "bench" / "photos").glob("*.webp"))
    runs: dict[tuple[str, int], Run] = {}
    for side_px in SIDES_PX:
        picture, coded, back = (tmp_path / f"{side_px}{suffix}" for suffix in (".jpg", ".sdl", ".png"))
        Image.fromarray(big_photo(photos, side_px)).save(picture, quality=92)
        for way, source, target in (("encode", picture, coded), ("decode", coded, back)):
            command = [sys.executable, "-m", "sdrt", way, str(source), "-o", str(target), "--threads", "1"]
            runs[way, side_px] = measure(way, [*command, "--model", str(ROOT / "models" / "tiny")], 1)
        with Image.open(back) as image:
            assert image.size == (side_px, side_px)
    small, large = (side_px**2 / 1e6 for side_px in SIDES_PX)
    for way, max_per_px in (("encode", 14), ("decode", 7)):
        before, after = (runs[way, side_px] for side_px in SIDES_PX)
        per_px = (after.peak_mb - before.peak_mb) / (large - small)
        assert per_px < max_per_px, (way, before, after)
        assert after.peak_mb + per_px * (100 - large) < LIMIT_MB, (way, before, after)
        assert after.cpu_s / before.cpu_s < 1.3 * large / small, (way, before, after)
