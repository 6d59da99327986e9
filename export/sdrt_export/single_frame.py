"""The video autoencoders of Wan 2.1, Qwen-Image and Qwen-Image 2.1 for one picture: networks of two dimensions.

A causal convolution pads the past with zeros, so that for a single frame only the last slice of its kernel meets
anything: taking that slice is exact. Layers between frames (``time_conv``) never see a first frame. What is left has
four dimensions everywhere, and a graph that every device takes. Qwen-Image 2.1's convolutions have two dimensions from
the beginning; the shortcuts beside its blocks still count with frames before the first, which are zeros.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sdrt.errors import ModelError
from sdrt_export.traceable import RmsNorm, SpatialAttention, averages, conv

_MIN_RMS = 2e-5
"""A vector across channels that is smaller is not brought to length one: fp16 could not hold the factor. diffusers has
1e-12 over the root of the number of channels; features this small do not occur."""


class SingleFrameEncoder(nn.Module):
    """sample -> latents (N, C, h, w): the mean, normalized for each channel as the configuration says."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        _refuse_what_diffusers_cannot_run(vae)
        self.encoder = without_time(vae.encoder)
        mean, std = _statistics(vae.config)
        # Of mean and log-variance the first half; its normalization is part of the weights.
        weight, bias = (tensor[: vae.config.z_dim] for tensor in (_kernel(vae.quant_conv), vae.quant_conv.bias))
        self.quant = conv(weight / std[:, None, None, None], (bias - mean) / std)

    def forward(self, sample: Tensor) -> Tensor:
        latents: Tensor = self.quant(self.encoder(sample))
        return latents


class SingleFrameDecoder(nn.Module):
    """latent_sample, normalized as ``SingleFrameEncoder`` returns it -> sample."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        mean, std = _statistics(vae.config)
        weight, bias = _kernel(vae.post_quant_conv), vae.post_quant_conv.bias
        self.quant = conv(weight * std[None, :, None, None], bias + weight[:, :, 0, 0] @ mean)
        self.decoder = without_time(vae.decoder)

    def forward(self, latent_sample: Tensor) -> Tensor:
        sample: Tensor = self.decoder(self.quant(latent_sample))
        return sample


class OpaqueFrameEncoder(nn.Module):
    """The same for an autoencoder of RGBA pictures: ``sample`` is RGB, and its alpha is 1, as diffusers' pipelines
    make it of a picture without one."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        # A layer of its own: beyond its border a picture is padded with an alpha of zero.
        self.alpha = conv(torch.eye(4)[:, :3, None, None], torch.tensor([0.0, 0.0, 0.0, 1.0]))
        self.frame = SingleFrameEncoder(vae)

    def forward(self, sample: Tensor) -> Tensor:
        latents: Tensor = self.frame(self.alpha(sample))
        return latents


class OpaqueFrameDecoder(SingleFrameDecoder):
    """The way back, without the alpha."""

    def __init__(self, vae: Any) -> None:
        super().__init__(vae)
        whole: Any = self.decoder.conv_out
        self.decoder.conv_out = conv(whole.weight[:3], whole.bias[:3], padding=whole.padding)


def _refuse_what_diffusers_cannot_run(vae: Any) -> None:
    if getattr(vae.config, "patch_size", None) not in (None, 1):
        raise ModelError("diffusers cannot run an autoencoder of these channels with patch_size")
    if any(type(block).__name__.endswith("AttentionBlock") for block in vae.encoder.down_blocks):
        raise ModelError("diffusers cannot run an autoencoder with attn_scales")


def _statistics(config: Any) -> tuple[Tensor, Tensor]:
    """Means and deviations (C,) of the latents."""
    lists: tuple[Sequence[float], Sequence[float]] = (config.latents_mean, config.latents_std)
    if any(len(values) != config.z_dim for values in lists) or min(lists[1]) <= 0:
        raise ModelError(f"latents_mean and latents_std must have {config.z_dim} numbers, the latter above 0")
    mean, std = (torch.tensor(values, dtype=torch.float32) for values in lists)
    return mean, std


def without_time(module: nn.Module) -> nn.Module:
    """A copy for tensors without the dimension of time, which computes what the original computes for one frame.

    Raises:
        ModelError: a part that is not known here looks at time.
    """
    flat = _flat(module) or copy.deepcopy(module)
    for parent in list(flat.modules()):
        for name, child in list(parent.named_children()):
            replaced = _flat(child)
            if replaced is not None:
                setattr(parent, name, replaced)
    left = next((part for part in flat.modules() if isinstance(part, nn.Conv3d)), None)
    if left is not None:
        raise ModelError(f"{type(left).__name__} has a kernel in time that is not known here")
    return flat


def _flat(module: nn.Module) -> nn.Module | None:
    # By the ends of the names: Wan's and Qwen-Image's classes differ in what they begin with.
    kind = type(module).__name__
    part: Any = module
    if kind.endswith("CausalConv3d"):
        top, left = part._padding[2], part._padding[0]
        return conv(_kernel(part), part.bias, stride=part.stride[-1], padding=(top, left))
    if kind.endswith("RMS_norm"):
        return _norm(part)
    if kind.endswith("Resample"):
        return _Resample(part.resample)
    if kind.endswith("AttentionBlock"):
        query, key, value = part.to_qkv.weight.chunk(3)
        bias = part.to_qkv.bias.chunk(3)
        out = conv(part.proj.weight, part.proj.bias)
        return SpatialAttention(_norm(part.norm), conv(query, bias[0]), conv(key, bias[1]), conv(value, bias[2]), out)
    if kind.endswith("AvgDown3D"):
        return averages(part.in_channels, part.out_channels, side=part.factor_s, frames=part.factor_t)
    if kind.endswith("DupUp3D"):
        return _Copies(part)
    return None


def _kernel(causal: Any) -> Tensor:
    """What a causal convolution does to a first frame, (out, in, height, width)."""
    kernel: Tensor = causal.weight if causal.weight.ndim == 4 else causal.weight[:, :, -1]
    return kernel


def _norm(norm: Any) -> RmsNorm:
    # Its bias is the number 0 where there is none.
    return RmsNorm(norm.gamma, norm.bias if isinstance(norm.bias, Tensor) else None, minimum=_MIN_RMS)


class _Resample(nn.Module):
    """Halving or doubling a picture's sides; ``nearest-exact`` is ``nearest`` for a factor of two."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        steps = [nn.Upsample(scale_factor=2) if isinstance(step, nn.Upsample) else step for step in layers]
        self.layers = copy.deepcopy(nn.Sequential(*steps))

    def forward(self, x: Tensor, feat_cache: None = None, feat_idx: object = None) -> Tensor:
        resampled: Tensor = self.layers(x)
        return resampled


class _Copies(nn.Module):
    """Copies of channels that are spread over blocks of frames and pixels; of the frames the last one is the first."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        groups = math.gcd(block.in_channels, block.out_channels)
        inputs, outputs, pixels = block.in_channels // groups, block.out_channels // groups, block.factor_s**2
        # In the order channel, frame, row, column.
        rows = torch.eye(inputs).repeat_interleave(block.repeats, 0).reshape(outputs, block.factor_t, pixels, inputs)
        weight = rows[:, -1].reshape(outputs * pixels, inputs, 1, 1).repeat(groups, 1, 1, 1)
        self.layers = nn.Sequential(conv(weight, groups=groups), nn.PixelShuffle(block.factor_s))

    def forward(self, x: Tensor, first_chunk: bool = True) -> Tensor:
        copied: Tensor = self.layers(x)
        return copied
