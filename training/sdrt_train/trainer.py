"""The trainer: everything that a checkpoint holds, one step of the optimiser, and the measure of progress.

The loss of a picture coded with step s is ``(distortion / s + s * bpp) * sqrt(s)``: one model serves a factor of 16 in
step. In the decoder's stage rate and latents stand still, and pictures weigh alike.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdrt_metrics.perceptual import Dists
from sdrt_train.adversary import FeatureCritic, PatchCritic, fool, hinge
from sdrt_train.loss import Distortion, LossConfig, Window
from sdrt_train.model import Autoencoder, ModelConfig, mean_weights, read_checkpoint, straight_through
from sdrt_train.rate import RateModel
from sdrt_train.workers import Workers

LOG2_STEPS = (-1.5, 2.5)  # 0.152 bits a pixel lie a little left of the middle
STAGES = ("joint", "decoder")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run; written into the checkpoint, the log and the pack's manifest."""

    stage: str = "joint"  # "joint": encoder, rate model, decoder. "decoder": only that
    batch: int = 8  # of all workers together
    crop_px: int = 192
    learning_rate: float = 5e-4
    critic_learning_rate: float = 2e-4
    ema: float = 0.9985
    vgg_from: float = 0.5
    decisions: float = 1.0  # the decoder sees symbols chosen by rate and distortion, of strength 0 to this
    seed: int = 1
    loss: LossConfig = field(default_factory=LossConfig)


class Trainer:
    """Everything that a checkpoint holds, and one step of the optimiser."""

    def __init__(
        self, config: TrainConfig, model_config: ModelConfig, device: torch.device, workers: Workers | None = None
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device, self.workers = config, device, workers or Workers()
        self.joint = config.stage == "joint"
        self.adversarial = not self.joint and config.loss.adversarial
        self.model = Autoencoder(model_config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.rate = RateModel(model_config.latent_channels).to(device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.average_rate = copy.deepcopy(self.rate).requires_grad_(False)
        distortion = Distortion(config.loss, self.workers.share_of(config.loss.vgg_pictures))
        self.distortion: Distortion = distortion.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dists = Dists().to(device)
        learning = [self.model, self.rate] if self.joint else [self.model.decoder]
        self.parameters = [parameter for module in learning for parameter in module.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.learning_rate, betas=(0.9, 0.99))
        if self.adversarial:
            self.critics = nn.ModuleList([PatchCritic(model_config.latent_channels), FeatureCritic()]).to(device)
            self.critic_optimizer = torch.optim.Adam(
                self.critics.parameters(), lr=config.critic_learning_rate, betas=(0.5, 0.9)
            )
        self.step = 0
        self.seconds = 0.0
        self.seconds_before = 0.0
        torch.manual_seed(config.seed + 1000 * self.workers.rank)

    def _parts(self) -> list[str]:
        parts = ["model", "rate", "average", "average_rate", "optimizer"]
        return [*parts, "critics", "critic_optimizer"] if self.adversarial else parts

    def state(self) -> dict[str, object]:
        return {
            **{name: getattr(self, name).state_dict() for name in self._parts()},
            "step": self.step,
            "seconds": self.seconds,
            "seconds_before": self.seconds_before,
            "model_config": asdict(self.model.config),
            "train_config": asdict(self.config),
        }

    def save(self, path: Path) -> None:
        temporary = path.with_suffix(".part")
        torch.save(self.state(), temporary)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Goes on where ``path`` stopped. Raises ModelError (no checkpoint), ValueError (another stage or model)."""
        state = self._read(path)
        if state["train_config"]["stage"] != self.config.stage:
            raise ValueError(f"{path} is of the stage {state['train_config']['stage']}: give another --run folder")
        for name in self._parts():
            getattr(self, name).load_state_dict(state[name])
        self.step, self.seconds, self.seconds_before = state["step"], state["seconds"], state["seconds_before"]

    def start_from(self, paths: Sequence[Path]) -> None:
        """Takes the averaged weights of other runs, of several their mean, for its own first ones.

        Raises ModelError (no checkpoint), ValueError (another model).
        """
        states = [self._read(path) for path in paths]
        for name, average in (("model", "average"), ("rate", "average_rate")):
            mean = mean_weights([state[average] for state in states])
            getattr(self, name).load_state_dict(mean)
            getattr(self, average).load_state_dict(mean)
        self.seconds_before = states[-1]["seconds"] + states[-1].get("seconds_before", 0.0)

    def _read(self, path: Path) -> dict[str, Any]:
        model, state = read_checkpoint(path, self.device)
        if model.config != self.model.config:
            raise ValueError(f"{path} holds a model of another shape: {state['model_config']}")
        return state

    def schedule(self, progress: float) -> float:
        """What the rates are multiplied by: a warm-up of 200 steps, then a cosine down to a fiftieth."""
        return min(1.0, (self.step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))

    def train_step(self, batch: Tensor, progress: float) -> dict[str, float]:
        """One update on (N, 3, H, W) in [-1, 1]; ``progress`` of the run in [0, 1]."""
        config = self.config
        batch = batch.to(self.device)
        n, _, height, width = batch.shape
        # The sum of two uniforms: every octave of the range is visited, the middle most often.
        fine, coarse = LOG2_STEPS
        log2_step = fine + (coarse - fine) / 2 * (torch.rand(n) + torch.rand(n)).to(self.device)
        step = torch.exp2(log2_step)
        wide = step[:, None, None, None]
        with torch.autocast(self.device.type, torch.bfloat16):
            with torch.set_grad_enabled(self.joint):
                latents = self.model.encoder(batch).float()
            # A young encoder's latents are small: taken early, decisions would make zeros of them all.
            age = math.inf if self.seconds_before else self.step
            strength = config.decisions * min(1.0, age / 1000) * torch.rand(n, device=self.device)
            chosen = self.rate.decide(latents.detach() / wide, log2_step, strength)
            picture = self.model.decoder(straight_through(latents, chosen * wide)).float()
            seen = picture.detach().requires_grad_(True) if self.adversarial else picture
            with_alex, with_vgg = age >= 300, bool(self.seconds_before) or progress >= config.vgg_from
            distortion, parts, window = self.distortion.measure(seen, batch, with_alex=with_alex, with_vgg=with_vgg)
        rate = self.schedule(progress)
        if self.joint:
            symbols = latents / wide
            bpp = self.rate(symbols + torch.rand_like(symbols) - 0.5, log2_step) / (height * width)
            loss = (distortion / step.sqrt() + step * step.sqrt() * bpp).mean()
            parts["bpp"] = bpp.mean().item()
        else:
            loss = distortion.mean()
        parts["loss"] = loss.item()
        if self.adversarial:
            assert window is not None, "critics need VGG16"
            pull = self._pull(loss, seen, chosen, log2_step, window)
            self._update(self.optimizer, self.parameters, picture, config.learning_rate * rate, pull)
            parts["critics"] = self._train_critics((batch, picture.detach()), chosen, log2_step, window, rate)
        else:
            self._update(self.optimizer, self.parameters, loss, config.learning_rate * rate)
        self.step += 1
        with torch.no_grad():
            decay = min(config.ema, (self.step + 1) / (self.step + 10))
            for average, current in ((self.average, self.model), (self.average_rate, self.rate)):
                torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - decay)
        return parts

    def _pull(self, distortion: Tensor, picture: Tensor, symbols: Tensor, log2_step: Tensor, window: Window) -> Tensor:
        """The gradient to the picture: of the distortion, and of each critic at a fixed
        share of its length, for a critic that learns faster than the decoder would soon outweigh everything."""
        shares = (self.config.loss.patch_critic_share, self.config.loss.feature_critic_share)
        patch_critic, feature_critic = self.critics.requires_grad_(False)
        with torch.autocast(self.device.type, torch.bfloat16):
            patches = fool(patch_critic(picture, symbols, log2_step))
            features = torch.stack([fool(x) for x in feature_critic(window.painted, window.scales)])
        (pull,) = torch.autograd.grad(distortion, picture, retain_graph=True)
        length = pull.norm()
        for paid, share in zip((patches.sum(), features.sum()), shares, strict=True):
            (own,) = torch.autograd.grad(paid, picture, retain_graph=True)
            pull = pull + own * (min(1.0, self.step / 300) * share * length / (own.norm() + 1e-12))
        return pull

    def _train_critics(
        self, pictures: tuple[Tensor, Tensor], symbols: Tensor, log2_step: Tensor, window: Window, rate: float
    ) -> float:
        """One update of the critics from (photographs, painted); returns their mean loss."""
        photos, painted_pictures = pictures
        patch_critic, feature_critic = self.critics.requires_grad_(True)
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = hinge(patch_critic(photos, symbols, log2_step), patch_critic(painted_pictures, symbols, log2_step))
            painted = feature_critic([f.detach() for f in window.painted], window.scales)
            real = feature_critic(window.real, window.scales)
            loss = loss + torch.stack([hinge(r, p) for r, p in zip(real, painted, strict=True)]).mean()
        rate *= self.config.critic_learning_rate
        self._update(self.critic_optimizer, list(self.critics.parameters()), loss, rate)
        return loss.item() / 2

    def _update(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: list[nn.Parameter],
        loss: Tensor,
        rate: float,
        pull: Tensor | None = None,
    ) -> None:
        """One step at the learning rate ``rate``; ``pull`` is the gradient to ``loss`` where that is no scalar."""
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss, pull)
        self.workers.average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    @torch.no_grad()
    def validate(self, pictures: Tensor) -> list[dict[str, float]]:
        """Rate and distortion of the averaged weights at four steps; decisions of half the strength, no noise."""
        rows = []
        batches = [picture.to(self.device) for picture in torch.split(pictures, 4)]
        with torch.autocast(self.device.type, torch.bfloat16):
            latents = [self.average.encoder(batch).float() for batch in batches]
        for log2_step in (-1.0, 0.0, 1.0, 2.0):
            totals = {"bpp": 0.0, "psnr": 0.0, "alex": 0.0, "vgg": 0.0, "dists": 0.0}
            for batch, encoded in zip(batches, latents, strict=True):
                step = 2.0**log2_step
                log2_steps = torch.full((len(batch),), log2_step, device=self.device)
                with torch.autocast(self.device.type, torch.bfloat16):
                    exact = encoded / step
                    strength = torch.full_like(log2_steps, self.config.decisions / 2)
                    symbols = self.average_rate.decide(exact, log2_steps, strength)
                    decoded = self.average.decoder(symbols * step).float().clamp(-1, 1)
                    totals["alex"] += float(self.distortion.alex(decoded, batch).sum())
                    totals["vgg"] += float(self.distortion.vgg(decoded, batch).sum())
                bits = self.average_rate(symbols, log2_steps)
                mse = (decoded - batch).square().mean((1, 2, 3)) / 4
                totals["bpp"] += float(bits.sum()) / (batch.shape[2] * batch.shape[3])
                totals["psnr"] += float((-10 * torch.log10(mse)).sum())
                totals["dists"] += float(self.dists(decoded / 2 + 0.5, batch / 2 + 0.5).sum())
            rows.append({"log2_step": log2_step, **{k: v / len(pictures) for k, v in totals.items()}})
        return rows
