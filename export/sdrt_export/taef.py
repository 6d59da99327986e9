"""Tiny autoencoders as their author publishes them: a pair of ``NAME_encoder`` and ``NAME_decoder`` state dicts.

A plain sequence of layers with keys ``index.name`` (github.com/madebyollin/taesd). The newer ones differ from
diffusers' AutoencoderTiny by a global branch in some blocks, which the keys show. ``describe`` reads the latter from
one file without a configuration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdrt.errors import ModelError
from sdrt_export.checkpoint import load_strictly, read_tensors

DOWNSCALE = 8
_HALF = re.compile(r"(.+)_(encoder|decoder)\.(pth|safetensors)")
ENCODER = re.compile(r".+_encoder\.(pth|safetensors)")


class _Block(nn.Module):
    """relu(x + conv(relu(conv(relu(conv(x)))))), with the global branch added to x first where there is one."""

    def __init__(self, width: int, has_pool: bool) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), convolutions[2])
        self.pool: nn.Sequential | None = None
        if has_pool:
            wide = width * 4
            first, last = nn.Conv2d(width, wide, 1, bias=False), nn.Conv2d(wide, width, 1, bias=False)
            self.pool = nn.Sequential(first, nn.GroupNorm(4, wide), nn.ReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(x + self.conv(x))


class _Encoder(nn.Module):
    def __init__(self, channels: int, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        width = _width(state, "0.bias")
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), _block(state, width, 1)]
        for _ in range(3):
            layers.append(nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False))
            layers += [_block(state, width, len(layers) + position) for position in range(3)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, sample: Tensor) -> Tensor:
        latents: Tensor = self.layers(sample * 0.5 + 0.5)
        return latents


class _Decoder(nn.Module):
    def __init__(self, channels: int, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        width = _width(state, "1.bias")
        layers: list[nn.Module] = [nn.Identity(), nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        layers += [_block(state, width, 3 + position) for position in range(3)]
        for count in (3, 3, 1):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
            layers += [_block(state, width, len(layers) + position) for position in range(count)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, latent_sample: Tensor) -> Tensor:
        sample: Tensor = self.layers(torch.tanh(latent_sample / 3) * 3)
        return sample * 2 - 1


def _block(state: Mapping[str, Tensor], width: int, index: int) -> _Block:
    return _Block(width, f"{index}.pool.0.weight" in state)


def _width(state: Mapping[str, Tensor], first_bias: str) -> int:
    """Channels between the blocks: 64 in all that are published."""
    return len(state[first_bias]) if first_bias in state else 64


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """The encoder and decoder files of all whole pairs of a folder, in name order."""
    encoders = sorted(path for path in folder.iterdir() if ENCODER.fullmatch(path.name))
    pairs = ((path, partner) for path in encoders if (partner := partner_of(path)) is not None)
    return [(one, other) for one, other in pairs if other.is_file()]


def partner_of(path: Path) -> Path | None:
    """For ``NAME_encoder.pth`` ``NAME_decoder.pth``, and the other way round; None for other names."""
    found = _HALF.fullmatch(path.name)
    if found is None:
        return None
    return path.with_name(f"{found[1]}_{'decoder' if found[2] == 'encoder' else 'encoder'}.{found[3]}")


def stem_of(encoder_path: Path) -> str:
    """``taesd`` of ``taesd_encoder.pth``."""
    return encoder_path.stem.removesuffix("_encoder")


def load_pair(encoder_path: Path, decoder_path: Path) -> tuple[nn.Module, nn.Module, int]:
    """Encoder, decoder (pixels in [-1, 1], latents as they are) and the number of latent channels.

    Nothing is unpickled but tensors.

    Raises:
        ModelError: a file is not such a state dict, or a tensor is missing, left over, or not finite.
    """
    states = [read_tensors(path) for path in (encoder_path, decoder_path)]
    first = states[1].get("1.weight")
    if first is None or first.ndim != 4:
        raise ModelError(f"{decoder_path} is not a tiny decoder: it has no convolution at 1.weight")
    channels = int(first.shape[1])
    encoder, decoder = _Encoder(channels, states[0]), _Decoder(channels, states[1])
    load_strictly(encoder.layers, states[0], encoder_path)
    load_strictly(decoder.layers, states[1], decoder_path)
    return encoder, decoder, channels


def as_diffusers(encoder_path: Path, decoder_path: Path) -> dict[str, Tensor] | None:
    """The pair under the names of diffusers' AutoencoderTiny; None where it has a global branch, which that lacks."""
    encoder, decoder = (read_tensors(path) for path in (encoder_path, decoder_path))
    if any(".pool." in key for key in (*encoder, *decoder)):
        return None
    renamed = {f"encoder.layers.{key}": value for key, value in encoder.items()}
    for key, value in decoder.items():
        index, rest = key.split(".", 1)
        # The author's first layer is the tanh, which diffusers keeps outside.
        renamed[f"decoder.layers.{int(index) - 1}.{rest}"] = value
    return renamed


def describe(state: Mapping[str, Tensor], where: Path) -> dict[str, Any]:
    """The configuration of diffusers' AutoencoderTiny, read off the names and shapes of its tensors.

    Raises:
        ModelError: they are not those of an AutoencoderTiny.
    """
    stages = {half: _stages(state, half) for half in ("encoder", "decoder")}
    if any(len(widths) < 2 for widths, _counts in stages.values()):
        raise ModelError(f"{where} does not have the layers of a tiny autoencoder")
    inputs, latents = (state[f"{half}.layers.0.weight"].shape[1] for half in stages)
    (encoder_widths, encoder_blocks), (decoder_widths, decoder_blocks) = stages["encoder"], stages["decoder"]
    return {
        "in_channels": int(inputs),
        "out_channels": decoder_widths[-1],
        "latent_channels": int(latents),
        "encoder_block_out_channels": encoder_widths[:-1],
        "num_encoder_blocks": encoder_blocks[:-1],
        # The decoder's first convolution has no blocks of its own, and each stage ends in one.
        "decoder_block_out_channels": decoder_widths[:-1],
        "num_decoder_blocks": decoder_blocks[:-1],
    }


def _stages(state: Mapping[str, Tensor], half: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Output channels of a half's plain convolutions, in order, and how many blocks follow each."""
    names = (re.match(rf"{half}\.layers\.(\d+)\.(weight|conv)", key) for key in state)
    layers = sorted({(int(name[1]), name[2]) for name in names if name})
    widths: list[int] = []
    blocks: list[int] = []
    for index, kind in layers:
        if kind == "weight":
            widths.append(int(state[f"{half}.layers.{index}.weight"].shape[0]))
            blocks.append(0)
        elif blocks:
            blocks[-1] += 1
    return tuple(widths), tuple(blocks)
