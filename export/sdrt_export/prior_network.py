"""The float twin of a scan's network: the runtime's inputs, the same rounding simulated, gradients on top."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sdrt.coding.prior import (
    EXACT,
    GLOBAL_BITS,
    HIDDEN_BITS,
    HIDDEN_LIMIT,
    MEAN_BITS,
    SCALE_BITS,
    SIZE_BITS,
    SYMBOL_LIMIT,
    Scan,
    input_limits,
)
from sdrt_export.prior_tables import SPREAD, TAIL

MIN_SCALE = 0.04
"""In symbols: below, the tables are all but certain."""
_LARGEST_WEIGHT = 127
_LARGEST_WIDE_WEIGHT = 2.0**30  # of one and of the inverse step
_LARGEST_INVERSE = 8192
_SCALE_PACE = 0.18
"""Weights of scales are trained in units of this: large steps there drown the means in noise."""
_MIN_BITS = 4  # fractional bits that the shifts need


@dataclass(frozen=True)
class Examples:
    """What a scan saw and coded, at some positions.

    Attributes:
        inputs: (n, inputs) as `Canvas.inputs` gives them, then mean magnitudes in symbols, one, and the inverse step.
        own: (n, own taps, channels), neighbors of wide scans; no taps otherwise.
        symbols: (n, channels).
        weights: (n, 1), how much each position counts.
    """

    inputs: Tensor
    own: Tensor
    symbols: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def at(self, index: Tensor) -> Examples:
        """Some of the positions, as float32."""
        parts = (self.inputs, self.own, self.symbols, self.weights)
        return Examples(*(part[index].float() for part in parts))


class ScanNet(nn.Module):
    """The network of one scan, with weights in floats.

    An optimizer moves all weights alike. What a move does goes with the size of its input, from hundreds for energies
    to hundredths for symbols of the last channels: so each weight is trained in units of its own, ``pace`` of inputs
    times ``out_pace`` of outputs.
    """

    limits: Tensor
    fine: Tensor
    pace: Tensor
    out_pace: Tensor

    def __init__(self, scan: Scan) -> None:
        super().__init__()
        self.scan = scan
        size, hidden = scan.size, scan.hidden
        self.counted = scan.weights.shape[0]  # inputs with int8 weights at positions
        self.means = scan.mean_weights.shape[0]
        inputs = self.counted + self.means + 2
        own = 0 if scan.wide else len(scan.own_taps) * size
        shown = len(scan.taps) * scan.near
        limits = input_limits(shown, own, self.means, scan.bands)
        limits = np.concatenate([limits, np.full(self.means, SYMBOL_LIMIT), [1, _LARGEST_INVERSE / 32]])
        fine = torch.ones(inputs, 1)
        fine[-2:] = 2.0**GLOBAL_BITS
        out_pace = torch.ones(2 * size)
        out_pace[size:] = _SCALE_PACE
        buffers = {
            "limits": torch.from_numpy(limits).float()[:, None],
            "fine": fine,
            "pace": torch.ones(inputs, 1),
            "out_pace": out_pace,
        }
        for name, values in buffers.items():
            self.register_buffer(name, values)
        self.first = nn.Parameter(torch.randn(inputs, hidden) * 0.7 / inputs**0.5)
        self.second = nn.Parameter(torch.randn(hidden, 2 * size) * 0.1 / hidden**0.5)
        # Of wide scans only one and the inverse step reach the outputs directly.
        self.direct = nn.Parameter(torch.zeros(2 if scan.wide else inputs, 2 * size))
        self.own = nn.Parameter(torch.zeros(2, len(scan.own_taps) if scan.wide else 0, size))
        with torch.no_grad():
            self.direct[-2, size:] = 0.3 / _SCALE_PACE
            self.direct[-1, size:] = 0.2 / _SCALE_PACE

    @torch.no_grad()
    def set_paces(self, examples: Examples) -> None:
        """Sets the inputs' units: roots of their sizes, half way to whitening."""
        self.pace.copy_((examples.inputs.square().mean(0) + 1e-4).pow(-0.25)[:, None])

    def _folded(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """first, direct, second, own in units of the inputs and outputs."""
        direct = self.direct * (self.pace[-2:] if self.scan.wide else self.pace) * self.out_pace
        own = self.own * self.out_pace.unflatten(0, (2, -1))[:, None]  # type: ignore[no-untyped-call]
        return self.first * self.pace, direct, self.second * self.out_pace, own

    def exponents(self) -> tuple[Tensor, Tensor]:
        """Fractional bits of the hidden columns (H,) and of the outputs (2 n,), so that all bounds hold."""
        first, direct, second, own = (weights.detach().abs() for weights in self._folded())
        reach = {"hidden": (first * self.limits).sum(0), "out": (direct * self.limits[-len(direct) :]).sum(0)}
        reach["out"] = reach["out"] + own.sum(1).flatten() * SYMBOL_LIMIT
        largest = {"hidden": first[:-2].amax(0), "out": second.amax(0)}
        if not self.scan.wide:
            largest["out"] = torch.maximum(largest["out"], direct[:-2].amax(0))
        elif own.shape[1]:
            largest["out"] = torch.maximum(largest["out"], own.amax(1).flatten())
        found = {}
        for name, values in reach.items():
            bits = torch.floor(torch.log2(_LARGEST_WEIGHT / largest[name].clamp_min(1e-3))).clamp(_MIN_BITS, 14)
            found[name] = torch.minimum(bits, torch.floor(torch.log2(0.9 * EXACT / values.clamp_min(1e-3))))
        room = torch.floor(torch.log2(0.9 * EXACT / (second.sum(0) * HIDDEN_LIMIT).clamp_min(1)))
        return found["hidden"].clamp_min(_MIN_BITS), torch.minimum(found["out"], room).clamp_min(_MIN_BITS)

    def integers(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(hidden bits, output bits, first, direct, second, own): weights in their integer units; gradients pass."""
        bits, out_bits = self.exponents()
        first, direct, second, own = self._folded()

        def whole(weights: Tensor, power: Tensor, fine: Tensor | None = None) -> Tensor:
            scaled = weights * torch.exp2(power)
            limit = torch.full_like(scaled, _LARGEST_WEIGHT)
            if fine is not None:
                scaled = scaled * fine
                limit = torch.where(fine > 1, _LARGEST_WIDE_WEIGHT, limit)
            rounded = torch.minimum(torch.maximum(scaled, -limit), limit)
            return rounded + (torch.round(rounded) - rounded).detach()

        fine = self.fine[-len(direct) :]
        own_bits = out_bits.unflatten(0, (2, -1))[:, None]  # type: ignore[no-untyped-call]
        return (
            bits,
            out_bits,
            whole(first, bits, self.fine),
            whole(direct, out_bits, fine),
            whole(second, out_bits),
            whole(own, own_bits),
        )

    def forward(self, examples: Examples, rounded: bool) -> tuple[Tensor, Tensor]:
        """Means and scales (n, channels), in symbols."""
        if rounded:
            bits, out_bits, first, direct, second, own = self.integers()
            first = first / self.fine * torch.exp2(-bits)
            direct = direct / self.fine[-len(direct) :] * torch.exp2(-out_bits)
            second = second * torch.exp2(-out_bits)
            own = own * torch.exp2(-out_bits).unflatten(0, (2, -1))[:, None]  # type: ignore[no-untyped-call]
        else:
            first, direct, second, own = self._folded()
        hidden = F.relu(examples.inputs @ first)
        if rounded:
            hidden = hidden + (torch.floor(hidden * 2**HIDDEN_BITS) / 2**HIDDEN_BITS - hidden).detach()
        output = hidden @ second + examples.inputs[:, -len(direct) :] @ direct
        mean, scale = output.chunk(2, -1)
        if own.shape[1]:
            mean = mean + (examples.own * own[0]).sum(1)
            scale = scale + (examples.own.abs() * own[1]).sum(1)
        return mean, scale

    def bits(self, examples: Examples, rounded: bool, tail_share: Tensor) -> Tensor:
        """Bits (n,) of the positions' symbols, under the heavy-tailed shape that stands for the tables."""
        mean, scale = self.forward(examples, rounded)
        # The leak keeps a scale that fell too low alive.
        scale = scale.clamp_min(MIN_SCALE) + (0.01 * (scale - MIN_SCALE).clamp(-3, 0)).clamp_min(-0.03)
        distance = -(examples.symbols - mean).abs()
        likelihood = torch.zeros(())
        for share, width in ((1 - tail_share, SPREAD), (tail_share, SPREAD * TAIL)):
            spread = 1 / (scale * width)
            inside = torch.sigmoid((distance + 0.5) * spread) - torch.sigmoid((distance - 0.5) * spread)
            likelihood = likelihood + share * inside
        return -torch.log2(likelihood.clamp_min(2.0**-18)).sum(1)

    @torch.no_grad()
    def export(self) -> dict[str, NDArray[np.int64]]:
        """The integer arrays of the scan."""
        bits, out_bits, first, direct, second, own = self.integers()
        size = self.scan.size
        # Half an eighth more, so that flooring rounds.
        direct[-2, :size] += torch.exp2(out_bits[:size] + (GLOBAL_BITS - MEAN_BITS - 1))
        # The inverse step is told in 1/32 of what it means.
        first[-1], direct[-1] = first[-1] / 32, direct[-1] / 32
        small = first if self.scan.wide else torch.cat([first, direct], 1)
        out_shift = out_bits + HIDDEN_BITS
        out_shift[:size] -= MEAN_BITS
        out_shift[size:] -= SCALE_BITS
        arrays = {
            "weights": small[:-2],
            "own_weights": own,
            "global_weights": torch.cat([first[-2:], direct[-2:]], 1),
            "shift": bits - HIDDEN_BITS,
            "out_weights": second,
            "out_shift": out_shift,
        }
        return {key: np.rint(values.numpy()).astype(np.int64) for key, values in arrays.items()}


def mean_inputs(means: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mean magnitudes, in sixteenths as the runtime has them, in symbols."""
    return np.asarray(means / 2**SIZE_BITS, np.float32)
