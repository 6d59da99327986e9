"""The autoencoder of the default pack: a wide latent space at downscale factor 16.

A linear block transform runs beside both networks: the encoder adds its network's output to the Karhunen-Loeve
coefficients of each block of 16x16 pixels, the decoder adds its network's output to the linear synthesis. So training
starts at a plain transform codec, channels start in order of importance, and colour passes through unharmed
(the idea of AuxT, arXiv 2501.13751, with one transform instead of a ladder of wavelets).

Convolutions, leaky ReLU, addition and pixel shuffle are the whole vocabulary: every execution provider fuses them, they
quantize well, and a tile with enough halo equals the whole picture. Resampling is Haar-shaped: a 1x1 convolution to
four sub-bands, a fixed orthogonal mix, a pixel shuffle; sub-band scales are learned and `Autoencoder.folded` folds
scales and mixes into plain convolutions.

Latents are in units of 8-bit levels of an orthonormal block transform; the quality level is the base-2 logarithm of
the quantizer's step in the same unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdrt.errors import ModelError

DOWNSCALE = 16
BLOCK_VALUES = 3 * DOWNSCALE**2
LEVELS = 127.5  # 8-bit levels in one unit of a sample, which lies in [-1, 1]
LOG2_STEPS = (3.0, 9.0)  # the quality levels that training visits
LEAK = 0.1  # slope of the blocks' hidden units below zero
QUALITY_CENTER, QUALITY_SPAN = 5.6, 2.6


@dataclass(frozen=True)
class ModelConfig:
    """Widths and depths of the stages.

    Attributes:
        latent_channels: channels of the latents, at most 768.
        encoder_widths: channels at 1/4, 1/8 and 1/16 of the sides.
        encoder_blocks: residual blocks there.
        decoder_widths: channels at 1/16, 1/8 and 1/4.
        decoder_blocks: residual blocks there.
        haar: Haar-shaped resampling; otherwise plain 1x1 convolutions and pixel shuffle.
        quality: whether the decoder is told the quality level. The encoder is not: it runs once for all steps.
    """

    latent_channels: int = 192
    encoder_widths: tuple[int, int, int] = (64, 128, 256)
    encoder_blocks: tuple[int, int, int] = (2, 3, 4)
    decoder_widths: tuple[int, int, int] = (256, 128, 64)
    decoder_blocks: tuple[int, int, int] = (4, 3, 1)
    haar: bool = True
    quality: bool = True


class Block(nn.Module):
    """x + conv(leaky_relu(conv(x))): the branch starts small, so a deep stack starts as the identity.

    Lim et al., "Enhanced Deep Residual Networks" (CVPRW 2017). A ReLU before the first convolution would show it
    positive numbers only, whose sum drives hidden units below zero for good. With a plain ReLU between the two nearly
    all hidden units of the encoder's blocks at 1/16 were dead after 1,000 updates.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")
        nn.init.kaiming_normal_(self.second.weight, nonlinearity="linear")
        self.second.weight.data *= 0.1

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.second(F.leaky_relu(self.first(x), LEAK))
        return x + branch


def _blocks(width: int, count: int) -> list[nn.Module]:
    return [Block(width) for _ in range(count)]


# Rows: the four sub-bands (mean, horizontal, vertical, diagonal detail); columns: the pixels of a 2x2 cell.
_HAAR = ((1.0, 1, 1, 1), (1, -1, 1, -1), (1, 1, -1, -1), (1, -1, -1, 1))


@lru_cache
def _haar(device: torch.device) -> Tensor:
    return torch.tensor(_HAAR, device=device)


class Upsample(nn.Module):
    """Twice the sides: a 1x1 convolution to four sub-bands, scaled and mixed, and a pixel shuffle.

    Details start at a tenth, so no grid is learned first. Without ``haar`` the four sub-pixels start alike.
    """

    def __init__(self, n_in: int, n_out: int, haar: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out * 4, 1)
        self.scales = nn.Parameter(torch.tensor([1.0, 0.1, 0.1, 0.1]).repeat(n_out)) if haar else None
        if not haar:
            self.conv.weight.data = self.conv.weight.data[::4].repeat_interleave(4, 0).clone()

    def weights(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one 1x1 convolution that scales and mix fold into."""
        weight, bias = self.conv.weight, self.conv.bias
        assert bias is not None
        if self.scales is None:
            return weight, bias
        together = torch.cat([weight.flatten(1), bias[:, None]], 1) * self.scales[:, None]
        bands = together.reshape(-1, 4, together.shape[1])
        mixed = torch.einsum("sp,osi->opi", _haar(weight.device), bands).flatten(0, 1)
        return mixed[:, :-1, None, None], mixed[:, -1]

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(F.conv2d(x, *self.weights()), 2)


class Downsample(nn.Module):
    """Half the sides: pixel unshuffle to four sub-bands, mixed and scaled, and a 1x1 convolution."""

    def __init__(self, n_in: int, n_out: int, haar: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4 * n_in, n_out, 1)
        self.scales = nn.Parameter(torch.ones(4).repeat(n_in)) if haar else None

    def weights(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one 1x1 convolution that mix and scales fold into."""
        weight, bias = self.conv.weight, self.conv.bias
        assert bias is not None
        if self.scales is None:
            return weight, bias
        scaled = (weight.flatten(1) * self.scales).reshape(len(weight), -1, 4)
        return torch.einsum("ois,sp->oip", scaled, _haar(weight.device) / 2).flatten(1)[:, :, None, None], bias

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pixel_unshuffle(x, 2), *self.weights())


class Quality(nn.Module):
    """The quality level of each position as a bias: (N, 1, h, w) -> (N, width, h, w)."""

    def __init__(self, width: int, hidden: int = 32) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, hidden, 1), nn.Conv2d(hidden, width, 1)
        nn.init.normal_(self.first.weight)
        nn.init.zeros_(self.second.weight)  # at first all levels are one

    def forward(self, log2_step: Tensor) -> Tensor:
        result: Tensor = self.second(F.relu(self.first((log2_step - QUALITY_CENTER) / QUALITY_SPAN)))
        return result


class Encoder(nn.Module):
    """Samples (N, 3, H, W) in [-1, 1], sides multiples of 16 -> latents (N, C, H/16, W/16)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        quarter, eighth, sixteenth = config.encoder_widths
        n_quarter, n_eighth, n_sixteenth = config.encoder_blocks
        self.body = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, quarter, 3, padding=1),
            *_blocks(quarter, n_quarter),
            Downsample(quarter, eighth, config.haar),
            *_blocks(eighth, n_eighth),
            Downsample(eighth, sixteenth, config.haar),
        )
        self.tail = nn.Sequential(*_blocks(sixteenth, n_sixteenth), nn.ReLU())
        self.out = nn.Conv2d(sixteenth, config.latent_channels, 3, padding=1)
        self.log_scales = nn.Parameter(torch.zeros(config.latent_channels))
        self.linear = nn.Conv2d(BLOCK_VALUES, config.latent_channels, 1, bias=False)

    def forward(self, sample: Tensor) -> Tensor:
        latents: Tensor = self.out(self.tail(self.body(sample))) * self.log_scales.exp()[:, None, None]
        with torch.autocast(sample.device.type, enabled=False):
            latents = latents.float() + LEVELS * self.linear(F.pixel_unshuffle(sample.float(), DOWNSCALE))
        return latents


class Decoder(nn.Module):
    """Latents (N, C, h, w) and the quality level (N, 1, h, w) -> samples (N, 3, 16h, 16w), not clamped.

    The linear synthesis is not only added to the network's output: the stages at 1/8 and 1/4 see it. A residual
    network that sees neighboring pixels learns to smooth block edges in minutes; one that sees coefficients alone has
    to learn the transform first.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sixteenth, eighth, quarter = config.decoder_widths
        n_sixteenth, n_eighth, n_quarter = config.decoder_blocks
        self.log_scales = nn.Parameter(torch.zeros(config.latent_channels))
        self.entry = nn.Conv2d(config.latent_channels, sixteenth, 3, padding=1)
        self.quality = Quality(sixteenth) if config.quality else None
        self.to_eighth = nn.Sequential(*_blocks(sixteenth, n_sixteenth), Upsample(sixteenth, eighth, config.haar))
        self.to_quarter = nn.Sequential(*_blocks(eighth, n_eighth), Upsample(eighth, quarter, config.haar))
        last = nn.Conv2d(quarter, 48, 3, padding=1)
        last.weight.data *= 0.1
        self.to_pixels = nn.Sequential(*_blocks(quarter, n_quarter), nn.ReLU(), last)
        self.linear = nn.Conv2d(config.latent_channels, BLOCK_VALUES, 1, bias=False)
        self.seen_at_eighth = Downsample(48, eighth, config.haar)
        self.seen_at_quarter = nn.Conv2d(48, quarter, 3, padding=1)

    def linear_weights(self) -> Tensor:
        """The synthesis as (768, C, 1, 1), rows in the order that a pixel shuffle by 4 turns into the picture
        unshuffled by 4."""
        rows = self.linear.weight.reshape(3, 4, 4, 4, 4, -1, 1, 1)  # color, cell row, row, cell column, column
        return rows.permute(0, 2, 4, 1, 3, 5, 6, 7).flatten(0, 4)

    def forward(self, latents: Tensor, log2_step: Tensor) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):
            synthesis = F.pixel_shuffle(F.conv2d(latents.float() / LEVELS, self.linear_weights()), 4)
        x = self.entry(latents * self.log_scales.exp()[:, None, None])
        if self.quality is not None:
            x = x + self.quality(log2_step)
        x = self.to_eighth(x) + self.seen_at_eighth(synthesis)
        x = self.to_quarter(x) + self.seen_at_quarter(synthesis)
        correction: Tensor = self.to_pixels(x)
        return F.pixel_shuffle(correction.float() + synthesis, 4)


class Autoencoder(nn.Module):
    """Encoder and decoder of one latent space."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    @torch.no_grad()
    def start_at_transform(self, basis: Tensor, deviations: Tensor) -> None:
        """Sets the linear paths to a block transform and all scales to what its coefficients need.

        Args:
            basis: orthonormal rows (C, 768), the largest deviation first (see `block_transform`).
            deviations: (C,) of the coefficients, in 8-bit levels.
        """
        # Below about a coarse step's deviation a coefficient is mostly noise to the network.
        spread = (deviations.square() + 20.0**2).sqrt()
        self.decoder.log_scales.copy_(-spread.log())
        self.encoder.log_scales.copy_(spread.log() + math.log(0.1))
        self.encoder.linear.weight.copy_(basis[:, :, None, None])
        self.decoder.linear.weight.copy_(basis.T[:, :, None, None])


def block_transform(pictures: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """The Karhunen-Loeve transform of blocks of 16x16 pixels.

    Args:
        pictures: (N, 3, H, W) in [-1, 1], sides multiples of 16.
        channels: how many rows to keep.

    Returns:
        Orthonormal rows (channels, 768) in the order of `pixel_unshuffle`, the largest deviation first, and their
        deviations about 0 in 8-bit levels, (channels,).
    """
    blocks = F.pixel_unshuffle(pictures, DOWNSCALE).movedim(1, -1).flatten(0, -2).double()
    values, vectors = torch.linalg.eigh(blocks.T @ blocks / len(blocks))
    largest = values.argsort(descending=True)[:channels]
    return vectors[:, largest].T.float(), LEVELS * values[largest].clamp_min(0).sqrt().float()


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> tuple[Autoencoder, dict[str, Any]]:
    """The averaged model of a checkpoint, on the CPU, and all that ``sdrt_train.train`` saved there, on ``device``.

    Raises:
        ModelError: the file is no such checkpoint.
        OSError: it cannot be read.
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
