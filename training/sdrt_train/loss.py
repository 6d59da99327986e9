"""Distortion of a painted picture: squared error, LPIPS with AlexNet, LPIPS and texture with VGG16 in a window."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdrt_metrics.perceptual import Lpips
from sdrt_train.model import DOWNSCALE

_TEXTURE_DEPTH = (0.5, 0.5, 1.0, 1.5, 1.5)  # weights of VGG16's five maps in the texture term


@dataclass(frozen=True)
class LossConfig:
    """Weights of the distortion, and how much of a batch VGG16 sees: it costs more than the model itself."""

    mse_weight: float = 60.0
    alex_weight: float = 1.5
    vgg_weight: float = 1.5
    vgg_pictures: int = 4  # of all workers together
    vgg_crop_px: int = 112
    texture_weight: float = 2.2  # in VGG16's window
    patch_critic_share: float = 0.0  # of the distortion's gradient to the picture; in the decoder's stage only
    feature_critic_share: float = 0.0

    @property
    def adversarial(self) -> bool:
        return self.patch_critic_share > 0 or self.feature_critic_share > 0


@dataclass(frozen=True)
class Window:
    """What VGG16 saw: features of the painted window (with gradient) and of the photograph's."""

    painted: list[Tensor]
    real: list[Tensor]

    @cached_property
    def scales(self) -> list[Tensor]:
        """Root mean square of each of the photograph's maps."""
        return [f.detach().float().square().mean().sqrt() + 1e-6 for f in self.real]


class Distortion(nn.Module):
    """Weighted distortion of each picture, and what was computed on the way."""

    def __init__(self, config: LossConfig, vgg_pictures: int) -> None:
        super().__init__()
        self.config, self.vgg_pictures = config, vgg_pictures
        self.alex, self.vgg = Lpips("alexnet"), Lpips("vgg16")

    def measure(
        self, picture: Tensor, photo: Tensor, *, with_alex: bool, with_vgg: bool
    ) -> tuple[Tensor, dict[str, float], Window | None]:
        """(N, 3, H, W) in [-1, 1] twice -> distortion (N,), its parts for the log, VGG16's features."""
        config = self.config
        mse = (picture - photo).square().mean((1, 2, 3)) / 4  # in units of [0, 1]
        total = config.mse_weight * mse
        parts = {"mse": mse.mean().item()}
        if with_alex:
            # AlexNet strides by 4 and the decoder shuffles by 4: seen at one offset only, a grid goes unpunished.
            y, x = (int(offset) for offset in torch.randint(DOWNSCALE, (2,)))
            alex = self.alex(picture[..., y:, x:], photo[..., y:, x:])
            total = total + config.alex_weight * alex
            parts["alex"] = alex.mean().item()
        window = None
        if with_vgg and config.vgg_weight > 0:
            n, _, height, width = photo.shape
            size = min(config.vgg_crop_px, height, width)
            y, x = int(torch.randint(height - size + 1, ())), int(torch.randint(width - size + 1, ()))
            seen = (slice(self.vgg_pictures), slice(None), slice(y, y + size), slice(x, x + size))
            with torch.no_grad():
                real = self.vgg.features_of(photo[seen])
            window = Window(self.vgg.features_of(picture[seen]), real)
            vgg = self.vgg.distance(window.painted, window.real)
            total = total + config.vgg_weight * self.spread(vgg, n)
            parts["vgg"] = vgg.mean().item()
            if config.texture_weight > 0:
                texture = texture_distance(window.painted, window.real)
                total = total + config.texture_weight * self.spread(texture, n)
                parts["texture"] = texture.mean().item()
        return total, parts, window

    @staticmethod
    def spread(values: Tensor, n: int) -> Tensor:
        """Values of the first few pictures as those of all n: zero for the others, the mean unchanged."""
        return n / len(values) * F.pad(values, (0, n - len(values)))


def texture_distance(painted: list[Tensor], real: list[Tensor]) -> Tensor:
    """(N,) from feature maps: how far each channel's mean and deviation over the window are from the photograph's,
    relative to both; mean over channels, weighted sum over maps. It tells whether there is texture, not where its
    grains lie. Deep maps weigh more: there it is missed most (eyes, leaves, letters), and there LPIPS says least.

    Huang & Belongie, "Arbitrary Style Transfer in Real-Time with Adaptive Instance Normalization" (ICCV 2017).
    """
    total = torch.zeros(painted[0].shape[0], device=painted[0].device)
    for weight, a, b in zip(_TEXTURE_DEPTH, painted, real, strict=True):
        a_deviation, a_mean = torch.std_mean(a.float(), dim=(2, 3))
        b_deviation, b_mean = torch.std_mean(b.float(), dim=(2, 3))
        error = (a_mean - b_mean).square() + (a_deviation - b_deviation).square()
        size = a_mean.square() + b_mean.square() + a_deviation.square() + b_deviation.square()
        total = total + weight * (error / (size + size.mean(1, keepdim=True) * 0.05)).mean(1)
    return total
