"""Fit a pack's prior: ``python -m sdrt_export prior PACK --images FOLDER``, or ``--generic`` without photographs.

The pack's encoder runs over crops of the photographs; a network and tables learn to predict the integers
(:mod:`sdrt_export.prior_network`, :mod:`sdrt_export.prior_tables`); the decoder tells what an error in each channel
does to the pixels. The result is ``prior.npz`` and its entry in the manifest. An interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdrt.atomic import write_atomic
from sdrt.coding.prior import GLOBAL_BITS, HIDDEN_BITS, MEAN_BITS, Prior, build_prior, write_prior
from sdrt.errors import ModelError
from sdrt.network.engine import Engine
from sdrt.packs.manifest import PRIOR, ModelPack
from sdrt.packs.search import load_pack
from sdrt_export.encoded_crops import encode_crops
from sdrt_export.pack_writer import update_manifest
from sdrt_export.prior_decisions import choose_decisions
from sdrt_export.prior_steps import base_steps, channel_order, measure_sensitivity, middle
from sdrt_export.prior_tables import Arrays, count_tables, shape_arrays
from sdrt_export.progress import Progress, in_time

Float32 = NDArray[np.float32]

MOST_ITERATIONS = 8000  # of --minutes: beyond, a few hundred crops are learnt by heart
_DECISION_PHOTOS = 6


def generic_arrays(channels: int) -> Arrays:
    """A valid prior that nobody fitted: neighbours' average as the mean, neighbours' magnitude as the scale."""
    taps = [(0, -1), (0, 1), (-1, 0), (1, 0)]
    weights, global_weights = [], []
    for own_taps in (0, len(taps)):
        table = np.zeros((own_taps + 2, channels, 1 + 2 * channels), np.int8)
        wide = np.zeros((2, 1 + 2 * channels), np.int32)
        for c in range(channels):
            table[:own_taps, c, 1 + c] = 2**MEAN_BITS // 4
            table[own_taps, c, 1 + channels + c] = 16
            table[own_taps + 1, c, 1 + channels + c] = 96
        wide[0, 1 + channels :] = (48 if own_taps else 128) << GLOBAL_BITS
        weights.append(table.ravel())
        global_weights.append(wide.ravel())
    return {
        "passes": np.array([[0, channels, 2, 0, 0, 1], [0, channels, 2, 0, len(taps), 1]], "<i2"),
        "grids": np.array([(0, 0, 2), (1, 1, 2), (0, 1, 2), (1, 0, 2)], np.int8),
        "taps": np.array(taps, np.int8),
        "weights": np.concatenate(weights),
        "global_weights": np.concatenate(global_weights).astype("<i4"),
        "shift": np.zeros(2, np.uint8),
        "out_weights": np.zeros(4 * channels, np.int8),
        "out_shift": np.full(4 * channels, HIDDEN_BITS, np.uint8),
        **scalar_arrays(np.ones(channels), np.ones(channels), np.arange(channels)),
        **shape_arrays(),
    }


def generic_prior(channels: int) -> Prior:
    """A valid prior for any ``channels`` in milliseconds: for tests, and for packs before they are fitted."""
    return build_prior(generic_arrays(channels))


def scalar_arrays(steps: NDArray[np.floating], sensitivity: NDArray[np.floating], order: NDArray[np.integer]) -> Arrays:
    """The arrays that are neither network nor tables."""
    return {
        "format": np.array(1, "<u2"),
        "steps": steps.astype("<f4"),
        "sensitivity": sensitivity.astype("<f4"),
        "order": order.astype(np.uint8),
    }


def fit_prior(
    training: list[Float32],
    held: list[Float32],
    *,
    index_range: tuple[int, int],
    steps: Float32 | None = None,
    sensitivity: Float32 | None = None,
    hidden: int = 44,
    iterations: int = 1500,
    seed: int = 1,
    checkpoint: Path | None = None,
) -> Arrays:
    """The arrays of a prior for latents float32 (C, h, w) in ``(raw - shift) * scale`` units.

    ``index_range``: the step indices to serve. ``held``: pictures that stop the training when it begins to learn the
    others by heart. The same arguments give the same arrays on one machine, also where an interrupted training went on
    from its ``checkpoint`` (see ``sdrt_export.prior_training.train_network``).
    """
    from sdrt_export.prior_network import FitConfig
    from sdrt_export.prior_training import train_network

    channels = training[0].shape[0]
    steps = np.ones(channels, np.float32) if steps is None else steps
    sensitivity = np.ones(channels, np.float32) if sensitivity is None else sensitivity
    order = channel_order(training, steps)

    def arranged(latents: list[Float32]) -> list[Float32]:
        return [np.ascontiguousarray((p / steps[:, None, None])[order].transpose(1, 2, 0)) for p in latents]

    training, held = arranged(training), arranged(held)
    config = FitConfig(hidden=hidden, iterations=iterations, seed=seed)
    arrays = {
        **train_network(training, held, index_range, config, checkpoint),
        **scalar_arrays(steps, sensitivity, order),
        **shape_arrays(),
    }
    random = np.random.default_rng(seed)
    low, high = sorted(index_range)
    per_picture = max(2, min(16, 600 // len(training)))
    with Progress("prior: counting symbols", len(training)) as progress:

        def samples() -> Iterator[tuple[Float32, int]]:
            for number, picture in enumerate(training, 1):
                yield from ((picture, int(random.integers(low, high + 1))) for _ in range(per_picture))
                progress.reach(number)

        return {**arrays, **count_tables(build_prior(arrays), samples())}


def iterations_for(minutes: float, training: list[Float32], hidden: int) -> int:
    """How many iterations fit into ``minutes`` here, by timing a few; a multiple of 50, from 50 to MOST_ITERATIONS."""
    from sdrt_export.prior_network import FitConfig
    from sdrt_export.prior_training import seconds_per_iteration

    pictures = [np.ascontiguousarray(p.transpose(1, 2, 0)) for p in training[:16]]
    # Looks at the held-out pictures take about an eighth on top.
    each = 1.125 * seconds_per_iteration(pictures, FitConfig(hidden=hidden))
    return int(np.clip(minutes * 60 / each // 50 * 50, 50, MOST_ITERATIONS))


def main(argv: list[str]) -> int:
    """``python -m sdrt_export prior PACK --images FOLDER``: fits, writes ``prior.npz`` and the manifest's entry."""
    parser = argparse.ArgumentParser(
        prog="python -m sdrt_export prior", description="Fit a pack's prior to photographs."
    )
    parser.add_argument("pack", help="name or folder of a model pack with an encoder")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--images", type=Path, help="folder of photographs, searched below too")
    given.add_argument(
        "--generic", action="store_true", help="a prior that nobody fitted: usable at once, larger files"
    )
    parser.add_argument("--photos", type=int, default=600, help="crops to use (600)")
    parser.add_argument("--iterations", type=int, default=1500, help="training steps of the network (1500)")
    parser.add_argument("--minutes", type=float, help="choose the iterations so that training takes about this long")
    parser.add_argument("--hidden", type=int, default=44, help="hidden units of most passes (44)")
    parser.add_argument("--uniform-steps", action="store_true", help="the same step for all channels")
    parser.add_argument(
        "--decisions", type=float, help="strength of the encoder's decisions, 0 to 100 (what saves most at equal PSNR)"
    )
    parser.add_argument("--no-centres", action="store_true", help="rebuild symbols at mid-points: sharper, more error")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, help="threads of the engine (all) and of torch (1: small products)")
    options = parser.parse_args(argv)
    if options.decisions is not None and not 0 <= options.decisions <= 100:
        parser.error(f"--decisions is {options.decisions:g}, it must be from 0 to 100")
    pack = load_pack(options.pack)
    if options.generic:
        return write_generic(pack)
    import torch

    torch.set_num_threads(options.threads or 1)
    started = time.monotonic()
    encoded = encode_crops(pack, options.images, options.photos, options.seed, options.threads)
    training, held = encoded.training, [latents for _crop, latents in encoded.held]
    _say(started, f"{len(training)} crops for training, {len(held)} held out; kept in {encoded.folder}")
    decoder = Engine(pack.decoder_path(), device="auto", threads=options.threads)
    typical = 2.0 ** ((pack.default_step - 512) / 64)
    sensitivity = measure_sensitivity(pack, decoder, [middle(p) for p in held[:4]], typical, options.seed)
    _say(started, f"sensitivity {sensitivity.min():.3g} to {sensitivity.max():.3g} squared levels")
    steps = np.ones(pack.space.channels, np.float32) if options.uniform_steps else base_steps(sensitivity)
    coarse, fine = max(pack.quality_range), min(pack.quality_range)
    index_range = (max(0, fine - 32), min(1023, coarse + 96))
    checkpoint = encoded.folder / f"training-{_key(options, index_range, steps)}.pt"
    iterations = options.iterations
    if options.minutes is not None:
        from sdrt_export.prior_training import stored_iterations

        iterations = stored_iterations(checkpoint) or iterations_for(options.minutes, training, options.hidden)
    arrays = fit_prior(
        training,
        held[:12],
        index_range=index_range,
        steps=steps,
        sensitivity=sensitivity * steps**2 / float((sensitivity * steps**2).mean()),
        hidden=options.hidden,
        iterations=iterations,
        seed=options.seed,
        checkpoint=checkpoint,
    )
    if options.no_centres:
        arrays["centres"] = np.zeros_like(arrays["centres"])
    tried = encoded.held[:_DECISION_PHOTOS]
    keep, strength, ratio = choose_decisions(pack, decoder, build_prior(arrays), tried, options.decisions)
    keep = keep and not options.no_centres
    arrays["decisions"] = np.array(strength, "<f4")
    if not keep:
        arrays["centres"] = np.zeros_like(arrays["centres"])
    _say(
        started, f"decisions {strength:g}, centres {'on' if keep else 'off'}: {1 - ratio:.1%} fewer bits at equal PSNR"
    )
    data = write_prior(arrays)
    target = pack.folder / "prior.npz"
    write_atomic(target, data)
    note = {
        "photos": len(training),
        "iterations": iterations,
        "seed": options.seed,
        "hidden": options.hidden,
        "index_range": list(index_range),
        "uniform_steps": options.uniform_steps,
        "decisions": strength,
        "centres": keep,
    }
    update_manifest(pack.folder, prior=note)
    checkpoint.unlink(missing_ok=True)
    _say(started, f"{target}: {len(data)} bytes")
    return 0


def write_generic(pack: ModelPack) -> int:
    """Gives a pack without a prior the generic one, so that it encodes and decodes at once. Returns the exit code.

    Raises:
        ModelError: the pack has a prior, with which files may have been written.
    """
    if PRIOR in pack.files:
        raise ModelError(f"{pack.folder} has a prior already: files written with it could not be read any more")
    data = write_prior(generic_arrays(pack.space.channels))
    write_atomic(pack.folder / PRIOR, data)
    update_manifest(pack.folder, prior={"generic": True})
    print(
        f"{pack.folder / PRIOR}: {len(data)} bytes, fitted to nothing; files will be larger than with --images FOLDER"
    )
    return 0


def _key(options: argparse.Namespace, index_range: tuple[int, int], steps: Float32) -> str:
    """What a training depends on besides its crops, in 16 hexadecimal digits; ``--minutes`` as it was asked for."""
    settings = [options.hidden, options.seed, options.minutes, options.iterations, index_range, steps.tolist()]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]


def _say(started: float, text: str) -> None:
    print(f"  prior: {text}  ({in_time(time.monotonic() - started)})", file=sys.stderr, flush=True)
