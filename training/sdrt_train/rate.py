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
        self.predict = nn.ModuleList()
        for size in self.groups:
            for _phase in (0, 1):
                self.context.append(nn.Conv2d(channels + 1, hidden, 3, padding=1))
                self.predict.append(nn.Conv2d(hidden, 2 * size, 1))

    def forward(self, symbols: Tensor, log2_step: Tensor) -> Tensor:
        """Returns bits (N,), differentiable in the symbols."""
        n, _, h, w = symbols.shape
        rows = torch.arange(h, device=symbols.device)[:, None]
        columns = torch.arange(w, device=symbols.device)[None]
        first_phase = ((rows + columns) % 2 == 0).to(symbols.dtype)[None, None]
        quality = log2_step[:, None, None, None].expand(n, 1, h, w)
        bits = torch.zeros(n, device=symbols.device)
        start = 0
        for g, size in enumerate(self.groups):
            own = symbols[:, start : start + size]
            for phase in (0, 1):
                known_own = own * first_phase if phase else torch.zeros_like(own)
                unknown = torch.zeros_like(symbols[:, start + size :])
                context = torch.cat([symbols[:, :start], known_own, unknown, quality], 1)
                index = 2 * g + phase
                mean, scale = self.predict[index](F.relu(self.context[index](context))).chunk(2, 1)
                scale = F.softplus(scale + 0.5) + 0.06
                residual = (own - mean).abs()
                likelihood = torch.sigmoid((0.5 - residual) / scale) - torch.sigmoid((-0.5 - residual) / scale)
                here = 1 - first_phase if phase else first_phase
                bits = bits - (torch.log2(likelihood.clamp_min(1e-7)) * here).sum((1, 2, 3))
            start += size
        return bits
