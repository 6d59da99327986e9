"""Single-file checkpoints: only the autoencoder's tensors are read, and nothing but tensors is unpickled."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sdrt.errors import ModelError

PREFIX = "first_stage_model."
"""What the autoencoder's keys begin with in a whole Stable Diffusion checkpoint."""

RENAMES = (
    (r"^(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out."),
    (r"^(encoder|decoder)\.mid\.attn_1\.norm\.", r"\1.mid_block.attentions.0.group_norm."),
    (r"^(encoder|decoder)\.mid\.attn_1\.([qkv])\.", r"\1.mid_block.attentions.0.to_\2."),
    (r"^(encoder|decoder)\.mid\.attn_1\.proj_out\.", r"\1.mid_block.attentions.0.to_out.0."),
    (r"^encoder\.down\.(\d+)\.block\.(\d+)\.", r"encoder.down_blocks.\1.resnets.\2."),
    (r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
    (r"^decoder\.up\.(\d+)\.block\.(\d+)\.", r"decoder.up_blocks.\1.resnets.\2."),
    (r"^decoder\.up\.(\d+)\.upsample\.", r"decoder.up_blocks.\1.upsamplers.0."),
    (r"\.nin_shortcut\.", r".conv_shortcut."),
)
"""The original (LDM) names -> diffusers' names; up blocks and middle blocks are numbered in ``to_diffusers``."""


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], bool]:
    """The autoencoder's tensors of a checkpoint, without their prefix, and whether the checkpoint is of SDXL.

    Raises ModelError if the file is damaged, holds code, or holds no autoencoder.
    """
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt", device="cpu") as stream:
                keys = set(stream.keys())
                state = {key.removeprefix(PREFIX): stream.get_tensor(key) for key in _autoencoder_keys(keys)}
        except (OSError, SafetensorError) as error:
            raise ModelError(f"cannot read {path}: {_line(error)}") from None
    else:
        tensors = read_tensors(path)
        keys = set(tensors)
        state = {key.removeprefix(PREFIX): tensors[key] for key in _autoencoder_keys(keys)}
    if not {"encoder.conv_in.weight", "decoder.conv_in.weight"} <= set(state):
        raise ModelError(f"{path} holds no autoencoder: neither {PREFIX}encoder.* nor encoder.* is in it")
    return state, any(key.startswith("conditioner.") for key in keys)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .ckpt, .pth, .pt or .bin file; a nested ``state_dict`` is opened. Never runs code of the file.

    Raises ModelError if the file is damaged or holds anything but tensors and plain containers.
    """
    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise ModelError(
            f"{path} is damaged or holds more than tensors, which could run code; it is not opened: "
            "use the .safetensors version of it"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise ModelError(f"cannot read {path}: {_line(error)}") from None
    state = data.get("state_dict", data) if isinstance(data, dict) else None
    if not isinstance(state, dict):
        raise ModelError(f"{path} holds no state dict")
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def _autoencoder_keys(keys: Iterable[str]) -> list[str]:
    """Of a whole checkpoint the prefixed keys; of an autoencoder's own file all that belong to it."""
    names = sorted(keys)
    prefixed = [key for key in names if key.startswith(PREFIX)]
    own = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    # Training leaves its loss (a discriminator) behind the same prefix.
    return [key for key in prefixed or names if key.removeprefix(PREFIX).startswith(own)]


def to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Original names -> diffusers' names; attention's 1x1 convolutions -> linear layers. Own names stay."""
    if any(".down_blocks." in key for key in state):
        return dict(state)
    ups = [int(found[1]) for key in state if (found := re.match(r"decoder\.up\.(\d+)\.", key))]
    last = max(ups, default=0)
    renamed: dict[str, Tensor] = {}
    for original, tensor in state.items():
        key = original
        for pattern, replacement in RENAMES:
            key = re.sub(pattern, replacement, key)
        key = re.sub(r"\.mid\.block_([12])\.", lambda found: f".mid_block.resnets.{int(found[1]) - 1}.", key)
        key = re.sub(r"\.up_blocks\.(\d+)\.", lambda found: f".up_blocks.{last - int(found[1])}.", key)
        linear = ".attentions." in key and key.endswith(".weight") and tensor.ndim > 2
        renamed[key] = tensor.flatten(1) if linear else tensor
    return renamed


def describe(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """AutoencoderKL's configuration, read off the shapes of its tensors (diffusers' names).

    Raises ModelError if they do not look like an AutoencoderKL.
    """
    widths: dict[int, int] = {}
    layers = 0
    for key, tensor in state.items():
        found = re.match(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.conv2\.weight", key)
        if found:
            widths[int(found[1])] = int(tensor.shape[0])
            layers = max(layers, int(found[2]) + 1)
    if not widths or sorted(widths) != list(range(len(widths))):
        raise ModelError("the checkpoint's autoencoder has no down blocks of the known kind")
    return {
        "block_out_channels": tuple(widths[index] for index in sorted(widths)),
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "layers_per_block": layers,
        "latent_channels": int(state["decoder.conv_in.weight"].shape[1]),
        "use_quant_conv": "quant_conv.weight" in state,
        "use_post_quant_conv": "post_quant_conv.weight" in state,
        "mid_block_add_attention": any(".mid_block.attentions." in key for key in state),
    }


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
