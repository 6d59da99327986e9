"""The float twin of a prior's network: same inputs, same rounding simulated, gradients on top."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sdrt.coding.prior import (
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
from sdrt_export.prior_tables import SPREAD, TAIL

Arrays = dict[str, NDArray[np.generic]]
Taps = tuple[tuple[int, int], ...]

TAPS: Taps = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1))
_WIDE: Taps = tuple((y, x) for y in range(-WINDOW, WINDOW + 1) for x in range(-WINDOW, WINDOW + 1))
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
_ENERGY_UNIT = 0.25  # energies are sums of nine; what else inputs differ by is for PassNet.pace
_INVERSE_UNIT = 1 / 32
_LARGEST_WEIGHT = 127
_LARGEST_WIDE_WEIGHT = 2.0**30  # of one and of the inverse step
_SCALE_PACE = 0.18
"""Weights of scales are trained in units of this: large steps there drown the means in noise."""
_LEAST_BITS = 4  # fractional bits that the shifts need


@dataclass(frozen=True)
class FitConfig:
    """How a network is trained. These numbers alone decide the result; the clock never does."""

    hidden: int = 44
    sparse_hidden: int = 20  # of the passes that code an eighth of the positions or less
    iterations: int = 1500
    batch: int = 8
    learning_rate: float = 3e-3
    quantised_share: float = 0.03  # the last part of the iterations sees rounded weights; more of it only disturbs
    patience: int = 4  # looks at held-out pictures without gain before stopping
    seed: int = 1


@dataclass(frozen=True)
class PassPlan:
    """Channels [start, stop) on ``grids``; ``known`` are the grids of those channels that are decoded already."""

    start: int
    stop: int
    grids: tuple[Grid, ...]
    known: tuple[Grid, ...]
    own_taps: Taps

    @property
    def size(self) -> int:
        return self.stop - self.start

    @property
    def window(self) -> int:
        """Inputs that are symbols."""
        return len(TAPS) * self.start + len(self.own_taps) * self.size

    @property
    def small(self) -> int:
        """Inputs with int8 weights: symbols, energies, mean magnitudes; one and the inverse step follow."""
        return self.window + 2 * self.stop


def channel_groups(channels: int) -> list[int]:
    """Sizes of the groups: each as many channels as all before it; single channels where there are four or fewer.

    Channels of a group do not see each other at their own position, and those with most to say come first and are
    alike most: so these go one by one.
    """
    if channels <= 4:
        return [1] * channels
    sizes: list[int] = []
    while sum(sizes) < channels:
        sizes.append(min(max(1, sum(sizes)), channels - sum(sizes)))
    return sizes


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


def _on_grid(values: Tensor, grid: Grid, offset: tuple[int, int] = (-WINDOW, -WINDOW), trim: int = 0) -> Tensor:
    """(N, h, w, C) at a grid's positions; ``trim`` is what was padded in all, ``offset`` where to look from them."""
    y, x = WINDOW + offset[0], WINDOW + offset[1]
    inner = values[:, y : values.shape[1] - trim + y, x : values.shape[2] - trim + x]
    return inner[:, grid.y :: grid.stride, grid.x :: grid.stride]


class PassNet(nn.Module):
    """The float twin of :class:`sdrt.coding.prior.Pass`.

    An optimiser moves all weights alike. What a move does goes with the size of its input, from hundreds for energies
    to hundredths for symbols of the last channels: so each weight is trained in units of its own, ``pace`` of inputs
    times ``out_pace`` of outputs.
    """

    unit: Tensor
    used: Tensor
    fine: Tensor
    pace: Tensor
    out_pace: Tensor

    def __init__(self, plan: PassPlan, hidden: int) -> None:
        super().__init__()
        self.plan = plan
        inputs = plan.small + 2
        unit, used, fine = torch.ones(inputs, 1), torch.ones(inputs, 1), torch.ones(inputs, 1)
        unit[plan.window : plan.window + plan.stop] = _ENERGY_UNIT
        unit[plan.small + 1] = _INVERSE_UNIT
        fine[plan.small :] = 2.0**GLOBAL_BITS
        if not plan.known:
            used[plan.window + plan.start : plan.window + plan.stop] = 0
            used[plan.window + plan.stop + plan.start : plan.small] = 0
        out_pace = torch.ones(2 * plan.size)
        out_pace[plan.size :] = _SCALE_PACE
        buffers = {"unit": unit, "used": used, "fine": fine, "pace": torch.ones(inputs, 1), "out_pace": out_pace}
        for name, values in buffers.items():
            self.register_buffer(name, values)
        self.first = nn.Parameter(torch.randn(inputs, hidden) * 0.7 / inputs**0.5)
        self.second = nn.Parameter(torch.randn(hidden, 2 * plan.size) * 0.1 / hidden**0.5)
        self.direct = nn.Parameter(torch.zeros(inputs, 2 * plan.size))
        with torch.no_grad():
            self.direct[plan.small, plan.size :] = 0.3 / _SCALE_PACE
            self.direct[plan.small + 1, plan.size :] = 0.2 / _SCALE_PACE

    @torch.no_grad()
    def set_paces(self, inputs: Tensor) -> None:
        """Set the inputs' units from typical rows (n, inputs): roots of their sizes, half way to whitening."""
        self.pace.copy_((inputs.square().mean(0) + 1e-4).pow(-0.25)[:, None])

    def rows(self, symbols: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (N, n, inputs) in scaled units and targets (N, n, size) of pictures (N, h, w, C)."""
        plan = self.plan
        n, h, w, _ = symbols.shape
        canvas = symbols[..., : plan.stop].clone()
        mask = torch.zeros(h, w, 1)
        for grid in plan.known:
            mask[grid.y :: grid.stride, grid.x :: grid.stride] = 1
        canvas[..., plan.start :] *= mask
        padded = F.pad(canvas, (0, 0, WINDOW, WINDOW, WINDOW, WINDOW))
        magnitude = padded[:, WINDOW - 1 : h + WINDOW + 1, WINDOW - 1 : w + WINDOW + 1].abs()
        magnitude = magnitude[:, :-2] + magnitude[:, 1:-1] + magnitude[:, 2:]
        energy = (magnitude[:, :, :-2] + magnitude[:, :, 1:-1] + magnitude[:, :, 2:]) * _ENERGY_UNIT
        counts = torch.full((plan.stop,), float(h * w))
        counts[plan.start :] = mask.sum().clamp_min(1)
        shared = torch.cat([canvas.abs().sum((1, 2)) / counts, torch.ones(n, 1), inverse[:, None]], 1)
        inputs, targets = [], []
        for grid in plan.grids:
            target = _on_grid(symbols[..., plan.start : plan.stop], grid)
            local = [_on_grid(padded[..., : plan.start], grid, tap, 2 * WINDOW) for tap in TAPS]
            local += [_on_grid(padded[..., plan.start :], grid, tap, 2 * WINDOW) for tap in plan.own_taps]
            local += [_on_grid(energy, grid), shared[:, None, None].expand(*target.shape[:3], -1)]
            inputs.append(torch.cat(local, 3).flatten(1, 2))
            targets.append(target.flatten(1, 2))
        return torch.cat(inputs, 1), torch.cat(targets, 1)

    def exponents(self) -> tuple[Tensor, Tensor]:
        """Fractional bits of the hidden columns (H,) and of the outputs (2 * size,), so that all bounds hold."""
        plan = self.plan
        first, direct, second = ((weights.detach() * fold).abs() for weights, fold, _fine in self._parts())
        largest_out = torch.maximum(direct[: plan.small].amax(0), second.amax(0))
        found = []
        for weights, largest in ((first, first[: plan.small].amax(0)), (direct, largest_out)):
            bits = torch.floor(torch.log2(_LARGEST_WEIGHT / largest.clamp_min(1e-3))).clamp(_LEAST_BITS, 14)
            reach = weights[: plan.window].sum(0) * SYMBOL_LIMIT
            reach = reach + weights[plan.window : plan.window + plan.stop].sum(0) * ENERGY_LIMIT
            reach = reach + weights[plan.window + plan.stop : plan.small].sum(0) * SYMBOL_LIMIT
            reach = reach + weights[plan.small] + weights[plan.small + 1] * 8192
            found.append(torch.minimum(bits, torch.floor(torch.log2(0.9 * EXACT / reach))))
        room = torch.floor(torch.log2(0.9 * EXACT / (second.sum(0) * HIDDEN_LIMIT).clamp_min(1)))
        return found[0].clamp_min(_LEAST_BITS), torch.minimum(found[1], room).clamp_min(_LEAST_BITS)

    def _parts(self) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
        """Weights, what turns them into units of the integer inputs, and what wide rows have in finer units.

        Of first, direct, second.
        """
        fold = self.unit * self.used * self.pace
        return (
            (self.first, fold, self.fine),
            (self.direct, fold * self.out_pace, self.fine),
            (self.second, self.out_pace, torch.ones(())),
        )

    def integers(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(hidden bits, output bits, first, direct, second): the weights in their integer units; gradients pass."""
        bits, out_bits = self.exponents()
        whole = []
        for (weights, fold, fine), power in zip(self._parts(), (bits, out_bits, out_bits), strict=True):
            scaled = weights * fold * torch.exp2(power) * fine
            limit = torch.where(fine > 1, _LARGEST_WIDE_WEIGHT, float(_LARGEST_WEIGHT))
            whole.append(_round(torch.minimum(torch.maximum(scaled, -limit), limit)))
        return bits, out_bits, whole[0], whole[1], whole[2]

    def forward(self, inputs: Tensor, quantised: bool) -> tuple[Tensor, Tensor]:
        """Means and scales (..., size) in symbols, of rows (..., inputs)."""
        if quantised:
            bits, out_bits, first, direct, second = self.integers()
            unit = self.fine * self.unit
            first, direct = first / unit * torch.exp2(-bits), direct / unit * torch.exp2(-out_bits)
            hidden = F.relu(inputs @ first)
            hidden = hidden + (torch.floor(hidden * 2**HIDDEN_BITS) / 2**HIDDEN_BITS - hidden).detach()
            output = hidden @ (second * torch.exp2(-out_bits)) + inputs @ direct
        else:
            inputs = inputs * (self.used * self.pace)[:, 0]
            output = (F.relu(inputs @ self.first) @ self.second + inputs @ self.direct) * self.out_pace
        mean, scale = output.chunk(2, -1)
        return mean, scale

    @torch.no_grad()
    def export(self) -> dict[str, NDArray[np.int64]]:
        """The integer arrays of the pass."""
        bits, out_bits, first, direct, second = self.integers()
        size, small = self.plan.size, self.plan.small
        # Half an eighth more, so that flooring rounds.
        direct[small, :size] += torch.exp2(out_bits[:size] + (GLOBAL_BITS - MEAN_BITS - 1))
        both = torch.cat([first, direct], 1)
        out_shift = out_bits + HIDDEN_BITS
        out_shift[:size] -= MEAN_BITS
        out_shift[size:] -= SCALE_BITS
        arrays = {
            "weights": both[:small],
            "global_weights": both[small:],
            "shift": bits - HIDDEN_BITS,
            "out_weights": second,
            "out_shift": out_shift,
        }
        return {key: np.rint(values.numpy()).astype(np.int64) for key, values in arrays.items()}


class Network(nn.Module):
    """All passes, and the heavy-tailed shape that stands for the tables while training."""

    def __init__(self, channels: int, config: FitConfig) -> None:
        super().__init__()
        self.config = config
        self.nets = [
            PassNet(plan, config.sparse_hidden if plan.grids[0].stride == 4 else config.hidden)
            for plan in plan_passes(channels)
        ]
        self.passes = nn.ModuleList(self.nets)
        self.share = nn.Parameter(torch.tensor([1.0, 0.0]))
        self.tail = nn.Parameter(torch.tensor(math.log(TAIL)))

    def bits(self, symbols: Tensor, inverse: Tensor, quantised: bool) -> Tensor:
        """Bits (N,) of pictures (N, h, w, C) at inverse steps (N,)."""
        total = torch.zeros(len(symbols))
        share = torch.softmax(self.share, 0)
        # The first width is the unit of scales: were it free, scales would wander away from the tables' classes.
        width = SPREAD * torch.stack([torch.ones(()), torch.exp(self.tail)])
        for net in self.nets:
            inputs, targets = net.rows(symbols, inverse)
            mean, scale = net.forward(inputs, quantised)
            # The leak keeps a scale that fell too low alive.
            scale = scale.clamp_min(_LEAST_SCALE) + (0.01 * (scale - _LEAST_SCALE).clamp(-3, 0)).clamp_min(-0.03)
            distance = -(targets - mean).abs()
            likelihood = torch.zeros(())
            for k in range(2):
                spread = 1 / (scale * width[k])
                inside = torch.sigmoid((distance + 0.5) * spread) - torch.sigmoid((distance - 0.5) * spread)
                likelihood = likelihood + share[k] * inside
            total = total - torch.log2(likelihood.clamp_min(2.0**-18)).sum((1, 2))
        return total
