"""Train the default pack's autoencoder: ``python -m sdrt_train.train RECIPE PHOTOS --run FOLDER``.

A second call resumes where the first one stopped, on another day and another processor if need be; Ctrl-C and SIGTERM
end a run after the step in hand, with its checkpoint written. N processes share each batch under ``torchrun
--nproc-per-node N -m -- sdrt_train.train``.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from sdrt.errors import SdrtError
from sdrt_export.photographs import spread
from sdrt_metrics.weights import MetricWeightsError
from sdrt_train.data import CropConfig, CropSource, list_photos, load_photo, load_photos, to_tensor
from sdrt_train.recipe import Recipe, read_recipe
from sdrt_train.trainer import Trainer
from sdrt_train.workers import Workers

FAULTS = (ValueError, OSError, FloatingPointError, MetricWeightsError, SdrtError)
"""What a command of the training says in one line."""
_TRANSFORM_CROPS = 1024
_LOOK_EVERY = 20


def validation_set(paths: list[Path], count: int = 24, size_px: int = 256) -> Tensor:
    """Center crops of evenly chosen validation photographs, reduced by two where they are large enough.

    Returns:
        (count, 3, size, size) in [-1, 1].
    """
    crops = []
    for path in spread(paths, count):
        photo = load_photo(path)
        y, x = (photo.shape[0] - size_px) // 2, (photo.shape[1] - size_px) // 2
        if y >= 0 and x >= 0:
            crops.append(to_tensor(photo[None, y : y + size_px, x : x + size_px]))
    if not crops:
        raise ValueError(f"no validation photograph has {size_px} pixels on both sides")
    return torch.cat(crops)


def _append_log(path: Path, row: dict[str, float | int]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow({name: round(value, 4) for name, value in row.items()})


def run(
    photos: Path,
    run_folder: Path,
    recipe: Recipe,
    *,
    name: str = "",
    cache: Path | None = None,
    start_from: Sequence[Path] = (),
    last_step: int | None = None,
    seconds: float = math.inf,
    validate_every: int = 2000,
) -> Path:
    """Train until the recipe's stages are over, or until ``last_step``, or for ``seconds``.

    Args:
        photos: folder of photographs.
        run_folder: gets ``checkpoint.pt``, ``validation.csv`` and ``settings.json``; a checkpoint there is resumed.
        recipe: what to train.
        name: the recipe's, for the settings.
        cache: folder for decoded photographs.
        start_from: checkpoints whose averaged weights (of several, their mean) are the first ones.
        last_step: updates since the recipe's first after which to stop.
        seconds: time from this call on, by the clock, after which no update begins.
        validate_every: updates between two measures of the averaged weights.

    Returns:
        The checkpoint's path.

    Raises:
        ValueError: too few photographs, a checkpoint of another model, or batches that the workers cannot share.
        ModelError: a file that is no checkpoint.
        OutputError: the cache cannot be written.
        FloatingPointError: the loss of some worker is not finite; the checkpoint is as it was before.
        MetricWeightsError: the loss needs metric weights that cannot be read.
    """
    end = time.monotonic() + seconds
    workers = Workers.join()
    for stage in recipe.stages:  # the last one's too, before the first one's days
        workers.share_of(stage.batch)
        workers.share_of(stage.loss.vgg_pictures if stage.loss.sees_vgg else 0)
    run_folder.mkdir(parents=True, exist_ok=True)
    checkpoint = run_folder / "checkpoint.pt"
    trainer = Trainer(recipe, workers.device(), workers)
    training, held = list_photos(photos)
    validation = validation_set(held)
    decoded = load_photos(training, max(stage.crop_px for stage in recipe.stages), cache)
    if checkpoint.exists():
        trainer.load(checkpoint)
        print(f"resumed at step {trainer.total_step}, {trainer.seconds / 3600:.2f} h spent", flush=True)
    elif start_from:
        trainer.start_from(start_from)
    else:
        plain = CropSource(decoded, _TRANSFORM_CROPS // 8, 128, recipe.seed, CropConfig(0.0, 0.0, 0.0, 0.0))
        trainer.start(torch.cat([plain.next() for _ in range(8)]))
    if workers.first:
        (run_folder / "settings.json").write_text(json.dumps({"recipe": name, **asdict(recipe)}, indent=2))
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    counts = f"{len(decoded)} photographs, {len(validation)} validation crops"
    print(f"{counts}, {trainer.device.type} {trainer.dtype}", flush=True)

    def source() -> CropSource:
        stage = trainer.stage
        seed = recipe.seed + trainer.total_step + 1_000_000 * workers.rank
        processes = max(0, len(os.sched_getaffinity(0)) - 2) if trainer.device.type == "cuda" else 0
        batch = workers.share_of(stage.batch)
        return CropSource(decoded, batch, stage.crop_px, seed, recipe.data, processes=processes)

    def stop_if_not_finite() -> None:
        # All agree on it: a worker that went on alone would wait for the others for ever.
        if workers.any(not math.isfinite(sums.get("loss", 0.0))):
            workers.leave()
            raise FloatingPointError(f"the loss is not finite at step {trainer.total_step}; {checkpoint} is older")

    crops = source()
    sums: dict[str, Tensor] = {}
    count, last_save = 0, time.monotonic()
    while not trainer.done and (last_step is None or trainer.total_step < last_step):
        if workers.any(stop.is_set() or time.monotonic() >= end):
            break
        if trainer.next_stage():
            crops = source()
        started = time.monotonic()
        values = trainer.train_step(crops.next(trainer.device))
        # A pause (SIGSTOP, a suspended laptop) is not training time.
        trainer.seconds = workers.of_first(trainer.seconds + min(time.monotonic() - started, 10.0))
        for part, value in values.items():
            sums[part] = value + sums.get(part, 0.0)
        count += 1
        # To look at what a GPU computes is to wait for it.
        looked = trainer.device.type == "cpu" or trainer.total_step % _LOOK_EVERY == 0
        if looked:
            stop_if_not_finite()
        if not workers.first:
            continue
        step = trainer.total_step
        if step % 100 == 0:
            means = "  ".join(f"{part} {total / count:.4f}" for part, total in sums.items())
            print(f"step {step}/{recipe.steps}  {trainer.seconds / 3600:.3f} h  {means}", flush=True)
            sums, count = {}, 0
        if step % validate_every == 0 or trainer.done:
            for measured in trainer.validate(validation):
                row = {"step": step, "hours": trainer.seconds / 3600, **measured}
                _append_log(run_folder / "validation.csv", row)
                print("  valid " + "  ".join(f"{k} {v:.4f}" for k, v in row.items()), flush=True)
            print(f"  least alive {trainer.least_alive(validation[:4]):.3f}", flush=True)
        if looked and time.monotonic() - last_save > 300:
            trainer.save(checkpoint)
            last_save = time.monotonic()
    stop_if_not_finite()
    if workers.first:
        trainer.save(checkpoint)
    workers.leave()
    return checkpoint


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sdrt_train.train", description=__doc__)
    parser.add_argument("recipe", type=Path, help="a TOML file, see training/recipes")
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--run", type=Path, required=True, help="folder for checkpoint, log and settings")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override, for trials")
    parser.add_argument("--cache", type=Path, help="folder for decoded photographs, shared by all runs")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--last-step", type=int, help="stop after this many updates in all")
    parser.add_argument("--validate-every", type=int, default=2000, metavar="STEPS")
    parser.add_argument("--start-from", type=Path, nargs="+", default=(), help="checkpoints whose mean to start at")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        recipe, name = read_recipe(arguments.recipe, arguments.set)
        path = run(
            arguments.photos,
            arguments.run,
            recipe,
            name=name,
            cache=arguments.cache,
            start_from=arguments.start_from,
            last_step=arguments.last_step,
            validate_every=arguments.validate_every,
        )
    except FAULTS as error:
        print(f"sdrt_train: {error}", file=sys.stderr)
        return 2
    print(f"done: {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
