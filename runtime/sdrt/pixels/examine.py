"""What a file declares beyond what Pillow reads, format by format."""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

from PIL import Image

from sdrt.errors import ImageError
from sdrt.limits import MAX_ANCILLARY_BYTES
from sdrt.pixels.boxes import examine_boxes, is_boxes
from sdrt.pixels.colorimetry import SRGB_PRIMARIES, Encoding, from_gamma, power
from sdrt.pixels.declared import MAX_PROFILE_BYTES, Declared
from sdrt.pixels.jpeg_segments import SIGNATURE as JPEG_SIGNATURE
from sdrt.pixels.jpeg_segments import examine_jpeg
from sdrt.pixels.png_chunks import SIGNATURE as PNG_SIGNATURE
from sdrt.pixels.png_chunks import examine_png

_PREFIX_BYTES = 16
_BMP_HEADER_AT = 14
_BMP_V4_BYTES, _BMP_V5_BYTES = 108, 124
_BMP_CALIBRATED, _BMP_EMBEDDED = b"\0\0\0\0", b"DEBM"
_GIF_PROFILE = b"ICCRGBG1012"
_PSD_RGB, _PSD_MULTICHANNEL, _PSD_DUOTONE = 3, 7, 8
_TIFF_WHITE, _TIFF_PRIMARIES, _TIFF_TRANSFER = 318, 319, 301


def examine(stream: BinaryIO) -> Declared:
    """What the file in a seekable ``stream`` declares; the stream stays where it is. Raises OSError, ValueError, and
    ImageError for a picture of which Pillow would read a part."""
    before = stream.tell()
    try:
        stream.seek(0)
        prefix = stream.read(_PREFIX_BYTES)
        if prefix.startswith(PNG_SIGNATURE):
            return examine_png(stream)
        if prefix.startswith(JPEG_SIGNATURE):
            return examine_jpeg(stream)
        if is_boxes(prefix):
            return examine_boxes(stream)
        if prefix.startswith(b"BM"):
            return _examine_bmp(stream)
        if prefix.startswith(b"GIF8"):
            return _examine_gif(stream)
        if prefix.startswith(b"8BPS"):
            return _examine_psd(stream)
        if prefix.startswith(b"qoif"):
            return Declared(encoding=Encoding(light=power(1)) if prefix[13:14] == b"\1" else Encoding())
        return Declared()
    finally:
        stream.seek(before)


def _examine_bmp(stream: BinaryIO) -> Declared:
    """BMP's headers of versions 4 and 5. Version 5 may hold an ICC profile. Gammas and endpoints are only noted: some
    writers store them as X, Y, Z and display exponents, others as x, y, z and encoding exponents."""
    stream.seek(_BMP_HEADER_AT)
    header = stream.read(_BMP_V5_BYTES)
    size_bytes, kind, corners = int.from_bytes(header[:4], "little"), header[56:60], header[60:96]
    if size_bytes == len(header) and kind == _BMP_EMBEDDED:
        offset, profile_bytes = struct.unpack_from("<II", header, 112)
        stream.seek(_BMP_HEADER_AT + offset)
        return Declared(info={"icc_profile": stream.read(min(profile_bytes, MAX_PROFILE_BYTES))})
    if size_bytes >= _BMP_V4_BYTES and kind == _BMP_CALIBRATED and any(corners):
        return Declared(notes=("its header declares calibrated colors: treated as sRGB",))
    return Declared()


def _examine_gif(stream: BinaryIO) -> Declared:
    """An ICC profile in an application extension before the first frame. Source: ICC.1, annex B."""
    stream.seek(0)
    data = stream.read(MAX_ANCILLARY_BYTES)
    flags = data[10] if len(data) > 10 else 0
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while data[at : at + 1] == b"!":
        blocks, at = _gif_blocks(data, at + 2)
        if blocks[:1] == [_GIF_PROFILE]:
            return Declared(info={"icc_profile": b"".join(blocks[1:])})
    return Declared()


def _gif_blocks(data: bytes, at: int) -> tuple[list[bytes], int]:
    """The data of the sub-blocks that begin at ``at``, and the offset behind them."""
    blocks = []
    while at < len(data) and data[at]:
        blocks.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return blocks, at + 1


def _examine_psd(stream: BinaryIO) -> Declared:
    """Photoshop's files whose channels Pillow takes for what they are not. Source: Adobe Photoshop File Formats
    Specification, File Header, Layer and Mask Information."""
    stream.seek(0)
    header = stream.read(26)
    channels, mode = int.from_bytes(header[12:14], "big"), int.from_bytes(header[24:26], "big")
    if mode == _PSD_MULTICHANNEL:
        raise ImageError("its channels are separate plates (multichannel), of which only one could be read")
    if mode == _PSD_DUOTONE:
        return Declared(notes=("a duotone: read as gray, without the colors of its inks",))
    if (mode, channels) != (_PSD_RGB, 4):
        return Declared()
    for _ in range(2):  # color mode data, resources
        stream.seek(int.from_bytes(stream.read(4), "big"), io.SEEK_CUR)
    layers = stream.read(10)[8:]
    if int.from_bytes(layers, "big", signed=True) < 0:
        return Declared()
    return Declared(notes=("its fourth channel, perhaps a stored selection, is taken for transparency",))


def encoding_in(image: Image.Image, notes: list[str]) -> Encoding | None:
    """The color encoding that an image declares without ICC: PNG's gAMA and cHRM, TIFF's tags."""
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        if _TIFF_TRANSFER in tags:
            notes.append("its transfer function (TIFF tag 301) is ignored: treated as sRGB's")
        corners = _floats(tags.get(_TIFF_PRIMARIES), 6)
        return from_gamma(None, corners and [*(_floats(tags.get(_TIFF_WHITE), 2) or SRGB_PRIMARIES[:2]), *corners])
    if "srgb" in image.info or image.format == "DDS":  # Pillow's gamma of 1/2.2 stands for sRGB in DDS
        return None
    gamma = image.info.get("gamma")
    return from_gamma(
        gamma if isinstance(gamma, float) and gamma > 0 else None, _floats(image.info.get("chromaticity"), 8)
    )


def _floats(values: object, count: int) -> list[float] | None:
    """``count`` numbers; None for anything else."""
    try:
        numbers = [float(value) for value in values]  # type: ignore[attr-defined]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return numbers if len(numbers) == count else None
