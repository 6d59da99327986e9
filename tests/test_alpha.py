"""Laws of the alpha plane's codings."""

from __future__ import annotations

import contextlib
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from sdrt import alpha as codings
from sdrt.alpha import DEFAULT_MAX_ERROR, Plane, decode_alpha, encode_alpha
from sdrt.errors import CorruptError, SdrtError, UnsupportedError


def disc(side_px: int, *, blur_px: float = 0) -> Plane:
    image = Image.new("L", (side_px, side_px))
    ImageDraw.Draw(image).ellipse((side_px * 0.1, side_px * 0.15, side_px * 0.85, side_px * 0.9), fill=255)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(blur_px)) if blur_px else image).copy()


def planes() -> dict[str, Plane]:
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:97, :161]
    return {
        "one pixel": np.array([[7]], np.uint8),
        "row": rng.integers(0, 256, (1, 999), np.uint8),
        "column": rng.integers(0, 256, (999, 1), np.uint8),
        "transparent": np.zeros((40, 50), np.uint8),
        "disc": disc(200),
        "soft disc": disc(200, blur_px=9),
        "ramp": np.clip(x * 2, 0, 255).astype(np.uint8),
        "corner": np.minimum(x + y, 255).astype(np.uint8),
        "noise": rng.integers(0, 256, (97, 161), np.uint8),
        "binary noise": (rng.integers(0, 2, (65, 63)) * 255).astype(np.uint8),
        "grid's own size": disc(64, blur_px=3),
        "one more": disc(65, blur_px=3),
    }


PLANES = planes()


@pytest.mark.parametrize("name", PLANES)
@pytest.mark.parametrize("max_error", [0, 1, 2, DEFAULT_MAX_ERROR, 126])
def test_error_stays_within_its_bound(name: str, max_error: int) -> None:
    """A plane comes back within max_error, exactly for 0, and 0 and 255 always come back exactly."""
    plane = PLANES[name]
    back = decode_alpha(encode_alpha(plane, max_error=max_error), *plane.shape)
    assert back.dtype == np.uint8
    assert back.shape == plane.shape
    assert np.abs(back.astype(int) - plane).max() <= max_error
    assert (back[plane == 0] == 0).all()
    assert (back[plane == 255] == 255).all()


@pytest.mark.parametrize("name", PLANES)
def test_each_coding_comes_back(name: str) -> None:
    """Each coding is right on planes for which another would be chosen."""
    plane = PLANES[name]
    for axes in range(4):
        assert (codings._sums(codings._differences(plane, axes), axes) == plane).all()
    for radius in (0, 1, 4, 63):
        stored = codings._interpolation_residuals(plane, radius)
        assert stored.size == plane.size
        back = codings._interpolated(stored, *plane.shape, radius)
        assert np.abs(back.astype(int) - plane).max() <= 2 * radius


def interpolated_as_the_page_says(stored: bytes, height_px: int, width_px: int, radius: int) -> list[list[int]]:
    """Coding 2 written from docs/FORMAT.md alone, pixel by pixel."""
    alpha = [[0] * width_px for _ in range(height_px)]
    codes = iter(stored)
    for y in range(0, height_px, 64):
        for x in range(0, width_px, 64):
            alpha[y][x] = next(codes)

    def fill(get, put, at: int, stride: int, size: int) -> None:  # type: ignore[no-untyped-def]
        a = get(at - stride)
        b = get(at + stride) if at + stride < size else a
        c = get(at - 3 * stride) if at - 3 * stride >= 0 else a
        d = get(at + 3 * stride) if at + 3 * stride < size else b
        prediction = min(max((9 * (a + b) - c - d + 8) >> 4, min(a, b)), max(a, b))
        u = next(codes)
        e = u // 2 if u % 2 == 0 else -((u + 1) // 2)
        put(at, (prediction + e) % 256 if radius == 0 else min(max(prediction + e * (2 * radius + 1), 0), 255))

    for stride in (32, 16, 8, 4, 2, 1):
        for y in range(stride, height_px, 2 * stride):
            for x in range(0, width_px, 2 * stride):
                fill(lambda at, x=x: alpha[at][x], lambda at, v, x=x: alpha[at].__setitem__(x, v), y, stride, height_px)
        for x in range(stride, width_px, 2 * stride):
            for y in range(0, height_px, stride):
                fill(lambda at, y=y: alpha[y][at], lambda at, v, y=y: alpha[y].__setitem__(at, v), x, stride, width_px)
    if radius:
        return [[0 if v <= radius else 255 if v >= 255 - radius else v for v in row] for row in alpha]
    return alpha


@pytest.mark.parametrize("radius", [0, 3])
@pytest.mark.parametrize("name", PLANES)
def test_page_describes_the_interpolation(name: str, radius: int) -> None:
    """A reader written from docs/FORMAT.md alone finds the same plane, on honest residuals and on random ones."""
    plane = PLANES[name]
    rng = np.random.default_rng(8)
    for stored in (codings._interpolation_residuals(plane, radius), rng.integers(0, 256, plane.size, np.uint8)):
        ours = codings._interpolated(stored, *plane.shape, radius)
        assert ours.tolist() == interpolated_as_the_page_says(stored.tobytes(), *plane.shape, radius)


@pytest.mark.parametrize(
    ("plane", "limit_bytes"),
    [
        (np.full((512, 512), 128, np.uint8), 2),
        (disc(512), 1000),
        (disc(512, blur_px=8), 1300),
        (disc(512, blur_px=25), 1700),
    ],
    ids=["constant", "hard disc", "soft disc", "very soft disc"],
)
def test_typical_masks_are_small(plane: Plane, limit_bytes: int) -> None:
    """A mask of 512 x 512 costs a fraction of the photo's 5 kB."""
    assert len(encode_alpha(plane)) <= limit_bytes


def test_bytes_are_the_same_every_time() -> None:
    """Coding has no state and no randomness."""
    assert encode_alpha(PLANES["soft disc"]) == encode_alpha(PLANES["soft disc"].copy())


@pytest.mark.parametrize("name", ["disc", "soft disc", "noise", "transparent"])
def test_every_truncation_and_extension_is_refused(name: str) -> None:
    """A plane's bytes cut anywhere, or with one more at the end, are refused."""
    plane = PLANES[name][:40, :50]
    data = encode_alpha(plane)
    for size_bytes in range(len(data)):
        with pytest.raises(CorruptError):
            decode_alpha(data[:size_bytes], *plane.shape)
    with pytest.raises(CorruptError):
        decode_alpha(data + b"\x00", *plane.shape)


def test_another_size_is_refused() -> None:
    """Bytes of one size are no plane of another."""
    data = encode_alpha(PLANES["noise"])
    for shape in ((97, 160), (97, 162), (1, 1)):
        with pytest.raises(CorruptError):
            decode_alpha(data, *shape)


def test_unknown_codings_and_parameters_are_refused() -> None:
    """A coding of a later version is unsupported, a parameter out of range is corrupt."""
    with pytest.raises(UnsupportedError, match="update"):
        decode_alpha(b"\x63\x00", 4, 4)
    for data in (b"\x01\x04", b"\x02\x40", b"\x00\x80\x00"):
        with pytest.raises(CorruptError):
            decode_alpha(data + b"\x03\x00" * (data[0] > 0), 4, 4)


def test_a_deflate_bomb_stays_small() -> None:
    """Bytes that would inflate to 200 MB are refused with memory in proportion to the plane, not to them."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(compressor.compress(bytes(10**6)) for _ in range(200)) + compressor.flush()
    tracemalloc.start()
    with pytest.raises(CorruptError):
        decode_alpha(b"\x01\x00" + bomb, 100, 100)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 10**6


def test_random_bytes_raise_only_ours() -> None:
    """Whatever the bytes are, a plane comes back or an SdrtError is raised."""
    rng = np.random.default_rng(9)
    good = encode_alpha(PLANES["soft disc"][:64, :64])
    for _ in range(2000):
        data = bytearray(good if rng.random() < 0.7 else rng.bytes(60))
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
        with contextlib.suppress(SdrtError):
            assert decode_alpha(bytes(data), 64, 64).shape == (64, 64)
