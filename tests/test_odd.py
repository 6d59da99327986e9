"""What people and enemies feed an image tool (shared/data/odd): each file becomes a sane picture or one clear line."""

from __future__ import annotations

import re
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from sdrt.errors import ImageError, LimitError
from sdrt.pixels.load import load
from sdrt.pixels.picture import Picture

PNGSUITE_CORRUPT = re.compile(r"(?!xcsn0g01)x[a-z0-9]{2}n.*")
"""PngSuite's own convention: names that begin with x are corrupt on purpose. xcsn0g01 has sound pixels behind a wrong
checksum, which Pillow forgives."""


@pytest.fixture(scope="module")
def odd(shared: Path) -> Path:
    folder = shared / "data" / "odd"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}, which is not here")
    return folder


def reference(path: Path) -> np.ndarray:
    """Upright RGBA as Pillow alone gives it, but for gAMA, which is undone by the book."""
    with warnings.catch_warnings(), Image.open(path) as image:
        warnings.simplefilter("ignore")
        gamma = None if image.info.keys() & {"srgb", "icc_profile"} else image.info.get("gamma")
        rgba = np.asarray(ImageOps.exif_transpose(image).convert("RGBA"))
    if gamma is None:
        return rgba
    light = (rgba[:, :, :3] / 255) ** (1 / gamma)
    levels = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.dstack([levels, rgba[:, :, 3]])


def test_every_odd_file_is_read_or_refused(odd: Path) -> None:
    """No file raises anything but ImageError and LimitError, warns, or takes long; a picture that comes is sane."""
    files = sorted(path for path in odd.rglob("*") if path.is_file())
    assert len(files) > 400
    refused = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in files:
            start_s = time.process_time()
            try:
                picture = load(path)
            except (ImageError, LimitError) as error:
                assert "\n" not in str(error)
                assert path.name in str(error)
                refused.append(path.name)
                continue
            assert time.process_time() - start_s < 20, path
            assert picture.rgb.dtype == np.uint8
            assert picture.rgb.ndim == 3
            assert picture.rgb.shape[2] == 3
            assert 0 not in picture.rgb.shape
            assert picture.alpha is None or (picture.alpha.shape == picture.rgb.shape[:2] and picture.alpha.min() < 255)
    assert len(refused) < 50


def test_pngsuite_is_read_exactly_but_for_the_corrupt(odd: Path) -> None:
    """Each sound PngSuite file has Pillow's own pixels without their gamma (16-bit gray and transparent colors apart,
    which Pillow leaves out), and exactly the files that are corrupt on purpose are refused."""
    compared = 0
    for path in sorted((odd / "pngsuite").glob("*.png")):
        if PNGSUITE_CORRUPT.fullmatch(path.stem):
            with pytest.raises(ImageError):
                load(path)
            continue
        picture = load(path)
        if path.stem.endswith("0g16") or (path.stem.startswith("t") and "3p" not in path.stem):
            continue
        expected = reference(path)
        assert np.abs(picture.rgb - expected[:, :, :3]).max() < 0.6, path
        alpha = np.full(picture.rgb.shape[:2], 255) if picture.alpha is None else picture.alpha
        assert (alpha == expected[:, :, 3]).all(), path
        compared += 1
    assert compared > 130


def test_pngsuite_gammas_are_all_alike(odd: Path) -> None:
    """The same ramp coded with six gammas looks the same when read, as far as 8 bits go, and not before."""
    for kind in ("n2c08", "n3p04"):
        paths = [odd / "pngsuite" / f"g{gamma}{kind}.png" for gamma in ("03", "04", "05", "07", "10", "25")]
        first = load(paths[0])
        assert all(difference(load(path), first) < 6 for path in paths)
        with Image.open(paths[0]) as one, Image.open(paths[-1]) as other:
            assert difference(Picture(np.asarray(one.convert("RGB"))), Picture(np.asarray(other.convert("RGB")))) > 40


def test_color_keys_in_eight_formats_give_one_outline(odd: Path) -> None:
    """The same logo in eight pixel formats has the same transparent background, but for colors that met it on the way
    to 4 bits or a palette."""
    outline = load(odd / "pngsuite" / "tbrn2c08.png").alpha
    assert outline is not None
    for name in ("tbbn0g04", "tbbn2c16", "tbgn2c16", "tbwn0g16", "tbbn3p08", "tbyn3p08", "tp1n3p08"):
        alpha = load(odd / "pngsuite" / f"{name}.png").alpha
        assert alpha is not None, name
        assert (alpha != outline).sum() <= (0 if name.endswith("16") else 11), name


def difference(one: Picture, other: Picture) -> float:
    """Mean absolute difference in levels; infinite for other sizes."""
    if one.rgb.shape != other.rgb.shape:
        return float("inf")
    return float(np.abs(one.rgb.astype(int) - other.rgb).mean())


@pytest.mark.parametrize("shape", ["Landscape", "Portrait"])
def test_orientations_look_like_the_upright_original(shape: str, odd: Path) -> None:
    """The eight orientations of a photograph look the same when read, up to JPEG's noise and a drawn label's."""
    upright = Picture(load(odd / "exif-orientation" / f"{shape}_1.jpg").rgb[::4, ::4])
    for orientation in range(9):
        turned = load(odd / "exif-orientation" / f"{shape}_{orientation}.jpg").rgb[::4, ::4]
        assert difference(Picture(turned), upright) < 5, orientation
        assert difference(Picture(turned[::-1, ::-1]), upright) > 20


@pytest.mark.parametrize(
    "pattern", ["hopper_orientation_{}.jpg", "hopper_orientation_{}.webp", "g4_orientation_{}.tif"]
)
def test_pillows_orientations_are_all_alike(pattern: str, odd: Path) -> None:
    """Pillow's own test images of every orientation are one picture when read."""
    paths = [odd / "pillow" / pattern.format(orientation) for orientation in range(2, 9)]
    first = load(paths[0])
    for path in paths:
        assert difference(load(path), first) < 5, path.name
        assert (load(path).rgb == reference(path)[:, :, :3]).all()


def test_avif_rotations_are_all_alike(odd: Path) -> None:
    """AVIF's own rotation and mirroring are applied."""
    paths = sorted((odd / "pillow").glob("rot?mir?.avif"))
    assert len(paths) == 8
    for path in paths:
        with Image.open(path) as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        assert (load(path).rgb == expected).all()


def test_cmyk_profiles_are_applied(odd: Path) -> None:
    """A CMYK photograph with a profile differs from Pillow's plain conversion and is still the same picture."""
    path = odd / "pillow" / "pil_sample_cmyk.jpg"
    with Image.open(path) as image:
        assert image.mode == "CMYK"
        plain = Picture(np.asarray(image.convert("RGB")))
        has_profile = "icc_profile" in image.info
    converted = load(path)
    assert converted.notes == ()
    assert (difference(converted, plain) > 1) == has_profile
    assert np.corrcoef(converted.rgb.ravel(), plain.rgb.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    ("name", "target"),
    [("tiff_16bit_RGB.tiff", "tiff_16bit_RGB_target.png"), ("tiff_16bit_RGBa.tiff", "tiff_16bit_RGBa_target.png")],
)
def test_sixteen_bit_tiff_matches_its_target(name: str, target: str, odd: Path) -> None:
    """16-bit TIFF files look like the 8-bit targets that Pillow keeps beside them."""
    assert difference(load(odd / "pillow" / name), load(odd / "pillow" / target)) < 1
