"""diffusers' AutoencoderKLHunyuanImage (of HunyuanImage 2.1, 1/32) in parts that trace into single nodes.

What halves or doubles the sides has a shortcut of means or copies of channels, and so have the encoder's last and the
decoder's first convolution: each shortcut becomes a convolution with constant weights. Residual blocks are taken as
they are, with as many channels out as in: diffusers builds others too, but sends their output through a layer that is
made for their input, and fails on every picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from sdrt.errors import ModelError
from sdrt_export.traceable import SpatialAttention, averages, conv, copies, depth_to_space, space_to_depth


class HunyuanImageEncoder(nn.Module):
    """sample -> latent_parameters: mean and log-variance."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        encoder = vae.encoder
        self.blocks = nn.Sequential(encoder.conv_in, *_resampling(encoder.down_blocks), *_middle(encoder.mid_block))
        self.head = nn.Sequential(encoder.norm_out, encoder.nonlinearity, encoder.conv_out)
        self.shortcut = averages(encoder.conv_out.in_channels, encoder.conv_out.out_channels)

    def forward(self, sample: Tensor) -> Tensor:
        x = self.blocks(sample)
        parameters: Tensor = self.head(x) + self.shortcut(x)
        return parameters


class HunyuanImageDecoder(nn.Module):
    """latent_sample -> sample."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        decoder = vae.decoder
        self.conv_in = decoder.conv_in
        self.shortcut = copies(decoder.conv_in.in_channels, decoder.conv_in.out_channels)
        self.blocks = nn.Sequential(*_middle(decoder.mid_block), *_resampling(decoder.up_blocks))
        self.head = nn.Sequential(decoder.norm_out, decoder.nonlinearity, decoder.conv_out)

    def forward(self, latent_sample: Tensor) -> Tensor:
        x = self.conv_in(latent_sample) + self.shortcut(latent_sample)
        sample: Tensor = self.head(self.blocks(x))
        return sample


def downscale(vae: Any) -> int:
    """How many pixels a side one latent stands for.

    Counted, because diffusers halves the sides as often as ``spatial_compression_ratio`` asks for, but never after the
    last of ``block_out_channels``.

    Args:
        vae: diffusers' AutoencoderKLHunyuanImage.

    Returns:
        A power of two, 1 or more.
    """
    halvings = sum(_kind(block) == _DOWN for block in vae.encoder.down_blocks)
    return 1 << halvings


_DOWN, _UP, _RESIDUAL = "HunyuanImageDownsample", "HunyuanImageUpsample", "HunyuanImageResnetBlock"


def _kind(module: nn.Module) -> str:
    # By name: diffusers is imported where checkpoints are read, and only there.
    return type(module).__name__


def _resampling(blocks: nn.ModuleList) -> list[nn.Module]:
    """The blocks of a half in their order, those that halve or double the sides rewritten.

    Raises:
        ModelError: diffusers' class builds such blocks and cannot run them.
    """
    try:
        return [_REWRITINGS[_kind(block)](block) for block in blocks]
    except ModelError as error:
        raise ModelError(f"diffusers cannot run an autoencoder of these block_out_channels: {error}") from None


def _middle(block: Any) -> list[nn.Module]:
    """Residual blocks with attention between each two of them."""
    first, *others = block.resnets
    pairs = zip(block.attentions, others, strict=True)
    return [first, *(part for attention, other in pairs for part in (_attention(attention), other))]


def _attention(attention: Any) -> SpatialAttention:
    maps = (attention.to_q, attention.to_k, attention.to_v, attention.proj)
    return SpatialAttention(attention.norm, *(conv(each.weight, each.bias) for each in maps))


def _residual(block: Any) -> nn.Module:
    if block.conv_shortcut is not None:
        raise ModelError(
            f"a residual block from {block.in_channels} to {block.out_channels} channels; the number may change only "
            "where the sides do, and only if downsample_match_channel and upsample_match_channel are true"
        )
    plain: nn.Module = block
    return plain


class _Down(nn.Module):
    """Halves the sides: a convolution beside means over channels, both folded.

    diffusers folds the input first and takes the means then. Channels are averaged within one place of a block, so the
    order does not matter, and one folding of the sum does.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.conv = block.conv
        self.shortcut = averages(self.conv.in_channels, self.conv.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return space_to_depth(self.conv(x) + self.shortcut(x), 2)


class _Up(nn.Module):
    """Doubles the sides: a convolution beside copies of channels, both spread."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.conv = block.conv
        self.shortcut = copies(self.conv.in_channels, self.conv.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return depth_to_space(self.conv(x) + self.shortcut(x), 2)


_REWRITINGS: dict[str, Callable[[Any], nn.Module]] = {_RESIDUAL: _residual, _DOWN: _Down, _UP: _Up}
"""diffusers' class -> its form here."""
