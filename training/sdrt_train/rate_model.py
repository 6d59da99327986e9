"""The rate of latents under a context model shaped like the runtime's prior.

Channels are coded in groups, each group in two checkerboard phases; every pass sees all earlier groups whole and, in
its second phase, the first phase of its own group. One hidden layer maps the 3x3 neighborhood to a logistic's mean and
scale. Minnen & Singh, "Channel-wise Autoregressive Entropy Models" (ICIP 2020) and He et al., "ELIC" (CVPR 2022) are
the sources of the ordering.

Symbols are latents in units of the step of their position. Their spread follows from the transform's deviations and
the step, so the model starts near the truth and learns what contexts add to it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdrt_train.model import QUALITY_CENTER, QUALITY_SPAN

LAMBDA = 0.1  # squared error, in squared steps, that a bit is worth; 2 ln 2 / 12 is the law of fine steps
_SOFTNESS = 0.5  # of a decision, in squared steps; .25 and 1 train as well
_SMALLEST_SCALE = 0.05
_LINEAR_CHANNELS = 16  # the first channels carry large numbers: their means are also predicted linearly


def channel_groups(channels: int) -> list[int]:
    """Sizes 4, 4, 8, 16, ... up to 64: early groups are small because they see least."""
    sizes: list[int] = []
    while (left := channels - sum(sizes)) > 0:
        sizes.append(min(left, 64, max(4, sum(sizes))))
    return sizes


class RateModel(nn.Module):
    """Bits of latents in units of the step."""

    log_deviations: Tensor

    def __init__(self, channels: int, hidden: int = 96) -> None:
        super().__init__()
        self.groups = channel_groups(channels)
        self.register_buffer("log_deviations", torch.zeros(channels))
        self.context, self.predictors, self.linear = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        start = 0
        for size in self.groups:
            for _phase in (0, 1):
                self.context.append(nn.Conv2d(start + size + 1, hidden, 3, padding=1))
                predictor = nn.Conv2d(hidden, 2 * size, 1)
                predictor.weight.data *= 0.1
                self.predictors.append(predictor)
                linear = nn.Conv2d(start + size, size, 3, padding=1, bias=False)
                nn.init.zeros_(linear.weight)
                self.linear.append(linear if start < _LINEAR_CHANNELS else nn.Identity())
            start += size

    def predict(self, symbols: Tensor, log2_step: Tensor) -> tuple[Tensor, Tensor]:
        """Means and scales of every symbol under those coded before it.

        Args:
            symbols: (N, C, h, w), whole numbers.
            log2_step: (N, 1, h, w), the step's base-2 logarithm at each position, in 8-bit levels.

        Returns:
            Means and scales of a logistic, each (N, C, h, w) float32.
        """
        _, _, h, w = symbols.shape
        rows = torch.arange(h, device=symbols.device)[:, None]
        columns = torch.arange(w, device=symbols.device)[None]
        first_phase = ((rows + columns) % 2 == 0).to(symbols.dtype)[None, None]
        compressed = torch.asinh(symbols)
        quality = (log2_step - QUALITY_CENTER) / QUALITY_SPAN
        natural = self.log_deviations[:, None, None] + math.log(0.55) - math.log(2) * log2_step
        means, scales = [], []
        start = 0
        for group, size in enumerate(self.groups):
            stop = start + size
            mean = log_scale = torch.zeros_like(symbols[:, start:stop])
            for phase in (0, 1):
                index = 2 * group + phase
                earlier, own = torch.ones_like(first_phase), first_phase * phase
                known = torch.cat([earlier.expand(-1, start, -1, -1), own.expand(-1, size, -1, -1)], 1)
                context = torch.cat([compressed[:, :stop] * known, quality], 1)
                hidden = F.relu(self.context[index](context))
                phase_mean, phase_scale = self.predictors[index](hidden).float().chunk(2, 1)
                if not isinstance(self.linear[index], nn.Identity):
                    with torch.autocast(symbols.device.type, enabled=False):
                        phase_mean = phase_mean + self.linear[index](symbols[:, :stop] * known)
                here = first_phase if phase == 0 else 1 - first_phase
                mean, log_scale = mean + here * phase_mean, log_scale + here * phase_scale
            means.append(mean)
            scales.append(_SMALLEST_SCALE + (natural[:, start:stop] + log_scale).clamp(-8, 8).exp())
            start = stop
        return torch.cat(means, 1), torch.cat(scales, 1)

    def forward(self, symbols: Tensor, log2_step: Tensor) -> Tensor:
        """Returns bits (N,), differentiable in the symbols."""
        return bits_of(symbols, *self.predict(symbols, log2_step)).sum((1, 2, 3))

    def preference(self, exact: Tensor, log2_step: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        """The two integers around each latent in units of the step, weighed by bits and squared error.

        Args:
            exact: (N, C, h, w).
            log2_step: (N, 1, h, w).
            strength: (N,) weight of the bits; 0 rounds to the nearest, 1 is `LAMBDA`.

        Returns:
            The lower integer, and by how much the upper one is cheaper, in squared steps, each (N, C, h, w); the
            latter is differentiable in ``exact``.
        """
        below = torch.floor(exact.detach())
        with torch.no_grad():
            mean, scale = self.predict(torch.round(exact), log2_step)
            saved = (
                LAMBDA * strength[:, None, None, None] * (bits_of(below, mean, scale) - bits_of(below + 1, mean, scale))
            )
        return below, saved + 2 * (exact - below) - 1

    @torch.no_grad()
    def decide(self, exact: Tensor, log2_step: Tensor, strength: Tensor) -> Tensor:
        """Integers (N, C, h, w), each the cheaper of the two that `preference` weighs."""
        below, preference = self.preference(exact, log2_step, strength)
        return below + (preference > 0)

    def soft_decide(self, exact: Tensor, log2_step: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        """What `decide` chooses and its bits, with the gradients of a choice that is softly undecided.

        A straight-through gradient says that every latent moves the picture, and noise in place of rounding that most
        zeros cost bits. At coarse steps both are wrong nearly everywhere: the encoder learned to raise what is rounded
        to zero all the same. Here a latent is worth as much as it is near its threshold, and what it costs is the
        difference between the bits of its two integers.

        Args:
            exact: (N, C, h, w) latents in units of the step.
            log2_step: (N, 1, h, w).
            strength: (N,) as in `preference`.

        Returns:
            Integers (N, C, h, w), differentiable in ``exact``, and bits (N,), differentiable in ``exact`` and in this
            model's weights.
        """
        below, preference = self.preference(exact, log2_step, strength)
        upper = torch.sigmoid(preference / _SOFTNESS)
        leaning = upper - upper.detach()
        chosen = below + (preference.detach() > 0)
        symbols = chosen + leaning
        mean, scale = self.predict(symbols, log2_step)
        with torch.no_grad():
            gap = bits_of(below + 1, mean, scale) - bits_of(below, mean, scale)
        return symbols, (bits_of(chosen, mean, scale) + leaning * gap).sum((1, 2, 3))


def bits_of(symbols: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Bits of each symbol under a discretized logistic."""
    residual = (symbols - mean).abs()
    likelihood = torch.sigmoid((0.5 - residual) / scale) - torch.sigmoid((-0.5 - residual) / scale)
    # Far out the difference underflows; the tail's exponent goes on there, so that the gradient does not end.
    tail = (residual - 0.5).clamp_min(0) / scale * math.log2(math.e)
    return torch.where(likelihood > 1e-6, -torch.log2(likelihood.clamp_min(1e-6)), tail + 1)
