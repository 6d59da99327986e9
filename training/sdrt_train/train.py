"""Train the default pack's autoencoder: ``python -m sdrt_train.train PHOTOS --run training/runs/NAME --hours 2``.

The loss of a picture coded with step s is ``distortion / s + s * bpp``: one model serves steps from 1/4
to 4, with equal weight on each octave of rate. The learning rate follows a cosine over *time spent*, so
a run on a busy machine still lands softly when its hours are up; a second call resumes.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import math
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sdrt_train.data import CropSource, list_photos, load_photo, load_photos, to_tensor
from sdrt_train.model import DOWNSCALE, Autoencoder, ModelConfig, round_straight_through
from sdrt_train.perceptual import Lpips
from sdrt_train.rate import RateModel

LOG2_STEP_RANGE = 2.0  # steps from 2**-2 to 2**2


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run; written into the checkpoint, the log and the pack's manifest."""

    batch: int = 8
    crop_px: int = 192
    learning_rate: float = 5e-4
    ema: float = 0.9985
    mse_weight: float = 60.0
    alex_weight: float = 1.5
    vgg_weight: float = 2.0
    vgg_pictures: int = 1  # of each batch, chosen by position: VGG16 costs more than the model itself
    vgg_crop_px: int = 112
    vgg_from: float = 0.55
    seed: int = 1


class Trainer:
    """Everything that a checkpoint holds, and one step of the optimiser."""

    def __init__(self, config: TrainConfig, model_config: ModelConfig, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device = config, device
        self.model = Autoencoder(model_config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.rate = RateModel(model_config.latent_channels).to(device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.average_rate = copy.deepcopy(self.rate).requires_grad_(False)
        parameters = [*self.model.parameters(), *self.rate.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, betas=(0.9, 0.99))
        self.alex = Lpips("alexnet").to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.vgg: Lpips | None = None
        self.step = 0
        self.seconds = 0.0

    def state(self) -> dict[str, object]:
        return {
            "model": self.model.state_dict(),
            "rate": self.rate.state_dict(),
            "average": self.average.state_dict(),
            "average_rate": self.average_rate.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "model_config": asdict(self.model.config),
            "train_config": asdict(self.config),
        }

    def save(self, path: Path) -> None:
        temporary = path.with_suffix(".part")
        torch.save(self.state(), temporary)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True, map_location=self.device)
        for name in ("model", "rate", "average", "average_rate", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.seconds = state["step"], state["seconds"]

    def learning_rate(self, progress: float) -> float:
        warm_up = min(1.0, (self.step + 1) / 200)
        return self.config.learning_rate * warm_up * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))

    def train_step(self, batch: Tensor, progress: float) -> dict[str, float]:
        """One update on (N, 3, H, W) in [-1, 1]; ``progress`` of the run in [0, 1]."""
        config = self.config
        batch = batch.to(self.device)
        n, _, height, width = batch.shape
        # The sum of two uniforms: every octave of the range is visited, the middle most often.
        log2_step = (torch.rand(n) + torch.rand(n) - 1).to(self.device) * LOG2_STEP_RANGE
        step = torch.exp2(log2_step)
        wide = step[:, None, None, None]
        with torch.autocast(self.device.type, torch.bfloat16):
            latents = self.model.encoder(batch).float()
            picture = self.model.decoder(round_straight_through(latents, wide)).float()
            mse = (picture - batch).square().mean((1, 2, 3)) / 4  # in units of [0, 1]
            distortion = config.mse_weight * mse
            alex = torch.zeros(())
            if self.step >= 300:
                # AlexNet strides by 4 and the decoder shuffles by 4: seen at one offset only, a grid goes unpunished.
                y, x = (int(offset) for offset in torch.randint(DOWNSCALE, (2,)))
                alex = self.alex(picture[..., y:, x:], batch[..., y:, x:])
                distortion = distortion + config.alex_weight * alex
            if progress >= config.vgg_from and config.vgg_weight > 0:
                if self.vgg is None:
                    self.vgg = Lpips("vgg16").to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
                size = config.vgg_crop_px
                y = int(torch.randint(height - size + 1, ()))
                x = int(torch.randint(width - size + 1, ()))
                window = (slice(config.vgg_pictures), slice(None), slice(y, y + size), slice(x, x + size))
                vgg = self.vgg(picture[window], batch[window])
                distortion = distortion + config.vgg_weight * F.pad(vgg, (0, n - len(vgg)))
        symbols = latents / wide
        bits = self.rate(symbols + torch.rand_like(symbols) - 0.5, log2_step)
        bpp = bits / (height * width)
        loss = (distortion / step + step * bpp).mean()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(progress)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*self.model.parameters(), *self.rate.parameters()], 1.0)
        self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            decay = min(config.ema, (self.step + 1) / (self.step + 10))
            for average, current in ((self.average, self.model), (self.average_rate, self.rate)):
                torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - decay)
        return {
            "loss": loss.item(),
            "bpp": bpp.mean().item(),
            "mse": mse.mean().item(),
            "alex": alex.mean().item(),
        }

    @torch.no_grad()
    def validate(self, pictures: Tensor) -> list[dict[str, float]]:
        """Rate and distortion of the averaged weights at three steps; rounding, no noise."""
        rows = []
        for log2_step in (-1.0, 0.0, 1.0):
            totals = {"bpp": 0.0, "psnr": 0.0, "alex": 0.0}
            for picture in torch.split(pictures, 4):
                batch = picture.to(self.device)
                step = 2.0**log2_step
                with torch.autocast(self.device.type, torch.bfloat16):
                    symbols = torch.round(self.average.encoder(batch).float() / step)
                    decoded = self.average.decoder(symbols * step).float().clamp(-1, 1)
                bits = self.average_rate(symbols, torch.full((len(batch),), log2_step, device=self.device))
                mse = (decoded - batch).square().mean((1, 2, 3)) / 4
                totals["bpp"] += float(bits.sum()) / (batch.shape[2] * batch.shape[3])
                totals["psnr"] += float((-10 * torch.log10(mse)).sum())
                totals["alex"] += float(self.alex(decoded, batch).sum())
            rows.append({"log2_step": log2_step, **{k: v / len(pictures) for k, v in totals.items()}})
        return rows


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
    last_step: int | None = None,
) -> Path:
    """Train until ``hours`` of training time are spent in all, or until ``last_step``; returns the checkpoint's path.

    SIGINT and SIGTERM end the run after the step in hand, with its checkpoint written.

    Raises ValueError where the folder holds too little to train or validate on.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run_folder.mkdir(parents=True, exist_ok=True)
    checkpoint = run_folder / "checkpoint.pt"
    trainer = Trainer(config, model_config, device)
    if checkpoint.exists():
        trainer.load(checkpoint)
        print(f"resumed at step {trainer.step}, {trainer.seconds / 3600:.2f} h spent", flush=True)
    (run_folder / "settings.json").write_text(
        json.dumps({"train": asdict(config), "model": asdict(model_config), "hours": hours}, indent=2)
    )
    training, held = list_photos(photos)
    validation = validation_set(held)
    source = CropSource(load_photos(training, config.crop_px), config.batch, config.crop_px, config.seed + trainer.step)
    print(f"{len(training)} photographs, {len(validation)} validation crops, {device.type}", flush=True)
    budget = hours * 3600
    sums: dict[str, float] = {}
    count, last_save = 0, time.monotonic()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    while trainer.seconds < budget and (last_step is None or trainer.step < last_step) and not stop.is_set():
        started = time.monotonic()
        values = trainer.train_step(source.next(), trainer.seconds / budget)
        # A pause (SIGSTOP, a suspended laptop) is not training time.
        trainer.seconds += min(time.monotonic() - started, 10.0)
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value
        count += 1
        if not math.isfinite(values["loss"]):
            raise RuntimeError(f"the loss is {values['loss']} at step {trainer.step}; the checkpoint is from before")
        if trainer.step % 100 == 0:
            means = {name: total / count for name, total in sums.items()}
            print(
                f"step {trainer.step}  {trainer.seconds / 3600:.2f}/{hours:.2f} h  "
                + "  ".join(f"{name} {value:.4f}" for name, value in means.items()),
                flush=True,
            )
            sums, count = {}, 0
        if trainer.step % 1000 == 0:
            for measured in trainer.validate(validation):
                row = {"step": trainer.step, "hours": round(trainer.seconds / 3600, 4), **measured}
                _append_log(run_folder / "validation.csv", row)
                print("  valid " + "  ".join(f"{k} {v:.4f}" for k, v in row.items()), flush=True)
        if time.monotonic() - last_save > 300:
            trainer.save(checkpoint)
            last_save = time.monotonic()
    trainer.save(checkpoint)
    return checkpoint


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sdrt_train.train", description=__doc__)
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--run", type=Path, required=True, help="folder for checkpoint, log and settings")
    parser.add_argument("--hours", type=float, default=2.0, help="training time in all, resumed runs included")
    parser.add_argument("--threads", type=int, default=0)
    for name, value in asdict(TrainConfig()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config = TrainConfig(**{name: getattr(arguments, name) for name in asdict(TrainConfig())})
    try:
        path = run(arguments.photos, arguments.run, arguments.hours, config, ModelConfig())
    except ValueError as error:
        print(f"sdrt_train: {error}", file=sys.stderr)
        return 2
    print(f"done: {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
