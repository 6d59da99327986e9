"""The trained networks as an export wants them: plain convolutions, one input each.

The decoder of a model that is told the quality level takes it as one more channel, the last: octaves of the step above
or below `UNIT_LOG2_STEP`. Scales, sub-band mixes and units are folded into weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdrt_train.model import (
    DOWNSCALE,
    LEVELS,
    QUALITY_CENTER,
    QUALITY_SPAN,
    Autoencoder,
    Decoder,
    Downsample,
    Encoder,
    Quality,
    Upsample,
)

UNIT_LOG2_STEP = 5.0
"""The quality level 0 of the graphs: a step of 32 8-bit levels."""


def _conv(weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    n_out, n_in, kernel, _ = weight.shape
    conv = nn.Conv2d(n_in, n_out, kernel, stride, padding, bias=bias is not None)
    conv.weight.data = weight.detach().clone()
    if bias is not None:
        assert conv.bias is not None
        conv.bias.data = bias.detach().clone()
    return conv


def _unshuffled(weight: Tensor, factor: int) -> Tensor:
    """A 1x1 kernel over pixel-unshuffled channels as a kernel of ``factor`` x ``factor`` with that stride."""
    n_out, n_in = weight.shape[:2]
    return weight.reshape(n_out, n_in // factor**2, factor, factor)


class _Shuffled(nn.Module):
    """A 1x1 convolution and a pixel shuffle."""

    def __init__(self, weight: Tensor, bias: Tensor | None, factor: int) -> None:
        super().__init__()
        self.conv, self.factor = _conv(weight, bias, padding=weight.shape[-1] // 2), factor

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), self.factor)


def _plain(module: nn.Module) -> nn.Module:
    """A stage with its resampling folded."""
    if isinstance(module, Downsample):
        weight, bias = module.weights()
        return _conv(_unshuffled(weight, 2), bias, stride=2)
    if isinstance(module, Upsample):
        return _Shuffled(*module.weights(), factor=2)
    return module


def _quality(quality: Quality | None) -> nn.Sequential | None:
    if quality is None:
        return None
    weight, bias = quality.first.weight, quality.first.bias
    assert bias is not None
    shifted = bias + weight[:, 0, 0, 0] * (UNIT_LOG2_STEP - QUALITY_CENTER) / QUALITY_SPAN
    return nn.Sequential(_conv(weight / QUALITY_SPAN, shifted), nn.ReLU(), quality.second)


class FoldedEncoder(nn.Module):
    """(N, 3, H, W) in [-1, 1] -> latents (N, C, H/16, W/16)."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        assert encoder.out.bias is not None
        self.body = nn.Sequential(*(_plain(module) for module in encoder.body))
        self.tail = encoder.tail
        scales = encoder.log_scales.exp()
        self.out = _conv(encoder.out.weight * scales[:, None, None, None], encoder.out.bias * scales, padding=1)
        self.linear = _conv(LEVELS * _unshuffled(encoder.linear.weight, DOWNSCALE), None, stride=DOWNSCALE)

    def forward(self, sample: Tensor) -> Tensor:
        latents: Tensor = self.out(self.tail(self.body(sample))) + self.linear(sample)
        return latents


class FoldedDecoder(nn.Module):
    """(N, C or C + 1, h, w): latents and perhaps the quality level -> samples (N, 3, 16h, 16w)."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        scales = decoder.log_scales.exp()
        self.channels = len(scales)
        self.entry = _conv(decoder.entry.weight * scales[:, None, None], decoder.entry.bias, padding=1)
        self.quality = _quality(decoder.quality)
        self.to_eighth = nn.Sequential(*(_plain(module) for module in decoder.to_eighth))
        self.to_quarter = nn.Sequential(*(_plain(module) for module in decoder.to_quarter))
        self.to_pixels = decoder.to_pixels
        self.linear = _Shuffled(decoder.linear_weights() / LEVELS, None, 4)
        self.seen_at_eighth = _seen_at_eighth(decoder)
        self.seen_at_quarter = decoder.seen_at_quarter

    def forward(self, latents: Tensor) -> Tensor:
        symbols = latents if self.quality is None else latents[:, : self.channels]
        synthesis = self.linear(symbols)
        x = self.entry(symbols)
        if self.quality is not None:
            x = x + self.quality(latents[:, self.channels :])
        x = self.to_eighth(x) + self.seen_at_eighth(symbols)
        x = self.to_quarter(x) + self.seen_at_quarter(synthesis)
        return F.pixel_shuffle(self.to_pixels(x) + synthesis, 4)


def _seen_at_eighth(decoder: Decoder) -> _Shuffled:
    """The synthesis and what the stage at 1/8 sees of it, both linear, as one 1x1 convolution and a pixel shuffle."""
    kernel, bias = decoder.seen_at_eighth.weights()
    kernel = _unshuffled(kernel, 2)  # (width, 48, 2, 2)
    # Rows of the synthesis: channel, then row and column of a cell of 4x4, each as (position at 1/8, pixel there).
    rows = (decoder.linear_weights() / LEVELS).reshape(48, 2, 2, 2, 2, -1)
    weight = torch.einsum("okij,kyixjc->oyxc", kernel, rows).flatten(0, 2)
    return _Shuffled(weight[:, :, None, None], bias.repeat_interleave(4), 2)


@torch.no_grad()
def fold(model: Autoencoder) -> tuple[FoldedEncoder, FoldedDecoder]:
    """Both networks as plain modules that share the weights that need no folding."""
    return FoldedEncoder(model.encoder).eval(), FoldedDecoder(model.decoder).eval()
