"""What type checkers see of sdrt from outside. ``make lint`` checks it; an ignore that is not needed is an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

import sdrt


def what_people_write(path: Path, codec: sdrt.Codec) -> None:
    """Calls as in README, with the types that they give."""
    data: bytes = sdrt.encode(path, target_bytes=5000, device="cpu", tune="psnr", resampling=2)
    image: Image.Image = sdrt.decode(data, precision="w16", crop=(0, 0, 8, 8))
    files: Iterator[bytes] = codec.encode_many([path, data, image], sdrt.EncodeOptions(quality=50), keep_metadata=True)
    images: Iterator[Image.Image] = codec.decode_many(files, workers=2)
    about: sdrt.Info = codec.encode_file(next(images), path, target_bpp=0.15)
    picture: sdrt.Picture = codec.decode_picture(path.open("rb"))
    latents = next(codec.latents_many([data, path], scaled=True))
    caches: Iterator[bytes] = codec.encode_latents_many([(latents, 8, 8)], latent_error=0.03)
    data = codec.encode_latents(codec.latents(next(caches)), 8, 8, scaled=False)
    sdrt.save(picture, path, suffix=about.model)
    sdrt.register_opener(threads=1)


def what_is_wrong(path: Path, codec: sdrt.Codec) -> None:
    """Each line has a red line under it in an editor."""
    sdrt.encode(path, device="gpu")  # type: ignore[arg-type]
    sdrt.encode(path, qualty=50)  # type: ignore[call-arg]
    sdrt.decode(path, target_bytes=5000)  # type: ignore[call-arg]
    codec.encode(path, tune="ssim")  # type: ignore[arg-type]
    codec.encode(path, resampling=3)  # type: ignore[arg-type]
    sdrt.Codec(precision="int4")  # type: ignore[arg-type]
    sdrt.EncodeOptions(quality="50")  # type: ignore[arg-type]
    sdrt.EncodeOptions().quality = 50  # type: ignore[misc]
