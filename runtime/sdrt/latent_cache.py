"""Latent samples of trainers <-> .sdl files and the files beside them.

An .sdl file holds one picture's latents and its alpha. The latents of the mirrored picture are a second file,
``NAME.flipped.sdl``; the sizes that a trainer feeds to its model are ``NAME.latent.json``, where they are known.
"""

from __future__ import annotations

import json

from sdrt.codec import Codec
from sdrt.container import sdl
from sdrt.container.alpha import alpha_of
from sdrt.errors import CorruptError
from sdrt.latents.kohya import read_npz, write_npz
from sdrt.latents.safetensors import read_safetensors, write_safetensors
from sdrt.latents.sample import LatentSample
from sdrt.latents.webdataset import Members
from sdrt.options import EncodeOptions, LatentForm, updated

SDL, FLIPPED, SIZES = "sdl", "flipped.sdl", "latent.json"
OWN = (SDL, FLIPPED, SIZES)
"""Extensions of one sample's files."""
_MAX_PX = 2**31 - 1
"""Limit of sizes in pixels: trainers keep them in 32 bits."""
READERS = {"npz": read_npz, "latent": read_safetensors, "safetensors": read_safetensors}
"""Extension -> reader: bytes and key -> samples."""


def read_members(codec: Codec, key: str, members: Members) -> list[LatentSample]:
    """The samples in the files of one key; empty if none of the files holds latents.

    Raises what reading the file raises, and ``Codec.latents``.
    """
    if SDL in members:
        return [_from_sdl(codec, key, members)]
    for extension, read in READERS.items():
        if extension in members:
            return read(members[extension], key)
    return []


def write_members(codec: Codec, sample: LatentSample, form: LatentForm, options: EncodeOptions) -> dict[str, bytes]:
    """The files of one sample, extension -> contents. ``options``: of .sdl files.

    Raises as ``Codec.encode_latents``.
    """
    size_px = sample.size_px(codec.encoding_space().downscale)
    if form.startswith("npz"):
        return {"npz": write_npz(sample, size_px, with_grid=form == "npz-grid")}
    if form.startswith("latent"):
        return {"latent": write_safetensors(sample, half=form == "latent-fp16")}
    options = updated(options, exact_alpha=True)
    members = {SDL: codec.encode_latents(sample.latents, *size_px, options, alpha=sample.alpha)}
    if sample.flipped is not None:
        members[FLIPPED] = codec.encode_latents(sample.flipped, *size_px, options)
    sizes = {"original_size": sample.original_size, "crop_ltrb": sample.crop_ltrb}
    if any(sizes.values()):
        members[SIZES] = json.dumps({name: size for name, size in sizes.items() if size}).encode("ascii")
    return members


def _from_sdl(codec: Codec, key: str, members: Members) -> LatentSample:
    latents = codec.latents(members[SDL])
    file = sdl.unpack(members[SDL], max_pixels=None)  # its size was checked a line before
    flipped = codec.latents(members[FLIPPED]) if FLIPPED in members else None
    if flipped is not None and flipped.shape != latents.shape:
        raise CorruptError(f"{key}.{FLIPPED} is of another size than {key}.{SDL}")
    sizes = _sizes(members.get(SIZES, b"{}"), f"{key}.{SIZES}")
    original_size, crop_ltrb = sizes.get("original_size"), sizes.get("crop_ltrb")
    return LatentSample(
        key=key,
        latents=latents,
        flipped=flipped,
        alpha=alpha_of(file),
        original_size=(original_size[0], original_size[1]) if original_size else (file.width_px, file.height_px),
        crop_ltrb=(crop_ltrb[0], crop_ltrb[1], crop_ltrb[2], crop_ltrb[3]) if crop_ltrb else None,
    )


def _sizes(text: bytes, name: str) -> dict[str, list[int]]:
    """``original_size`` and ``crop_ltrb``, if present. Raises CorruptError."""
    try:
        fields = json.loads(text.decode("utf-8"))
        wanted = {"original_size": 2, "crop_ltrb": 4}
        sizes = {field: fields[field] for field in wanted if field in fields}
        for field, value in sizes.items():
            if len(value) != wanted[field] or not all(type(n) is int and abs(n) <= _MAX_PX for n in value):
                raise ValueError(field)
    except (ValueError, TypeError, RecursionError):
        raise CorruptError(f"{name} holds no sizes: original_size has two integers, crop_ltrb four") from None
    return sizes
