"""The trainer: everything that a checkpoint holds, one step of the optimizer, and the measure of progress.

The cost of a pixel coded with step s (in 8-bit levels) is ``distortion / (LAMBDA s^2) + bits``: the Lagrangian of
rate and distortion in bits. A picture's loss is the logarithm of its cost, so that a page of type, whose errors are
tens of times those of a photograph, does not weigh more than one, and a coarse step no less than a fine one: what
counts is the share of its cost that each picture saves, as in a mean of PSNRs.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdrt.coding import activity
from sdrt.coding.quantize import KEPT
from sdrt.container import step_map
from sdrt_train.loss import Distortion
from sdrt_train.model import (
    DOWNSCALE,
    LEVELS,
    LOG2_STEPS,
    QUALITY_CENTER,
    Autoencoder,
    Block,
    block_transform,
    mean_weights,
    read_checkpoint,
)
from sdrt_train.muon import Muon
from sdrt_train.rate_model import LAMBDA, RateModel
from sdrt_train.recipe import Recipe
from sdrt_train.replay import Replayed
from sdrt_train.schedule import rate_factor
from sdrt_train.workers import Workers

MAP_CELL = step_map.CELL_PX // DOWNSCALE  # latents: a cell of the step map
_OFFSETS = step_map.OCTAVE // step_map.UNIT
_FLOOR_BITS = 0.05  # a pixel: what is cheaper, as flat pictures are, is not made much of
_TRANSFORM_LEARNS = 0.02  # of the learning rate: rows of an orthonormal basis are small numbers
_WIDE = 32
_FULL_RATE_INPUTS = 256  # a kernel over more inputs learns at a rate that falls with their number


def fast_type(device: torch.device) -> torch.dtype:
    """bfloat16 where it is faster than float32: on a GPU, and on a CPU that computes in it. Measured, not asked."""
    if device.type != "cpu":
        return torch.bfloat16
    conv = nn.Conv2d(128, 128, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(2, 128, 24, 24).to(memory_format=torch.channels_last)
    seconds = {}
    for kind in (torch.float32, torch.bfloat16):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=kind is torch.bfloat16):
            conv(x)
            started = time.perf_counter()
            for _ in range(5):
                conv(x)
            seconds[kind] = time.perf_counter() - started
    return min(seconds, key=lambda kind: seconds[kind])


def is_wide(parameter: Tensor) -> bool:
    """Whether a parameter is a kernel that `Muon` learns: one that maps many numbers to many."""
    return parameter.dim() > 1 and min(len(parameter), parameter[0].numel()) >= _WIDE


def width_factor(parameter: Tensor) -> float:
    """What the learning rate of a parameter that Adam learns is multiplied by.

    Adam moves every weight by about the rate, and what a wide kernel adds up by the rate times its inputs: at one rate
    for all, wide layers jump and their ReLUs die. Yang et al., "Tensor Programs V" (arXiv 2203.03466), table 3.
    """
    inputs = parameter[0].numel() if parameter.dim() > 1 else 1
    return min(1.0, _FULL_RATE_INPUTS / inputs)


def adapted_offsets(latents: Tensor, level: Tensor) -> Tensor:
    """What the codec adds to the level of each position for its activity, see `sdrt.coding.activity`.

    Args:
        latents: (N, C, h, w).
        level: (N, 1, h, w), log2 of the step before.

    Returns:
        (N, 1, h, w), octaves.
    """
    height, width = latents.shape[2:]
    symbols = (latents.abs() > float(KEPT) * torch.exp2(level)).sum(1, keepdim=True, dtype=torch.float32)
    counts = F.avg_pool2d(symbols, MAP_CELL, ceil_mode=True)
    mean = counts.mean((2, 3), keepdim=True)
    octaves = activity.STRENGTH * torch.log2((counts + activity.FLOOR) / (mean + activity.FLOOR))
    octaves = (octaves.clamp(activity.FINEST, activity.COARSEST) * _OFFSETS).round() / _OFFSETS
    return F.interpolate(octaves, scale_factor=MAP_CELL, mode="nearest")[..., :height, :width]


class Trainer:
    """Everything that a checkpoint holds, and one step of the optimizer."""

    def __init__(self, recipe: Recipe, device: torch.device, workers: Workers | None = None) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.workers = recipe, device, workers or Workers()
        self.dtype = fast_type(device)
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # crops are of one size
            torch.backends.cudnn.allow_tf32 = False  # the linear path's means are thousands of levels
        self.model = Autoencoder(recipe.model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.rate = RateModel(recipe.model.latent_channels).to(device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.average_rate = copy.deepcopy(self.rate).requires_grad_(False)
        self.stage_number, self.step, self.seconds = 0, 0, 0.0  # step counts within the stage
        self._enter_stage()
        torch.manual_seed(recipe.seed + 1000 * self.workers.rank)

    def _enter_stage(self) -> None:
        self.stage = self.recipe.stages[self.stage_number]
        learning: list[nn.Module] = {
            "all": [self.model, self.rate],
            "encoder": [self.model.encoder, self.rate],
            "decoder": [self.model.decoder],
        }[self.stage.learns]
        self.model.requires_grad_(False)
        self.rate.requires_grad_(False)
        for module in learning:
            module.requires_grad_(True)
        self.parameters = [p for module in learning for p in module.parameters()]
        transform = {id(p) for name, p in self.model.named_parameters() if ".linear." in name}
        kernels = [p for p in self.model.parameters() if p.requires_grad and id(p) not in transform and is_wide(p)]
        orthogonal = {id(p) for p in kernels}
        others = [p for p in self.parameters if id(p) not in orthogonal]
        rate = self.stage.learning_rate
        self.muon = Muon(kernels, self._number(rate))
        shares = [_TRANSFORM_LEARNS if id(p) in transform else width_factor(p) for p in others]
        self.adam = torch.optim.Adam(
            [{"params": [p], "lr": self._number(rate * share)} for p, share in zip(others, shares, strict=True)],
            betas=(0.9, 0.99),
            fused=True,
            capturable=self.device.type == "cuda",
        )
        self.full_rates = [float(group["lr"]) for group in self._groups]
        self._replayed: Replayed | None = None
        loss = self.stage.loss
        distortion = Distortion(loss, self.workers.share_of(loss.vgg_pictures) if loss.sees_vgg else 0)
        self.distortion: Distortion = distortion.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _number(self, value: float) -> Tensor:
        return torch.tensor(value, device=self.device)

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return [*self.muon.param_groups, *self.adam.param_groups]

    @property
    def done(self) -> bool:
        """Whether all stages are over."""
        return self.stage_number == len(self.recipe.stages) - 1 and self.step >= self.stage.steps

    @property
    def total_step(self) -> int:
        """Updates since the recipe's first."""
        return sum(stage.steps for stage in self.recipe.stages[: self.stage_number]) + self.step

    def start(self, pictures: Tensor) -> None:
        """Sets a new model to the block transform of photographs (N, 3, H, W) in [-1, 1]."""
        basis, deviations = block_transform(pictures, self.recipe.model.latent_channels)
        for model, rate in ((self.model, self.rate), (self.average, self.average_rate)):
            model.start_at_transform(basis.to(self.device), deviations.to(self.device))
            rate.log_deviations.copy_(deviations.clamp_min(0.5).log())

    _PARTS = ("model", "rate", "average", "average_rate", "muon", "adam")

    def save(self, path: Path) -> None:
        """Writes a checkpoint, whole or not at all."""
        temporary = path.with_suffix(".part")
        state = {name: getattr(self, name).state_dict() for name in self._PARTS}
        position = {"stage": self.stage_number, "step": self.step, "seconds": self.seconds}
        settings = {"model_config": asdict(self.model.config), "recipe": asdict(self.recipe)}
        torch.save({**state, **position, **settings}, temporary)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Goes on where ``path`` stopped.

        Raises:
            ModelError: no checkpoint.
            ValueError: one of another model.
        """
        state = self._read(path)
        self.stage_number, self.step, self.seconds = state["stage"], state["step"], state["seconds"]
        self._enter_stage()
        settings = [{name: value for name, value in group.items() if name != "params"} for group in self._groups]
        for name in self._PARTS:
            getattr(self, name).load_state_dict(state[name])
        for group, setting in zip(self._groups, settings, strict=True):
            group.update(setting)  # the recipe's and this device's, not the checkpoint's

    def start_from(self, paths: Sequence[Path]) -> None:
        """Takes the averaged weights of other runs, of several their mean, for its own first ones. Raises as `load`."""
        states = [self._read(path) for path in paths]
        for name, average in (("model", "average"), ("rate", "average_rate")):
            mean = mean_weights([state[average] for state in states])
            getattr(self, name).load_state_dict(mean)
            getattr(self, average).load_state_dict(mean)

    def _read(self, path: Path) -> dict[str, Any]:
        model, state = read_checkpoint(path, self.device)
        if model.config != self.model.config:
            raise ValueError(f"{path} holds a model of another shape: {state['model_config']}")
        return state

    def _quality_levels(self, count: int, side: int) -> Tensor:
        """(N, 1, side, side): log2 of the step; for a share of the pictures it differs from cell to cell."""
        finest, coarsest = LOG2_STEPS
        # Small files are what most want, and coarse steps have most to learn: the density rises with the cube.
        random, each = partial(torch.rand, device=self.device), (count, 1, 1, 1)
        base = finest + (coarsest - finest) * random(each).pow(1 / 4)
        cells = -(-side // MAP_CELL)
        offsets = torch.randn(count, 1, cells, cells, device=self.device) * (random(each) < self.stage.maps) * 0.7
        offsets = F.interpolate(offsets, scale_factor=MAP_CELL, mode="nearest")[..., :side, :side]
        return (base + offsets).clamp(finest - 0.5, coarsest + 0.5)

    def train_step(self, batch: Tensor) -> dict[str, Tensor]:
        """One update on (N, 3, H, W) in [-1, 1]; returns the parts of the loss, on the device."""
        factor = rate_factor(self.step, self.stage.steps, self.stage.decay, self.stage.warm_up)
        for group, rate in zip(self._groups, self.full_rates, strict=True):
            group["lr"].fill_(rate * factor)
        batch = batch.to(self.device)
        if self.device.type == "cuda":
            self._replayed = self._replayed or Replayed(self._update, batch)
        parts = (self._replayed or self._update)(batch)
        with torch.no_grad():
            decay = min(self.stage.average, (self.total_step + 1) / (self.total_step + 3))
            for average, current in ((self.average, self.model), (self.average_rate, self.rate)):
                torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - decay)
        self.step += 1
        return parts

    def _update(self, batch: Tensor) -> dict[str, Tensor]:
        """All of an update that a GPU can replay: nothing here waits for the device or differs from step to step."""
        stage = self.stage
        n, _, height, width = batch.shape
        level = self._quality_levels(n, height // DOWNSCALE)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype is torch.bfloat16):
            with torch.set_grad_enabled(stage.learns != "decoder"):
                latents = self.model.encoder(batch).float()
            if stage.adapted > 0:
                adapted = torch.rand(n, 1, 1, 1, device=self.device) < stage.adapted
                level = level + adapted * adapted_offsets(latents.detach(), level)
            step = torch.exp2(level)
            strength = stage.decisions * torch.rand(n, device=self.device)
            symbols, bits = self.rate.soft_decide(latents / step, level, strength)
            picture = self.model.decoder(symbols * step, level).float()
            # What a squared level costs in bits, at each pixel.
            price = F.interpolate(1 / (LAMBDA * step.square()), scale_factor=DOWNSCALE, mode="nearest")
            distortion, parts = self.distortion.measure(picture, batch, price)
            bpp = bits / (height * width)
        loss = (distortion + bpp + _FLOOR_BITS).log().mean()
        parts["bpp"], parts["loss"] = bpp.mean().detach(), loss.detach()
        for parameter in self.parameters:
            parameter.grad = None
        torch.autograd.backward(loss)
        self.workers.average_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.muon.step()
        self.adam.step()
        return parts

    def next_stage(self) -> bool:
        """Enters the next stage if the present one is over and there is one."""
        if self.step < self.stage.steps or self.done:
            return False
        self.stage_number, self.step = self.stage_number + 1, 0
        self._enter_stage()
        return True

    @torch.no_grad()
    def least_alive(self, pictures: Tensor) -> float:
        """The smallest share, over all residual blocks, of hidden units that fire anywhere in (N, 3, H, W)."""
        shares: list[float] = []

        def count(_module: nn.Module, _inputs: tuple[Tensor, ...], hidden: Tensor) -> None:
            shares.append(float((hidden.amax((0, 2, 3)) > 0).float().mean()))

        blocks = [module for module in self.average.modules() if isinstance(module, Block)]
        hooks = [block.first.register_forward_hook(count) for block in blocks]
        n, _, height, width = pictures.shape
        level = torch.full((n, 1, height // DOWNSCALE, width // DOWNSCALE), QUALITY_CENTER, device=self.device)
        step = torch.exp2(level)
        latents = self.average.encoder(pictures.to(self.device))
        self.average.decoder(torch.round(latents / step) * step, level)
        for hook in hooks:
            hook.remove()
        return min(shares)

    @torch.no_grad()
    def validate(self, pictures: Tensor) -> list[dict[str, float]]:
        """Rate and distortion of the averaged weights at five steps, decided with half strength, and unquantized.

        LPIPS (AlexNet) is not a number in stages that have it not in their loss.
        """
        rows = []
        for log2_step in (8.0, 7.25, 6.5, 5.5, 4.0, None):
            bpp = 0.0
            psnrs: list[float] = []
            lpips: list[float] = []
            for batch in torch.split(pictures.to(self.device), 4):
                n, _, height, width = batch.shape
                shape = (n, 1, height // DOWNSCALE, width // DOWNSCALE)
                level = torch.full(shape, log2_step or LOG2_STEPS[0], device=self.device)
                step = torch.exp2(level)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype is torch.bfloat16):
                    latents = self.average.encoder(batch).float()
                    if log2_step is not None:
                        strength = torch.full((n,), 0.5, device=self.device)
                        symbols = self.average_rate.decide(latents / step, level, strength)
                        bpp += float(self.average_rate(symbols, level).sum()) / (height * width)
                        latents = symbols * step
                    picture = self.average.decoder(latents, level).float().clamp(-1, 1)
                    if self.distortion.alex is not None:
                        lpips += self.distortion.alex(picture, batch).tolist()
                mse = (picture - batch).square().mean((1, 2, 3)) * LEVELS**2
                psnrs += (10 * torch.log10(255**2 / mse)).tolist()
            shown = -1.0 if log2_step is None else log2_step
            alex = sum(lpips) / len(pictures) if lpips else math.nan
            row = {"log2_step": shown, "bpp": bpp / len(pictures), "psnr": sum(psnrs) / len(pictures), "alex": alex}
            rows.append(row)
        return rows
