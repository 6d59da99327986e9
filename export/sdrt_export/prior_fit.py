"""Fit a pack's prior: ``python -m sdrt_export prior PACK --images FOLDER``.

The pack's encoder runs over crops of the photographs; a network and tables learn to predict the integers
(:mod:`sdrt_export.prior_network`, :mod:`sdrt_export.prior_tables`); the decoder tells what an error in each channel
does to the pixels. The result is ``prior.npz`` and its entry in the manifest.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sdrt.coding.prior_file import build_prior, write_prior
from sdrt.coding.quantize import step_scale
from sdrt.coding.symbols import arrange, with_extents
from sdrt.errors import ImageError
from sdrt.network.engine import Engine
from sdrt.network.transform import to_latents
from sdrt.packs.manifest import ModelPack
from sdrt.packs.search import load_pack
from sdrt.pixels.tensors import as_sample
from sdrt_export.pack_writer import update_manifest
from sdrt_export.photographs import crops, list_images
from sdrt_export.prior_decisions import choose_decisions
from sdrt_export.prior_plan import Arrays, channel_arrays, plan_scans, unfitted_prior
from sdrt_export.prior_tables import count_tables, shape_arrays
from sdrt_export.prior_training import FitConfig, Sample, train_networks

Float32 = NDArray[np.float32]

_STEP_EXPONENT = 0.5
_DECISION_PHOTOS = 6
_SENSITIVITY_CELLS = 24  # a side: a decode for each channel adds up
_STEP_SPREAD = 2.0


def measure_sensitivity(
    pack: ModelPack, decoder: Engine, latents: Sequence[Float32], step: float, seed: int
) -> Float32:
    """Pixel error for an error of each channel, float32 (C,): squared levels of 255 for a squared latent unit.

    Each channel of latents (C, h, w) is disturbed by noise as large as rounding to ``step`` makes it, on top of
    latents that are rounded already: a decoder that is never fed exact latents is not measured on them.
    """
    random = np.random.default_rng(seed)
    channels = pack.space.channels
    noise_variance = step * step / 12
    totals = np.zeros(channels)
    for picture in latents:
        base = (np.rint(picture / step) * step).astype(np.float32)
        before = _paint(pack, decoder, base)
        for c in range(channels):
            other = base.copy()
            other[c] += random.uniform(-step / 2, step / 2, other[c].shape).astype(np.float32)
            totals[c] += float(np.square(_paint(pack, decoder, other) - before).mean()) / noise_variance
    return np.asarray(np.maximum(totals / len(latents), 1e-12), np.float32)


def _middle(picture: Float32) -> Float32:
    """The middle of latents (C, h, w), at most _SENSITIVITY_CELLS a side."""
    y, x = (max(0, (side - _SENSITIVITY_CELLS) // 2) for side in picture.shape[1:])
    return np.ascontiguousarray(picture[:, y : y + _SENSITIVITY_CELLS, x : x + _SENSITIVITY_CELLS])


def _paint(pack: ModelPack, decoder: Engine, latents: Float32) -> Float32:
    """Levels of 0..255, not rounded, (3, H, W)."""
    raw = (latents / np.float32(pack.space.scale) + np.float32(pack.space.shift)).astype(np.float32)
    if pack.quality_input:
        level = np.full((1, *raw.shape[1:]), (pack.default_step - 512) / 64, np.float32)
        raw = np.concatenate([raw, level])
    return np.asarray(np.clip(as_sample(decoder.run(raw[None]))[0], -1, 1) * np.float32(127.5))


def base_steps(sensitivity: Float32) -> Float32:
    """Steps (C,) that spend bits where pixels notice, geometric mean 1.

    At high rates the least distortion has ``step**2 * sensitivity`` equal for all channels; at the rates of this
    codec channels fade out below their step, so only a part of that is applied, and within a factor of two.
    """
    steps = sensitivity.astype(np.float64) ** (-0.5 * _STEP_EXPONENT)
    steps = np.clip(steps / np.exp(np.log(steps).mean()), 1 / _STEP_SPREAD, _STEP_SPREAD)
    return np.asarray(steps / np.exp(np.log(steps).mean()), np.float32)


def channel_order(latents: Sequence[Float32], steps: Float32) -> NDArray[np.int64]:
    """Coding order of the channels: those with the most to say first, for they tell the others most."""
    variance = np.mean([(picture / steps[:, None, None]).var((1, 2)) for picture in latents], 0)
    return np.argsort(-variance, kind="stable")


@dataclass(frozen=True, eq=False)
class Quantizable:
    """Latents (C, h, w) in ``(raw - shift) * scale`` units, and a step index that they may be quantized with."""

    latents: Float32
    step_index: int


def fit_prior(
    training: Sequence[Quantizable],
    held: Sequence[Quantizable],
    *,
    steps: Float32 | None = None,
    sensitivity: Float32 | None = None,
    config: FitConfig | None = None,
    dead_zone: float = 0.0,
) -> Arrays:
    """The arrays of a prior.

    Args:
        training: what it learns to predict.
        held: pictures by which the best state of each network is chosen.
        steps: base step of each channel; None: 1.
        sensitivity: pixel error for a squared step of error in each channel; None: 1.
        config: how networks are trained.
        dead_zone: by how much more than half a step a value must differ from an integer nearer to zero to be rounded
            away from it: what decisions do, about.

    Returns:
        The arrays of ``prior.npz``; the same arguments give the same ones on one machine.
    """
    config = config or FitConfig()
    channels = training[0].latents.shape[0]
    steps = np.ones(channels, np.float32) if steps is None else steps
    sensitivity = np.ones(channels, np.float32) if sensitivity is None else sensitivity
    plan = plan_scans(channels, config.hidden, config.sparse_hidden)
    order = channel_order([one.latents for one in training], steps)
    per_channel = channel_arrays(steps, sensitivity, order)
    layout = replace(unfitted_prior(plan), order=order)

    def sample(one: Quantizable) -> Sample:
        exact = arrange(one.latents / (steps * np.float32(step_scale(one.step_index)))[:, None, None], layout)
        nearest = np.sign(exact) * np.floor(np.abs(exact) + (0.5 - dead_zone))
        return Sample(with_extents(nearest.astype(np.int32), layout), np.full(exact.shape[:2], one.step_index))

    samples, kept = [sample(one) for one in training], [sample(one) for one in held]
    arrays = {**train_networks(plan, samples, kept, config), **per_channel, **shape_arrays()}
    counted = count_tables(build_prior(arrays), [(one.coded, one.step_indices) for one in samples])
    return {**arrays, **counted}


@dataclass(frozen=True, eq=False)
class Example:
    """A crop, uint8 (H, W, 3), and its latents at a step index."""

    crop: NDArray[np.uint8]
    quantizable: Quantizable


def encode_photos(
    pack: ModelPack, folder: Path, count: int, *, seed: int, threads: int | None, index_range: tuple[int, int]
) -> tuple[list[Example], list[Example]]:
    """(training, held out) crops and their latents, each at a step index of its own from ``index_range``.

    Raises:
        ImageError, EngineError, ModelError.
    """
    encoder = Engine(pack.encoder_path(), device="auto", threads=threads)
    parts: tuple[list[Example], list[Example]] = ([], [])
    random, cell = np.random.default_rng(seed), pack.space.downscale
    for held, crop in crops(list_images(folder), count, cell, seed):
        index = int(random.integers(index_range[0], index_range[1] + 1))
        at = np.full((crop.shape[0] // cell, crop.shape[1] // cell), index)
        parts[held].append(Example(crop, Quantizable(to_latents(crop, pack, encoder, indices=at), index)))
    if not parts[0] or not parts[1]:
        raise ImageError(f"{folder}: too few pictures that can be read")
    return parts


def _repeated(
    examples: Sequence[Example], pack: ModelPack, index_range: tuple[int, int], seed: int
) -> list[Quantizable]:
    """Where latents do not depend on the step, each serves at a few more."""
    if pack.quality_input:
        return [example.quantizable for example in examples]
    random = np.random.default_rng(seed)
    times = max(2, min(8, 600 // len(examples)))
    indices = random.integers(index_range[0], index_range[1] + 1, (len(examples), times))
    pairs = zip(examples, indices.tolist(), strict=True)
    return [Quantizable(example.quantizable.latents, index) for example, row in pairs for index in row]


def main(argv: list[str]) -> int:
    """``python -m sdrt_export prior PACK --images FOLDER``: fits, writes ``prior.npz`` and the manifest's entry."""
    parser = argparse.ArgumentParser(
        prog="python -m sdrt_export prior", description="Fit a pack's prior to photographs."
    )
    parser.add_argument("pack", help="name or folder of a model pack with an encoder")
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs, searched below too")
    parser.add_argument("--photos", type=int, default=600, help="crops to use (600)")
    parser.add_argument("--iterations", type=int, default=1200, help="training steps of each scan's network (1200)")
    parser.add_argument("--hidden", type=int, default=44, help="hidden units of most scans (44)")
    parser.add_argument("--uniform-steps", action="store_true", help="the same step for all channels")
    decisions = "weight of bits in the encoder's decisions, 0 to 100 (what saves most at equal PSNR)"
    parser.add_argument("--decisions", type=float, help=decisions)
    parser.add_argument("--dead-zone", type=float, default=0.0, help="of the rounding that the fit sees, 0 to 0.5 (0)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, help="threads of the engine (all) and of torch (1: small products)")
    options = parser.parse_args(argv)
    if options.decisions is not None and not 0 <= options.decisions <= 100:
        parser.error(f"--decisions is {options.decisions:g}, it must be from 0 to 100")
    if not 0 <= options.dead_zone < 0.5:
        parser.error(f"--dead-zone is {options.dead_zone:g}, it must be from 0 to less than 0.5")
    torch.set_num_threads(options.threads or 1)
    started = time.monotonic()
    pack = load_pack(options.pack)
    coarse, fine = max(pack.quality_range), min(pack.quality_range)
    index_range = (max(0, fine - 32), min(1023, coarse + 96))
    settings = {"seed": options.seed, "threads": options.threads, "index_range": index_range}
    examples, held = encode_photos(pack, options.images, options.photos, **settings)
    _say(started, f"{len(examples)} crops for training, {len(held)} held out")
    decoder = Engine(pack.decoder_path(), device="auto", threads=options.threads)
    typical = 2.0 ** ((pack.default_step - 512) / 64)
    middles = [_middle(example.quantizable.latents) for example in held[:4]]
    sensitivity = measure_sensitivity(pack, decoder, middles, typical, options.seed)
    _say(started, f"sensitivity {sensitivity.min():.3g} to {sensitivity.max():.3g} squared levels")
    steps = np.ones(pack.space.channels, np.float32) if options.uniform_steps else base_steps(sensitivity)
    arrays = fit_prior(
        _repeated(examples, pack, index_range, options.seed),
        _repeated(held[:24], pack, index_range, options.seed),
        steps=steps,
        sensitivity=sensitivity * steps**2 / float((sensitivity * steps**2).mean()),
        config=FitConfig(hidden=options.hidden, iterations=options.iterations, seed=options.seed),
        dead_zone=options.dead_zone,
    )
    tried = [(example.crop, example.quantizable.latents) for example in held[:_DECISION_PHOTOS]]
    weight, ratio = choose_decisions(pack, decoder, build_prior(arrays), tried, options.decisions)
    arrays["decisions"] = np.array(weight, "<f4")
    _say(started, f"decisions {weight:g}: {1 - ratio:.1%} fewer bits at equal PSNR")
    data = write_prior(arrays)
    target = pack.folder / "prior.npz"
    target.write_bytes(data)
    note = {
        "photos": len(examples),
        "iterations": options.iterations,
        "seed": options.seed,
        "hidden": options.hidden,
        "index_range": list(index_range),
        "uniform_steps": options.uniform_steps,
        "decisions": weight,
        "dead_zone": options.dead_zone,
    }
    update_manifest(pack.folder, prior=note)
    _say(started, f"{target}: {len(data)} bytes")
    return 0


def _say(started: float, text: str) -> None:
    print(f"  prior: {text}  ({time.monotonic() - started:.0f} s)", file=sys.stderr, flush=True)
