"""diffusers' autoencoders as the two plain halves that are exported: picture -> raw latents, raw latents -> picture.

``ADAPTERS`` has one for each class of ``classes.CLASSES``.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from sdrt.errors import ModelError, first_line
from sdrt.packs.manifest import LatentSpace
from sdrt_export import hunyuan_image
from sdrt_export.classes import CLASSES, AutoencoderClass
from sdrt_export.deep_compression import DcDecoder, DcEncoder
from sdrt_export.hunyuan_image import HunyuanImageDecoder, HunyuanImageEncoder
from sdrt_export.kvae import kvae_decoder, kvae_encoder
from sdrt_export.single_frame import OpaqueFrameDecoder, OpaqueFrameEncoder, SingleFrameDecoder, SingleFrameEncoder
from sdrt_export.translated import translate


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


def _own_encoder(vae: Any) -> nn.Module:
    encoder: nn.Module = vae.encoder
    return encoder


def _own_decoder(vae: Any) -> nn.Module:
    decoder: nn.Module = vae.decoder
    return decoder


def _own_weights(vae: Any) -> Mapping[str, Tensor]:
    return _own_encoder(vae).state_dict()


@dataclass(frozen=True)
class Adapter:
    """How to export one of diffusers' classes."""

    facts: AutoencoderClass
    encoder: Callable[[Any], nn.Module]
    decoder: Callable[[Any], nn.Module]
    downscale: Callable[[Any], int]
    """How many pixels a side one latent of an autoencoder stands for."""
    encode: Callable[[Any, Tensor], Tensor]
    """diffusers' own way from a picture to raw latents (N, C, h, w), for comparison."""
    decode: Callable[[Any, Tensor], Tensor]
    """diffusers' own way back."""
    identity: Callable[[Any], Mapping[str, Tensor]] = _own_weights
    """What the id of an unnamed space is a digest of: all that decides its latents."""


def _halved_between(field: str) -> Callable[[Any], int]:
    """The downscale factor of a class whose sides halve between two entries of this field of its configuration."""
    return lambda vae: int(2 ** (len(getattr(vae.config, field)) - 1))


def _encode_mean(vae: Any, sample: Tensor) -> Tensor:
    latents: Tensor = vae.encode(sample).latent_dist.mode()
    return latents


def _decode(vae: Any, latents: Tensor) -> Tensor:
    sample: Tensor = vae.decode(latents).sample
    return sample


def _encode_frame(vae: Any, sample: Tensor) -> Tensor:
    mean, std = _frame_statistics(vae)
    latents: Tensor = (vae.encode(sample[:, :, None]).latent_dist.mode() - mean) / std
    return latents[:, :, 0]


def _decode_frame(vae: Any, latents: Tensor) -> Tensor:
    mean, std = _frame_statistics(vae)
    sample: Tensor = vae.decode(latents[:, :, None] * std + mean).sample
    return sample[:, :, 0]


def _encode_opaque_frame(vae: Any, sample: Tensor) -> Tensor:
    return _encode_frame(vae, torch.cat((sample, torch.ones_like(sample[:, :1])), 1))


def _decode_opaque_frame(vae: Any, latents: Tensor) -> Tensor:
    return _decode_frame(vae, latents)[:, :3]


def _frame_statistics(vae: Any) -> tuple[Tensor, Tensor]:
    """As diffusers' pipelines compute them."""
    shape = (1, vae.config.z_dim, 1, 1, 1)
    return torch.tensor(vae.config.latents_mean).view(shape), torch.tensor(vae.config.latents_std).view(shape)


def _frame_weights(vae: Any) -> Mapping[str, Tensor]:
    mean, std = _frame_statistics(vae)
    quantized = {f"quant_conv.{name}": tensor for name, tensor in vae.quant_conv.state_dict().items()}
    return {**_own_weights(vae), **quantized, "latents_mean": mean, "latents_std": std}


def _kl(class_name: str) -> Adapter:
    return Adapter(
        CLASSES[class_name],
        encoder=KlEncoder,
        decoder=KlDecoder,
        downscale=_halved_between("block_out_channels"),
        encode=_encode_mean,
        decode=_decode,
        identity=lambda vae: KlEncoder(vae).state_dict(),
    )


def _video(class_name: str) -> Adapter:
    return Adapter(
        CLASSES[class_name],
        encoder=SingleFrameEncoder,
        decoder=SingleFrameDecoder,
        downscale=_halved_between("dim_mult"),
        encode=_encode_frame,
        decode=_decode_frame,
        identity=_frame_weights,
    )


ADAPTERS = {
    adapter.facts.name: adapter
    for adapter in (
        _kl("AutoencoderKL"),
        _kl("AutoencoderKLFlux2"),
        Adapter(
            CLASSES["AutoencoderTiny"],
            encoder=_own_encoder,
            decoder=_own_decoder,
            downscale=_halved_between("encoder_block_out_channels"),
            encode=lambda vae, sample: vae.encode(sample).latents,
            decode=_decode,
        ),
        Adapter(
            CLASSES["AutoencoderDC"],
            encoder=DcEncoder,
            decoder=DcDecoder,
            downscale=_halved_between("encoder_block_out_channels"),
            encode=lambda vae, sample: vae.encode(sample).latent,
            decode=_decode,
        ),
        Adapter(
            CLASSES["AutoencoderKLHunyuanImage"],
            encoder=HunyuanImageEncoder,
            decoder=HunyuanImageDecoder,
            downscale=hunyuan_image.downscale,
            encode=_encode_mean,
            decode=_decode,
        ),
        Adapter(
            CLASSES["AutoencoderKLKVAE"],
            encoder=kvae_encoder,
            decoder=kvae_decoder,
            downscale=_halved_between("ch_mult"),
            encode=_encode_mean,
            decode=_decode,
        ),
        _video("AutoencoderKLQwenImage"),
        _video("AutoencoderKLWan"),
        replace(
            _video("AutoencoderKLQwenImage21"),
            encoder=OpaqueFrameEncoder,
            decoder=OpaqueFrameDecoder,
            encode=_encode_opaque_frame,
            decode=_decode_opaque_frame,
        ),
    )
}
REFUSED = {
    "AsymmetricAutoencoderKL": "its decoder also wants the picture around a mask",
    "AutoencoderKLTemporalDecoder": "its decoder is made for video",
    "ConsistencyDecoderVAE": "its decoder is a diffusion model of several steps",
    "VQModel": "its latents are indices of a codebook, sdrt codes numbers",
}
"""Autoencoders of diffusers that are not supported -> why."""


def adapter_of(class_name: object, where: object) -> Adapter:
    """The adapter for the class that a configuration names.

    Args:
        class_name: the configuration's ``_class_name``.
        where: the configuration's file, for messages.

    Raises:
        ModelError: there is none; the message says which there are.
    """
    adapter = ADAPTERS.get(str(class_name))
    if adapter is not None:
        return adapter
    why = f", and {REFUSED[str(class_name)]}" if class_name in REFUSED else ""
    raise ModelError(f"{where} describes {class_name}{why}: {', '.join(ADAPTERS)} are supported")


def import_diffusers() -> ModuleType:
    """Not at the top: it takes seconds, and tiny pairs need none of it. Raises ModelError if it is not installed."""
    try:
        module = importlib.import_module("diffusers")
    except ImportError as error:
        raise ModelError(f"diffusers is needed to read this source ({error}): pip install diffusers") from None
    module.logging.set_verbosity_error()
    return module


def build(adapter: Adapter, config: Mapping[str, Any], where: object) -> Any:
    """An autoencoder of diffusers' class with this configuration and arbitrary weights.

    Args:
        adapter: of its class.
        config: as in its config.json.
        where: the configuration's file, for messages.

    Raises:
        ModelError: the class refuses the configuration, this diffusers does not have the class, or the autoencoder's
            pictures have other channels than those of its class.
    """
    diffusers = import_diffusers()
    kind = getattr(diffusers, adapter.facts.name, None)
    if kind is None:
        raise ModelError(f"diffusers {diffusers.__version__} has no {adapter.facts.name}: update it")
    if adapter.facts.name == "AutoencoderKLWan" and config.get("is_residual"):
        raise ModelError(f"{where} describes Wan 2.2's autoencoder, which is made for video only: use Wan 2.1's")
    wanted = 4 if adapter.facts.rgba else 3
    why = f"{adapter.facts.name} has 4, RGBA" if adapter.facts.rgba else "only RGB is coded, transparency is kept apart"
    for key in ("in_channels", "out_channels", "input_channels"):
        if config.get(key, wanted) != wanted:
            raise ModelError(f"{where}: an autoencoder for pictures of {config[key]} channels ({key}): {why}")
    try:
        return kind.from_config(dict(config))
    except Exception as error:  # every class checks in its own way: ValueError, TypeError, KeyError, RuntimeError
        raise ModelError(f"{where} is not a configuration of {adapter.facts.name}: {first_line(error)}") from None


def describe_space(vae: Any, scale: float | None, shift: float | None) -> LatentSpace:
    """The space as the autoencoder's own configuration and weights describe it; ``scale``, ``shift`` override.

    Raises:
        ModelError: there is no adapter for the class.
    """
    adapter, config = adapter_of(type(vae).__name__, "the autoencoder"), vae.config
    own_scale, own_shift = getattr(config, "scaling_factor", None), getattr(config, "shift_factor", None)
    given_scale = next(value for value in (scale, own_scale, 1.0) if value is not None)
    given_shift = next(value for value in (shift, own_shift, 0.0) if value is not None)
    channels = int(getattr(config, adapter.facts.channels))
    identity = f"{adapter.facts.prefix}-{encoder_digest(adapter.identity(vae))}"
    return LatentSpace(identity, channels, adapter.downscale(vae), float(given_scale), float(given_shift))


def encoder_digest(state: Mapping[str, Tensor]) -> str:
    """12 hexadecimal digits of what an encoder computes.

    Over names, shapes and fp16 values, so that fp16 and fp32 copies, and checkpoints that differ in the decoder
    only, are one space.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to(torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def halves(vae: Any, found: LatentSpace, space: LatentSpace) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder in float32 for the raw latents of ``space``, from an autoencoder with the space ``found``.

    Raises:
        ModelError: an autoencoder that does not translate has another scale or shift than the space: then it is not of
            that space.
    """
    adapter = adapter_of(type(vae).__name__, "the autoencoder")
    vae = vae.eval().to(torch.float32)
    encoder, decoder = adapter.encoder(vae), adapter.decoder(vae)
    if adapter.facts.translates:
        return translate(encoder, decoder, found, space)
    if (found.scale, found.shift) != (space.scale, space.shift):
        raise ModelError(
            f"latent space {space.id} has scale {space.scale} and shift {space.shift}, "
            f"the checkpoint {found.scale} and {found.shift}"
        )
    return encoder, decoder
