"""Train the prior's network in float, with its integer arithmetic simulated, and turn it into integers."""

from __future__ import annotations

import math
import sys
import time
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
)

Arrays = dict[str, NDArray[np.generic]]
Coset = tuple[int, int]

EVEN: tuple[Coset, ...] = ((0, 0), (1, 1))
ODD: tuple[Coset, ...] = ((0, 1), (1, 0))
TAPS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1))
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
    """Channels [start, stop) on ``cosets``; ``known`` are the cosets of those channels that are decoded already."""

    start: int
    stop: int
    cosets: tuple[Coset, ...]
    known: tuple[Coset, ...]


def channel_groups(channels: int) -> list[int]:
    """Sizes 1/8, 1/8, 1/4, 1/2 of the channels: early groups are small because they see least."""
    if channels <= 4:
        return [1] * channels
    eighth, quarter = channels // 8 or 1, channels // 4
    return [eighth, eighth, quarter, channels - 2 * eighth - quarter]


def plan_passes(channels: int) -> list[PassPlan]:
    """Three phases for the first group, which has no other channels to look at, two for the others."""
    plans, start = [], 0
    for size in channel_groups(channels):
        known: tuple[Coset, ...] = ()
        for cosets in (EVEN[:1], EVEN[1:], ODD) if start == 0 else (EVEN, ODD):
            plans.append(PassPlan(start, start + size, cosets, known))
            known += cosets
        start += size
    return plans


def _round(values: Tensor) -> Tensor:
    return values + (torch.round(values) - values).detach()


class PassNet(nn.Module):
    """The float twin of :class:`sdrt.prior.Pass`."""

    def __init__(self, plan: PassPlan, channels: int, hidden: int) -> None:
        super().__init__()
        self.plan, self.channels = plan, channels
        size, window = plan.stop - plan.start, len(TAPS) * plan.stop
        inputs = window + plan.stop + 2 + channels
        units = [torch.ones(window), torch.full((plan.stop,), _ENERGY_UNIT), torch.tensor([1.0, _INVERSE_UNIT])]
        self.register_buffer("unit", torch.cat([*units, torch.full((channels,), _MEAN_UNIT)])[:, None])
        self.first = nn.Parameter(torch.randn(inputs, hidden) * 0.7 / inputs**0.5)
        self.second = nn.Parameter(torch.randn(hidden, 2 * size) * 0.1 / hidden**0.5)
        self.direct = nn.Parameter(torch.zeros(inputs, 2 * size))
        with torch.no_grad():
            self.direct[window + plan.stop, size:] = 0.5
        used = torch.ones(inputs, 1)
        for t, (dy, dx) in enumerate(TAPS):
            if all(((y + dy) % 2, (x + dx) % 2) not in plan.known for y, x in plan.cosets):
                used[t * plan.stop + plan.start : (t + 1) * plan.stop] = 0
        if not plan.known:
            used[window + plan.start : window + plan.stop] = 0
        used[window + plan.stop + 2 + (plan.stop if plan.known else plan.start) :] = 0
        self.register_buffer("used", used)

    def rows(self, symbols: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (N, n, inputs) in scaled units and targets (N, n, size) of pictures (N, h, w, C)."""
        plan = self.plan
        n, h, w, _ = symbols.shape
        size = plan.stop - plan.start
        canvas = symbols[..., : plan.stop].clone()
        mask = torch.zeros(h, w, 1)
        for y, x in plan.known:
            mask[y::2, x::2] = 1
        canvas[..., plan.start :] *= mask
        padded = F.pad(canvas, (0, 0, 1, 1, 1, 1))
        magnitude = padded.abs()
        magnitude = magnitude[:, :-2] + magnitude[:, 1:-1] + magnitude[:, 2:]
        energy = (magnitude[:, :, :-2] + magnitude[:, :, 1:-1] + magnitude[:, :, 2:]) * _ENERGY_UNIT
        counts = torch.full((plan.stop,), float(h * w))
        counts[plan.start :] = mask.sum().clamp_min(1)
        means = torch.zeros(n, self.channels)
        means[:, : plan.stop] = canvas.abs().sum((1, 2)) / counts
        shared = torch.cat([torch.ones(n, 1), inverse[:, None], means], 1)
        inputs, targets = [], []
        for y, x in plan.cosets:
            rows, columns = (h - y + 1) // 2, (w - x + 1) // 2
            parts = [
                padded[:, 1 + y + dy : y + dy + 2 * rows + 1 : 2, 1 + x + dx : x + dx + 2 * columns + 1 : 2]
                for dy, dx in TAPS
            ]
            parts.append(energy[:, y::2, x::2])
            local = torch.stack(parts, 3).reshape(n, rows * columns, -1)
            inputs.append(torch.cat([local, shared[:, None].expand(n, rows * columns, -1)], 2))
            targets.append(symbols[:, y::2, x::2, plan.start : plan.stop].reshape(n, rows * columns, size))
        return torch.cat(inputs, 1), torch.cat(targets, 1)

    def exponents(self) -> tuple[Tensor, Tensor]:
        """Fractional bits of the hidden columns (H,) and of the outputs (2 * size,), so that weights fit int8."""
        local = len(TAPS) * self.plan.stop + self.plan.stop
        scaled_first = (self.first * self.unit * self.used).detach()
        scaled_direct = (self.direct * self.unit * self.used).detach()
        largest_first = scaled_first[:local].abs().amax(0)
        largest_out = torch.maximum(scaled_direct[:local].abs().amax(0), self.second.detach().abs().amax(0))
        first = torch.floor(torch.log2(127 / largest_first.clamp_min(1e-3))).clamp(HIDDEN_BITS, 16)
        out = torch.floor(torch.log2(127 / largest_out.clamp_min(1e-3))).clamp(SCALE_BITS - HIDDEN_BITS, 12)
        window = len(TAPS) * self.plan.stop
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
        local = len(TAPS) * self.plan.stop + self.plan.stop
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
            fine[len(TAPS) * self.plan.stop + self.plan.stop :] = 2.0**-GLOBAL_BITS
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
        local = len(TAPS) * self.plan.stop + self.plan.stop
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


def _batch(latents: list[Tensor], index: Tensor, log2_step: Tensor) -> tuple[Tensor, Tensor]:
    chosen = [latents[i] for i in index.tolist()]
    height, width = min(p.shape[0] for p in chosen), min(p.shape[1] for p in chosen)
    pictures = []
    for picture in chosen:
        y = int(torch.randint(picture.shape[0] - height + 1, ()))
        x = int(torch.randint(picture.shape[1] - width + 1, ()))
        pictures.append(picture[y : y + height, x : x + width])
    step = torch.exp2(log2_step)
    symbols = torch.round(torch.stack(pictures) / step[:, None, None, None]).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT)
    return symbols, 1 / step


def train_network(
    training: list[NDArray[np.float32]],
    held: list[NDArray[np.float32]],
    index_range: tuple[int, int],
    config: FitConfig,
) -> Arrays:
    """The network arrays of a prior, for latents (h, w, C) in base steps and coding order.

    Pictures are quantised at random step indices of ``index_range``. Every tenth of the way the bits of the held-out
    pictures are printed; after ``patience`` such looks without gain the remaining unrounded iterations are skipped.
    The same arguments and torch give the same arrays.
    """
    generator_state = torch.get_rng_state()
    torch.manual_seed(config.seed)
    channels = training[0].shape[2]
    network = Network(channels, config)
    optimizer = torch.optim.Adam(
        network.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    pictures, kept = [torch.from_numpy(p) for p in training], [torch.from_numpy(p) for p in held]
    low, high = ((i - 512) / 64 for i in sorted(index_range))
    rounded_from = int(config.iterations * (1 - config.quantised_share))
    look_every = max(20, config.iterations // 12)
    best, best_state, since, started, i = math.inf, network.state_dict(), 0, time.monotonic(), 0
    while i < config.iterations:
        quantised = i >= rounded_from
        progress = i / config.iterations
        warm_up = min(1.0, (i + 1) / 50)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * warm_up * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))
        log2_step = low + torch.rand(config.batch) * (high - low)
        symbols, inverse = _batch(pictures, torch.randint(len(pictures), (config.batch,)), log2_step)
        bits = network.bits(symbols, inverse, quantised) / symbols[0].numel()
        # A picture of few bits counts for more than its share, or low qualities would learn nothing.
        loss = (bits / (bits.detach() + 0.05).sqrt()).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        i += 1
        if i % look_every and i not in (rounded_from, config.iterations):
            continue
        if i == rounded_from and since:
            network.load_state_dict(best_state)
        figure = _held_bits(network, kept, (low, high), quantised)
        print(
            f"  prior: {i}/{config.iterations}  training {bits.mean().item():.4f}  held out {figure:.4f} bits a symbol"
            f"  {time.monotonic() - started:.0f} s",
            file=sys.stderr,
            flush=True,
        )
        if quantised and best_state is not None and i - look_every < rounded_from:
            best = math.inf  # figures with rounded weights are not those without
        if figure < best:
            best, since = figure, 0
            best_state = {key: value.clone() for key, value in network.state_dict().items()}
        else:
            since += 1
            if since >= config.patience:
                if quantised:
                    break
                network.load_state_dict(best_state)
                i, since = rounded_from, 0
    network.load_state_dict(best_state)
    torch.set_rng_state(generator_state)
    return _arrays(network, config)


@torch.no_grad()
def _held_bits(network: Network, pictures: list[Tensor], span: tuple[float, float], quantised: bool) -> float:
    total, count = 0.0, 0
    for picture in pictures:
        for share in (0.2, 0.5, 0.8):
            step = 2.0 ** (span[0] + share * (span[1] - span[0]))
            symbols = torch.round(picture[None] / step).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT)
            total += float(network.bits(symbols, torch.tensor([1 / step]), quantised)) / symbols.numel()
            count += 1
    return total / count


def _arrays(network: Network, config: FitConfig) -> Arrays:
    exported = [net.export() for net in network.passes]
    plans = [net.plan for net in network.passes]
    masks = [sum(1 << (2 * y + x) for y, x in plan.cosets) for plan in plans]
    rows = [[plan.start, plan.stop, mask, config.hidden, len(TAPS)] for plan, mask in zip(plans, masks, strict=True)]
    kinds = {"weights": "i1", "global_weights": "<i4", "shift": "u1", "out_weights": "i1", "out_shift": "u1"}
    return {
        "passes": np.array(rows, "<i2"),
        "taps": np.array(TAPS * len(plans), np.int8),
        **{key: np.concatenate([e[key].ravel() for e in exported]).astype(kind) for key, kind in kinds.items()},
    }
