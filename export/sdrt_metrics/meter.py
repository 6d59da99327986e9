"""Every metric by its name: PSNR and MS-SSIM in numpy; LPIPS, DISTS and Wasserstein Distortion through torch.

All of them compare two uint8 RGB arrays (H, W, 3) of one image at full size. A ``Meter`` loads the networks on first
use: without them torch is not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sdrt_metrics.fidelity import Rgb, check_pair, ms_ssim, psnr

if TYPE_CHECKING:
    from torch import Tensor


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
        Metric("wd", "WD (4 px)", False, 3),
    )
}


@dataclass
class Meter:
    """Measures pictures; keeps the networks that it has loaded. ``threads``: torch's, None for its own choice."""

    threads: int | None = None
    _networks: dict[str, Any] = field(default_factory=dict)

    def _network(self, name: str) -> Any:
        if name not in self._networks:
            import torch

            from sdrt_metrics import perceptual, wasserstein

            if self.threads is not None:
                torch.set_num_threads(self.threads)
            networks: dict[str, Callable[[], Any]] = {
                "alex": lambda: perceptual.Lpips("alexnet"),
                "vgg": lambda: perceptual.Lpips("vgg16"),
                "dists": perceptual.Dists,
                "wd": wasserstein.WassersteinDistortion,
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
            if name == "wd":  # its statistics of a whole batch would take gigabytes
                target = network.features_of(tensor(reference))
                return [float(network.distance(network.features_of(tensor(p)), target)) for p in pictures]
            # One pass over the reference serves the whole batch: the batch of one broadcasts against it.
            values = network(torch.cat([tensor(p) for p in pictures]), tensor(reference))
        return [float(v) for v in values]

    def measure(self, pictures: Sequence[Rgb], reference: Rgb, names: Iterable[str]) -> list[dict[str, float]]:
        """The metrics ``names`` (keys of METRICS) of each picture (H, W, 3) uint8 against one reference.

        Raises ValueError on another name or on shapes that differ, weights.MetricWeightsError without the weights.
        """
        results: list[dict[str, float]] = [{} for _ in pictures]
        for picture in pictures:
            check_pair(picture, reference)
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
