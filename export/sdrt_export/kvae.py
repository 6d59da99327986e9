"""diffusers' AutoencoderKLKVAE (Kandinsky's KVAE 2D, 1/8) in parts that trace into single nodes.

Its convolutions continue the picture with its edge, or mirror it there: a Pad of constant widths before each. What
halves or doubles the sides adds means or copies of pixels; the decoder's normalizations are scaled and moved by the
latents themselves, which diffusers brings to each size by asking for it, and which are doubled here.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from sdrt.errors import ModelError
from sdrt_export.traceable import averages


def kvae_encoder(vae: Any) -> nn.Module:
    """sample -> latent_parameters: mean and log-variance.

    Raises:
        ModelError: an encoder that gives no log-variance, of whose numbers diffusers takes one half for the mean.
    """
    if not vae.config.double_z:
        raise ModelError("diffusers cannot decode what an AutoencoderKLKVAE without double_z encodes")
    encoder: Any = copy.deepcopy(vae.encoder)
    for level in encoder.down[:-1]:
        level.downsample = _Down(level.downsample)
    plain: nn.Module = encoder
    return plain


def kvae_decoder(vae: Any) -> nn.Module:
    """latent_sample -> sample."""
    decoder: Any = copy.deepcopy(vae.decoder)
    factor = 1
    _rewrite_norms(decoder.mid, factor)
    for level in reversed(decoder.up):
        _rewrite_norms(level, factor)
        if hasattr(level, "upsample"):
            level.upsample = _Up(level.upsample)
            factor *= 2
    decoder.norm_out = _Guided(decoder.norm_out, factor)
    plain: nn.Module = decoder
    return plain


def _rewrite_norms(level: nn.Module, factor: int) -> None:
    # By name: diffusers is imported where checkpoints are read, and only there.
    for block in list(level.modules()):
        if type(block).__name__ == "KVAEResnetBlock2D":
            block.norm1, block.norm2 = (_Guided(norm, factor) for norm in (block.norm1, block.norm2))


class _Guided(nn.Module):
    """KVAEDecoderSpatialNorm2D where the sides are ``factor`` times those of the latents.

    Its maps see one position each, so that they may come before the latents are made larger.
    """

    def __init__(self, norm: Any, factor: int) -> None:
        super().__init__()
        self.norm, self.scale, self.bias = norm.norm_layer, norm.conv_y, norm.conv_b
        self.grown = nn.Identity() if factor == 1 else nn.Upsample(scale_factor=factor)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        guided: Tensor = self.norm(x) * self.grown(self.scale(latents)) + self.grown(self.bias(latents))
        return guided


class _Down(nn.Module):
    """KVAEPXSDownsample: a convolution beside means of 2 x 2 pixels."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.conv, self.point = block.spatial_conv, block.linear
        self.means = averages(self.conv.in_channels, self.conv.in_channels, side=block.factor)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.point(self.conv(x) + self.means(x))
        return halved


class _Up(nn.Module):
    """KVAEPXSUpsample: a convolution of the doubled picture beside that picture.

    diffusers makes it twice: as the nearest pixels, and as copies of channels that are spread.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.conv, self.point = block.spatial_conv, block.linear
        self.doubled = nn.Upsample(scale_factor=block.factor)

    def forward(self, x: Tensor) -> Tensor:
        doubled = self.doubled(x)
        grown: Tensor = self.point(self.conv(doubled) + doubled)
        return grown
