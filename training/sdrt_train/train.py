"""Train the default pack's autoencoder: ``python -m sdrt_train.train PHOTOS --run training/runs/NAME --hours 2``.

The learning rate follows a cosine over *time spent*, so a run on a busy machine still lands softly when its hours are
up; a second call resumes. ``--stage decoder --start-from CHECKPOINT`` trains the decoder alone, on from another run;
under ``torchrun --nproc-per-node N -m sdrt_train.train`` N processes share each batch.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import torch
from torch import Tensor

from sdrt.errors import ModelError
from sdrt_train.data import CropSource, list_photos, load_photo, load_photos, to_tensor
from sdrt_train.loss import LossConfig
from sdrt_train.model import ModelConfig
from sdrt_train.trainer import STAGES, TrainConfig, Trainer
from sdrt_train.workers import Workers


def validation_set(paths: list[Path], count: int = 24, size_px: int = 256) -> Tensor:
    """Centre crops of evenly chosen validation photographs, (count, 3, size, size)."""
    chosen = paths[:: max(1, len(paths) // count)][:count]
    crops = []
    for path in chosen:
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
        writer.writerow(row)


def run(
    photos: Path,
    run_folder: Path,
    hours: float,
    config: TrainConfig,
    model_config: ModelConfig,
    *,
    start_from: Sequence[Path] = (),
    last_step: int | None = None,
) -> Path:
    """Train until ``hours`` of training time are spent in all, or until ``last_step``; returns the checkpoint's path.

    ``start_from`` are checkpoints of other runs; the decoder's stage needs one, unless it resumes.
    SIGINT and SIGTERM end the run after the step in hand, with its checkpoint written.

    Raises ValueError where the folder holds too little to train or validate on, a stage has nothing to start from, or a
    checkpoint is of another stage or model; ModelError where it is no checkpoint.
    """
    workers = Workers.join()
    device = workers.device()
    run_folder.mkdir(parents=True, exist_ok=True)
    checkpoint = run_folder / "checkpoint.pt"
    trainer = Trainer(config, model_config, device, workers)
    if checkpoint.exists():
        trainer.load(checkpoint)
        print(f"resumed at step {trainer.step}, {trainer.seconds / 3600:.2f} h spent", flush=True)
    elif start_from:
        trainer.start_from(start_from)
    elif not trainer.joint:
        raise ValueError("the decoder's stage starts from another run: --start-from CHECKPOINT")
    if workers.first:
        (run_folder / "settings.json").write_text(
            json.dumps({"train": asdict(config), "model": asdict(model_config), "hours": hours}, indent=2)
        )
    training, held = list_photos(photos)
    validation = validation_set(held)
    seed = config.seed + trainer.step + 1_000_000 * workers.rank
    source = CropSource(load_photos(training, config.crop_px), workers.share_of(config.batch), config.crop_px, seed)
    print(f"{len(training)} photographs, {len(validation)} validation crops, {device.type}", flush=True)
    budget = hours * 3600
    sums: dict[str, float] = {}
    count, last_save = 0, time.monotonic()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    while trainer.seconds < budget and (last_step is None or trainer.step < last_step):
        if workers.any(stop.is_set()):
            break
        started = time.monotonic()
        values = trainer.train_step(source.next(), trainer.seconds / budget)
        # A pause (SIGSTOP, a suspended laptop) is not training time.
        trainer.seconds = workers.of_first(trainer.seconds + min(time.monotonic() - started, 10.0))
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value
        count += 1
        if not math.isfinite(values["loss"]):
            raise RuntimeError(f"the loss is {values['loss']} at step {trainer.step}; the checkpoint is from before")
        if not workers.first:
            continue
        if trainer.step % 100 == 0:
            means = {name: total / count for name, total in sums.items()}
            print(
                f"step {trainer.step}  {trainer.seconds / 3600:.2f}/{hours:.2f} h  "
                + "  ".join(f"{name} {value:.4f}" for name, value in means.items()),
                flush=True,
            )
            sums, count = {}, 0
        if trainer.step % 2000 == 0:
            for measured in trainer.validate(validation):
                row = {"step": trainer.step, "hours": round(trainer.seconds / 3600, 4), **measured}
                _append_log(run_folder / "validation.csv", row)
                print("  valid " + "  ".join(f"{k} {v:.4f}" for k, v in row.items()), flush=True)
        if time.monotonic() - last_save > 300:
            trainer.save(checkpoint)
            last_save = time.monotonic()
    if workers.first:
        trainer.save(checkpoint)
    workers.leave()
    return checkpoint


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sdrt_train.train", description=__doc__)
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--run", type=Path, required=True, help="folder for checkpoint, log and settings")
    parser.add_argument("--hours", type=float, default=2.0, help="training time in all, resumed runs included")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument(
        "--start-from", type=Path, nargs="+", default=(), help="checkpoints of other runs, for their mean"
    )
    for default in (TrainConfig(), LossConfig()):
        for name, value in asdict(default).items():
            if not isinstance(value, dict):
                choices = STAGES if name == "stage" else None
                parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value, choices=choices)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    given = vars(arguments)
    loss = LossConfig(**{f.name: given[f.name] for f in fields(LossConfig)})
    config = TrainConfig(**{f.name: given[f.name] for f in fields(TrainConfig) if f.name in given}, loss=loss)
    try:
        path = run(
            arguments.photos,
            arguments.run,
            arguments.hours,
            config,
            ModelConfig(),
            start_from=arguments.start_from,
        )
    except (ValueError, OSError, ModelError) as error:
        print(f"sdrt_train: {error}", file=sys.stderr)
        return 2
    print(f"done: {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
