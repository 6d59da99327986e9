"""AutoencoderKL's tensors under other names, and its configuration read off their shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sdrt.errors import ModelError

DEFAULT_GROUPS = 32
"""Of every group normalization in every Stable Diffusion and FLUX. No tensor shows it."""

RENAMES = (
    (r"^encoder\.(quant_conv)\.", r"\1."),
    (r"^decoder\.(post_quant_conv)\.", r"\1."),
    (r"^(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out."),
    (r"^(encoder|decoder)\.mid\.attn_1\.norm\.", r"\1.mid_block.attentions.0.group_norm."),
    (r"^(encoder|decoder)\.mid\.attn_1\.([qkv])\.", r"\1.mid_block.attentions.0.to_\2."),
    (r"^(encoder|decoder)\.mid\.attn_1\.proj_out\.", r"\1.mid_block.attentions.0.to_out.0."),
    (r"^encoder\.down\.(\d+)\.block\.(\d+)\.", r"encoder.down_blocks.\1.resnets.\2."),
    (r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
    (r"^decoder\.up\.(\d+)\.block\.(\d+)\.", r"decoder.up_blocks.\1.resnets.\2."),
    (r"^decoder\.up\.(\d+)\.upsample\.", r"decoder.up_blocks.\1.upsamplers.0."),
    (r"\.nin_shortcut\.", r".conv_shortcut."),
    # diffusers' own before version 0.15.
    (r"(\.attentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(\.attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(\.attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(\.attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
)
"""The original (LDM) names and diffusers' old ones -> today's; blocks are numbered in ``to_diffusers``."""


def to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Original and old names -> diffusers' names; attention's 1x1 convolutions -> linear layers. Others stay."""
    ups = [int(found[1]) for key in state if (found := re.match(r"decoder\.up\.(\d+)\.", key))]
    renamed: dict[str, Tensor] = {}
    for original, tensor in state.items():
        key = original
        for pattern, replacement in RENAMES:
            key = re.sub(pattern, replacement, key)
        key = re.sub(r"\.mid\.block_([12])\.", lambda found: f".mid_block.resnets.{int(found[1]) - 1}.", key)
        if ups:  # the original counts them from the picture, diffusers from the latents
            key = re.sub(r"\.up_blocks\.(\d+)\.", lambda found: f".up_blocks.{max(ups) - int(found[1])}.", key)
        linear = ".attentions." in key and key.endswith(".weight") and tensor.ndim > 2
        renamed[key] = tensor.flatten(1) if linear else tensor
    return renamed


def describe(state: Mapping[str, Tensor], where: Path, groups: int | None) -> dict[str, Any]:
    """AutoencoderKL's configuration, read off the shapes of its tensors (diffusers' names).

    Args:
        state: of the whole autoencoder.
        where: the file, for messages.
        groups: of its normalizations, if known; None: DEFAULT_GROUPS.

    Raises:
        ModelError: they do not look like an AutoencoderKL, or cannot have that many groups.
    """
    widths: dict[int, int] = {}
    layers = 0
    for key, tensor in state.items():
        found = re.match(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.conv2\.weight", key)
        if found:
            widths[int(found[1])] = int(tensor.shape[0])
            layers = max(layers, int(found[2]) + 1)
    if not widths or sorted(widths) != list(range(len(widths))):
        raise ModelError(f"{where}: the autoencoder has no down blocks of the known kind")
    count = groups if groups is not None else DEFAULT_GROUPS
    odd = next((width for width in widths.values() if width % count), None)
    if odd is not None:
        raise ModelError(
            f"{where}: {odd} channels cannot be normalized in {count} groups, and a single file does not say in how "
            "many: give --norm-groups (norm_num_groups in the config.json of this autoencoder)"
        )
    return {
        "in_channels": int(state["encoder.conv_in.weight"].shape[1]),
        "out_channels": int(state["decoder.conv_out.weight"].shape[0]) if "decoder.conv_out.weight" in state else 3,
        "block_out_channels": tuple(widths[index] for index in sorted(widths)),
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "layers_per_block": layers,
        "latent_channels": int(state["decoder.conv_in.weight"].shape[1]),
        "norm_num_groups": count,
        "use_quant_conv": "quant_conv.weight" in state,
        "use_post_quant_conv": "post_quant_conv.weight" in state,
        "mid_block_add_attention": any(".mid_block.attentions." in key for key in state),
    }
