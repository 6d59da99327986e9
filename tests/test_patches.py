"""Patches: their chunk returns, they lie where they should, whole and in part, and are worth their bytes."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, features
from tests import reference_patches

from sdrt.bitstream import FileWriter, LatentCoder
from sdrt.codec import Codec
from sdrt.container import sdl
from sdrt.container.patches import (
    CELL_PX,
    FEATHERS_PX,
    Coding,
    Mask,
    Patches,
    cells,
    decode_patches,
    encode_patches,
    hidden,
    kept_lines,
)
from sdrt.errors import ArgumentError, CorruptError, UnsupportedError
from sdrt.network import preview, transform
from sdrt.network.engine import Engine
from sdrt.network.transform import to_latents
from sdrt.options import EncodeOptions
from sdrt.packs.manifest import ModelPack
from sdrt.patching import decoded
from sdrt.pixels.atlas import encode_av1, encode_vp8l
from sdrt.pixels.picture import Strips
from sdrt.pixels.scaling import reduce
from sdrt.pixels.still_streams import av1_stream, avif_file
from sdrt.pixels.type_cells import type_cells
from sdrt.protection import write_protected

Pixels = NDArray[np.uint8]


def random_mask(rows: int, columns: int, seed: int) -> Mask:
    mask = np.random.default_rng(seed).random((rows, columns)) < 0.4
    mask[0, 0], mask[-1, -1] = True, rows * columns == 1
    return mask


def page(height_px: int, width_px: int) -> Pixels:
    """A page of type."""
    image = Image.new("RGB", (width_px, height_px), (250, 250, 245))
    for y in range(4, height_px - 12, 14):
        ImageDraw.Draw(image).text((5, y), "The quick brown fox jumps over it 0123456789"[y % 7 :], fill=(10, 20, 90))
    return np.asarray(image)


def write(pack: ModelPack, rgb: Pixels, mask: Mask, feather_px: int, coding: Coding = "vp8l", **wishes: int) -> bytes:
    """A file of ``rgb`` whose patches are exact, or AV1 of middling quality."""
    rows, columns = kept_lines(mask, *rgb.shape[:2])
    atlas = rgb[np.ix_(rows, columns)]
    stream = encode_vp8l(atlas) if coding == "vp8l" else encode_av1(atlas, 60, speed=8, subsampling="4:2:0")
    chunk = sdl.Chunk(sdl.PATCHES, encode_patches(Patches(mask, feather_px, coding, stream)))
    engine = Engine(pack.encoder_path(), device="cpu")
    options = EncodeOptions(quality=40, **wishes)  # type: ignore[arg-type]
    writer = FileWriter(LatentCoder(pack), rgb.shape[1], rgb.shape[0], (chunk,), options, mask=mask)
    factor = options.resampling or 1
    return writer.write(lambda _factor, _final: to_latents(rgb[::factor, ::factor].copy(), pack, engine))[0]


def test_chunks_return() -> None:
    """Every mask comes back, the same bytes are written again, and a reader written from docs/FORMAT.md agrees."""
    for rows in range(1, 6):
        for columns in range(1, 6):
            mask = random_mask(rows, columns, 6 * rows + columns)
            height_px, width_px = CELL_PX * rows - 3, CELL_PX * columns - 7
            feather_px = 0 if mask.all() else FEATHERS_PX[columns % 4]
            halved = rows % 2 == 0
            data = encode_patches(Patches(mask, feather_px, "vp8l", b"stream", halved))
            found = decode_patches(data, height_px, width_px)
            np.testing.assert_array_equal(found.mask, mask)
            assert (found.feather_px, found.coding, found.stream) == (feather_px, "vp8l", b"stream")
            assert found.halved == halved
            fields = reference_patches.decode(data, height_px, width_px)
            assert fields == (1, feather_px, mask.astype(int).tolist(), b"stream", halved)


@pytest.mark.parametrize("feather_px", FEATHERS_PX)
def test_a_patch_fades_as_the_page_says(feather_px: int) -> None:
    """Pixel by pixel: the distance to what is not marked, capped, and the rounding of docs/FORMAT.md."""
    height_px, width_px = 45, 60
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]], np.bool_)
    rng = np.random.default_rng(2)
    rgb, painted = (rng.integers(0, 256, (height_px, width_px, 3)).astype(np.uint8) for _ in range(2))
    rows, columns = kept_lines(mask, height_px, width_px)
    stream = encode_vp8l(rgb[np.ix_(rows, columns)])
    overlay = decoded(Patches(mask, feather_px, "vp8l", stream), height_px, width_px)
    (found,) = overlay.over(iter([painted]), (0, 0, width_px, height_px))
    inside = mask.repeat(16, axis=0).repeat(16, axis=1)[:height_px, :width_px]
    bare = np.argwhere(~inside)
    most = max(feather_px, 1)
    for y, x in np.ndindex(height_px, width_px):
        distance = int(np.abs(bare - (y, x)).max(axis=1).min())
        share = min(distance, most)
        wanted = (share * rgb[y, x].astype(int) + (most - share) * painted[y, x].astype(int) + (most >> 1)) // most
        assert found[y, x].tolist() == wanted.tolist(), (y, x)


@pytest.mark.parametrize("feather_px", [0, 8])
@pytest.mark.parametrize("wishes", [{}, {"resampling": 2}], ids=["full", "reduced"])
def test_strips_and_crops_are_the_whole(
    feather_px: int, wishes: dict[str, int], testpack: ModelPack, photo: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A patched picture decodes alike whole, in strips, tiled and in part; deep in a patch it is the atlas."""
    mask = np.zeros(cells(*photo.shape[:2]), np.bool_)
    mask[1:4, 2:7] = mask[-1, -1] = True
    data = write(testpack, photo, mask, feather_px, **wishes)
    codec = Codec(device="cpu")
    whole = codec.decode_picture(data).rgb
    np.testing.assert_array_equal(whole[24:56, 40:104], photo[24:56, 40:104])
    assert not np.array_equal(whole[:16], photo[:16])
    for x, y, wide, high in ((33, 41, 100, 50), (0, 0, 161, 20), (150, 90, 11, 7), (47, 31, 3, 3)):
        part = codec.decode_picture(data, crop=(x, y, wide, high)).rgb
        assert np.abs(part.astype(int) - whole[y : y + high, x : x + wide]).max() <= 1
    monkeypatch.setattr(transform, "FRAME_PX", 64 * 64)
    strips = codec.decode_strips(data)
    assert np.abs(np.concatenate(list(strips.rows)).astype(int) - whole).max() <= 1


def test_a_patch_over_all_needs_no_decoder(testpack: ModelPack, photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the atlas, whole and in part, with alpha as ever, and no session is opened."""
    mask = np.ones(cells(*photo.shape[:2]), np.bool_)
    file = sdl.unpack(write(testpack, photo, mask, 0))
    data = sdl.pack(replace(file, chunks=(sdl.Chunk(sdl.ALPHA, b"\x00\x80"), *file.chunks)))
    monkeypatch.setattr(Engine, "run", None)
    picture = Codec(device="cpu").decode_picture(data)
    np.testing.assert_array_equal(picture.rgb, photo)
    assert picture.alpha is not None and picture.alpha.min() == picture.alpha.max() == 0x80
    part = Codec(device="cpu").decode_picture(data, crop=(30, 20, 50, 40)).rgb
    np.testing.assert_array_equal(part, photo[20:60, 30:80])
    broken = sdl.pack(replace(sdl.unpack(data), payload=b"\0"))
    with pytest.raises(CorruptError):
        Codec(device="cpu").decode(broken)


def test_a_thumbnail_shows_patches(testpack: ModelPack, photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the picture: latents alone would show what the network paints there, which may be nothing."""
    mask = np.zeros(cells(*photo.shape[:2]), np.bool_)
    mask[1:5, 1:7] = True
    codec = Codec(device="cpu")
    data = write(testpack, photo, mask, 4)
    whole = codec.thumbnail(data, 40).rgb
    monkeypatch.setattr(preview, "EXACT_PX", 1)
    np.testing.assert_array_equal(codec.thumbnail(data, 10).rgb.shape, (6, 10, 3))
    np.testing.assert_array_equal(codec.thumbnail(data, 40).rgb, whole)


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4", "4:0:0"])
@pytest.mark.parametrize("size_px", [(1, 1), (97, 161), (300, 17)])
def test_boxes_are_made_again(subsampling: str, size_px: tuple[int, int]) -> None:
    """An AVIF file decodes to the same pixels without its own boxes, which are 230 bytes or more of it."""
    rgb = np.random.default_rng(3).integers(0, 256, (*size_px, 3)).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(rgb).save(file, "AVIF", quality=60, speed=8, subsampling=subsampling)
    stream = av1_stream(file.getvalue())
    assert len(stream) < len(file.getvalue()) - 230
    again = Image.open(BytesIO(avif_file(stream)))
    np.testing.assert_array_equal(np.asarray(again), np.asarray(Image.open(file)))


def test_a_halved_atlas_is_enlarged() -> None:
    """It has the atlas's size, odd sides too, and is near to what was halved; the stream's size must be the half's."""
    smooth = np.add.outer(np.arange(45) * 2, np.arange(61) * 2).astype(np.uint8)
    rgb = np.stack([smooth, smooth // 2, 255 - smooth], axis=2)
    stream = encode_vp8l(reduce(rgb, 2))
    mask = np.ones(cells(45, 61), np.bool_)
    found = decoded(Patches(mask, 0, "vp8l", stream, halved=True), 45, 61).atlas
    assert found.shape == rgb.shape and np.abs(found.astype(int) - rgb).max() <= 4
    with pytest.raises(CorruptError, match="31 x 23 pixels, the mask says 61 x 45"):
        decoded(Patches(mask, 0, "vp8l", stream), 45, 61)


def test_what_is_hidden() -> None:
    """A position is hidden where all cells under it and its neighbors are marked; nothing lies outside the picture."""
    mask = np.ones((4, 6), np.bool_)
    assert hidden(mask, (8, 12), 8, 1).all()
    mask[2, 3] = False
    found = hidden(mask, (8, 12), 8, 1)
    expected = np.ones((8, 12), np.bool_)
    expected[3:7, 5:9] = False
    np.testing.assert_array_equal(found, expected)
    assert not hidden(mask, (2, 3), 32, 1).any()


def test_a_page_is_kept_and_a_photograph_left_alone(testpack: ModelPack, photo: Pixels) -> None:
    """At equal bytes type is nearer to the original by 3 dB and no byte more; a photograph's file does not change."""
    codec = Codec("testpack", device="cpu")
    rgb = page(200, 300)
    plain, kept = (codec.encode(rgb, target_bytes=2500, protect=way) for way in ("none", "auto"))
    assert len(kept) <= 2500 and sdl.PATCHES not in {chunk.kind for chunk in sdl.unpack(plain).chunks}
    assert "PTCH" in codec.info(kept).chunks
    errors = [np.square(np.asarray(codec.decode(data), np.float32) - rgb).mean() for data in (plain, kept)]
    assert errors[1] < errors[0] / 2
    trained = codec.encode(rgb, latent_error=0.1)
    assert sdl.unpack(trained).chunks == (), "latents for training are kept whole"
    assert codec.encode(photo, protect="auto") == codec.encode(photo, protect="none")
    with pytest.raises(ArgumentError, match="protect"):
        codec.encode(photo, protect="everything")  # type: ignore[arg-type]


def test_a_page_of_few_colors_is_exact_where_it_fits(testpack: ModelPack) -> None:
    """Lossless WebP is tried first; the file is at most 40 bytes larger than the WebP file."""
    rgb = page(200, 300)
    exact = len(encode_vp8l(rgb))
    codec = Codec("testpack", device="cpu")
    data = codec.encode(rgb, target_bytes=exact + 60)
    np.testing.assert_array_equal(np.asarray(codec.decode(data)), rgb)
    assert len(data) <= exact + 20 + 40


def test_type_is_found_and_pictures_are_not(photo: Pixels, kodak: list[Path]) -> None:
    """Cells of a page are found on type and not on its empty ground; Kodak has none."""
    rgb = np.full((320, 320, 3), 250, np.uint8)
    rgb[160:, :] = page(160, 320)
    found = type_cells(rgb, CELL_PX)
    assert not found[:9].any() and found[11:19, 1:10].mean() > 0.8
    assert not type_cells(photo, CELL_PX).any()
    for path in kodak[::6]:
        with Image.open(path) as image:
            assert not type_cells(np.asarray(image.convert("RGB")), CELL_PX).any()


def test_errors_are_summed_in_bands() -> None:
    """Looking for what the network gets wrong takes less room than two pictures, not the floats of a whole one."""
    rgb = np.random.default_rng(3).integers(0, 256, (1500, 800, 3), np.uint8)
    written: Any = (b"", None)
    writer: Any = SimpleNamespace(budget_bytes=None, write=lambda _latents: written)
    marked = np.ones(cells(*rgb.shape[:2]), np.bool_)
    strips = Strips(800, 1500, iter(np.split(rgb, range(96, 1500, 96))))
    tracemalloc.start()
    try:
        found = write_protected(rgb, marked, writer, lambda *_: np.zeros(0, np.float32), lambda _data: strips)
        assert found is written and tracemalloc.get_traced_memory()[1] < 2 * rgb.nbytes
    finally:
        tracemalloc.stop()


def test_a_pillow_without_the_codec_says_so(
    testpack: ModelPack, photo: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding names the codec in one line; encoding writes files without patches."""
    mask = np.zeros(cells(*photo.shape[:2]), np.bool_)
    mask[1:3, 1:4] = True
    data = write(testpack, photo, mask, 4, "av1")
    monkeypatch.setattr(features, "check", lambda _feature: False)
    with pytest.raises(UnsupportedError, match="coded as AVIF, which this Pillow lacks"):
        Codec(device="cpu").decode(data)
    plain = Codec("testpack", device="cpu").encode(page(100, 160), target_bytes=1500)
    assert sdl.unpack(plain).chunks == ()
