"""Train the prior's network in float, with its integer arithmetic simulated, and turn it into integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sdrt.prior import (
    ENERGY_LIMIT,
    EXACT,
    GLOBAL_BITS,
    HIDDEN_BITS,
    HIDDEN_LIMIT,
    MEAN_BITS,
    SCALE_BITS,
    SYMBOL_LIMIT,
    WINDOW,
    Grid,
)

Arrays = dict[str, NDArray[np.generic]]

TAPS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1))
_WIDE = tuple((y, x) for y in range(-WINDOW, WINDOW + 1) for x in range(-WINDOW, WINDOW + 1))
_PHASES = (
    (Grid(0, 0, 4),),
    (Grid(2, 2, 4),),
    (Grid(0, 2, 4), Grid(2, 0, 4)),
    (Grid(1, 1, 2),),
    (Grid(0, 1, 2),),
    (Grid(1, 0, 2),),
)
"""Coarse to fine: all but the first sixteenth of the positions see neighbours on both sides."""
_LEAST_SCALE = 0.04  # below, the tables are all but certain
_ENERGY_UNIT = 0.25  # inputs are scaled so that all weights learn at one pace
_INVERSE_UNIT = 1 / 32
_MEAN_UNIT = 1 / 16


@dataclass(frozen=True)
class FitConfig:
    """How a prior is fitted. ``iterations`` alone decides the result; the clock never does."""

    hidden: int = 64
    iterations: int = 1500
    batch: int = 6
    learning_rate: float = 4e-3
    weight_decay: float = 1e-5
    quantised_share: float = 0.3  # the last part of the iterations sees rounded weights
    patience: int = 4  # evaluations on held-out photographs without gain before stopping
    seed: int = 1


@dataclass(frozen=True)
class PassPlan:
    """Channels [start, stop) on ``grids``; ``known`` are the grids of those channels that are decoded already."""

    start: int
    stop: int
    grids: tuple[Grid, ...]
    known: tuple[Grid, ...]
    own_taps: tuple[tuple[int, int], ...]

    @property
    def locals(self) -> int:
        """Rows of the network that look at symbols and energies."""
        return len(TAPS) * self.start + len(self.own_taps) * (self.stop - self.start) + self.stop


def channel_groups(channels: int) -> list[int]:
    """Sizes 1/4, 1/4, 1/2 of the channels, or single channels where they are few."""
    if channels <= 4:
        return [1] * channels
    quarter = channels // 4
    return [quarter, quarter, channels - 2 * quarter]


def plan_passes(channels: int) -> list[PassPlan]:
    """Every group of channels in all phases, before the next group."""
    plans, start = [], 0
    for size in channel_groups(channels):
        known: tuple[Grid, ...] = ()
        for grids in _PHASES:
            own_taps = tuple((dy, dx) for dy, dx in _WIDE if any(_sees(g, dy, dx, known) for g in grids))
            plans.append(PassPlan(start, start + size, grids, known, own_taps))
            known += grids
        start += size
    return plans


def _sees(grid: Grid, dy: int, dx: int, known: tuple[Grid, ...]) -> bool:
    return any((grid.y + dy - k.y) % k.stride == 0 and (grid.x + dx - k.x) % k.stride == 0 for k in known)


def _round(values: Tensor) -> Tensor:
    return values + (torch.round(values) - values).detach()


class PassNet(nn.Module):
    """The float twin of :class:`sdrt.prior.Pass`."""

    def __init__(self, plan: PassPlan, channels: int, hidden: int) -> None:
        super().__init__()
        self.plan, self.channels = plan, channels
        size, local = plan.stop - plan.start, plan.locals
        inputs = local + 2 + channels
        units = [
            torch.ones(local - plan.stop),
            torch.full((plan.stop,), _ENERGY_UNIT),
            torch.tensor([1.0, _INVERSE_UNIT]),
        ]
        self.unit: Tensor
        self.register_buffer("unit", torch.cat([*units, torch.full((channels,), _MEAN_UNIT)])[:, None])
        self.first = nn.Parameter(torch.randn(inputs, hidden) * 0.7 / inputs**0.5)
        self.second = nn.Parameter(torch.randn(hidden, 2 * size) * 0.1 / hidden**0.5)
        self.direct = nn.Parameter(torch.zeros(inputs, 2 * size))
        with torch.no_grad():
            self.direct[local, size:] = 0.5
        used = torch.ones(inputs, 1)
        if not plan.known:
            used[local - size : local] = 0
        used[local + 2 + (plan.stop if plan.known else plan.start) :] = 0
        self.used: Tensor
        self.register_buffer("used", used)

    def rows(self, symbols: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (N, n, inputs) in scaled units and targets (N, n, size) of pictures (N, h, w, C)."""
        plan = self.plan
        n, h, w, _ = symbols.shape
        start, size = plan.start, plan.stop - plan.start
        canvas = symbols[..., : plan.stop].clone()
        mask = torch.zeros(h, w, 1)
        for grid in plan.known:
            mask[grid.y :: grid.stride, grid.x :: grid.stride] = 1
        canvas[..., start:] *= mask
        padded = F.pad(canvas, (0, 0, WINDOW, WINDOW, WINDOW, WINDOW))
        magnitude = padded[:, WINDOW - 1 : h + WINDOW + 1, WINDOW - 1 : w + WINDOW + 1].abs()
        magnitude = magnitude[:, :-2] + magnitude[:, 1:-1] + magnitude[:, 2:]
        energy = (magnitude[:, :, :-2] + magnitude[:, :, 1:-1] + magnitude[:, :, 2:]) * _ENERGY_UNIT
        counts = torch.full((plan.stop,), float(h * w))
        counts[start:] = mask.sum().clamp_min(1)
        means = torch.zeros(n, self.channels)
        means[:, : plan.stop] = canvas.abs().sum((1, 2)) / counts
        shared = torch.cat([torch.ones(n, 1), inverse[:, None], means], 1)
        inputs, targets = [], []
        for grid in plan.grids:
            at = torch.arange(grid.y, h, grid.stride), torch.arange(grid.x, w, grid.stride)
            count = len(at[0]) * len(at[1])

            def window(taps: tuple[tuple[int, int], ...], first: int, last: int, grid: Grid = grid) -> Tensor:
                parts = [
                    padded[:, WINDOW + dy : WINDOW + dy + h, WINDOW + dx : WINDOW + dx + w, first:last][
                        :, grid.y :: grid.stride, grid.x :: grid.stride
                    ]
                    for dy, dx in taps
                ]
                return torch.stack(parts, 3).flatten(3) if parts else torch.zeros(n, len(at[0]), len(at[1]), 0)

            local = [window(TAPS, 0, start), window(plan.own_taps, start, plan.stop)]
            local.append(energy[:, grid.y :: grid.stride, grid.x :: grid.stride])
            local.append(shared[:, None, None].expand(n, len(at[0]), len(at[1]), -1))
            inputs.append(torch.cat(local, 3).reshape(n, count, -1))
            target = symbols[:, grid.y :: grid.stride, grid.x :: grid.stride, start : plan.stop]
            targets.append(target.reshape(n, count, size))
        return torch.cat(inputs, 1), torch.cat(targets, 1)

    def exponents(self) -> tuple[Tensor, Tensor]:
        """Fractional bits of the hidden columns (H,) and of the outputs (2 * size,), so that weights fit int8."""
        local = self.plan.locals
        scaled_first = (self.first * self.unit * self.used).detach()
        scaled_direct = (self.direct * self.unit * self.used).detach()
        largest_first = scaled_first[:local].abs().amax(0)
        largest_out = torch.maximum(scaled_direct[:local].abs().amax(0), self.second.detach().abs().amax(0))
        first = torch.floor(torch.log2(127 / largest_first.clamp_min(1e-3))).clamp(HIDDEN_BITS, 16)
        out = torch.floor(torch.log2(127 / largest_out.clamp_min(1e-3))).clamp(SCALE_BITS - HIDDEN_BITS, 12)
        window = local - self.plan.stop
        for weights, bits, limit in ((scaled_first, first, 4), (scaled_direct, out, 4)):
            size = weights.abs() * torch.exp2(bits)
            bound = size[:window].sum(0) * SYMBOL_LIMIT + size[window:local].sum(0) * ENERGY_LIMIT
            bound = bound + size[local] + size[local + 1] * 8192 + size[local + 2 :].sum(0) * 16 * SYMBOL_LIMIT
            excess = torch.ceil(torch.log2(bound / (0.9 * EXACT))).clamp_min(0)
            bits.copy_((bits - excess).clamp_min(limit))
        size = self.second.detach().abs() * torch.exp2(out)
        out -= torch.ceil(torch.log2(size.sum(0) * HIDDEN_LIMIT / (0.9 * EXACT))).clamp_min(0)
        return first, out.clamp_min(SCALE_BITS - HIDDEN_BITS)

    def integers(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(hidden bits, output bits, first, second, direct): the weights in their integer units, gradients pass."""
        bits, out_bits = self.exponents()
        local = self.plan.locals
        fine = torch.ones(len(self.unit), 1)
        fine[local:] = 2.0**GLOBAL_BITS
        fold = self.unit * self.used * fine
        limit = torch.full((len(self.unit), 1), 127.0)
        limit[local:] = 2.0**30
        first = _round(torch.minimum(torch.maximum(self.first * fold * torch.exp2(bits), -limit), limit))
        direct = _round(torch.minimum(torch.maximum(self.direct * fold * torch.exp2(out_bits), -limit), limit))
        second = _round((self.second * torch.exp2(out_bits)).clamp(-127, 127))
        return bits, out_bits, first, second, direct

    def forward(self, inputs: Tensor, quantised: bool) -> tuple[Tensor, Tensor]:
        """Means and scales (..., size) in symbols, of rows (..., inputs)."""
        if quantised:
            bits, out_bits, first, second, direct = self.integers()
            fine = torch.ones(len(self.unit), 1)
            fine[self.plan.locals :] = 2.0**-GLOBAL_BITS
            first, direct = (
                first * fine / self.unit * torch.exp2(-bits),
                direct * fine / self.unit * torch.exp2(-out_bits),
            )
            second = second * torch.exp2(-out_bits)
            hidden = F.relu(inputs @ first)
            unit = 2.0**HIDDEN_BITS
            hidden = hidden + (torch.floor(hidden * unit) / unit - hidden).detach()
        else:
            first, second, direct = self.first * self.used, self.second, self.direct * self.used
            hidden = F.relu(inputs @ first)
        output = hidden @ second + inputs @ direct
        mean, scale = output.chunk(2, -1)
        return mean, scale

    @torch.no_grad()
    def export(self) -> dict[str, NDArray[np.int64]]:
        """The integer arrays of the pass."""
        bits, out_bits, first, second, direct = self.integers()
        size = self.plan.stop - self.plan.start
        local = self.plan.locals
        direct[local, :size] += 2.0 ** (GLOBAL_BITS - MEAN_BITS - 1) * torch.exp2(out_bits[:size])  # rounds by flooring
        both = torch.cat([first, direct], 1).round().numpy().astype(np.int64)
        out_shift = out_bits + HIDDEN_BITS
        out_shift[:size] -= MEAN_BITS
        out_shift[size:] -= SCALE_BITS
        return {
            "weights": both[:local],
            "global_weights": both[local:],
            "shift": (bits - HIDDEN_BITS).numpy().astype(np.int64),
            "out_weights": second.round().numpy().astype(np.int64),
            "out_shift": out_shift.numpy().astype(np.int64),
        }


class Network(nn.Module):
    """All passes, and the heavy-tailed shape that stands for the tables while training."""

    def __init__(self, channels: int, config: FitConfig) -> None:
        super().__init__()
        self.passes = nn.ModuleList(PassNet(plan, channels, config.hidden) for plan in plan_passes(channels))
        self.share = nn.Parameter(torch.tensor([1.0, 0.0, -2.0]))
        self.width = nn.Parameter(torch.tensor([-0.9, -0.3, 0.6]))

    def bits(self, symbols: Tensor, inverse: Tensor, quantised: bool) -> Tensor:
        """Bits (N,) of pictures (N, h, w, C) at inverse steps (N,)."""
        total = torch.zeros(len(symbols))
        share, width = torch.softmax(self.share, 0), torch.exp(self.width)
        for net in self.passes:
            inputs, targets = net.rows(symbols, inverse)
            mean, scale = net(inputs, quantised)
            # The leak keeps a scale that fell too low alive.
            scale = scale.clamp_min(_LEAST_SCALE) + (0.01 * (scale - _LEAST_SCALE).clamp(-3, 0)).clamp_min(-0.03)
            distance = -(targets - mean).abs()
            likelihood = torch.zeros(())
            for k in range(3):
                spread = scale * width[k]
                inside = torch.sigmoid((distance + 0.5) / spread) - torch.sigmoid((distance - 0.5) / spread)
                likelihood = likelihood + share[k] * inside
            total = total - torch.log2(likelihood.clamp_min(2.0**-18)).sum((1, 2))
        return total
