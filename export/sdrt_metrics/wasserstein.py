"""Wasserstein Distortion on VGG16's features, in torch: a judge for bench and a texture loss for training.

Two pictures are alike where the features around each pixel have equal means and equal standard deviations. ``sigma``
says how wide "around" is, in pixels, and may differ from place to place. At sigma 1 the features themselves must agree;
at a large sigma another sample of the same texture will do.

Qiu et al., "Wasserstein Distortion: Unifying Fidelity and Realism", CISS 2024, arXiv 2310.03629; the form with a
pyramid of statistics is Ballé et al., "Good, Cheap, and Fast", CVPR 2025, arXiv 2412.00505. The definition here is that
of the authors' release for torch (github.com/balle-lab/wasserstein-distortion, 32e3da1), zero padding at the frame
included: for a map of sigma as large as the picture both give the same number (tests/test_wasserstein.py).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdrt_metrics.perceptual import IMAGENET_MEAN, IMAGENET_STD, VggFeatures
from sdrt_metrics.weights import backbone_weights

JUDGE_LOG2_SIGMA = 2.0
"""log2 of sigma where no map is given: 4 pixels everywhere, as in the authors' own comparison of two pictures."""
MIN_SIDE_PX = 61
"""The smallest side: one pixel is left after two halvings, rounded up, and VGG16's four, rounded down."""

_SCALES = 3
_VARIANCE_FLOOR = 1e-8  # of a feature; keeps the gradient of its square root finite


class WassersteinDistortion(nn.Module):
    """Wasserstein Distortion of pictures (N, 3, H, W) in [-1, 1], differentiable in the first.

    Features are the picture itself, normalized, and VGG16's relu1_2 to relu5_3 with mean pooling of the picture at
    full, half and a quarter of its size. Every scale of every feature counts alike.

    Raises:
        MetricWeightsError: the weights cannot be read.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.vgg = VggFeatures(backbone_weights("vgg16")["VGG16_0"], "mean")
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[None, :, None, None])
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[None, :, None, None])
        self.requires_grad_(False)

    def features_of(self, x: Tensor) -> list[Tensor]:
        """The sixteen feature maps of pictures (N, 3, H, W) in [-1, 1]; the first has the picture's size.

        Raises:
            ValueError: a side is smaller than MIN_SIDE_PX.
        """
        if min(x.shape[-2:]) < MIN_SIDE_PX:
            raise ValueError(f"Wasserstein Distortion needs at least {MIN_SIDE_PX} pixels a side, got {x.shape[-2:]}")
        x = ((x + 1) / 2 - self.mean) / self.std
        features = [x]
        for scale in range(_SCALES):
            if scale:
                x = _low_pass(x, stride=2)
            features += self.vgg(x)
        return features

    def distance(
        self, features: list[Tensor], reference: list[Tensor], log2_sigma: Tensor | float = JUDGE_LOG2_SIGMA
    ) -> Tensor:
        """The distortion from feature maps.

        Args:
            features: what ``features_of`` gives for N pictures.
            reference: the same for N references, or for one that serves all.
            log2_sigma: log2 of sigma in pixels of the picture, everywhere or as a map (N or 1, 1, h, w) of any size,
                which is interpolated. Below 0 counts as 0.

        Returns:
            (N,), 0 for equal pictures, larger for less alike.
        """
        height, width = reference[0].shape[-2:]
        sigma_map = torch.as_tensor(log2_sigma, dtype=torch.float32, device=reference[0].device)
        sigma_map = sigma_map.reshape(1, 1, 1, 1) if sigma_map.ndim == 0 else sigma_map
        total = torch.zeros(features[0].shape[0], device=features[0].device)
        for a, b in zip(features, reference, strict=True):
            size = b.shape[-2:]
            local = F.interpolate(sigma_map, size=size, mode="bilinear", antialias=True)
            # A pixel of this map stands for so many of the picture: sigma has as many times fewer of them.
            log2_ratio = (math.log2(height / size[0]) + math.log2(width / size[1])) / 2
            total = total + local_distortion(a.float(), b.float(), (local - log2_ratio).clamp(min=0))
        return total

    def forward(self, picture: Tensor, reference: Tensor, log2_sigma: Tensor | float = JUDGE_LOG2_SIGMA) -> Tensor:
        """The distortion (N,) of pictures (N, 3, H, W) against references (N or 1, 3, H, W); see ``distance``."""
        with torch.no_grad():
            target = self.features_of(reference)
        return self.distance(self.features_of(picture), target, log2_sigma)


def local_distortion(a: Tensor, b: Tensor, log2_sigma: Tensor) -> Tensor:
    """Wasserstein Distortion of one feature map.

    Level 0 compares values, level n the means and standard deviations within windows of about 2**n values. A place
    whose ``log2_sigma`` lies between two levels takes both, in proportion.

    Args:
        a: features (N, C, h, w), float32.
        b: features (N or 1, C, h, w), float32.
        log2_sigma: (N or 1, 1, h, w), at least 0, in values of the map.

    Returns:
        (N,), the weighted mean over channels and places of squared differences.
    """
    total = (_share(log2_sigma, 0) * (a - b).square()).mean((1, 2, 3))
    a_square, b_square = a.square(), b.square()
    # Smoothing never raises log2_sigma: levels beyond its largest value have no weight anywhere.
    for level in range(1, math.ceil(float(log2_sigma.max())) + 1):
        if level > 1:
            a, b, a_square, b_square = (m[..., ::2, ::2] for m in (a, b, a_square, b_square))
        a, b, a_square, b_square = (_low_pass(m) for m in (a, b, a_square, b_square))
        error = (a - b).square() + (_deviation(a, a_square) - _deviation(b, b_square)).square()
        total = total + (_share(log2_sigma, level) * error).mean((1, 2, 3))
        log2_sigma = _low_pass(log2_sigma, stride=2)
    return total


def _share(log2_sigma: Tensor, level: int) -> Tensor:
    """The weight of a level: 1 where log2_sigma is the level, falling to 0 at its neighbors."""
    return (1 - (log2_sigma - level).abs()).clamp(min=0)


def _deviation(mean: Tensor, mean_square: Tensor) -> Tensor:
    return (mean_square - mean.square()).clamp(min=_VARIANCE_FLOOR).sqrt()


def _low_pass(x: Tensor, stride: int = 1) -> Tensor:
    """Binomial filter (1, 2, 1) / 4 in both directions, zeros beyond the frame; every ``stride``-th value is kept."""
    channels = x.shape[1]
    taps = x.new_tensor([0.25, 0.5, 0.25])
    kernel = (taps[:, None] * taps).expand(channels, 1, 3, 3)
    return F.conv2d(x, kernel, stride=stride, padding=1, groups=channels)
