"""Fit a pack's prior: ``python -m sdrt_export prior PACK --images FOLDER``.

The pack's encoder runs over crops of the photographs; a network and tables learn to predict the integers
(:mod:`sdrt_export.prior_network`, :mod:`sdrt_export.prior_tables`); the decoder tells what an error in each channel
does to the pixels. The result is ``prior.npz`` and its entry in the manifest.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdrt.coding.prior import GLOBAL_BITS, HIDDEN_BITS, MEAN_BITS, Prior, build_prior, write_prior
from sdrt.errors import ImageError, SdrtError
from sdrt.network.engine import Engine
from sdrt.network.transform import to_latents
from sdrt.packs.manifest import ModelPack
from sdrt.packs.search import load_pack
from sdrt.pixels.load import load
from sdrt.pixels.tensors import as_sample
from sdrt_export.pack_writer import update_manifest
from sdrt_export.prior_decisions import Example, choose_decisions
from sdrt_export.prior_tables import Arrays, count_tables, shape_arrays

Float32 = NDArray[np.float32]

CROP_PX = 384
MOST_ITERATIONS = 8000  # of --minutes: beyond, a few hundred crops are learnt by heart
SUFFIXES = {".webp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".avif", ".bmp"}
_STEP_EXPONENT = 0.5
_DECISION_PHOTOS = 6
_SENSITIVITY_CELLS = 24  # a side: a decode for each channel adds up
_STEP_SPREAD = 2.0


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


def list_images(folder: Path) -> list[Path]:
    """All pictures of a folder in name order. Raises ImageError when there are fewer than four."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if len(found) < 4:
        raise ImageError(f"{folder}: {len(found)} pictures there; a prior needs at least 4, and likes hundreds")
    return found


def crops(paths: list[Path], count: int, cell_px: int, seed: int) -> list[tuple[bool, NDArray[np.uint8]]]:
    """``count`` crops as (held out, uint8 (H, W, 3)), the same for the same arguments.

    Pictures whose name ends in 0, or else every eighth, are held out. Sides are at most CROP_PX, a multiple of
    ``cell_px``; large photographs are downsampled a little at random. With few pictures each gives several crops.
    Pictures that cannot be read are skipped.
    """
    random = np.random.default_rng(seed)
    held = {p for p in paths if p.stem.endswith("0")} or set(paths[::8])
    order = [paths[i] for i in random.permutation(len(paths))][:count]
    each = max(1, min(8, count // len(order)))
    result = []
    for path in order:
        try:
            rgb = load(path).rgb
        except SdrtError as error:
            print(f"  skipped: {error}", file=sys.stderr)
            continue
        for _ in range(each):
            factor = 1.0 if random.random() < 0.6 else random.uniform(1, 1.6)
            side = int(min(CROP_PX * factor, *rgb.shape[:2]))
            y, x = random.integers(rgb.shape[0] - side + 1), random.integers(rgb.shape[1] - side + 1)
            crop = rgb[y : y + side, x : x + side]
            size = max(cell_px, min(CROP_PX, side) // cell_px * cell_px)
            if side != size:
                crop = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC))
            result.append((path in held, np.ascontiguousarray(crop)))
    return result


def measure_sensitivity(pack: ModelPack, decoder: Engine, latents: list[Float32], step: float, seed: int) -> Float32:
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
    return np.asarray(np.clip(as_sample(decoder.run(raw[None]))[0], -1, 1) * np.float32(127.5))


def base_steps(sensitivity: Float32) -> Float32:
    """Steps (C,) that spend bits where pixels notice, geometric mean 1.

    At high rates the least distortion has ``step**2 * sensitivity`` equal for all channels; at the rates of this
    codec channels fade out below their step, so only a part of that is applied, and within a factor of two.
    """
    steps = sensitivity.astype(np.float64) ** (-0.5 * _STEP_EXPONENT)
    steps = np.clip(steps / np.exp(np.log(steps).mean()), 1 / _STEP_SPREAD, _STEP_SPREAD)
    return np.asarray(steps / np.exp(np.log(steps).mean()), np.float32)


def channel_order(latents: list[Float32], steps: Float32) -> NDArray[np.int64]:
    """Coding order of the channels: those with the most to say first, for they tell the others most."""
    variance = np.mean([(picture / steps[:, None, None]).var((1, 2)) for picture in latents], 0)
    return np.argsort(-variance, kind="stable")


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
) -> Arrays:
    """The arrays of a prior for latents float32 (C, h, w) in ``(raw - shift) * scale`` units.

    ``index_range``: the step indices to serve. ``held``: pictures that stop the training when it begins to learn the
    others by heart. The same arguments give the same arrays on one machine.
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
        **train_network(training, held, index_range, config),
        **scalar_arrays(steps, sensitivity, order),
        **shape_arrays(),
    }
    random = np.random.default_rng(seed)
    low, high = sorted(index_range)
    per_picture = max(2, min(16, 600 // len(training)))
    samples = ((p, int(random.integers(low, high + 1))) for p in training for _ in range(per_picture))
    return {**arrays, **count_tables(build_prior(arrays), samples)}


def encode_photos(
    pack: ModelPack, folder: Path, count: int, seed: int, threads: int | None
) -> tuple[list[Example], list[Example]]:
    """(training, held out) crops and their latents (C, h, w). Raises ImageError, EngineError, ModelError."""
    encoder = Engine(pack.encoder_path(), device="auto", threads=threads)
    parts: tuple[list[Example], list[Example]] = ([], [])
    for held, crop in crops(list_images(folder), count, pack.space.downscale, seed):
        parts[held].append((crop, to_latents(crop, pack, encoder)))
    if not parts[0] or not parts[1]:
        raise ImageError(f"{folder}: too few pictures that can be read")
    return parts


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
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs, searched below too")
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
    import torch

    torch.set_num_threads(options.threads or 1)
    started = time.monotonic()
    pack = load_pack(options.pack)
    examples, held_examples = encode_photos(pack, options.images, options.photos, options.seed, options.threads)
    training, held = ([latents for _crop, latents in part] for part in (examples, held_examples))
    del examples
    _say(started, f"{len(training)} crops for training, {len(held)} held out")
    decoder = Engine(pack.decoder_path(), device="auto", threads=options.threads)
    typical = 2.0 ** ((pack.default_step - 512) / 64)
    sensitivity = measure_sensitivity(pack, decoder, [_middle(p) for p in held[:4]], typical, options.seed)
    _say(started, f"sensitivity {sensitivity.min():.3g} to {sensitivity.max():.3g} squared levels")
    steps = np.ones(pack.space.channels, np.float32) if options.uniform_steps else base_steps(sensitivity)
    coarse, fine = max(pack.quality_range), min(pack.quality_range)
    index_range = (max(0, fine - 32), min(1023, coarse + 96))
    iterations = options.iterations
    if options.minutes is not None:
        iterations = iterations_for(options.minutes, training, options.hidden)
    arrays = fit_prior(
        training,
        held[:12],
        index_range=index_range,
        steps=steps,
        sensitivity=sensitivity * steps**2 / float((sensitivity * steps**2).mean()),
        hidden=options.hidden,
        iterations=iterations,
        seed=options.seed,
    )
    if options.no_centres:
        arrays["centres"] = np.zeros_like(arrays["centres"])
    tried = held_examples[:_DECISION_PHOTOS]
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
    target.write_bytes(data)
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
    _say(started, f"{target}: {len(data)} bytes")
    return 0


def _say(started: float, text: str) -> None:
    print(f"  prior: {text}  ({time.monotonic() - started:.0f} s)", file=sys.stderr, flush=True)
