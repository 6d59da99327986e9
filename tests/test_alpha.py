"""Laws of the alpha plane's codings."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from sdrt.container import alpha as codings
from sdrt.container import alpha_edges
from sdrt.container.alpha import DEFAULT_MAX_ERROR, Plane, decode_alpha, encode_alpha
from sdrt.container.alpha_edges import decode_edges, encode_edges
from sdrt.container.binary_coder import BinaryEncoder
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
GOLDEN = (
    "0103636018ac200a87f83264ce521c8aa21946016d00230ef1ff83d7c900",
    "0200e5c1db0d80200c40d1eb700c51366025a6eb24ad0286d40f63e2e3cb731816505028a580aa82b813643376a963533b0eace344b6865bc41b2ea580a106bccf033e213ef107d9269e5a01",
    "0380bfff800000b161bb964078cdc691c984aea7f24782934dc4b73b06",
)
"""One plane in codings 1, 2 and 3."""


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
        (disc(512), 300),
        (disc(512, blur_px=8), 1300),
        (disc(512, blur_px=25), 1700),
    ],
    ids=["constant", "hard disc", "soft disc", "very soft disc"],
)
def test_typical_masks_are_small(plane: Plane, limit_bytes: int) -> None:
    """A mask of 512 x 512 costs a fraction of the photo's 5 kB."""
    assert len(encode_alpha(plane)) <= limit_bytes


def edges_as_the_page_says(data: bytes, height_px: int, width_px: int) -> list[list[int]]:
    """Coding 3 written from docs/FORMAT.md alone; ``data`` begins with the parameter."""
    radius, soft = data[0] & 63, data[0] >= 128
    stream = data[1:] + bytes(10**4)
    code, taken, span = int.from_bytes(stream[:4], "big"), 4, 2**32 - 1
    zero: dict[int, int] = {}
    shift: dict[int, int] = {}

    def bit(context: int) -> int:
        nonlocal code, taken, span
        chance, slow = zero.get(context, 32768), shift.get(context, 1)
        bound = (span >> 16) * chance
        found = int(code >= bound)
        if found:
            code, span = code - bound, span - bound
            zero[context] = chance - (chance >> slow)
        else:
            span = bound
            zero[context] = chance + ((65536 - chance) >> slow)
        shift[context] = min(slow + 1, 6)
        while span < 2**24:
            span, code, taken = span * 256, code * 256 + stream[taken], taken + 1
        return found

    tall, wide = -(-height_px // 16), -(-width_px // 16)
    blocks = [[0] * wide for _ in range(tall)]
    for j in range(tall):
        for i in range(wide):
            above, left = blocks[j - 1][i] if j else 0, blocks[j][i - 1] if i else 0
            context = 2 * (3 * above + left)
            blocks[j][i] = 1 if bit(context) else 2 * bit(context + 1)
    alpha = [[255 * (blocks[y // 16][x // 16] == 2) for x in range(width_px)] for y in range(height_px)]

    def at(y: int, x: int) -> int:
        return alpha[y][x] if y >= 0 and 0 <= x < width_px else 0

    for y in range(height_px):
        for x in range(width_px):
            if blocks[y // 16][x // 16] != 1:
                continue
            near = [at(y, x - 1), at(y - 1, x), at(y - 1, x - 1), at(y - 1, x + 1), at(y, x - 2), at(y - 2, x)]
            k = sum(3**i * (0 if v == 0 else 2 if v == 255 else 1) for i, v in enumerate(near))
            if not soft or not bit(18 + k):
                alpha[y][x] = 255 * bit(747 + k)
                continue
            w, n, nw, ne = near[:4]
            prediction = min(max(w + n - nw, min(w, n)), max(w, n))
            prediction = min(max(prediction, 1), 254)
            t = abs(w - n) + abs(n - nw) + abs(n - ne)
            c = sum(t > limit for limit in (16, 64, 200))
            m, sign = 0, 1
            if bit(1476 + c):
                sign = -1 if bit(1480 + c) else 1
                p = 0
                while bit(1484 + 8 * c + p):
                    p += 1
                m = 1
                for place in range(p - 1, -1, -1):
                    m = 2 * m + bit(1516 + 7 * p + place)
            alpha[y][x] = min(max(prediction + sign * m * (2 * radius + 1), 1), 254)
    assert code == 0
    assert taken >= len(data) - 1
    return alpha


@pytest.mark.parametrize("radius", [0, 8])
@pytest.mark.parametrize("name", PLANES)
def test_page_describes_the_edges(name: str, radius: int) -> None:
    """A reader of coding 3 written from docs/FORMAT.md alone finds the same plane."""
    plane = PLANES[name].copy()
    plane[: len(plane) // 2] = np.where(plane[: len(plane) // 2] > 100, 255, 0)
    data = encode_edges(plane, radius)
    if data is not None:
        assert decode_edges(data, *plane.shape).tolist() == edges_as_the_page_says(data, *plane.shape)
    assert (data is None) == (name in ("transparent", "soft disc", "ramp", "corner"))


@pytest.mark.parametrize("name", PLANES)
@pytest.mark.parametrize("radius", [0, 1, 8, 63])
def test_edges_come_back(name: str, radius: int) -> None:
    """Coding 3 keeps 0 and 255 and every soft value within its radius, or leaves the plane to the others."""
    plane = PLANES[name]
    data = encode_edges(plane, radius)
    if data is None:
        assert (plane == plane[0, 0]).all() or ((plane > 0) & (plane < 255)).mean() > 0.1
        return
    back = decode_edges(data, *plane.shape)
    assert back.dtype == np.uint8
    assert np.abs(back.astype(int) - plane).max() <= radius
    assert ((back == 0) == (plane == 0)).all()
    assert ((back == 255) == (plane == 255)).all()


def test_edges_account_for_every_byte() -> None:
    """Coding 3 refuses bytes after its end, also zeros, and nothing that it reads is shorter than what it wrote."""
    for name in ("disc", "binary noise"):
        plane = PLANES[name]
        data = encode_edges(plane, 0)
        assert data is not None
        assert data[-1] != 0
        for more in (b"\x00", b"\x01", b"\xff" * 9):
            with pytest.raises(CorruptError):
                decode_edges(data + more, *plane.shape)


def test_edges_carry_through_long_runs_of_ones() -> None:
    """The range coder's carries reach back as far as they must: many random masks come back exactly."""
    rng = np.random.default_rng(10)
    for _ in range(150):
        plane = np.where(rng.random((30, 40)) < rng.random(), 255, 0).astype(np.uint8)
        plane[rng.random(plane.shape) < 0.1 * rng.random()] = rng.integers(1, 255)
        data = encode_edges(plane, 0)
        assert data is not None
        assert (decode_edges(data, *plane.shape) == plane).all()


def test_the_work_for_edges_follows_blocks_not_rows() -> None:
    """A plane a pixel wide or high and a million long, of which a hundred pixels are coded, takes little more memory
    than itself and a moment; it comes back exactly."""
    for shape in ((2**20, 1), (1, 2**20)):
        plane = np.zeros(shape, np.uint8)
        plane.flat[1000:1100] = 255
        start_s = time.process_time()
        data = encode_edges(plane, 0)
        assert data is not None and len(data) < 100
        tracemalloc.start()
        back = decode_edges(data, *shape)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (back == plane).all()
        assert peak_bytes < 64 * plane.size
        assert time.process_time() - start_s < 5


def test_too_many_edges_are_left_to_other_codings() -> None:
    """A plane that would take long to walk through is not coded so, and a file that claims one is refused."""
    noise = (np.random.default_rng(11).integers(0, 2, (1024, 1024)) * 255).astype(np.uint8)
    assert encode_edges(noise, 0) is None
    encoder = BinaryEncoder(alpha_edges._CONTEXTS)
    alpha_edges._walk_blocks(encoder, np.ones((60, 60), np.uint8))
    with pytest.raises(CorruptError, match="2048"):
        decode_edges(b"\x00" + encoder.finish(), 16 * 60, 16 * 60)


def test_bytes_stay_as_they_are() -> None:
    """Golden: what earlier versions wrote is still read as it was."""
    expected = np.zeros((20, 37), np.uint8)
    expected[4:15, 6:30] = 255
    expected[4, 6:30] = 90
    for golden in GOLDEN:
        assert (decode_alpha(bytes.fromhex(golden), 20, 37) == expected).all()


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
