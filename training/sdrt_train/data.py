"""Photographs -> training crops, held in memory and cut by a background thread."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_SUFFIXES = {".webp", ".jpg", ".jpeg", ".png"}


def list_photos(folder: Path) -> tuple[list[Path], list[Path]]:
    """All photographs of a folder in name order, as (training, validation).

    Validation is every file whose name (without its ending) ends in "0": fixed by name, so that no run
    ever trains on it. In a folder whose names end otherwise, every sixteenth photograph is kept apart.
    """
    photos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)
    held = [p for p in photos if p.stem.endswith("0")] or photos[::16]
    kept_apart = set(held)
    return [p for p in photos if p not in kept_apart], held


def load_photo(path: Path) -> np.ndarray:
    """uint8 (H, W, 3)."""
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def load_photos(paths: list[Path], minimum_px: int) -> list[np.ndarray]:
    """Decoded photographs whose short side is at least ``minimum_px``."""
    with ThreadPoolExecutor(4) as pool:
        return [photo for photo in pool.map(load_photo, paths) if min(photo.shape[:2]) >= minimum_px]


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W) in [-1, 1], channels last in memory."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


class CropSource:
    """Endless batches of random crops: native scale or downsampled, flipped half of the time."""

    def __init__(self, photos: list[np.ndarray], batch: int, size_px: int, seed: int) -> None:
        if not photos:
            raise ValueError("no photographs to train on: the folder holds none, or all are smaller than a crop")
        self._photos, self._batch, self._size_px = photos, batch, size_px
        self._random = np.random.default_rng(seed)
        pixels = np.array([float(p.shape[0] * p.shape[1]) for p in photos])
        self._weights = np.sqrt(pixels) / np.sqrt(pixels).sum()
        self._ready: queue.Queue[np.ndarray] = queue.Queue(8)
        threading.Thread(target=self._fill, daemon=True).start()

    def _crop(self) -> np.ndarray:
        random, size = self._random, self._size_px
        photo = self._photos[random.choice(len(self._photos), p=self._weights)]
        height, width = photo.shape[:2]
        factor = 1.0 if random.random() < 0.6 else random.uniform(1.25, 2.5)
        side = min(int(size * factor), height, width)
        y, x = random.integers(height - side + 1), random.integers(width - side + 1)
        crop = photo[y : y + side, x : x + side]
        if side != size:
            crop = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC))
        return crop[:, ::-1] if random.random() < 0.5 else crop

    def _fill(self) -> None:
        while True:
            self._ready.put(np.stack([self._crop() for _ in range(self._batch)]))

    def next(self) -> Tensor:
        """float32 (batch, 3, size, size) in [-1, 1]."""
        return to_tensor(self._ready.get())
