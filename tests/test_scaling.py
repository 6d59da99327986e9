"""Laws of pictures that are coded at a fraction of their sides."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
from tests.conftest import synthetic_photo

from sdrt.codec import Codec
from sdrt.container import sdl
from sdrt.errors import UnsupportedError
from sdrt.packs.manifest import ModelPack
from sdrt.pixels.scaling import Pixels, enlarge, reduce, window_of


def enlarged(small: Pixels, factor: int, crop: tuple[int, int, int, int], strip_px: int) -> Pixels:
    """``crop`` of the enlarged picture, from strips of ``strip_px`` rows of what it needs."""
    window = x, y, wide, high = window_of(crop, factor, small.shape[1], small.shape[0])
    part = small[y : y + high, x : x + wide]
    rows = (part[top : top + strip_px] for top in range(0, high, strip_px))
    return np.concatenate(list(enlarge(rows, window, factor, crop)))


@pytest.mark.parametrize("factor", sdl.RESAMPLINGS)
def test_strips_and_crops_are_parts_of_the_whole(factor: int) -> None:
    """However the rows arrive, and whatever part is wanted, every pixel is that of the whole picture."""
    small = np.random.default_rng(1).integers(0, 256, (23, 31, 3), np.uint8)
    wide, high = 31 * factor - factor // 2, 23 * factor - factor // 2
    whole = enlarged(small, factor, (0, 0, wide, high), 23)
    assert whole.shape == (high, wide, 3)
    for strip_px in (1, 2, 5, 16):
        assert np.array_equal(enlarged(small, factor, (0, 0, wide, high), strip_px), whole)
    for x, y, w, h in ((0, 0, 1, 1), (wide - 1, high - 1, 1, 1), (7, 5, 9, 12), (0, high // 2, wide, 3)):
        assert np.array_equal(enlarged(small, factor, (x, y, w, h), 3), whole[y : y + h, x : x + w])


@pytest.mark.parametrize("factor", sdl.RESAMPLINGS)
@pytest.mark.parametrize("size_px", [(1, 1), (7, 64), (65, 33)])
def test_a_flat_picture_comes_back(factor: int, size_px: tuple[int, int]) -> None:
    """No side is too odd, and neither filter changes a color."""
    flat = np.full((*size_px, 3), (3, 130, 255), np.uint8)
    small = reduce(flat, factor)
    assert small.shape[:2] == tuple(-(-side // factor) for side in size_px)
    assert np.array_equal(enlarged(small, factor, (0, 0, size_px[1], size_px[0]), 4), flat)


def test_edges_stay_where_they_are() -> None:
    """A ramp comes back as it was: neither filter shifts the picture."""
    ramp = np.broadcast_to(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], (64, 120, 3))
    for factor in sdl.RESAMPLINGS:
        back = enlarged(reduce(ramp, factor), factor, (0, 0, 120, 64), 8).astype(int)
        assert np.abs(back - ramp)[:, 16:-16].max() <= 1


def test_files_say_their_resampling(testpack: ModelPack) -> None:
    """Size, integers, crops and the header of a resampled file."""
    photo, codec = synthetic_photo(97, 161), Codec("testpack")
    for factor in sdl.RESAMPLINGS:
        data = codec.encode(photo, resampling=factor)
        assert codec.info(data).resampling == factor
        cell = testpack.space.downscale * factor
        assert codec.symbols(data).shape[1:] == (ceil(97 / cell), ceil(161 / cell))
        whole = np.asarray(codec.decode(data))
        assert whole.shape == photo.shape
        assert np.array_equal(np.asarray(codec.decode(data, crop=(31, 19, 70, 33))), whole[19:52, 31:101])
    sizes = [len(codec.encode(photo, resampling=factor)) for factor in sdl.RESAMPLINGS]
    assert sizes == sorted(sizes, reverse=True)
    with pytest.raises(UnsupportedError, match="resampling is 3"):
        codec.encode(photo, resampling=3)


def test_small_targets_are_reached_by_smaller_pictures(testpack: ModelPack) -> None:
    """A target below quality 0 takes the next fraction; one that quality 0 can reach takes all pixels."""
    photo, codec = synthetic_photo(97, 161), Codec("testpack")
    lowest = len(codec.encode(photo, quality=0))
    assert codec.info(codec.encode(photo, target_bytes=lowest)).resampling == 1
    seen = set()
    for target in (lowest - 1, lowest // 2, lowest // 4, 60):
        data = codec.encode(photo, target_bytes=target)
        assert len(data) <= target
        seen.add(codec.info(data).resampling)
    assert codec.info(codec.encode(photo, target_bytes=lowest - 1, resampling=1)).resampling == 1
    assert len(seen) > 1 and 1 not in seen
