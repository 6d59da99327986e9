"""diffusers' AutoencoderDC (DC-AE, 1/32) in parts that trace into single nodes.

Its shortcuts move numbers between channels and positions, its attention is linear: products of queries, keys and values
summed over all positions. Both are rewritten as convolutions and matrix products of constant shape.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sdrt_export.traceable import RmsNorm, Unshuffle, averages, conv, copies, flatten, pointwise, reshape_as, split


class DcEncoder(nn.Module):
    """sample -> latents."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        encoder = _rewritten(vae.encoder)
        self.conv_in, self.conv_out = encoder.conv_in, encoder.conv_out
        self.blocks = nn.Sequential(*encoder.down_blocks)
        self.shortcut: nn.Module | None = None
        if encoder.out_shortcut:
            self.shortcut = averages(self.conv_out.in_channels, self.conv_out.out_channels)

    def forward(self, sample: Tensor) -> Tensor:
        x = self.blocks(self.conv_in(sample))
        latents: Tensor = self.conv_out(x)
        return latents if self.shortcut is None else latents + self.shortcut(x)


class DcDecoder(nn.Module):
    """latent_sample -> sample."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        decoder = _rewritten(vae.decoder)
        self.conv_in, self.blocks = decoder.conv_in, nn.Sequential(*reversed(decoder.up_blocks))
        self.norm, self.activation, self.conv_out = _norm(decoder.norm_out), decoder.conv_act, decoder.conv_out
        self.shortcut: nn.Module | None = None
        if decoder.in_shortcut:
            self.shortcut = copies(self.conv_in.in_channels, self.conv_in.out_channels)

    def forward(self, latent_sample: Tensor) -> Tensor:
        x = self.conv_in(latent_sample)
        x = self.blocks(x if self.shortcut is None else x + self.shortcut(latent_sample))
        sample: Tensor = self.conv_out(self.activation(self.norm(x)))
        return sample


def _rewritten(half: nn.Module) -> Any:
    copied = copy.deepcopy(half)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            kind = type(child).__name__
            if kind in _REWRITINGS:
                setattr(parent, name, _REWRITINGS[kind](child))
    return copied


def _norm(norm: Any) -> nn.Module:
    """diffusers' RMSNorm, which expects channels last, for channels first; a batch normalization unchanged."""
    if type(norm).__name__ != "RMSNorm":
        kept: nn.Module = norm
        return kept
    return RmsNorm(norm.weight, norm.bias, added=float(norm.eps))


class _Residual(nn.Module):
    """ResBlock."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(block.conv1, block.nonlinearity, block.conv2, _norm(block.norm))

    def forward(self, x: Tensor) -> Tensor:
        summed: Tensor = self.layers(x) + x
        return summed


class _GatedConv(nn.Module):
    """GLUMBConv: one half of the channels gates the other."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.grown = nn.Sequential(block.conv_inverted, block.nonlinearity, block.conv_depth)
        self.gate, self.point = block.nonlinearity, block.conv_point
        self.norm = nn.Identity() if block.norm is None else _norm(block.norm)
        self.residual = bool(block.residual_connection)
        self.sizes = (self.point.in_channels,) * 2

    def forward(self, x: Tensor) -> Tensor:
        values, gate = split(self.grown(x), self.sizes)
        mixed: Tensor = self.norm(self.point(values * self.gate(gate)))
        return mixed + x if self.residual else mixed


class _Down(nn.Module):
    """Halves the sides: a convolution beside means over what its output's channels cover."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.conv = block.conv
        self.fold = Unshuffle(block.factor) if block.downsample else nn.Identity()
        outputs = self.conv.out_channels * (block.factor**2 if block.downsample else 1)
        self.shortcut = averages(self.conv.in_channels, outputs, side=block.factor) if block.shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.fold(self.conv(x))
        return halved if self.shortcut is None else halved + self.shortcut(x)


class _Up(nn.Module):
    """Doubles the sides: a convolution beside copies of the input's channels."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        shuffle = nn.PixelShuffle(block.factor)
        grown = nn.Upsample(scale_factor=block.factor, mode=block.interpolation_mode)
        self.main = nn.Sequential(grown, block.conv) if block.interpolate else nn.Sequential(block.conv, shuffle)
        inputs = block.conv.in_channels
        self.shortcut = nn.Sequential(copies(inputs, inputs * block.repeats), shuffle) if block.shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = self.main(x)
        return doubled if self.shortcut is None else doubled + self.shortcut(x)


class _LinearAttention(nn.Module):
    """SanaMultiscaleLinearAttention: several heads, at several scales, with ReLU instead of a softmax.

    diffusers interleaves the heads' queries, keys and values; here all queries come first, then all keys and values,
    which is a permutation of the weights. For small pictures it multiplies in another order, which is the same product.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        dim = int(attention.attention_head_dim)
        weight = torch.cat([attention.to_q.weight, attention.to_k.weight, attention.to_v.weight]).detach()
        blocks = weight.shape[0] // dim
        order = torch.arange(blocks).reshape(-1, 3).T.flatten()
        channels = torch.arange(weight.shape[0]).reshape(blocks, dim)[order].flatten()
        self.heads = (blocks // 3 * (1 + len(attention.to_qkv_multiscale)), dim)
        self.sizes = (weight.shape[0] // 3,) * 3
        self.qkv = conv(weight[channels][:, :, None, None])
        self.scales = nn.ModuleList(
            nn.Sequential(
                conv(
                    scale.proj_in.weight[channels],
                    padding=scale.proj_in.padding,
                    groups=len(channels),
                ),
                conv(scale.proj_out.weight[channels], groups=blocks),
            )
            for scale in attention.to_qkv_multiscale
        )
        self.in_float32 = _Products(float(attention.eps))
        self.out, self.norm = pointwise(attention.to_out), _norm(attention.norm_out)
        self.residual = bool(attention.residual_connection)

    def forward(self, x: Tensor) -> Tensor:
        first = self.qkv(x)
        parts = [split(every, self.sizes) for every in (first, *(scale(first) for scale in self.scales))]
        query, key, value = (torch.cat(same, 1) for same in zip(*parts, strict=True))
        heads = [flatten(part, self.heads) for part in (torch.relu(query), torch.relu(key), value)]
        mixed: Tensor = self.norm(self.out(reshape_as(self.in_float32(*heads), query)))
        return mixed + x if self.residual else mixed


class _Products(nn.Module):
    """(value @ key^T) @ query over (sum of keys) @ query; sums over all positions, which half precision cannot hold."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Takes and returns (N, heads, dim, positions)."""
        total = key.sum(-1, keepdim=True).transpose(2, 3) @ query
        mixed: Tensor = (value @ key.transpose(2, 3)) @ query / (total + self.eps)
        return mixed


_REWRITINGS: dict[str, Callable[[Any], nn.Module]] = {
    "ResBlock": _Residual,
    "GLUMBConv": _GatedConv,
    "DCDownBlock2d": _Down,
    "DCUpBlock2d": _Up,
    "SanaMultiscaleLinearAttention": _LinearAttention,
}
"""diffusers' class -> its form here."""
