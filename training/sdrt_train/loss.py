"""Distortion of a painted picture: squared error, LPIPS with AlexNet, LPIPS and texture with VGG16 in a window."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdrt_metrics.perceptual import TEXTURE_DEPTH, Lpips
from sdrt_train.model import DOWNSCALE, LEVELS


@dataclass(frozen=True)
class LossConfig:
    """Weights of the distortion, and how much of a batch VGG16 sees: it costs more than the model itself.

    Attributes:
        mse: weight of the squared error in 8-bit levels, summed over the three channels.
        alex: weight of LPIPS with AlexNet; this and the next two are in 8-bit levels of a step.
        vgg: weight of LPIPS with VGG16.
        texture: weight of the texture term in VGG16's window.
        vgg_pictures: how many pictures of a batch VGG16 sees, of all workers together.
        vgg_crop_px: side of its window.
    """

    mse: float = 1.0
    alex: float = 0.0
    vgg: float = 0.0
    texture: float = 0.0
    vgg_pictures: int = 4
    vgg_crop_px: int = 112


class Distortion(nn.Module):
    """Weighted distortion of each picture, in bits a pixel, and its parts for the log."""

    def __init__(self, config: LossConfig, vgg_pictures: int) -> None:
        super().__init__()
        self.config, self.vgg_pictures = config, vgg_pictures
        self.alex = Lpips("alexnet") if config.alex > 0 else None
        self.vgg = Lpips("vgg16") if config.vgg > 0 or config.texture > 0 else None

    def measure(self, picture: Tensor, photo: Tensor, price: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Distortion of pictures.

        Args:
            picture: (N, 3, H, W), nominally in [-1, 1].
            photo: (N, 3, H, W) in [-1, 1].
            price: (N, 1, H, W), bits that a squared 8-bit level costs at each pixel.

        Returns:
            Bits a pixel (N,), and the means of the parts.
        """
        config, n = self.config, len(photo)
        squared = (picture - photo).square().sum(1, keepdim=True) * LEVELS**2
        total = config.mse * (squared * price).mean((1, 2, 3))
        parts = {"mse": squared.mean().item() / 3, "squared": total.mean().item()}
        # A perceptual distance falls more slowly with the step than a squared error: its price goes with the root.
        root = price.sqrt().mean((1, 2, 3))
        if self.alex is not None:
            # AlexNet strides by 4 and the decoder shuffles by 4: seen at one offset only, a grid goes unpunished.
            y, x = (int(offset) for offset in torch.randint(DOWNSCALE, (2,)))
            alex = self.alex(picture[..., y:, x:], photo[..., y:, x:])
            total = total + config.alex * root * alex
            parts["alex"] = alex.mean().item()
        if self.vgg is not None:
            height, width = photo.shape[2:]
            size = min(config.vgg_crop_px, height, width)
            y, x = int(torch.randint(height - size + 1, ())), int(torch.randint(width - size + 1, ()))
            seen = (slice(self.vgg_pictures), slice(None), slice(y, y + size), slice(x, x + size))
            with torch.no_grad():
                real = self.vgg.features_of(photo[seen])
            painted = self.vgg.features_of(picture[seen])
            vgg, texture = self.vgg.distance(painted, real), texture_distance(painted, real)
            total = total + root * spread(config.vgg * vgg + config.texture * texture, n)
            parts["vgg"], parts["texture"] = vgg.mean().item(), texture.mean().item()
        return total, parts


def spread(values: Tensor, n: int) -> Tensor:
    """Values of the first few pictures as those of all n: zero for the others, the mean unchanged."""
    return n / len(values) * F.pad(values, (0, n - len(values)))


def texture_distance(painted: list[Tensor], real: list[Tensor]) -> Tensor:
    """(N,) from feature maps: how far each channel's mean and deviation over the window are from the photograph's,
    relative to both; mean over channels, weighted sum over maps. It tells whether there is texture, not where its
    grains lie.

    Huang & Belongie, "Arbitrary Style Transfer in Real-Time with Adaptive Instance Normalization" (ICCV 2017).
    """
    total = torch.zeros(painted[0].shape[0], device=painted[0].device)
    for weight, a, b in zip(TEXTURE_DEPTH, painted, real, strict=True):
        a_deviation, a_mean = deviation_and_mean(a)
        b_deviation, b_mean = deviation_and_mean(b)
        error = (a_mean - b_mean).square() + (a_deviation - b_deviation).square()
        size = a_mean.square() + b_mean.square() + a_deviation.square() + b_deviation.square()
        total = total + weight * (error / (size + size.mean(1, keepdim=True) * 0.05)).mean(1)
    return total


def deviation_and_mean(features: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel of (N, C, h, w), each (N, C): torch.std_mean, in half its time where channels are last."""
    pixels = features.float().permute(0, 2, 3, 1).flatten(1, 2)
    mean = pixels.mean(1)
    centered = pixels - mean[:, None]
    return (centered.square().sum(1) / (pixels.shape[1] - 1)).sqrt(), mean
