"""The float twin of a scan's network: the runtime's inputs, gradients on top, and its weights as whole numbers.

Weights are rounded once, after training, with compensation (`rounded_together`): what one weight's rounding does to the
outputs, the weights that are not yet rounded undo as far as their inputs go together. Training with simulated
rounding ended 1 to 2 % of the bits higher (four scans of models/tiny, crops held out).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

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
_DAMPING = 1e-3
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


class Integers(NamedTuple):
    """The weights of a scan's network as whole numbers, and what they are counted in.

    Attributes:
        bits: (H,), fractional bits of the hidden columns.
        out_bits: (2 n,), of the outputs.
        first: (inputs, H).
        direct: (inputs or 2, 2 n).
        second: (H, 2 n).
        own: (2, own taps, n).
    """

    bits: Tensor
    out_bits: Tensor
    first: Tensor
    direct: Tensor
    second: Tensor
    own: Tensor


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
        self._integers: Integers | None = None
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

    def integers(self) -> Integers:
        """Weights in their integer units: those of `round_together`, or else each rounded by itself."""
        if self._integers is None:
            bits, out_bits = self.exponents()
            folded = [weights.detach() for weights in self._folded()]
            limits = self._limits, self._limits[-len(folded[1]) :], *(torch.full((), _LARGEST_WEIGHT),) * 2
            parts = zip(folded, self._units(bits, out_bits, len(folded[1])), limits, strict=True)
            return Integers(bits, out_bits, *(_whole(weights / unit, limit) for weights, unit, limit in parts))
        return self._integers

    @property
    def _limits(self) -> Tensor:
        """How large whole weights of the inputs may be, (inputs, 1): as large as int8 holds, or int32."""
        return torch.where(self.fine > 1, _LARGEST_WIDE_WEIGHT, float(_LARGEST_WEIGHT))

    def _units(self, bits: Tensor, out_bits: Tensor, direct: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What one is worth in first, direct, second and own."""
        out = torch.exp2(-out_bits)
        own = out.unflatten(0, (2, -1))[:, None]  # type: ignore[no-untyped-call]
        return torch.exp2(-bits) / self.fine, out / self.fine[-direct:], out[None], own

    @torch.no_grad()
    def round_together(self, examples: Examples) -> None:
        """Makes the weights whole numbers, by what they do to the outputs at some positions.

        The hidden layer's weights first, so that its sums stay; then those of the outputs, against what the outputs
        were before. Outputs count in units of the scale there, for bits go by these. Where sums would no longer be
        exact in the runtime's float32, each weight is rounded by itself.
        """
        _mean, scale = self.forward(examples, False)
        bits, out_bits = self.exponents()
        first, direct, second, _own = self._folded()
        first_unit, direct_unit, second_unit, _own_unit = self._units(bits, out_bits, len(direct))
        inputs, weights = examples.inputs, examples.weights
        plain = self.integers()
        found = rounded_together(inputs, weights, first, first_unit, self._limits)
        hidden_before = F.relu(inputs @ first)
        hidden = torch.floor(F.relu(inputs @ (found * first_unit)) * 2**HIDDEN_BITS) / 2**HIDDEN_BITS
        straight = inputs[:, -len(direct) :]
        together = torch.cat([hidden, straight], 1)
        target = hidden_before @ second + straight @ direct
        units = torch.cat([second_unit.expand_as(second), direct_unit])
        limits = torch.cat([torch.full((len(second), 1), float(_LARGEST_WEIGHT)), self._limits[-len(direct) :]])
        counts = (weights / scale.clamp_min(MIN_SCALE).square()).repeat(1, 2)
        outputs = []
        for column in range(len(out_bits)):
            count, one = counts[:, column, None], slice(column, column + 1)
            before = torch.cat([second, direct])[:, one]
            left = target[:, one] - together @ before
            before = before + _least_squares(together, count, left)
            outputs.append(rounded_together(together, count, before, units[:, one], limits))
        output = torch.cat(outputs, 1)
        whole = Integers(bits, out_bits, found, output[len(second) :], output[: len(second)], plain.own)
        self._integers = whole if self._holds(whole) else plain

    def _holds(self, whole: Integers) -> bool:
        """Whether all sums stay exact in float32 with these weights."""
        hidden = (whole.first / self.fine).abs() * self.limits
        out = (whole.direct / self.fine[-len(whole.direct) :]).abs() * self.limits[-len(whole.direct) :]
        sums = out.sum(0) + whole.own.abs().sum(1).flatten() * SYMBOL_LIMIT
        sums = torch.maximum(sums, whole.second.abs().sum(0) * HIDDEN_LIMIT)
        return bool(hidden.sum(0).max() < 0.95 * EXACT and sums.max() < 0.95 * EXACT)

    def forward(self, examples: Examples, rounded: bool) -> tuple[Tensor, Tensor]:
        """Means and scales (n, channels), in symbols."""
        if rounded:
            whole = self.integers()
            parts = (whole.first, whole.direct, whole.second, whole.own)
            units = self._units(whole.bits, whole.out_bits, len(whole.direct))
            first, direct, second, own = (part * unit for part, unit in zip(parts, units, strict=True))
        else:
            first, direct, second, own = self._folded()
        hidden = F.relu(examples.inputs @ first)
        if rounded:
            hidden = torch.floor(hidden * 2**HIDDEN_BITS) / 2**HIDDEN_BITS
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
        whole = self.integers()
        bits, out_bits, own = whole.bits, whole.out_bits, whole.own
        first, direct, second = whole.first.clone(), whole.direct.clone(), whole.second
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


@torch.no_grad()
def rounded_together(inputs: Tensor, counts: Tensor, weights: Tensor, units: Tensor, limits: Tensor) -> Tensor:
    """Whole numbers that, times their units, change ``inputs @ weights`` least.

    One input after the other is rounded, those that matter most first, and the weights of the others take over what its
    rounding changed. Frantar et al., "GPTQ" (ICLR 2023), section 3.

    Args:
        inputs: (n, I).
        counts: (n, 1), how much each row counts.
        weights: (I, O).
        units: (I, O), what a one is worth.
        limits: (I, 1), how large whole numbers may be.

    Returns:
        (I, O), whole numbers in float32.
    """
    square = _square(inputs, counts)
    size = square.diagonal() * units.double().square().mean(1)
    order = size.argsort(descending=True)
    factor = torch.linalg.cholesky(torch.linalg.inv(square[order][:, order]), upper=True)
    left, unit = weights.double()[order], units.double()[order]
    whole = torch.zeros_like(left)
    for i, limit in enumerate(limits[order]):
        whole[i] = _whole(left[i] / unit[i], limit)
        change = (left[i] - whole[i] * unit[i]) / factor[i, i]
        left[i + 1 :] -= factor[i, i + 1 :, None] * change
    result = torch.empty_like(whole)
    result[order] = whole
    return result.float()


def _whole(weights: Tensor, limit: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(torch.round(weights), -limit), limit)


def _square(inputs: Tensor, counts: Tensor) -> Tensor:
    """inputs' counts inputs (I, I), float64, a thousandth more on its diagonal."""
    wide = inputs.double()
    square = wide.T @ (wide * counts.double())
    square.diagonal().add_(_DAMPING * square.diagonal() + 1e-9 * square.diagonal().mean() + 1e-12)
    return square


def _least_squares(inputs: Tensor, counts: Tensor, targets: Tensor) -> Tensor:
    """Weights (I, O) under which inputs are nearest to targets (n, O)."""
    wide = inputs.double()
    solved: Tensor = torch.linalg.solve(_square(inputs, counts), wide.T @ (targets.double() * counts.double()))
    return solved.float()


def mean_inputs(means: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mean magnitudes, in sixteenths as the runtime has them, in symbols."""
    return np.asarray(means / 2**SIZE_BITS, np.float32)
