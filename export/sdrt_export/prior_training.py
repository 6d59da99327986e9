"""Trains the prior's network on latents and hands its integers over."""

from __future__ import annotations

import contextlib
import io
import math
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sdrt.atomic import write_atomic
from sdrt.coding.prior import SYMBOL_LIMIT
from sdrt_export.prior_network import TAPS, Arrays, FitConfig, Network
from sdrt_export.progress import Progress


def _batch(latents: list[Tensor], index: Tensor, log2_step: Tensor) -> tuple[Tensor, Tensor]:
    chosen = [latents[i] for i in index.tolist()]
    height, width = (min(_WINDOW_SIDE, *(p.shape[axis] for p in chosen)) for axis in (0, 1))
    pictures = []
    for picture in chosen:
        y = int(torch.randint(picture.shape[0] - height + 1, ()))
        x = int(torch.randint(picture.shape[1] - width + 1, ()))
        pictures.append(picture[y : y + height, x : x + width])
    step = torch.exp2(log2_step)
    symbols = torch.round(torch.stack(pictures) / step[:, None, None, None]).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT)
    return symbols, 1 / step


_WINDOW_SIDE = 32  # many small windows teach more than few large pictures
_RATE_INPUTS = 400  # FitConfig.learning_rate is that of a pass of so many inputs
_HIGHEST_RATE = 0.03
_TRIALS = 10
_SCALE_OF_MAGNITUDE = 1.3  # of the shape that training begins with


def train_network(
    training: list[NDArray[np.float32]],
    held: list[NDArray[np.float32]],
    index_range: tuple[int, int],
    config: FitConfig,
    checkpoint: Path | None = None,
) -> Arrays:
    """The network arrays of a prior, for latents (h, w, C) in base steps and coding order.

    Pictures are quantised at random step indices of ``index_range``. Every tenth of the way the bits of the held-out
    pictures are looked at; after ``patience`` such looks without gain the remaining unrounded iterations are skipped.
    The same arguments and torch give the same arrays.

    With a ``checkpoint`` a training that was interrupted goes on from there and gives what it would have given: it is
    written at every look, on Ctrl-C, and at the end, and belongs to these very arguments.

    Raises:
        KeyboardInterrupt: after an iteration that is whole.
    """
    generator_state = torch.get_rng_state()
    torch.manual_seed(config.seed)
    network = Network(training[0].shape[2], config)
    pictures, kept = [torch.from_numpy(p) for p in training], [torch.from_numpy(p) for p in held[:8]]
    low, high = ((i - 512) / 64 for i in sorted(index_range))
    optimizer = _optimizer(network, config)
    run = _Run(0, math.inf, 0, network.state_dict())
    if checkpoint is None or not _resume(checkpoint, network, optimizer, run):
        _start_linear(network, pictures, (low, high))
        run.best_state = network.state_dict()
    rounded_from = int(config.iterations * (1 - config.quantised_share))
    look_every = max(20, config.iterations // 10)
    shown = ""
    with _asked_to_stop() as asked, Progress("prior: training", config.iterations, done=run.i) as progress:
        while run.i < config.iterations:
            quantised = run.i >= rounded_from
            part = min(1.0, (run.i + 1) / 50) * (0.02 + 0.49 * (1 + math.cos(math.pi * run.i / config.iterations)))
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * part
            bits = _learn(network, optimizer, pictures, (low, high), quantised)
            run.i += 1
            look = run.i % look_every == 0 or run.i in (rounded_from, config.iterations)
            if look:
                if run.i == rounded_from and run.since:
                    network.load_state_dict(run.best_state)
                figure = _held_bits(network, kept, (low, high), quantised)
                shown = f"held out {figure:.4f} bits a symbol, training {bits.mean().item():.4f}"
                _judge(run, network, figure, new_kind=quantised and run.i - look_every < rounded_from)
                if run.since >= config.patience:
                    if not quantised:
                        network.load_state_dict(run.best_state)
                    run.i, run.since = config.iterations if quantised else rounded_from, 0
            progress.reach(run.i, shown)
            if checkpoint is not None and (look or asked()):
                _save(checkpoint, network, optimizer, run, config.iterations)
            if asked():
                raise KeyboardInterrupt
    network.load_state_dict(run.best_state)
    torch.set_rng_state(generator_state)
    return integer_arrays(network)


@dataclass
class _Run:
    """Where a training stands."""

    i: int
    """Iterations done, or skipped."""
    best: float
    """Bits a symbol of the held-out pictures, the least so far."""
    since: int
    """Looks since then."""
    best_state: dict[str, Tensor]


def _judge(run: _Run, network: Network, figure: float, *, new_kind: bool) -> None:
    """Keeps the network if it is the best. ``new_kind``: figures with rounded weights are not those without."""
    if new_kind:
        run.best = math.inf
    if figure < run.best:
        run.best, run.since = figure, 0
        run.best_state = {key: value.clone() for key, value in network.state_dict().items()}
    else:
        run.since += 1


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Within, a first Ctrl-C is only noted, so that an iteration ends whole; a second one interrupts as usual."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set  # signals reach the main thread only
        return

    def note(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _save(path: Path, network: Network, optimizer: torch.optim.Adam, run: _Run, iterations: int) -> None:
    stream = io.BytesIO()
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}
    torch.save({**state, **vars(run), "iterations": iterations}, stream)
    write_atomic(path, stream.getvalue())


def _read(path: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        return None
    return state


def stored_iterations(path: Path) -> int | None:
    """Of how many iterations a training was that left its checkpoint here; None where there is none that is whole."""
    state = _read(path)
    return None if state is None else int(state["iterations"])


def _resume(path: Path, network: Network, optimizer: torch.optim.Adam, run: _Run) -> bool:
    state = _read(path)
    if state is None:
        return False
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    for name in vars(run):
        setattr(run, name, state[name])
    return True


def _optimizer(network: Network, config: FitConfig) -> torch.optim.Adam:
    """Adam whose rates fall with a pass's inputs: what a move of all weights does together grows with their number."""
    groups = [{"params": [network.share, network.tail], "rate": config.learning_rate}]
    for net in network.nets:
        rate = min(_HIGHEST_RATE, config.learning_rate * _RATE_INPUTS / net.first.shape[0])
        groups.append({"params": list(net.parameters()), "rate": rate})
    return torch.optim.Adam(groups, fused=True)  # fused: a step over a hundred small tensors is one call


def _learn(
    network: Network, optimizer: torch.optim.Adam, pictures: list[Tensor], span: tuple[float, float], quantised: bool
) -> Tensor:
    """One iteration; bits a symbol (batch,) before it."""
    batch = network.config.batch
    log2_step = span[0] + torch.rand(batch) * (span[1] - span[0])
    symbols, inverse = _batch(pictures, torch.randint(len(pictures), (batch,)), log2_step)
    bits = network.bits(symbols, inverse, quantised) / symbols[0].numel()
    # A picture of few bits counts for more than its share, or low qualities would learn nothing.
    loss = (bits / (bits.detach() + 0.05).sqrt()).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return bits


def seconds_per_iteration(training: list[NDArray[np.float32]], config: FitConfig) -> float:
    """What an iteration takes here and now, of the mean kind, by doing a few of each."""
    generator_state = torch.get_rng_state()
    network = Network(training[0].shape[2], config)
    optimizer, pictures = _optimizer(network, config), [torch.from_numpy(p) for p in training]
    seconds = 0.0
    for quantised, share in ((False, 1 - config.quantised_share), (True, config.quantised_share)):
        _learn(network, optimizer, pictures, (0.0, 1.0), quantised)
        started = time.monotonic()
        for _ in range(_TRIALS):
            _learn(network, optimizer, pictures, (0.0, 1.0), quantised)
        seconds += share * (time.monotonic() - started) / _TRIALS
    torch.set_rng_state(generator_state)
    return seconds


@torch.no_grad()
def _start_linear(network: Network, pictures: list[Tensor], span: tuple[float, float]) -> None:
    """Least squares give the direct weights: means from symbols, then scales from magnitudes, one and quality.

    The training then begins where a linear predictor ends, which saves it half of its iterations.
    """
    batches = []
    for _ in range(min(10, 1 + len(pictures) // 4)):
        log2_step = span[0] + torch.rand(4) * (span[1] - span[0])
        batches.append(_batch(pictures, torch.randint(len(pictures), (4,)), log2_step))
    for net in network.nets:
        size, window = net.plan.size, net.plan.window
        rows = []
        for symbols, inverse in batches:
            inputs, targets = net.rows(symbols, inverse)
            # Fine steps have large symbols: without the weight they alone would decide.
            weight = (targets.square().mean((1, 2), keepdim=True) + 0.05).rsqrt().expand(-1, targets.shape[1], 1)
            rows.append([part.flatten(0, 1) for part in (inputs * net.used[:, 0], targets, weight)])
        inputs, targets, weight = (torch.cat(parts) for parts in zip(*rows, strict=True))
        net.set_paces(inputs)
        if window:
            mean_weights = _ridge(inputs[:, :window] * weight, targets * weight)
            net.direct[:window, :size] = mean_weights / net.pace[:window]
            targets = targets - inputs[:, :window] @ mean_weights
        scale_weights = _SCALE_OF_MAGNITUDE * _ridge(inputs[:, window:] * weight, targets.abs() * weight)
        net.direct[window:, size:] = scale_weights / (net.pace[window:] * net.out_pace[size:])


def _ridge(inputs: Tensor, targets: Tensor) -> Tensor:
    square = (inputs.T @ inputs).double()
    damping = 0.003 * square.diagonal().mean() + 1e-6
    square.diagonal().add_(damping)
    solved: Tensor = torch.linalg.solve(square, (inputs.T @ targets).double())
    return solved.float()


@torch.no_grad()
def _held_bits(network: Network, pictures: list[Tensor], span: tuple[float, float], quantised: bool) -> float:
    total, count = 0.0, 0
    for picture in pictures:
        for share in (0.25, 0.6):
            step = 2.0 ** (span[0] + share * (span[1] - span[0]))
            symbols = torch.round(picture[None] / step).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT)
            total += float(network.bits(symbols, torch.tensor([1 / step]), quantised)) / symbols.numel()
            count += 1
    return total / count


def integer_arrays(network: Network) -> Arrays:
    """The network's part of a prior file."""
    exported = [net.export() for net in network.nets]
    plans = [net.plan for net in network.nets]
    rows = [
        [p.start, p.stop, len(p.grids), len(TAPS), len(p.own_taps), n.second.shape[0]]
        for p, n in zip(plans, network.nets, strict=True)
    ]
    taps = [tap for plan in plans for tap in (*TAPS, *plan.own_taps)]
    kinds = {"weights": "i1", "global_weights": "<i4", "shift": "u1", "out_weights": "i1", "out_shift": "u1"}
    return {
        "passes": np.array(rows, "<i2"),
        "grids": np.array([(g.y, g.x, g.stride) for plan in plans for g in plan.grids], np.int8),
        "taps": np.array(taps, np.int8),
        **{key: np.concatenate([e[key].ravel() for e in exported]).astype(kind) for key, kind in kinds.items()},
    }
