"""The atlas of patches: pixels <-> a bare bitstream, by Pillow's AVIF and WebP."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image, features

from sdrt.errors import CorruptError, LimitError, UnsupportedError, first_line
from sdrt.pixels import still_streams
from sdrt.pixels.picture import Pixels
from sdrt.pixels.pillow_state import reading
from sdrt.pixels.scaling import enlarge

_CODECS = {"av1": ("AVIF", "avif"), "vp8l": ("WebP", "webp")}
"""Coding -> the format that Pillow reads it as, and what Pillow calls that feature."""


def can_code(coding: str) -> bool:
    """Whether this Pillow has the codec of a coding."""
    return bool(features.check(_CODECS[coding][1]))


def encode_av1(rgb: Pixels, quality: int, *, speed: int, subsampling: str) -> bytes:
    """The bare AV1 bitstream of uint8 (H, W, 3). ``quality`` 0 to 100, ``subsampling`` "4:2:0" or "4:4:4"."""
    file = BytesIO()
    Image.fromarray(rgb).save(file, "AVIF", quality=quality, speed=speed, subsampling=subsampling)
    return still_streams.av1_stream(file.getvalue())


def encode_vp8l(rgb: Pixels, *, quality: int = 100, method: int = 6) -> bytes:
    """The bare VP8L image-stream of uint8 (H, W, 3), without loss."""
    file = BytesIO()
    Image.fromarray(rgb).save(file, "WEBP", lossless=True, quality=quality, method=method)
    return still_streams.vp8l_stream(file.getvalue())


def decode_atlas(coding: str, stream: bytes, height_px: int, width_px: int, *, halved: bool = False) -> Pixels:
    """The pixels of an atlas of this size, uint8 (height_px, width_px, 3).

    ``halved``: the stream holds it at a half of its sides, rounded up, and is enlarged as a smaller coded picture is.

    The size that the stream itself states is compared before anything is decoded.

    Raises:
        CorruptError: The stream is of another size, truncated, or not what ``coding`` says.
        UnsupportedError: This Pillow lacks the codec.
        LimitError: There is no memory for it.
    """
    if halved:
        small = decode_atlas(coding, stream, -(-height_px // 2), -(-width_px // 2))
        window = 0, 0, small.shape[1], small.shape[0]
        return np.concatenate(list(enlarge(iter([small]), window, 2, (0, 0, width_px, height_px))))
    if coding == "av1":
        header = still_streams.read_sequence_header(stream)
        stated = header.width_px, header.height_px
    else:
        stated = still_streams.vp8l_size(stream)
    if stated != (width_px, height_px):
        raise CorruptError(
            f"the patches' stream holds {stated[0]} x {stated[1]} pixels, the mask says {width_px} x {height_px}"
        )
    name, feature = _CODECS[coding]
    if not features.check(feature):
        raise UnsupportedError(
            f"the file holds patches coded as {name}, which this Pillow lacks: install Pillow from its wheels"
        )
    file = still_streams.avif_file(stream) if coding == "av1" else still_streams.webp_file(stream)
    with reading(None):  # the size has been checked, against a picture within the caller's limit
        try:
            with Image.open(BytesIO(file), formats=[name.upper()]) as image:
                rgb = np.asarray(image.convert("RGB"))
        except MemoryError:
            raise LimitError(f"not enough memory to decode {width_px} x {height_px} pixels of patches") from None
        except Exception as error:  # Pillow's plugins raise nearly every kind on hostile files
            raise CorruptError(f"the patches' {name} stream cannot be decoded: {first_line(error)}") from None
    if rgb.shape != (height_px, width_px, 3):
        raise CorruptError(f"the patches' {name} stream decodes to {rgb.shape[1]} x {rgb.shape[0]} pixels")
    return rgb
