"""Small random autoencoders of every class that is exported, and the forms in which people have them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sdrt.packs.manifest import LatentSpace

KL: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
KL_THREE_BLOCKS: dict[str, Any] = {
    **KL,
    "block_out_channels": (8, 8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
}
FOUR_BLOCKS: dict[str, Any] = {
    "block_out_channels": (8,) * 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
SD_LIKE: dict[str, Any] = {**KL, "block_out_channels": (32, 64), "norm_num_groups": 32}
"""Single files carry no number of groups: 32, as in every Stable Diffusion."""
TINY: dict[str, Any] = {
    "encoder_block_out_channels": (8, 8),
    "decoder_block_out_channels": (8, 8),
    "num_encoder_blocks": (1, 1),
    "num_decoder_blocks": (1, 1),
}
TAESD_LIKE: dict[str, Any] = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
"""The layers of TAESD, narrow."""
DC: dict[str, Any] = {
    "latent_channels": 4,
    "attention_head_dim": 4,
    "encoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
    "decoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
    "encoder_block_out_channels": (8, 16, 16),
    "decoder_block_out_channels": (8, 16, 16),
    "encoder_layers_per_block": (1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1),
    "encoder_qkv_multiscales": ((), (), (5,)),
    "decoder_qkv_multiscales": ((), (), (5,)),
    "upsample_block_type": "interpolate",
    "downsample_block_type": "Conv",
    "scaling_factor": 0.41407,
}
"""As Sana's, narrow and with a downscale factor of 4."""
HUNYUAN: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 1,
    "spatial_compression_ratio": 4,
    "sample_size": 32,
    "scaling_factor": 0.75289,
}
"""As HunyuanImage 2.1's, narrow and with a downscale factor of 4. Its normalizations always have 32 groups."""
KVAE: dict[str, Any] = {
    "channels": 32,
    "num_enc_blocks": 1,
    "num_dec_blocks": 1,
    "z_channels": 4,
    "ch_mult": (1, 1, 2),
    "sample_size": 32,
}
"""As KVAE 2D's, narrow and with a downscale factor of 4. Its normalizations always have 32 groups."""
VIDEO: dict[str, Any] = {
    "base_dim": 4,
    "z_dim": 4,
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True],
    "latents_mean": [0.1, -0.4, 0.7, 0.0],
    "latents_std": [2.8, 1.4, 2.3, 0.9],
}
RGBA: dict[str, Any] = {
    **VIDEO,
    "decoder_base_dim": 6,
    "dim_mult": [1, 2, 4, 8, 8],
    "temperal_downsample": [False, True, True, True],
}
"""As Qwen-Image 2.1's, narrow. Every kind of its shortcuts is there."""
SETTINGS = {
    "AutoencoderKLFlux2": KL,
    "AutoencoderKL": KL,
    "AutoencoderTiny": TINY,
    "AutoencoderDC": DC,
    "AutoencoderKLHunyuanImage": HUNYUAN,
    "AutoencoderKLKVAE": KVAE,
    "AutoencoderKLQwenImage": VIDEO,
    "AutoencoderKLWan": VIDEO,
    "AutoencoderKLQwenImage21": RGBA,
}
"""Class -> a configuration. Of classes with one prefix and one configuration the last one's graphs are tried."""


def make(class_name: str, settings: Mapping[str, Any], seed: int = 1) -> Any:
    """A random autoencoder. Parameters that begin as constants are random too: a mix-up of two would not show."""
    torch.manual_seed(seed)
    vae = getattr(diffusers, class_name)(**settings).eval()
    with torch.no_grad():
        for parameter in vae.parameters():
            if parameter.unique().numel() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return vae


def make_kl(**changes: Any) -> Any:
    return make("AutoencoderKL", {**KL, **changes})


def make_tiny(**changes: Any) -> Any:
    return make("AutoencoderTiny", {**TINY, **changes})


def to_ldm(state: Mapping[str, Tensor], blocks: int, prefix: str = "first_stage_model.") -> dict[str, Tensor]:
    """diffusers' names -> the original ones, attention as 1x1 convolutions, behind a checkpoint's prefix."""
    renames = (
        (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
        (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
        (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
        (r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block."),
        (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
        (r"conv_norm_out", "norm_out"),
        (r"conv_shortcut", "nin_shortcut"),
    )
    original: dict[str, Tensor] = {}
    for name, tensor in state.items():
        key = name
        for pattern, replacement in renames:
            key = re.sub(pattern, replacement, key)
        key = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", key)
        key = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda found: f"up.{blocks - 1 - int(found[1])}.block.", key)
        key = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda f: f"up.{blocks - 1 - int(f[1])}.upsample", key)
        linear = "attn_1" in key and key.endswith("weight") and tensor.ndim == 2
        original[prefix + key] = (tensor[:, :, None, None] if linear else tensor).contiguous().clone()
    return original


def whole_checkpoint(vae: Any) -> dict[str, Tensor]:
    """An autoencoder inside a Stable Diffusion checkpoint, with tensors of other parts around it."""
    others = {
        "model.diffusion_model.out.weight": torch.ones(3),
        "cond_stage_model.weight": torch.ones(2),
        "first_stage_model.loss.discriminator.weight": torch.ones(2),
    }
    return {**to_ldm(vae.state_dict(), len(vae.config.block_out_channels)), **others}


def with_old_attention_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' names of before version 0.15."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in state.items():
        key = name
        for new, former in old.items():
            key = key.replace(f".attentions.0.{new}.", f".attentions.0.{former}.")
        renamed[key] = tensor
    return renamed


def save_shards(vae: Any, folder: Path) -> None:
    """Weights spread over two files and an index, as diffusers does with large ones."""
    vae.save_config(folder)
    names = sorted(vae.state_dict())
    files = [f"diffusion_pytorch_model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    where = {name: files[index % 2] for index, name in enumerate(names)}
    for file in files:
        part = {name: vae.state_dict()[name].contiguous() for name in names if where[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def save_pair(vae: Any, folder: Path, stem: str = "taesd", suffix: str = ".pth") -> None:
    """An AutoencoderTiny as its author publishes it: two files, keys without prefix, the decoder's counted from one."""
    halves: dict[str, dict[str, Tensor]] = {"encoder": {}, "decoder": {}}
    for name, tensor in vae.state_dict().items():
        half, _layers, index, rest = name.split(".", 3)
        halves[half][f"{int(index) + (half == 'decoder')}.{rest}"] = tensor.contiguous()
    for half, state in halves.items():
        path = folder / f"{stem}_{half}{suffix}"
        if suffix == ".pth":
            torch.save(state, path)
        else:
            save_file(state, path)


def to_flux2(state: Mapping[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """As FLUX.2's own code keeps it: the outer convolutions belong to the halves, the statistics stand beside them."""
    renamed = {}
    for name, tensor in to_ldm(state, blocks, "").items():
        key = re.sub(r"^quant_conv", "encoder.quant_conv", name)
        renamed[re.sub(r"^post_quant_conv", "decoder.post_quant_conv", key)] = tensor
    return renamed


def through_diffusers(vae: Any, sample: Tensor, latents: Tensor, space: LatentSpace) -> tuple[Tensor, Tensor]:
    """Raw latents of the picture and the picture of the raw latents, as a pipeline of diffusers would compute them."""
    kind = type(vae).__name__
    vae = vae.float()
    with torch.no_grad():
        if kind in ("AutoencoderKLWan", "AutoencoderKLQwenImage", "AutoencoderKLQwenImage21"):
            if kind == "AutoencoderKLQwenImage21":
                sample = nn.functional.pad(sample, (0, 0, 0, 0, 0, 1), value=1)  # opaque
            mean, std = (
                torch.tensor(values)[None, :, None, None] for values in (VIDEO["latents_mean"], VIDEO["latents_std"])
            )
            raw = (vae.encode(sample.unsqueeze(2)).latent_dist.mode().squeeze(2) - mean) / std
            painted = vae.decode((latents * std + mean).unsqueeze(2)).sample.squeeze(2)[:, :3]
        elif kind == "AutoencoderTiny":
            # Its latents are scaled already.
            raw = vae.encode(sample).latents / space.scale + space.shift
            painted = vae.decode((latents - space.shift) * space.scale).sample
        elif kind == "AutoencoderDC":
            raw, painted = vae.encode(sample).latent, vae.decode(latents).sample
        else:
            raw, painted = vae.encode(sample).latent_dist.mode(), vae.decode(latents).sample
    return raw, painted.clamp(-1, 1)
