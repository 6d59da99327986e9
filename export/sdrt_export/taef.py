"""Tiny autoencoders as their author publishes them: a pair of ``*_encoder.pth`` and ``*_decoder.pth`` state dicts.

A plain sequence of layers with keys ``index.name`` (github.com/madebyollin/taesd). The newer ones differ from
diffusers' AutoencoderTiny by a global branch in some blocks, which the keys show.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sdrt.errors import ModelError
from sdrt_export.checkpoint import read_tensors

WIDTH = 64
DOWNSCALE = 8


class _Block(nn.Module):
    """relu(x + conv(relu(conv(relu(conv(x)))))), with the global branch added to x first where there is one."""

    def __init__(self, has_pool: bool) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), convolutions[2])
        self.pool: nn.Sequential | None = None
        if has_pool:
            wide = WIDTH * 4
            first, last = nn.Conv2d(WIDTH, wide, 1, bias=False), nn.Conv2d(wide, WIDTH, 1, bias=False)
            self.pool = nn.Sequential(first, nn.GroupNorm(4, wide), nn.ReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(x + self.conv(x))


class _Encoder(nn.Module):
    def __init__(self, channels: int, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, WIDTH, 3, padding=1), _block(state, 1)]
        for _ in range(3):
            layers.append(nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1, bias=False))
            layers += [_block(state, len(layers) + position) for position in range(3)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(WIDTH, channels, 3, padding=1))

    def forward(self, sample: Tensor) -> Tensor:
        latents: Tensor = self.layers(sample * 0.5 + 0.5)
        return latents


class _Decoder(nn.Module):
    def __init__(self, channels: int, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Identity(), nn.Conv2d(channels, WIDTH, 3, padding=1), nn.ReLU()]
        layers += [_block(state, 3 + position) for position in range(3)]
        for count in (3, 3, 1):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)]
            layers += [_block(state, len(layers) + position) for position in range(count)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(WIDTH, 3, 3, padding=1))

    def forward(self, latent_sample: Tensor) -> Tensor:
        sample: Tensor = self.layers(torch.tanh(latent_sample / 3) * 3)
        return sample * 2 - 1


def _block(state: Mapping[str, Tensor], index: int) -> _Block:
    return _Block(f"{index}.pool.0.weight" in state)


def find_pair(folder: Path) -> tuple[Path, Path] | None:
    """The encoder and decoder files of a folder that holds exactly one pair."""
    encoders, decoders = sorted(folder.glob("*_encoder.pth")), sorted(folder.glob("*_decoder.pth"))
    return (encoders[0], decoders[0]) if len(encoders) == len(decoders) == 1 else None


def load_pair(encoder_path: Path, decoder_path: Path) -> tuple[nn.Module, nn.Module, int]:
    """Encoder, decoder (pixels in [-1, 1], latents as they are) and the number of latent channels.

    Raises ModelError if a file is not such a state dict. Nothing is unpickled but tensors.
    """
    states = [read_tensors(path) for path in (encoder_path, decoder_path)]
    first = states[1].get("1.weight")
    if first is None or first.ndim != 4:
        raise ModelError(f"{decoder_path} is no tiny decoder: it has no convolution at 1.weight")
    channels = int(first.shape[1])
    encoder, decoder = _Encoder(channels, states[0]), _Decoder(channels, states[1])
    stacks = ((encoder.layers, encoder_path), (decoder.layers, decoder_path))
    for (layers, path), state in zip(stacks, states, strict=True):
        try:
            layers.load_state_dict({key: value.float() for key, value in state.items()})
        except RuntimeError as error:
            raise ModelError(f"{path} has other layers than a tiny autoencoder: {str(error).splitlines()[1]}") from None
    return encoder, decoder, channels
