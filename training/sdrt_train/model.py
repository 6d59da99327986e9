"""The autoencoder of models/tiny: convolutions only, downscale factor 16.

Convolutions, ReLU, addition and pixel shuffle are the whole vocabulary: every execution provider fuses
them, they quantise well, and a tile with enough halo equals the whole picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdrt.errors import ModelError

DOWNSCALE = 16


@dataclass(frozen=True)
class ModelConfig:
    """Widths and depths of the stages at 1/4, 1/8 and 1/16 (and the decoder's at 1/2)."""

    latent_channels: int = 32
    encoder_widths: tuple[int, int, int] = (64, 128, 192)
    encoder_blocks: tuple[int, int, int] = (2, 3, 3)
    decoder_widths: tuple[int, int, int, int] = (192, 128, 64, 32)
    decoder_blocks: tuple[int, int, int, int] = (3, 3, 2, 1)


class Block(nn.Module):
    """x + conv(relu(conv(relu(x)))): the branch starts small, so a deep stack starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.second.weight.data *= 0.2

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.second(F.relu(self.first(F.relu(x))))
        return x + branch


def _blocks(width: int, count: int) -> list[nn.Module]:
    return [Block(width) for _ in range(count)]


class Upsample(nn.Module):
    """1x1 convolution and pixel shuffle; the four sub-pixels start alike, so that no grid is learned first."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out * 4, 1)
        weight = self.conv.weight.data
        self.conv.weight.data = weight[::4].repeat_interleave(4, 0).clone()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = F.pixel_shuffle(self.conv(x), 2)
        return result


class Encoder(nn.Module):
    """(N, 3, H, W) in [-1, 1], H and W multiples of 16 -> latents (N, C, H/16, W/16)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        quarter, eighth, sixteenth = config.encoder_widths
        n_quarter, n_eighth, n_sixteenth = config.encoder_blocks
        self.body = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, quarter, 3, padding=1),
            *_blocks(quarter, n_quarter),
            nn.Conv2d(quarter, eighth, 3, stride=2, padding=1),
            *_blocks(eighth, n_eighth),
            nn.Conv2d(eighth, sixteenth, 3, stride=2, padding=1),
            *_blocks(sixteenth, n_sixteenth),
            nn.ReLU(),
        )
        self.out = nn.Conv2d(sixteenth, config.latent_channels, 3, padding=1)
        self.out.weight.data *= 4

    def forward(self, sample: Tensor) -> Tensor:
        latents: Tensor = self.out(self.body(sample))
        return latents


class Decoder(nn.Module):
    """Latents (N, C, h, w) -> (N, 3, 16h, 16w), nominally in [-1, 1], not clamped."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sixteenth, eighth, quarter, half = config.decoder_widths
        n_sixteenth, n_eighth, n_quarter, n_half = config.decoder_blocks
        self.body = nn.Sequential(
            nn.Conv2d(config.latent_channels, sixteenth, 3, padding=1),
            *_blocks(sixteenth, n_sixteenth),
            Upsample(sixteenth, eighth),
            *_blocks(eighth, n_eighth),
            Upsample(eighth, quarter),
            *_blocks(quarter, n_quarter),
            Upsample(quarter, half),
            *_blocks(half, n_half),
            nn.ReLU(),
        )
        self.pixels = nn.Conv2d(half, 12, 3, padding=1)
        weight = self.pixels.weight.data
        self.pixels.weight.data = weight[::4].repeat_interleave(4, 0).clone()

    def forward(self, latents: Tensor) -> Tensor:
        result: Tensor = F.pixel_shuffle(self.pixels(self.body(latents)), 2)
        return result


class Autoencoder(nn.Module):
    """Encoder and decoder of one latent space."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> tuple[Autoencoder, dict[str, Any]]:
    """The averaged model of a checkpoint, on the CPU, and all that ``sdrt_train.train`` saved there, on ``device``.

    Raises ModelError if the file is no such checkpoint, OSError if it cannot be read.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
        model = Autoencoder(ModelConfig(**state["model_config"]))
        model.load_state_dict(state["average"])
    except OSError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged file; all mean the same to the caller
        raise ModelError(f"{path} is no checkpoint of sdrt_train: {str(error).splitlines()[0]}") from None
    return model, state


def mean_weights(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of models that grew from one another (Wortsman et al., "Model Soups", ICML 2022);
    weights that grew up apart have none."""
    return {name: torch.stack([state[name] for state in states]).mean(0) for name in states[-1]}


def straight_through(latents: Tensor, quantised: Tensor) -> Tensor:
    """``quantised``, with the gradient of the identity to ``latents``."""
    return latents + (quantised - latents).detach()
