"""Photographs and drawings -> training crops, cut by a background thread.

Photographs are decoded once, into one file of raw pixels beside an index, which every run on the machine maps into
memory. `CropSource` cuts crops: some at native scale, the others reduced by two or more, where WebP's halved chroma is
whole again.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from sdrt.atomic import atomic_file, make_folder, write_atomic
from sdrt_export.photographs import find_photographs, held_out
from sdrt_train.drawings import drawing


def list_photos(folder: Path) -> tuple[list[Path], list[Path]]:
    """All photographs of a folder in name order, as (training, validation): no prior is fitted to the latter either."""
    photos = find_photographs(folder)
    held = held_out(photos)
    return [p for p in photos if p not in held], [p for p in photos if p in held]


def load_photo(path: Path) -> np.ndarray:
    """uint8 (H, W, 3)."""
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def load_photos(paths: Sequence[Path], minimum_px: int, cache: Path | None = None) -> list[np.ndarray]:
    """Decoded photographs whose short side is at least ``minimum_px``.

    Args:
        paths: files that Pillow reads.
        minimum_px: the smallest short side.
        cache: folder for one file of raw pixels that later calls map into memory, as long as the names, sizes and times
            of the files stay; nothing is kept without it.

    Returns:
        Arrays uint8 (H, W, 3), read-only where they come from the cache.

    Raises:
        OSError: a file cannot be read.
        OutputError: the cache cannot be written.
    """
    if cache is None:
        with ThreadPoolExecutor(4) as pool:
            return [photo for photo in pool.map(load_photo, paths) if min(photo.shape[:2]) >= minimum_px]
    listed = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    name = hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]
    index_file, pixels_file = cache / f"{name}.json", cache / f"{name}.rgb"
    if not index_file.exists():
        # Several workers may do this at once: each writes files of its own, and the last ones stay, which are the same.
        make_folder(cache)
        shapes = []
        with ThreadPoolExecutor(4) as pool, atomic_file(pixels_file) as file:
            for photo in pool.map(load_photo, paths):
                shapes.append(photo.shape[:2])
                file.write(photo.tobytes())
        write_atomic(index_file, json.dumps(shapes).encode("ascii"))
    pixels = np.memmap(pixels_file, np.uint8, "r")
    photos, start = [], 0
    for height, width in json.loads(index_file.read_text()):
        end = start + 3 * height * width
        if min(height, width) >= minimum_px:
            photos.append(pixels[start:end].reshape(height, width, 3))
        start = end
    return photos


def to_tensor(pixels: np.ndarray | Tensor) -> Tensor:
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W) in [-1, 1], channels last in memory."""
    return torch.as_tensor(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclass(frozen=True)
class CropConfig:
    """What crops are made of, each a share of all from 0 to 1.

    Attributes:
        drawn: drawings in place of photographs.
        native: of the photographs, those at native scale; the others are reduced 2 to 2.6 times where they are large
            enough.
        recolored: of the photographs, those whose hue and saturation are changed.
        bordered: crops that end inside and go on with their last row or column, as pictures do whose sides are not
            multiples of 16.
    """

    drawn: float = 0.15
    native: float = 0.5
    recolored: float = 0.2
    bordered: float = 0.1


class CropSource:
    """Endless batches of random crops, flipped half of the time.

    Args:
        photos: uint8 (H, W, 3) each.
        batch: crops in a batch.
        size_px: sides of a crop.
        seed: the same gives the same batches, in the same order where ``processes`` is the same.
        config: what crops are made of.
        processes: how many cut them, for a device that is faster than one core; 0: a thread of this one.
    """

    def __init__(
        self,
        photos: Sequence[np.ndarray],
        batch: int,
        size_px: int,
        seed: int,
        config: CropConfig | None = None,
        *,
        processes: int = 0,
    ) -> None:
        if not photos:
            raise ValueError("no photographs to train on: the folder holds none, or all are smaller than a crop")
        batches = _Batches(photos, batch, size_px, seed, config or CropConfig())
        if processes:
            loader = DataLoader(batches, None, num_workers=processes, prefetch_factor=4, pin_memory=True)
            self._ready: Iterator[Tensor] = iter(loader)
        else:
            self._ready = _ahead(iter(batches))

    def next(self, device: torch.device | str = "cpu") -> Tensor:
        """float32 (batch, 3, size, size) in [-1, 1]."""
        return to_tensor(next(self._ready).to(device, non_blocking=True))


def _ahead(batches: Iterator[np.ndarray]) -> Iterator[Tensor]:
    """The same, up to eight of them made in advance by a thread."""
    ready: queue.Queue[np.ndarray] = queue.Queue(8)

    def fill() -> None:
        for batch in batches:
            ready.put(batch)

    threading.Thread(target=fill, daemon=True).start()
    while True:
        yield torch.from_numpy(ready.get())


class _Batches(IterableDataset[np.ndarray]):
    """uint8 (batch, size, size, 3) without end; each process that iterates over it draws its own."""

    def __init__(self, photos: Sequence[np.ndarray], batch: int, size_px: int, seed: int, config: CropConfig) -> None:
        self._photos, self._batch, self._size_px, self._seed, self._config = photos, batch, size_px, seed, config
        pixels = np.array([float(p.shape[0] * p.shape[1]) for p in photos])
        self._weights = np.sqrt(pixels) / np.sqrt(pixels).sum()
        self._random = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[np.ndarray]:
        worker = get_worker_info()
        self._random = np.random.default_rng(self._seed if worker is None else [self._seed, worker.id])
        while True:
            yield np.stack([self._crop() for _ in range(self._batch)])

    def _photo_crop(self) -> np.ndarray:
        random, size = self._random, self._size_px
        photo = self._photos[random.choice(len(self._photos), p=self._weights)]
        height, width = photo.shape[:2]
        factor = 1.0 if random.random() < self._config.native else random.uniform(2, 2.6)
        side = min(int(size * factor), height, width)
        y, x = random.integers(height - side + 1), random.integers(width - side + 1)
        crop = photo[y : y + side, x : x + side]
        if side != size:
            crop = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC))
        return recolored(random, crop) if random.random() < self._config.recolored else crop

    def _crop(self) -> np.ndarray:
        random, size = self._random, self._size_px
        crop = drawing(random, size) if random.random() < self._config.drawn else self._photo_crop()
        if random.random() < self._config.bordered:
            height, width = random.integers(max(1, size - 15), size + 1, 2)
            crop = np.pad(crop[:height, :width], ((0, size - height), (0, size - width), (0, 0)), "edge")
        return crop[:, ::-1] if random.random() < 0.5 else crop


def recolored(random: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """A photograph with chroma turned by any angle and stretched 0.5 to 2.5 times, about the luma of BT.601."""
    angle, stretch = random.uniform(0, 2 * np.pi), random.uniform(0.5, 2.5)
    ycc = np.asarray(Image.fromarray(pixels).convert("YCbCr"), np.float32)
    turn = stretch * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], np.float32)
    chroma = (ycc[..., 1:] - 128) @ turn + 128
    turned = np.concatenate([ycc[..., :1], chroma], -1)
    image = Image.fromarray(np.clip(np.rint(turned), 0, 255).astype(np.uint8), "YCbCr")
    return np.asarray(image.convert("RGB"))
