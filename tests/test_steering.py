"""Protection by the step map: what comes out wrong along lines gets finer steps; faces get them where OpenCV is."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sdrt.bitstream import FileWriter
from sdrt.codec import Codec
from sdrt.errors import UnsupportedError
from sdrt.options import EncodeOptions, Region
from sdrt.packs.manifest import ModelPack
from sdrt.pixels import faces, structure
from sdrt.pixels.faces import find_faces
from sdrt.pixels.picture import Picture, Scroll, Strips, scatter
from sdrt.steering import offsets_of, regions_of, revised, wrong_offsets

Pixels = NDArray[np.uint8]
PHOTOS = Path(__file__).parents[1] / "bench" / "photos"


def lined(height_px: int, width_px: int) -> Pixels:
    """A dark stroke in each cell of 64 pixels."""
    rgb = np.full((height_px, width_px, 3), 200, np.uint8)
    rgb[:, np.arange(width_px) % 64 // 6 == 4] = 40
    return rgb


def test_wrong_strokes_are_found_and_texture_is_not() -> None:
    """A stroke that moved in one cell of sixteen is protected; noise in its place is not; moved strokes everywhere are
    too many, and nothing wrong is nothing to do."""
    rgb = lined(256, 256)
    moved = rgb.copy()
    moved[64:128, 64:128] = np.roll(rgb[64:128, 64:128], 9, axis=1)
    found = wrong_offsets(rgb, moved, 64)[0]
    assert found is not None and found.dtype == np.int8
    assert np.flatnonzero(found).tolist() == [5] and found[1, 1] == -1
    noise = np.random.default_rng(0).integers(90, 160, (64, 64, 3))
    before, after = np.full((256, 256, 3), 125, np.uint8), np.full((256, 256, 3), 125, np.uint8)
    before[64:128, 64:128], after[64:128, 64:128] = noise, noise[::-1, ::-1]
    assert structure.compare(before, after, 64).error[1, 1] > 5
    assert wrong_offsets(before, after, 64)[0] is None
    assert wrong_offsets(rgb, np.roll(rgb, 9, axis=1), 64)[0] is None
    assert wrong_offsets(rgb, rgb, 64) == (None, 0)


def lined_share(before: Pixels, after: Pixels) -> NDArray[np.float32]:
    return np.concatenate([band.lined(32) for band in structure.bands(before, after, 32)])


def test_bands_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tall picture, compared in bands, has the values of its parts, and of the same picture in strips."""
    monkeypatch.setattr(structure, "_BAND_PIXELS", 32 * 40 * 8)
    random = np.random.default_rng(1)
    before, after = random.integers(0, 256, (2, 32 * 20, 40, 3)).astype(np.uint8)
    whole, part = structure.compare(before, after, 32), structure.compare(before[96:544], after[96:544], 32)
    for of_whole, of_part in zip(whole, part, strict=True):
        np.testing.assert_allclose(of_whole[4:16], of_part[1:13], rtol=1e-4, atol=1e-4)
    strips = Strips(40, len(after), iter(np.split(after, [7, 8, 300, 301])))
    for of_whole, of_strips in zip(whole, structure.compare(before, Scroll(strips), 32), strict=True):
        np.testing.assert_array_equal(of_whole, of_strips)
    lines, of_part = lined_share(before, after), lined_share(before[96:544], after[96:544])
    np.testing.assert_allclose(lines[4:16], of_part[1:13], rtol=1e-4, atol=1e-4)
    assert (lines >= 0).all() and (lines <= 1).all()


@pytest.mark.parametrize("pays", [True, False])
def test_what_is_wrong_is_written_finer_at_the_same_size_if_that_pays(
    testpack: ModelPack, photo: Pixels, pays: bool
) -> None:
    """The second file keeps to the target, and is kept if its picture has less wrong structure in all; a caller's own
    cells stay as they are."""
    codec = Codec("testpack", device="cpu")
    painted: list[bytes] = []
    rgb = np.tile(photo, (3, 2, 1))[:256, :256]

    def paint(data: bytes) -> Strips:
        painted.append(data)
        seen = rgb.copy()
        if len(painted) == 1 or not pays:
            seen[64:128, 128:192] = np.roll(rgb[64:128, 128:192], 8, axis=1)
        return scatter(Picture(seen))

    mine = offsets_of([Region(0, 0, 64, 64, 0.5)], 256, 256, testpack.space.downscale)
    writer = FileWriter(codec._models.coder(testpack), 256, 256, (), EncodeOptions(target_bytes=3000), mine)
    latents = np.zeros((testpack.space.channels, 32, 32), np.float32)
    steered, (data, file) = revised(writer, lambda one: one.write(lambda *_: latents), rgb, paint)
    assert data == painted[int(pays)]
    assert len(painted) == 2 and max(map(len, painted)) <= 3000
    assert steered.offsets is not None and steered.offsets[0, 0] == 4
    assert steered.offsets[1, 2] == (-1 if pays else 0)
    assert file.chunk(b"STEP") is not None


def test_auto_leaves_packs_alone_whose_decoder_is_not_told(testpack: ModelPack, photo: Pixels) -> None:
    """There finer steps buy little: the file is the one without protection, and no face is sought."""
    codec = Codec("testpack", device="cpu")
    assert codec.encode(photo, quality=30) == codec.encode(photo, quality=30, protect="none")
    assert not testpack.quality_input and regions_of(photo, EncodeOptions(), testpack) == []


def test_faces_need_opencv(testpack: ModelPack, photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it who asks for faces is told what to install, and auto goes on."""
    monkeypatch.setattr("builtins.__import__", _without_cv2(__import__))
    with pytest.raises(UnsupportedError, match=r"sdrt\[faces\]"):
        Codec("testpack", device="cpu").encode(photo, protect="faces")
    told = replace(testpack, quality_input=True)
    mine = [Region(0, 0, 9, 9)]
    assert regions_of(photo, EncodeOptions(regions=mine), told) == mine
    assert regions_of(photo, EncodeOptions(protect="faces", latent_error=0.1), told) == []


def _without_cv2(real):  # type: ignore[no-untyped-def]
    def importing(name, *arguments, **keywords):  # type: ignore[no-untyped-def]
        if name == "cv2":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    return importing


@pytest.mark.skipif(find_spec("cv2") is None, reason="needs OpenCV: pip install 'opencv-python-headless<5'")
def test_a_face_is_found(testpack: ModelPack) -> None:
    """The astronaut's, within the box that eyes found, also in a large picture; none in a picture of noise."""
    with Image.open(PHOTOS / "astronaut.webp") as image:
        rgb = np.asarray(image.convert("RGB"))
    boxes = [(x + wide / 2, y + high / 2) for x, y, wide, high in find_faces(rgb)]
    assert len(boxes) == 1 and 174 < boxes[0][0] < 284 and 70 < boxes[0][1] < 186
    assert len(find_faces(rgb.repeat(3, 0).repeat(3, 1))) == 1
    assert find_faces(np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)) == []
    assert regions_of(rgb, EncodeOptions(protect="faces"), testpack) == [Region(*box) for box in find_faces(rgb)]
    assert faces.find_faces(rgb[:30, :30]) == []
