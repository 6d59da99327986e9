"""Picture quality: PSNR and MS-SSIM in numpy, LPIPS and DISTS through torch.

All of them compare two uint8 RGB arrays (H, W, 3) of one image at full size. ``psnr`` and ``ms_ssim`` need numpy only,
so that the demo runs without torch; a ``Meter`` loads the networks on first use.

MS-SSIM: Wang et al., "Multi-scale structural similarity for image quality assessment", Asilomar 2003, in the form of
pytorch_msssim: five scales, 11x11 Gaussian window of sigma 1.5 without padding, data range 255.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Rgb = NDArray[np.uint8]
Plane = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """``name``: column name; ``title``: for people; ``higher_is_better``: direction."""

    name: str
    title: str
    higher_is_better: bool
    digits: int


METRICS = {
    m.name: m
    for m in (
        Metric("psnr", "PSNR (dB)", True, 2),
        Metric("msssim", "MS-SSIM", True, 4),
        Metric("alex", "LPIPS (Alex)", False, 4),
        Metric("vgg", "LPIPS (VGG)", False, 4),
        Metric("dists", "DISTS", False, 4),
    )
}

_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW_TAPS = 11
_WINDOW_SIGMA = 1.5
MS_SSIM_MIN_SIDE_PX = (_WINDOW_TAPS - 1) * 2 ** (len(_SCALE_WEIGHTS) - 1) + 1


def _check(picture: Rgb, reference: Rgb) -> None:
    if picture.shape != reference.shape or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"two RGB pictures of one size expected, got {picture.shape} and {reference.shape}")
    if picture.dtype != np.uint8 or reference.dtype != np.uint8:
        raise ValueError(f"uint8 pictures expected, got {picture.dtype} and {reference.dtype}")


def psnr(picture: Rgb, reference: Rgb) -> float:
    """Peak signal-to-noise ratio in dB over all channels of one image; ``inf`` for equal pictures."""
    _check(picture, reference)
    error = float(np.mean((picture.astype(np.float64) - reference) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def _blur(plane: Plane) -> Plane:
    """Valid 11-tap Gaussian on the first two axes of (H, W, C): each loses ten."""
    offsets = np.arange(_WINDOW_TAPS) - _WINDOW_TAPS // 2
    window = np.exp(-(offsets**2) / (2 * _WINDOW_SIGMA**2))
    window /= window.sum()
    height, width = plane.shape[0] - _WINDOW_TAPS + 1, plane.shape[1] - _WINDOW_TAPS + 1
    rows = sum(tap * plane[i : i + height] for i, tap in enumerate(window))
    blurred: Plane = sum(tap * rows[:, i : i + width] for i, tap in enumerate(window))
    return blurred


def _halve(plane: Plane) -> Plane:
    """2x2 means. An odd side is padded with zeros at both ends first, as torch's avg_pool2d(padding=side % 2) does."""
    height, width = plane.shape[:2]
    padded = np.pad(plane, ((height % 2,) * 2, (width % 2,) * 2, (0, 0)))
    padded = padded[: padded.shape[0] // 2 * 2, : padded.shape[1] // 2 * 2]
    return (padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2]) / 4


def ms_ssim(picture: Rgb, reference: Rgb) -> float:
    """Multi-scale SSIM, mean over the three channels; 1 for equal pictures.

    Raises ValueError under 161 pixels a side: the fifth scale would be smaller than the window.
    """
    _check(picture, reference)
    if min(picture.shape[:2]) < MS_SSIM_MIN_SIDE_PX:
        raise ValueError(f"MS-SSIM needs at least {MS_SSIM_MIN_SIDE_PX} pixels a side, got {picture.shape[:2]}")
    x, y = picture.astype(np.float64), reference.astype(np.float64)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    product = np.ones(3)
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        x_mean, y_mean = _blur(x), _blur(y)
        x_var = _blur(x * x) - x_mean**2
        y_var = _blur(y * y) - y_mean**2
        covariance = _blur(x * y) - x_mean * y_mean
        similarity = (2 * covariance + c2) / (x_var + y_var + c2)
        if scale == len(_SCALE_WEIGHTS) - 1:
            similarity = similarity * (2 * x_mean * y_mean + c1) / (x_mean**2 + y_mean**2 + c1)
        product *= np.maximum(similarity.mean((0, 1)), 0) ** weight
        x, y = _halve(x), _halve(y)
    return float(product.mean())


@dataclass
class Meter:
    """Measures pictures; keeps the networks that it has loaded. ``threads``: torch's, None for its own choice."""

    threads: int | None = None
    _networks: dict[str, Callable[[Any, Any], Any]] = field(default_factory=dict)

    def _network(self, name: str) -> Callable[[Any, Any], Any]:
        if name not in self._networks:
            import torch

            from sdrt_train import perceptual

            if self.threads is not None:
                torch.set_num_threads(self.threads)
            networks = {
                "alex": lambda: perceptual.Lpips("alexnet"),
                "vgg": lambda: perceptual.Lpips("vgg16"),
                "dists": perceptual.Dists,
            }
            self._networks[name] = networks[name]().eval()
        return self._networks[name]

    def _networked(self, name: str, pictures: Sequence[Rgb], reference: Rgb) -> list[float]:
        import torch

        def tensor(rgb: Rgb) -> Tensor:
            unit = torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))[None].float() / 255
            return unit if name == "dists" else unit * 2 - 1

        network = self._network(name)
        with torch.inference_mode():
            # One pass over the reference serves the whole batch: the batch of one broadcasts against it.
            values = network(torch.cat([tensor(p) for p in pictures]), tensor(reference))
        return [float(v) for v in values]

    def measure(self, pictures: Sequence[Rgb], reference: Rgb, names: Iterable[str]) -> list[dict[str, float]]:
        """The metrics ``names`` (keys of METRICS) of each picture (H, W, 3) uint8 against one reference.

        Raises ValueError on another name or on shapes that differ, perceptual.MetricWeightsError without the weights.
        """
        results: list[dict[str, float]] = [{} for _ in pictures]
        for picture in pictures:
            _check(picture, reference)
        for name in names:
            if name not in METRICS:
                raise ValueError(f"no metric is called {name!r}; there are {', '.join(METRICS)}")
            if name in ("psnr", "msssim"):
                measure = psnr if name == "psnr" else ms_ssim
                values = [measure(p, reference) for p in pictures]
            else:
                values = self._networked(name, pictures, reference) if pictures else []
            for result, value in zip(results, values, strict=True):
                result[name] = value
        return results
