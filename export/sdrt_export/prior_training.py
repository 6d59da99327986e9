"""Trains the networks of a prior, scan by scan: each sees what the runtime's canvas shows it, and nothing else decides.

Scans share no weights, so each is a small problem of its own: tens of thousands of positions, a few hundred inputs.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sdrt.atomic import make_folder, write_atomic
from sdrt.coding.context import Canvas, inverse_step
from sdrt.coding.prior import SIZE_BITS, Int32, Prior, Scan
from sdrt_export.prior_network import Examples, ScanNet, mean_inputs
from sdrt_export.prior_plan import Arrays, Plan, layout_arrays, unfitted_prior
from sdrt_export.progress import Progress

_RATE_INPUTS = 400  # FitConfig.learning_rate is that of a scan of so many inputs
_MAX_RATE = 0.03
_SCALE_OF_MAGNITUDE = 1.3  # of the shape that training begins with
_LOOKS = 10
_START_POSITIONS = 8192
_ROUNDING_POSITIONS = 16384
_KINDS = {
    "weights": "i1", "own_weights": "i1", "global_weights": "<i4",
    "shift": "u1", "out_weights": "i1", "out_shift": "u1",
}  # fmt: skip

ScanArrays = dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class FitConfig:
    """How networks are trained. These numbers alone decide the result; the clock never does.

    Attributes:
        hidden: units of most scans.
        sparse_hidden: units of scans that code few positions.
        iterations: of each scan.
        batch: positions an iteration.
        positions: at most so many are kept for each scan.
        learning_rate: of a scan of 400 inputs; larger ones learn more slowly.
        seed: of everything random.
    """

    hidden: int = 44
    sparse_hidden: int = 20
    iterations: int = 1200
    batch: int = 2048
    positions: int = 160_000
    learning_rate: float = 3e-3
    seed: int = 1


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture as the coder meets it: coded symbols (h, w, coded channels) and the step index (h, w) of each place."""

    coded: Int32
    step_indices: NDArray[np.integer]


def collect(prior: Prior, samples: Sequence[Sample], most: int, seed: int) -> list[Examples]:
    """What each scan of a prior saw in all samples: at most ``most`` positions of each, evenly chosen.

    Only the prior's coding order matters here, not what its networks say.

    Raises:
        ValueError: no sample has a position that some scan codes.
    """
    random = np.random.default_rng(seed)
    found: list[list[tuple[NDArray[np.float16], ...]]] = [[] for _ in prior.scans]
    each = max(64, 2 * most // len(samples))
    for sample in samples:
        canvas = Canvas(prior, sample.step_indices)
        inverse = np.array([inverse_step(i) / 32 for i in range(1024)], np.float32)[sample.step_indices]
        # A picture of few bits counts for more than its share, or low qualities would learn nothing.
        weight = (np.abs(sample.coded).mean() + 0.02) ** -0.5
        for scan, seen in zip(prior.scans, found, strict=True):
            places = canvas.positions(scan)
            values = np.asarray(canvas.rows(sample.coded, places)[:, scan.start : scan.stop], np.int32)
            if len(places):
                chosen = np.arange(len(places))
                if len(places) > each:
                    chosen = np.sort(random.choice(chosen, each, replace=False))
                some = places[chosen]
                quality = canvas.rows(inverse, some)[:, None]
                inputs = np.concatenate([canvas.inputs(scan, some), *_shared(canvas, scan, quality)], axis=1)
                parts = (inputs, _own(canvas, scan, some), values[chosen], np.full((len(some), 1), weight))
                # Half precision is exact for symbols up to 2048 and close enough for sums.
                seen.append(tuple(part.astype(np.float16) for part in parts))
            canvas.store(scan, places, values)
    gathered = []
    for number, seen in enumerate(found):
        if not seen:
            raise ValueError(f"scan {number} codes nothing in any sample")
        examples = Examples(*(torch.from_numpy(np.concatenate(part)) for part in zip(*seen, strict=True)))
        seen.clear()
        if len(examples) > most:
            index = torch.from_numpy(np.sort(random.choice(len(examples), most, replace=False)))
            fields = (examples.inputs, examples.own, examples.symbols, examples.weights)
            examples = Examples(*(field[index] for field in fields))
        gathered.append(examples)
    return gathered


def _shared(canvas: Canvas, scan: Scan, quality: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """Mean magnitudes, one and the inverse step, (positions, ...)."""
    shown = scan.mean_weights.shape[0]
    means = (canvas.sums[:shown] << SIZE_BITS) // np.maximum(canvas.counts[:shown], 1)
    return np.broadcast_to(mean_inputs(means), (len(quality), shown)), np.ones_like(quality), quality


def _own(canvas: Canvas, scan: Scan, places: NDArray[np.int64]) -> NDArray[np.int16]:
    if not scan.wide or not scan.own_taps:
        return np.zeros((len(places), 0, scan.size), np.int16)
    taps = [canvas.seen(places + canvas.offset(*tap), slice(scan.start, scan.stop)) for tap in scan.own_taps]
    return np.stack(taps, axis=1)


def train_networks(
    plan: Plan,
    training: Sequence[Sample],
    held: Sequence[Sample],
    config: FitConfig,
    finished: Path | None = None,
) -> Arrays:
    """The network arrays of a prior with this coding order.

    Args:
        plan: the coding order.
        training: pictures to learn from.
        held: pictures by which the best state of each scan is chosen.
        config: settings; the same ones, torch and pictures give the same arrays.
        finished: a folder that belongs to these very arguments and keeps each scan that is done, so that a training
            that was interrupted goes on after the last of them and gives what it would have given.

    Raises:
        OutputError: ``finished`` cannot be written.
    """
    prior = unfitted_prior(plan)
    state = torch.get_rng_state()
    exported: list[ScanArrays] = []
    while finished and len(exported) < len(prior.scans) and (kept := _recall(finished, len(exported))):
        exported.append(kept)
    with Progress("prior: scans", len(prior.scans), done=len(exported)) as progress:
        if len(exported) < len(prior.scans):
            seen = collect(prior, training, config.positions, config.seed)
            judged = collect(prior, held, config.positions // 4, 0)
        for number, scan in enumerate(prior.scans[len(exported) :], len(exported)):
            torch.manual_seed(config.seed + number)
            net, bits = fit_scan(scan, seen[number], judged[number], config)
            exported.append(net.export())
            if finished:
                _keep(finished, number, exported[-1])
            channels = f"channels {scan.start}..{scan.stop - 1}"
            progress.reach(number + 1, f"{channels}: {bits[0]:.3f} -> {bits[1]:.3f} bits a position held out")
    torch.set_rng_state(state)
    together = {key: np.concatenate([e[key].ravel() for e in exported]).astype(kind) for key, kind in _KINDS.items()}
    return {**layout_arrays(plan), **together}


def _keep(folder: Path, number: int, arrays: ScanArrays) -> None:
    """All or nothing, so that an interruption leaves no half of a file."""
    stream = io.BytesIO()
    # Without allow_pickle, which numpy 1 takes for an array of that name; no array here holds objects.
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    make_folder(folder)
    write_atomic(folder / f"{number:03}.npz", stream.getvalue())


def _recall(folder: Path, number: int) -> ScanArrays | None:
    """What ``_keep`` kept; None where nothing whole is."""
    try:
        with np.load(folder / f"{number:03}.npz", allow_pickle=False) as data:
            return {key: data[key] for key in _KINDS}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None


def fit_scan(scan: Scan, seen: Examples, kept: Examples, config: FitConfig) -> tuple[ScanNet, NDArray[np.float64]]:
    """The trained network of a scan, and held-out bits a position at the linear start and at the end."""
    net = ScanNet(scan)
    start = seen.at(torch.randperm(len(seen))[:_START_POSITIONS])
    net.set_paces(start)
    _start_linear(net, start)
    share = nn.Parameter(torch.tensor(-1.0))
    rate = min(_MAX_RATE, config.learning_rate * _RATE_INPUTS / net.first.shape[0])
    optimizer = torch.optim.Adam(
        [{"params": list(net.parameters()), "lr": rate}, {"params": [share], "lr": config.learning_rate}], fused=True
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    first = _held_bits(net, kept, False, share)
    best, best_state = math.inf, _state(net, share)
    for i in range(config.iterations):
        part = min(1.0, (i + 1) / 50) * (0.02 + 0.49 * (1 + math.cos(math.pi * i / config.iterations)))
        for group, full in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = full * part
        some = seen.at(torch.randint(len(seen), (config.batch,)))
        loss = (net.bits(some, False, share.sigmoid())[:, None] * some.weights).mean() / scan.size
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if (i + 1) % max(1, config.iterations // _LOOKS) == 0 or i + 1 == config.iterations:
            figure = _held_bits(net, kept, False, share)
            if figure < best:
                best, best_state = figure, _state(net, share)
    _restore(net, share, best_state)
    net.round_together(seen.at(torch.randperm(len(seen))[:_ROUNDING_POSITIONS]))
    return net, np.array([first, _held_bits(net, kept, True, share)])


def _state(net: ScanNet, share: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}, share.detach().clone()


def _restore(net: ScanNet, share: Tensor, state: tuple[dict[str, Tensor], Tensor]) -> None:
    net.load_state_dict(state[0])
    share.data.copy_(state[1])


@torch.no_grad()
def _held_bits(net: ScanNet, kept: Examples, rounded: bool, share: Tensor) -> float:
    pieces = torch.split(torch.arange(len(kept)), 8192)
    return sum(float(net.bits(kept.at(piece), rounded, share.sigmoid()).sum()) for piece in pieces) / len(kept)


@torch.no_grad()
def _start_linear(net: ScanNet, seen: Examples) -> None:
    """Least squares give the direct weights: means from symbols, then scales from magnitudes, one and quality.

    The training then begins where a linear predictor ends, which saves it half of its iterations.
    """
    scan, size = net.scan, net.scan.size
    weight = seen.weights * (seen.symbols.square().mean(1, keepdim=True) + 0.05).rsqrt()
    inputs, symbols = seen.inputs, seen.symbols
    if scan.wide:
        if scan.own_taps:
            for channel in range(size):
                found = _ridge(seen.own[:, :, channel].abs() * weight, symbols[:, channel : channel + 1].abs() * weight)
                net.own[1, :, channel] = found[:, 0] * 0.7 / _pace_of_scales(net)
        constant = symbols.abs().mean(0) * 0.3
        net.direct[0, size:] = constant / (net.pace[-2] * net.out_pace[size:])
        return
    window = net.counted - scan.stop  # inputs that are symbols
    if window:
        mean_weights = _ridge(inputs[:, :window] * weight, symbols * weight)
        net.direct[:window, :size] = mean_weights / net.pace[:window]
        symbols = symbols - inputs[:, :window] @ mean_weights
    scale_weights = _SCALE_OF_MAGNITUDE * _ridge(inputs[:, window:] * weight, symbols.abs() * weight)
    net.direct[window:, size:] = scale_weights / (net.pace[window:] * net.out_pace[size:])


def _pace_of_scales(net: ScanNet) -> float:
    return float(net.out_pace[-1])


def _ridge(inputs: Tensor, targets: Tensor) -> Tensor:
    square = (inputs.T @ inputs).double()
    damping = 0.003 * square.diagonal().mean() + 1e-6
    square.diagonal().add_(damping)
    solved: Tensor = torch.linalg.solve(square, (inputs.T @ targets).double())
    return solved.float()
