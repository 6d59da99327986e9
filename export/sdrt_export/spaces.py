"""The known latent spaces, one record each, and how to recognize a checkpoint's. No torch here.

Two questions are kept apart. *Which space* is certain or not asked at all: a person says it, a weights file has a known
sha256, a repository is known; else the space is named by its encoder's weights. *Which scale* must be answered for a
single file, which does not carry it: there the family of models is guessed, and the guess is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sdrt.errors import ModelError
from sdrt.packs.manifest import LatentSpace


@dataclass(frozen=True)
class KnownSpace:
    """Everything by which checkpoints of one latent space are recognized."""

    space: LatentSpace
    """Scale and shift as in the configuration of the autoencoder that founded the space."""
    repositories: Mapping[str, str | None]
    """Hub repositories in lower case -> the weights' license, where it is known. Decoders of one space differ; what
    they mean by a number does not."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """sha256 of a weights file -> what it is, so that a copy on disk is recognized as well."""
    tensors: tuple[str, ...] = ()
    """What some tensor's name begins with in a whole checkpoint of a model that works in this space."""
    words: str = "(?!)"
    """Regular expression for ``modelspec.architecture`` and for file names, in lower case."""
    tiny: str | None = None
    """Stem of the tiny autoencoder of this space: ``taesd`` of taesd_encoder.pth."""


KNOWN = (
    KnownSpace(
        LatentSpace("sd1", 4, 8, 0.18215, 0.0),
        {
            "compvis/stable-diffusion-v1-1": None,
            "compvis/stable-diffusion-v1-2": None,
            "compvis/stable-diffusion-v1-3": None,
            "compvis/stable-diffusion-v1-4": "CreativeML OpenRAIL-M",
            "runwayml/stable-diffusion-v1-5": None,
            "stable-diffusion-v1-5/stable-diffusion-v1-5": None,
            "stabilityai/sd-vae-ft-ema": "MIT",
            "stabilityai/sd-vae-ft-mse": "MIT",
            "stabilityai/stable-diffusion-2": None,
            "stabilityai/stable-diffusion-2-base": None,
            "stabilityai/stable-diffusion-2-1": None,
            "stabilityai/stable-diffusion-2-1-base": None,
            "madebyollin/taesd": "MIT",
        },
        {
            "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815": "sd-vae-ft-mse, safetensors",
            "1b4889b6b1d4ce7ae320a02dedaeff1780ad77d415ea0d744b476155c6377ddc": "sd-vae-ft-mse, bin",
            "735e4c3a447a3255760d7f86845f09f937809baa529c17370d83e4c3758f3c75": "vae-ft-mse-840000-ema-pruned",
            "a2b5134f4dbc140d9c11f11cba3233099e00af40f262f136c691fb7d38d2194c": "stable-diffusion-v1-4",
            "4fbcf0ebe55a0984f5a5e00d8c4521d52359af7229bb4d81890039d2aa16dd7c": "stable-diffusion-v1-4, fp16",
            "db169d69145ec4ff064e49d99c95fa05d3eb04ee453de35824a6d0f325513549": "taesd",
        },
        tensors=("cond_stage_model.",),
        words=r"stable-diffusion-v[12]|sd[-_.]?v?(1|2)|vae-ft-(mse|ema)|kl-f8",
        tiny="taesd",
    ),
    KnownSpace(
        LatentSpace("sdxl", 4, 8, 0.13025, 0.0),
        {
            "stabilityai/sdxl-vae": None,
            "stabilityai/stable-diffusion-xl-base-1.0": None,
            "madebyollin/sdxl-vae-fp16-fix": None,
            "madebyollin/taesdxl": "MIT",
        },
        {
            "63aeecb90ff7bc1c115395962d3e803571385b61938377bc7089b36e81e92e2e": "sdxl_vae",
            "235745af8d86bf4a4c1b5b4f529868b37019a10f7c0b2e79ad0abca3a22bc6e1": "sdxl-vae-fp16-fix",
            "1598f3d24932bcfe6634e8b618ea1e30ab1d57f5aad13a6d2de446d2199f2341": "stable-diffusion-xl-base-1.0",
        },
        tensors=("conditioner.",),
        words=r"stable-diffusion-xl|sd[-_.]?xl|xl[-_.]vae|pony|illustrious",
        tiny="taesdxl",
    ),
    KnownSpace(
        LatentSpace("sd3", 16, 8, 1.5305, 0.0609),
        {
            "stabilityai/stable-diffusion-3-medium-diffusers": None,
            "stabilityai/stable-diffusion-3.5-large": None,
            "stabilityai/stable-diffusion-3.5-medium": None,
            "madebyollin/taesd3": "MIT",
        },
        tensors=("model.diffusion_model.joint_blocks.",),
        words=r"stable-diffusion-v?3|sd[-_.]?v?3",
        tiny="taesd3",
    ),
    KnownSpace(
        LatentSpace("flux1", 16, 8, 0.3611, 0.1159),
        {
            "black-forest-labs/flux.1-dev": None,
            "black-forest-labs/flux.1-schnell": "Apache-2.0",
            "madebyollin/taef1": "MIT",
        },
        {
            "afc8e28272cd15db3919bacdb6918ce9c1ed22e96cb12c4d5ed0fba823529e38": "FLUX.1's ae",
            "f5b59a26851551b67ae1fe58d32e76486e1e812def4696a4bea97f16604d40a3": "FLUX.1's vae in diffusers' form",
        },
        tensors=("model.diffusion_model.double_blocks.",),
        words=r"flux[-_.]?1|^ae\.(safetensors|sft)$",
        tiny="taef1",
    ),
    KnownSpace(
        LatentSpace("flux2", 32, 8, 1.0, 0.0),
        {"black-forest-labs/flux.2-dev": None, "madebyollin/taef2": "MIT"},
        words=r"flux[-_.]?2",
        tiny="taef2",
    ),
    KnownSpace(
        LatentSpace("sana", 32, 32, 0.41407, 0.0),
        {
            "mit-han-lab/dc-ae-f32c32-sana-1.0-diffusers": None,
            "efficient-large-model/sana_1600m_1024px_diffusers": None,
        },
        words=r"dc-ae-f32c32-sana",
    ),
    KnownSpace(
        LatentSpace("hunyuanimage21", 64, 32, 0.75289, 0.0),
        {"hunyuanvideo-community/hunyuanimage-2.1-diffusers": None},
    ),
    # Per-channel means and deviations are part of the exported graphs, which therefore have scale 1 and shift 0.
    # Qwen-Image keeps Wan 2.1's encoder and tunes the decoder.
    KnownSpace(
        LatentSpace("wan21", 16, 8, 1.0, 0.0),
        {
            "wan-ai/wan2.1-t2v-1.3b-diffusers": "Apache-2.0",
            "wan-ai/wan2.1-t2v-14b-diffusers": "Apache-2.0",
            "qwen/qwen-image": "Apache-2.0",
            "qwen/qwen-image-edit": "Apache-2.0",
        },
    ),
    KnownSpace(LatentSpace("qwenimage21", 64, 16, 1.0, 0.0), {"qwen/qwen-image-2.1": None}),
)

SPACES = {known.space.id: known.space for known in KNOWN}


@dataclass(frozen=True)
class Guess:
    """A family of models that a file seems to belong to, and in words why."""

    space: LatentSpace
    reason: str


def resolve_space(
    found: LatentSpace,
    *,
    asked: str | None = None,
    repository: str | None = None,
    digests: Mapping[str, str] | None = None,
) -> LatentSpace:
    """The space of a checkpoint whose own description is ``found``.

    In this order: the id that was ``asked`` for, the sha256 of a weights file (the values of ``digests``), the
    repository; else ``found`` itself.

    Raises:
        ModelError: a known space has other channels or another downscale factor than the checkpoint.
    """
    known = by_weights((digests or {}).values()) or _by_repository(repository)
    name = asked or (known.space.id if known is not None else None)
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


def by_weights(digests: Iterable[str]) -> KnownSpace | None:
    """The space of the first known weights file among these sha256."""
    wanted = list(digests)
    return next((known for digest in wanted for known in KNOWN if digest in known.weights), None)


def by_tiny_stem(stem: str) -> KnownSpace | None:
    """The space of the tiny autoencoder whose files are called ``stem``_encoder and ``stem``_decoder."""
    return next((known for known in KNOWN if known.tiny == stem), None)


def _by_repository(repository: str | None) -> KnownSpace | None:
    return next((known for known in KNOWN if (repository or "").lower() in known.repositories), None)


def license_of(repository: str | None) -> str | None:
    """The license of a repository's weights, if known."""
    known = _by_repository(repository)
    return known.repositories[(repository or "").lower()] if known is not None else None


def translation(found: LatentSpace, space: LatentSpace) -> tuple[float, float]:
    """Factor and offset that turn raw latents of ``found`` into raw latents of ``space``."""
    factor = found.scale / space.scale
    return factor, space.shift - found.shift * factor


def guess_family(channels: int, *, tensors: Iterable[str], metadata: Mapping[str, str], file_name: str) -> Guess | None:
    """Whose scale a file without a configuration probably has; None if unknown.

    Args:
        channels: of the latents. Spaces with other channels are not considered.
        tensors: names of all tensors of the file, those of other models too.
        metadata: of a safetensors file.
        file_name: its name without the folder.
    """
    names = list(tensors)
    likely = [known for known in KNOWN if known.space.channels == channels]
    for known in likely:
        mark = next((mark for mark in known.tensors if any(name.startswith(mark) for name in names)), None)
        if mark is not None:
            return Guess(known.space, f"the file also holds {mark}*")
    architecture = metadata.get("modelspec.architecture", "").lower()
    for text, word in ((architecture, "its metadata says"), (file_name.lower(), "it is called")):
        # The longest match wins: "sd" is part of many names.
        matches = [(len(hit[0]), known) for known in likely if (hit := re.search(known.words, text))]
        if matches:
            return Guess(max(matches, key=lambda match: match[0])[1].space, f"{word} {text}")
    only = [known.space for known in likely if known.space.downscale == 8]
    if len(only) == 1:
        return Guess(only[0], f"no other known space has {channels} channels")
    if channels == 4:
        return Guess(SPACES["sd1"], "most files with 4 channels are of Stable Diffusion 1 or 2; nothing in it says so")
    return None
