"""diffusers' autoencoders as the two plain halves that are exported: picture -> raw latents, raw latents -> picture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sdrt.errors import ModelError
from sdrt.packs.manifest import LatentSpace
from sdrt_export.spaces import encoder_digest


class KlEncoder(nn.Module):
    """sample -> latent_parameters: mean and log-variance."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.encoder: nn.Module = vae.encoder
        self.quant: nn.Module = vae.quant_conv or nn.Identity()

    def forward(self, sample: Tensor) -> Tensor:
        parameters: Tensor = self.quant(self.encoder(sample))
        return parameters


class KlDecoder(nn.Module):
    """latent_sample -> sample."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.quant: nn.Module = vae.post_quant_conv or nn.Identity()
        self.decoder: nn.Module = vae.decoder

    def forward(self, latent_sample: Tensor) -> Tensor:
        sample: Tensor = self.decoder(self.quant(latent_sample))
        return sample


class Translated(nn.Module):
    """A module between two spaces of the same normal latents: ``x * factor + offset`` after an encoder."""

    def __init__(self, encoder: nn.Module, factor: float, offset: float) -> None:
        super().__init__()
        self.encoder, self.factor, self.offset = encoder, factor, offset

    def forward(self, sample: Tensor) -> Tensor:
        latents: Tensor = self.encoder(sample)
        return latents * self.factor + self.offset


class TranslatedBack(nn.Module):
    """The inverse of ``Translated`` before a decoder."""

    def __init__(self, decoder: nn.Module, factor: float, offset: float) -> None:
        super().__init__()
        self.decoder, self.factor, self.offset = decoder, factor, offset

    def forward(self, latent_sample: Tensor) -> Tensor:
        sample: Tensor = self.decoder((latent_sample - self.offset) * (1 / self.factor))
        return sample


def describe_space(vae: Any, scale: float | None, shift: float | None) -> LatentSpace:
    """The space as the autoencoder's own configuration and weights describe it; ``scale``, ``shift`` override.

    Raises ModelError if the autoencoder is of another class than AutoencoderKL or AutoencoderTiny.
    """
    kind = class_of(vae)
    config = vae.config
    given_scale = scale if scale is not None else config.scaling_factor
    given_shift = shift if shift is not None else (config.shift_factor or 0.0)
    if kind == "AutoencoderKL":
        parts = KlEncoder(vae).state_dict()
        downscale = 2 ** (len(config.block_out_channels) - 1)
        name = "kl"
    else:
        parts = vae.encoder.state_dict()
        downscale = 2 ** (len(config.encoder_block_out_channels) - 1)
        name = "tiny"
    identity = f"{name}-{encoder_digest(parts)}"
    return LatentSpace(identity, int(config.latent_channels), downscale, float(given_scale), float(given_shift))


def class_of(vae: Any) -> str:
    """``AutoencoderKL`` or ``AutoencoderTiny``. Raises ModelError for any other."""
    name = type(vae).__name__
    if name not in ("AutoencoderKL", "AutoencoderTiny"):
        raise ModelError(f"{name} is not supported: AutoencoderKL and AutoencoderTiny are")
    return name


def halves(vae: Any, found: LatentSpace, space: LatentSpace) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder in float32 for the raw latents of ``space``, from an autoencoder that speaks ``found``.

    Raises ModelError if an AutoencoderKL has another scale or shift than the space: then it is not of that space.
    """
    vae = vae.eval().to(torch.float32)
    if class_of(vae) == "AutoencoderTiny":
        return translate(vae.encoder, vae.decoder, found, space)
    if (found.scale, found.shift) != (space.scale, space.shift):
        raise ModelError(
            f"latent space {space.id} has scale {space.scale} and shift {space.shift}, "
            f"the checkpoint {found.scale} and {found.shift}"
        )
    return KlEncoder(vae), KlDecoder(vae)


def translate(
    encoder: nn.Module, decoder: nn.Module, found: LatentSpace, space: LatentSpace
) -> tuple[nn.Module, nn.Module]:
    """Halves that speak the raw latents of ``space`` from halves whose raw latents are those of ``found``.

    Tiny autoencoders give at once what a large one gives after scale and shift; the graphs of one space must agree.
    """
    if (found.scale, found.shift) == (space.scale, space.shift):
        return encoder, decoder
    factor = found.scale / space.scale
    offset = space.shift - found.shift * factor
    return Translated(encoder, factor, offset), TranslatedBack(decoder, factor, offset)
