"""LPIPS and DISTS in torch, with the authors' weights (see ``weights.py``).

LPIPS: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018.
DISTS: Ding et al., "Image Quality Assessment: Unifying Structure and Texture Similarity", TPAMI 2020.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdrt_metrics.weights import backbone_weights, dists_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of the photographs that the backbones were trained on, red, green and blue in [0, 1]."""

TEXTURE_DEPTH = (0.5, 0.5, 1.0, 1.5, 1.5)
"""Weights of VGG16's five maps in a texture term. Deep maps weigh more: there texture is missed most (eyes, leaves,
letters), and there LPIPS says least."""


def _conv(parameters: dict[str, Any], stride: int, padding: int) -> nn.Conv2d:
    kernel = np.asarray(parameters["kernel"], np.float32)  # flax: (kh, kw, in, out)
    kh, kw, n_in, n_out = kernel.shape
    conv = nn.Conv2d(n_in, n_out, (kh, kw), stride, padding)
    conv.weight.data = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    assert conv.bias is not None
    conv.bias.data = torch.from_numpy(np.asarray(parameters["bias"], np.float32).copy())
    return conv


class _AlexFeatures(nn.Module):
    def __init__(self, weights: dict[str, Any]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            _conv(weights[f"Conv_{i}"], stride, padding)
            for i, (stride, padding) in enumerate([(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)])
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for i, conv in enumerate(self.convs):
            if i in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(conv(x))
            features.append(x)
        return features


class VggFeatures(nn.Module):
    """The thirteen convolutions of VGG16; returns relu1_2, 2_2, 3_3, 4_3, 5_3.

    ``pool``: "max" (LPIPS), "l2" (DISTS, a Hann-weighted root mean square) or "mean" (Wasserstein Distortion).
    """

    window: Tensor

    def __init__(self, weights: dict[str, Any], pool: str) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv(weights[f"Conv_{i}"], 1, 1) for i in range(13))
        self.pool = pool
        hann = torch.tensor([0.5, 1.0, 0.5])
        window = hann[:, None] * hann[None]
        self.register_buffer("window", (window / window.sum())[None, None])

    def _downsample(self, x: Tensor) -> Tensor:
        if self.pool == "max":
            return F.max_pool2d(x, 2, 2)
        if self.pool == "mean":
            return F.avg_pool2d(x, 2, 2)
        channels = x.shape[1]
        window = self.window.to(x.dtype).repeat(channels, 1, 1, 1)
        return (F.conv2d(x**2, window, stride=2, padding=1, groups=channels) + 1e-12).sqrt()

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for i, conv in enumerate(self.convs):
            if i in (2, 4, 7, 10):
                x = self._downsample(x)
            x = F.relu(conv(x))
            if i in (1, 3, 6, 9, 12):
                features.append(x)
        return features


class Lpips(nn.Module):
    """LPIPS v0.1. ``network``: "alexnet" or "vgg16".

    Call with two tensors (N, 3, H, W) in [-1, 1]; returns (N,), lower is closer.
    Raises MetricWeightsError where the weights cannot be read.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, network: str = "alexnet") -> None:
        super().__init__()
        weights = backbone_weights(network)
        if network == "alexnet":
            self.features: nn.Module = _AlexFeatures(weights["AlexNet_0"])
        else:
            self.features = VggFeatures(weights["VGG16_0"], "max")
        for i in range(5):
            kernel = np.asarray(weights[f"NetLinLayer_{i}"]["Conv_0"]["kernel"], np.float32)
            self.register_buffer(f"linear{i}", torch.from_numpy(kernel[0, 0, :, 0].copy()))
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[None, :, None, None])
        self.requires_grad_(False)

    def features_of(self, x: Tensor) -> list[Tensor]:
        """The five feature maps of (N, 3, H, W) in [-1, 1]."""
        result: list[Tensor] = self.features((x - self.shift) / self.scale)
        return result

    def distance(self, features: list[Tensor], reference: list[Tensor]) -> Tensor:
        """LPIPS (N,) from feature maps."""
        total = torch.zeros(features[0].shape[0], device=features[0].device)
        for i, (a, b) in enumerate(zip(features, reference, strict=True)):
            difference = _unit_length(a) - _unit_length(b)
            with torch.autocast(a.device.type, enabled=False):
                total = total + (difference.square() @ getattr(self, f"linear{i}")).mean(1)
        return total

    def forward(self, picture: Tensor, reference: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.features_of(reference)
        return self.distance(self.features_of(picture), target)


def pixels_of(features: Tensor) -> Tensor:
    """(N, C, h, w) as (N, h w, C) float32. What follows is two to three times as fast, forward and backward, on a CPU
    where channels are last: sums over a map keep that order there, and over (2, 3) they lose it."""
    return features.permute(0, 2, 3, 1).flatten(1, 2).float()


def _unit_length(features: Tensor) -> Tensor:
    pixels = pixels_of(features)
    return pixels / (pixels.square().sum(2, keepdim=True).sqrt() + 1e-10)


def texture_difference(painted: tuple[Tensor, Tensor], real: tuple[Tensor, Tensor]) -> Tensor:
    """How far the texture of one feature map is from the photograph's.

    It tells whether there is texture, not where its grains lie. Huang & Belongie, "Arbitrary Style Transfer in
    Real-Time with Adaptive Instance Normalization" (ICCV 2017).

    Args:
        painted: of each channel the mean and the deviation over the map, each (N, C).
        real: the photograph's.

    Returns:
        (N,), the squared distance relative to both, mean over channels; 0 for the same, 2 at most.
    """
    (mean, deviation), (real_mean, real_deviation) = painted, real
    error = (mean - real_mean).square() + (deviation - real_deviation).square()
    size = mean.square() + real_mean.square() + deviation.square() + real_deviation.square()
    return (error / (size + size.mean(1, keepdim=True) * 0.05)).mean(1)


class Dists(nn.Module):
    """DISTS. Call with two tensors (N, 3, H, W) in [0, 1]; returns (N,), lower is closer."""

    _CHANNELS: ClassVar[list[int]] = [3, 64, 128, 256, 512, 512]
    alpha: Tensor
    beta: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = VggFeatures(backbone_weights("vgg16")["VGG16_0"], "l2")
        weights = dists_weights()
        alpha, beta = (torch.from_numpy(weights[name]) for name in ("alpha", "beta"))
        total = alpha.sum() + beta.sum()
        self.register_buffer("alpha", alpha / total)
        self.register_buffer("beta", beta / total)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[None, :, None, None])
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[None, :, None, None])
        self.requires_grad_(False)

    def _features(self, x: Tensor) -> list[Tensor]:
        return [x, *self.features((x - self.mean) / self.std)]

    def forward(self, picture: Tensor, reference: Tensor) -> Tensor:
        score = torch.zeros(picture.shape[0], device=picture.device)
        weights = (torch.split(each.flatten(), self._CHANNELS) for each in (self.alpha, self.beta))
        for x_map, y_map, alpha, beta in zip(self._features(picture), self._features(reference), *weights, strict=True):
            x, y = pixels_of(x_map), pixels_of(y_map)
            x_mean, y_mean = x.mean(1), y.mean(1)
            x_var, y_var = ((each - each.mean(1, keepdim=True)).square().mean(1) for each in (x, y))
            covariance = (x * y).mean(1) - x_mean * y_mean
            texture = (2 * x_mean * y_mean + 1e-6) / (x_mean**2 + y_mean**2 + 1e-6)
            structure = (2 * covariance + 1e-6) / (x_var + y_var + 1e-6)
            score = score + (alpha * texture + beta * structure).sum(1)
        return 1 - score
