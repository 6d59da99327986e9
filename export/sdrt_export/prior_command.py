"""Fit a pack's prior: ``python -m sdrt_export prior PACK --images FOLDER``, or ``--generic`` without photographs.

The pack's encoder runs over crops of the photographs; networks and tables learn to predict the integers
(:mod:`sdrt_export.prior_network`, :mod:`sdrt_export.prior_tables`); the decoder tells what an error in each channel
does to the pixels. The result is ``prior.npz`` and its entry in the manifest. An interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdrt.coding.activity import adapted
from sdrt.coding.prior import FORMAT
from sdrt.coding.prior_file import build_prior, write_prior
from sdrt.container import step_map
from sdrt.errors import ModelError
from sdrt.network.engine import Engine
from sdrt.packs.manifest import PRIOR, ModelPack
from sdrt.packs.search import load_pack
from sdrt_export.encoded_crops import encode_crops
from sdrt_export.pack_writer import update_manifest, write_prior_file
from sdrt_export.prior_decisions import choose_decisions
from sdrt_export.prior_plan import generic_arrays
from sdrt_export.prior_steps import base_steps, measure_sensitivity, middle
from sdrt_export.progress import in_time

_DECISION_PHOTOS = 6
_METHOD = 2  # how scans are fitted: another number finds none of those that are kept
_HELD = 24  # crops by which the networks are judged

# torch takes seconds to import, and a generic prior needs none.


def main(argv: list[str]) -> int:
    """``python -m sdrt_export prior``: writes ``prior.npz`` and the manifest's entry. Returns the exit code."""
    options = _parse(argv)
    pack = load_pack(options.pack)
    return write_generic(pack) if options.generic else _fit(pack, options)


def _parse(argv: list[str]) -> argparse.Namespace:
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
    parser.add_argument("--iterations", type=int, default=1200, help="training steps of each scan's network (1200)")
    parser.add_argument("--hidden", type=int, default=44, help="hidden units of most scans (44)")
    parser.add_argument("--uniform-steps", action="store_true", help="the same step for all channels")
    decisions = "weight of bits in the encoder's decisions, 0 to 100 (what saves most at equal LPIPS)"
    parser.add_argument("--decisions", type=float, help=decisions)
    parser.add_argument("--dead-zone", type=float, default=0.0, help="of the rounding that the fit sees, 0 to 0.5 (0)")
    parser.add_argument("--replace", action="store_true", help="drop the priors before it, and with them their files")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, help="threads of the engine (all) and of torch (1: small products)")
    options = parser.parse_args(argv)
    for name, least in (("photos", 2), ("iterations", 1), ("hidden", 1), ("seed", 0), ("threads", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            parser.error(f"--{name} is {value}, it must be {least} or more")
    if options.decisions is not None and not 0 <= options.decisions <= 100:
        parser.error(f"--decisions is {options.decisions:g}, it must be from 0 to 100")
    if not 0 <= options.dead_zone < 0.5:
        parser.error(f"--dead-zone is {options.dead_zone:g}, it must be from 0 to less than 0.5")
    return options


def _fit(pack: ModelPack, options: argparse.Namespace) -> int:
    import torch

    from sdrt_export.prior_fit import at_several_steps, fit_prior
    from sdrt_export.prior_training import FitConfig

    torch.set_num_threads(options.threads or 1)
    started = time.monotonic()
    coarse, fine = max(pack.quality_range), min(pack.quality_range)
    index_range = (max(0, fine - 32), min(1023, coarse + 96))
    usual = (fine + (pack.default_step - fine) // 4, pack.default_step, coarse - (coarse - pack.default_step) // 4)
    encoded = encode_crops(pack, options.images, options.photos, seed=options.seed, threads=options.threads)
    training, held = encoded.training, [example.latents for example in encoded.held]
    _say(started, f"{len(training)} crops for training, {len(held)} held out; kept in {encoded.folder}")
    decoder = Engine(pack.decoder_path(), device="auto", threads=options.threads)
    typical = 2.0 ** ((pack.default_step - 512) / 64)
    middles = [middle(latents) for latents in held[:4]]
    sensitivity = measure_sensitivity(pack, decoder, middles, typical, options.seed)
    _say(started, f"sensitivity {sensitivity.min():.3g} to {sensitivity.max():.3g} squared levels")
    steps = np.ones(pack.space.channels, np.float32) if options.uniform_steps else base_steps(sensitivity)
    finished = encoded.folder / f"scans-{_key(options, index_range, steps, torch.__version__)}"

    def map_of(latents: NDArray[np.float32], step_index: int) -> NDArray[np.integer]:
        """As files have it, see ``FileWriter``."""
        downscale = pack.space.downscale
        offsets = adapted(latents, steps, downscale, step_index) if pack.quality_input else None
        rows, columns = latents.shape[1:]
        return step_map.spread(offsets, step_index, rows, columns, downscale)

    arrays = fit_prior(
        at_several_steps(training, index_range, options.seed, map_of, usual),
        at_several_steps(held[:_HELD], index_range, options.seed, map_of, usual),
        steps=steps,
        sensitivity=sensitivity * steps**2 / float((sensitivity * steps**2).mean()),
        config=FitConfig(hidden=options.hidden, iterations=options.iterations, seed=options.seed),
        dead_zone=options.dead_zone,
        finished=finished,
    )
    tried = [(example.crop, example.latents) for example in encoded.held[:_DECISION_PHOTOS]]
    weight, ratio = choose_decisions(pack, decoder, build_prior(arrays), tried, options.decisions)
    arrays["decisions"] = np.array(weight, "<f4")
    _say(started, f"decisions {weight:g}: {1 - ratio:.1%} fewer bits at equal LPIPS")
    data = write_prior(arrays)
    target = write_prior_file(pack, data, replace=options.replace)
    note = {
        "photos": len(training),
        "iterations": options.iterations,
        "seed": options.seed,
        "hidden": options.hidden,
        "index_range": list(index_range),
        "uniform_steps": options.uniform_steps,
        "decisions": weight,
        "dead_zone": options.dead_zone,
    }
    update_manifest(pack.folder, prior=note)
    shutil.rmtree(finished, ignore_errors=True)
    _say(started, f"{target}: {len(data)} bytes")
    return 0


def write_generic(pack: ModelPack) -> int:
    """Gives a pack without a prior the generic one, so that it encodes and decodes at once. Returns the exit code.

    Raises:
        ModelError: the pack has a prior, with which files may have been written.
    """
    if PRIOR in pack.files:
        raise ModelError(f"{pack.folder} has a prior already: a generic one would write larger files")
    data = write_prior(generic_arrays(pack.space.channels))
    target = write_prior_file(pack, data)
    update_manifest(pack.folder, prior={"generic": True})
    print(f"{target}: {len(data)} bytes, fitted to nothing; files will be larger than with --images FOLDER")
    return 0


def _key(
    options: argparse.Namespace, index_range: tuple[int, int], steps: NDArray[np.float32], torch_version: str
) -> str:
    """What a training depends on besides its crops, in 16 hexadecimal digits."""
    settings = [_METHOD, FORMAT, torch_version, options.hidden, options.seed, options.iterations, options.dead_zone]
    return hashlib.sha256(json.dumps([*settings, index_range, steps.tolist()]).encode()).hexdigest()[:16]


def _say(started: float, text: str) -> None:
    print(f"  prior: {text}  ({in_time(time.monotonic() - started)})", file=sys.stderr, flush=True)
