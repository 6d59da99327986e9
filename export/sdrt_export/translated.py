"""Converts an autoencoder's halves to the raw latents of another space: tiny autoencoders return a large one's latents
after scale and shift."""

from __future__ import annotations

from torch import Tensor, nn

from sdrt.packs.manifest import LatentSpace
from sdrt_export.spaces import translation


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


def translate(
    encoder: nn.Module, decoder: nn.Module, found: LatentSpace, space: LatentSpace
) -> tuple[nn.Module, nn.Module]:
    """Halves with the raw latents of ``space``, from halves with those of ``found``.

    Tiny autoencoders give at once what a large one gives after scale and shift; the graphs of one space must agree.
    """
    if (found.scale, found.shift) == (space.scale, space.shift):
        return encoder, decoder
    factor, offset = translation(found, space)
    return Translated(encoder, factor, offset), TranslatedBack(decoder, factor, offset)
