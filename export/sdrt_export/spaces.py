"""Which latent space a checkpoint speaks: known ones by name, others by what their encoder is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from sdrt.errors import ModelError
from sdrt.packs.manifest import LatentSpace

SPACES = {
    space.id: space
    for space in (
        LatentSpace("sd1", 4, 8, 0.18215, 0.0),
        LatentSpace("sdxl", 4, 8, 0.13025, 0.0),
        LatentSpace("sd3", 16, 8, 1.5305, 0.0609),
        LatentSpace("flux1", 16, 8, 0.3611, 0.1159),
        LatentSpace("flux2", 32, 8, 1.0, 0.0),
    )
}
"""Scale and shift as in the configuration of the autoencoder that founded the space."""

REPOSITORIES = {
    "compvis/stable-diffusion-v1-1": "sd1",
    "compvis/stable-diffusion-v1-2": "sd1",
    "compvis/stable-diffusion-v1-3": "sd1",
    "compvis/stable-diffusion-v1-4": "sd1",
    "runwayml/stable-diffusion-v1-5": "sd1",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd1",
    "stabilityai/sd-vae-ft-ema": "sd1",
    "stabilityai/sd-vae-ft-mse": "sd1",
    "stabilityai/stable-diffusion-2": "sd1",
    "stabilityai/stable-diffusion-2-base": "sd1",
    "stabilityai/stable-diffusion-2-1": "sd1",
    "stabilityai/stable-diffusion-2-1-base": "sd1",
    "madebyollin/taesd": "sd1",
    "stabilityai/sdxl-vae": "sdxl",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    "madebyollin/sdxl-vae-fp16-fix": "sdxl",
    "madebyollin/taesdxl": "sdxl",
    "stabilityai/stable-diffusion-3-medium-diffusers": "sd3",
    "stabilityai/stable-diffusion-3.5-large": "sd3",
    "stabilityai/stable-diffusion-3.5-medium": "sd3",
    "madebyollin/taesd3": "sd3",
    "black-forest-labs/flux.1-dev": "flux1",
    "black-forest-labs/flux.1-schnell": "flux1",
    "madebyollin/taef1": "flux1",
}
"""Hub repositories (lower case) -> space. The decoders of one space differ; what they mean by a number does not."""

WEIGHTS = {
    "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815": "sd1",  # sd-vae-ft-mse, safetensors
    "1b4889b6b1d4ce7ae320a02dedaeff1780ad77d415ea0d744b476155c6377ddc": "sd1",  # sd-vae-ft-mse, bin
    "a2b5134f4dbc140d9c11f11cba3233099e00af40f262f136c691fb7d38d2194c": "sd1",  # stable-diffusion-v1-4
    "4fbcf0ebe55a0984f5a5e00d8c4521d52359af7229bb4d81890039d2aa16dd7c": "sd1",  # stable-diffusion-v1-4, fp16
    "db169d69145ec4ff064e49d99c95fa05d3eb04ee453de35824a6d0f325513549": "sd1",  # taesd
}
"""sha256 of a weights file -> space, so that a copy on disk is recognised as well."""

LICENCES = {
    "stabilityai/sd-vae-ft-mse": "MIT",
    "stabilityai/sd-vae-ft-ema": "MIT",
    "madebyollin/taesd": "MIT",
    "madebyollin/taesdxl": "MIT",
    "compvis/stable-diffusion-v1-4": "CreativeML OpenRAIL-M",
}


def resolve_space(
    found: LatentSpace,
    *,
    asked: str | None = None,
    repository: str | None = None,
    digests: Mapping[str, str] | None = None,
) -> LatentSpace:
    """The space of a checkpoint whose own description is ``found``.

    In this order: the id that was ``asked`` for, the sha256 of a weights file (the values of ``digests``), the
    repository; else ``found`` itself. Raises ModelError if a known space has other channels or another downscale.
    """
    known = next((WEIGHTS[digest] for digest in (digests or {}).values() if digest in WEIGHTS), None)
    name = asked or known or REPOSITORIES.get((repository or "").lower())
    if name is None:
        return found
    if name not in SPACES:
        return LatentSpace(name, found.channels, found.downscale, found.scale, found.shift)
    space = SPACES[name]
    if (space.channels, space.downscale) != (found.channels, found.downscale):
        raise ModelError(
            f"latent space {name} has {space.channels} channels at 1/{space.downscale}, "
            f"the checkpoint {found.channels} at 1/{found.downscale}"
        )
    return space


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
