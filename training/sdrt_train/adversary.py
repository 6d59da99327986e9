"""The critics of the last stage: one sees patches of pixels beside the latents that they were painted from, one sees
VGG16's features of a window.

Patches under a condition: Mentzer et al., "High-Fidelity Generative Image Compression" (NeurIPS 2020). Heads on frozen
features: Sauer et al., "Projected GANs Converge Faster" (NeurIPS 2021). Spectral normalisation and hinge: Miyato et
al., "Spectral Normalization for Generative Adversarial Networks" (ICLR 2018).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

HEAD_CHANNELS = (64, 128, 256, 512)  # relu1_2 to relu4_3 of VGG16


def _conv(n_in: int, n_out: int, size: int, stride: int = 1) -> nn.Module:
    return spectral_norm(nn.Conv2d(n_in, n_out, size, stride, padding=size // 2))


class PatchCritic(nn.Module):
    """Picture (N, 3, H, W) in [-1, 1], symbols (N, C, H/16, W/16), log2 of the step (N,) -> logits (N, 1, H/8, W/8)."""

    def __init__(self, latent_channels: int, width: int = 32) -> None:
        super().__init__()
        self.pixels = nn.Sequential(
            nn.PixelUnshuffle(2),
            _conv(12, width, 3),
            nn.LeakyReLU(0.2),
            _conv(width, 2 * width, 3, 2),
            nn.LeakyReLU(0.2),
            _conv(2 * width, 4 * width, 3, 2),
        )
        self.condition = _conv(latent_channels + 1, 4 * width, 1)
        self.judge = nn.Sequential(
            nn.LeakyReLU(0.2), _conv(4 * width, 4 * width, 3), nn.LeakyReLU(0.2), _conv(4 * width, 1, 1)
        )

    def forward(self, picture: Tensor, symbols: Tensor, log2_step: Tensor) -> Tensor:
        quality = log2_step[:, None, None, None].expand_as(symbols[:, :1])
        condition = self.condition(torch.cat([torch.asinh(symbols), quality], 1))
        seen = self.pixels(picture)
        result: Tensor = self.judge(seen + F.interpolate(condition, size=seen.shape[2:]))
        return result


class FeatureCritic(nn.Module):
    """Raw VGG16 features (relu1_2 first) -> one map of logits for each of the first four."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(_conv(n_in, width, 3), nn.LeakyReLU(0.2), _conv(width, 1, 1)) for n_in in HEAD_CHANNELS
        )

    def forward(self, features: Sequence[Tensor], scales: Sequence[Tensor]) -> list[Tensor]:
        """``scales``: what each feature map is divided by, so that every head sees numbers of about 1."""
        return [head(f / s) for head, f, s in zip(self.heads, features, scales, strict=False)]


def fool(logits: Tensor) -> Tensor:
    """What the decoder pays, (N,): lower where the critic takes its pictures for photographs."""
    return -logits.float().mean((1, 2, 3))


def hinge(real: Tensor, painted: Tensor) -> Tensor:
    """What the critic pays, a scalar."""
    return F.relu(1 - real.float()).mean() + F.relu(1 + painted.float()).mean()
