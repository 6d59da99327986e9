"""The rate of noisy latents under a context model shaped like the runtime's prior.

Channels are coded in groups, each group in two checkerboard phases; every pass sees all earlier groups
whole and, in its second phase, the first phase of its own group. One hidden layer maps the 3x3
neighbourhood to a logistic's mean and scale. Minnen & Singh, "Channel-wise Autoregressive Entropy
Models" (ICIP 2020) and He et al., "ELIC" (CVPR 2022) are the sources of the ordering.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdrt.coding.quantize import BIT_PRICE


def channel_groups(channels: int) -> list[int]:
    """Sizes 1/8, 1/8, 1/4, 1/2 of the channels: early groups are small because they see least."""
    eighth, quarter = max(1, channels // 8), max(1, channels // 4)
    sizes = [eighth, eighth, quarter, channels - 2 * eighth - quarter]
    return [size for size in sizes if size > 0]


class RateModel(nn.Module):
    """Bits of latents in units of the step. Call with (N, C, h, w) and log2 of the step (N,)."""

    def __init__(self, channels: int, hidden: int = 64) -> None:
        super().__init__()
        self.groups = channel_groups(channels)
        self.context = nn.ModuleList()
        self.predictors = nn.ModuleList()
        for size in self.groups:
            for _phase in (0, 1):
                self.context.append(nn.Conv2d(channels + 1, hidden, 3, padding=1))
                self.predictors.append(nn.Conv2d(hidden, 2 * size, 1))

    def predict(self, symbols: Tensor, log2_step: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale (N, C, h, w) of every symbol under those coded before it."""
        n, _, h, w = symbols.shape
        rows = torch.arange(h, device=symbols.device)[:, None]
        columns = torch.arange(w, device=symbols.device)[None]
        first_phase = ((rows + columns) % 2 == 0).to(symbols.dtype)[None, None]
        quality = log2_step[:, None, None, None].expand(n, 1, h, w)
        means, scales = [], []
        start = 0
        for g, size in enumerate(self.groups):
            own = symbols[:, start : start + size]
            unknown = torch.zeros_like(symbols[:, start + size :])
            mean = scale = torch.zeros_like(own)
            for phase in (0, 1):
                known_own = own * first_phase if phase else torch.zeros_like(own)
                context = torch.cat([symbols[:, :start], known_own, unknown, quality], 1)
                index = 2 * g + phase
                phase_mean, phase_scale = self.predictors[index](F.relu(self.context[index](context))).chunk(2, 1)
                here = 1 - first_phase if phase else first_phase
                mean, scale = mean + here * phase_mean, scale + here * phase_scale
            means.append(mean)
            scales.append(F.softplus(scale + 0.5) + 0.06)
            start += size
        return torch.cat(means, 1), torch.cat(scales, 1)

    def forward(self, symbols: Tensor, log2_step: Tensor) -> Tensor:
        """Returns bits (N,), differentiable in the symbols."""
        return bits_of(symbols, *self.predict(symbols, log2_step)).sum((1, 2, 3))

    @torch.no_grad()
    def decide(self, exact: Tensor, log2_step: Tensor, strength: Tensor) -> Tensor:
        """Integers for latents in units of the step, each the cheaper of the two around it in bits and squared error.

        ``strength`` (N,) is the encoder's ``rdo``: 0 rounds to the nearest, 1 is where a bit buys as much as a finer
        step would at high rates.
        """
        below = torch.floor(exact)
        with torch.autocast(exact.device.type, enabled=False):
            mean, scale = self.predict(torch.round(exact), log2_step)
        price = float(BIT_PRICE) * strength[:, None, None, None]
        low, high = (price * bits_of(k, mean, scale) + (exact - k).square() for k in (below, below + 1))
        return below + (high < low)


def bits_of(symbols: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Bits of each symbol under a discretised logistic."""
    residual = (symbols - mean).abs()
    likelihood = torch.sigmoid((0.5 - residual) / scale) - torch.sigmoid((-0.5 - residual) / scale)
    return -torch.log2(likelihood.clamp_min(1e-7))
