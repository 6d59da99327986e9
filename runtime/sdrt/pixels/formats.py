"""Files of which Pillow reads only a part, or nothing. Each kind is refused or noted by name."""

from __future__ import annotations

import contextlib
import importlib
import re
import struct

from PIL import Image

from sdrt.errors import ImageError
from sdrt.pixels.tiff_tags import pixels_at

PREFIX_BYTES = 32
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
_SVG = (b"<?xml", b"<!DOCTYPE svg", b"<svg")
_CAMERA_RAW = (
    *(b"IIRO", b"IIRS", b"MMOR"),  # Olympus
    b"IIU\0",  # Panasonic
    *(b"II*\0\x10\0\0\0CR", b"II*\0\x10\0\0\0\xba\xb0\xac\xbb"),  # Canon, a TIFF to Pillow
    b"FUJIFILMCCD-RAW",
    b"FOVb",  # Sigma
    b"\0MRM",  # Minolta
)

_PHASE_ONE = re.compile(rb"(II\*\0|MM\0\*).{4}(IIII.waR|MMMMRaw.)", re.DOTALL)  # a TIFF to Pillow as well

_READ = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"GIF8", "GIF"),
    (8, b"WEBP", "WebP"),
    (0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),
    (0, b"8BPS", "PSD"),
    (4, b"ftypavi", "AVIF"),
)
"""Offset and signature of formats that Pillow reads, though not all of each."""
_TIFF_KIND, _TIFF_OLD_KIND, _TIFF_INNER, _TIFF_DNG = 254, 255, 330, 50706
_REDUCED, _OLD_REDUCED = 1, 2
_MAX_PREVIEWS = 8
_PSD_VERSION = 1057
_WORDS = {
    "HEIF": "HEIF (HEIC) is read where its plugin is installed: pip install pillow-heif",
    "JPEG XL": "JPEG XL is read where its plugin is installed: pip install pillow-jxl-plugin",
    "SVG": "SVG is a drawing without pixels: render it first, with CairoSVG or rsvg-convert",
    "preview": "it is the preview of a larger picture inside it, as in a raw file: develop it to TIFF or JPEG first",
    "raw": "it is a camera's raw file, of which only a preview could be read: develop it to TIFF or JPEG first",
}


def unknown(prefix: bytes) -> str:
    """Why Pillow cannot read a file that begins with these PREFIX_BYTES."""
    if not prefix:
        return "it is empty"
    for offset, signature, name in _READ:
        if prefix.startswith(signature, offset):
            return f"damaged, or a kind of {name} that Pillow does not read"
    return _WORDS.get(_kind(prefix), "not a picture of a known format")


def check_prefix(prefix: bytes) -> None:
    """Raises ImageError for a file that Pillow would mistake for another format."""
    if _kind(prefix) == "raw":
        raise ImageError(_WORDS["raw"])


def add_plugin(prefix: bytes) -> bool:
    """Loads the Pillow plugin for a file that begins with these bytes, if one is known and installed.

    Whether a plugin joined; only files that Pillow does not know by itself need one.
    """
    kind = _kind(prefix)
    with contextlib.suppress(ImportError):
        if kind == "HEIF":
            importlib.import_module("pillow_heif").register_heif_opener()
            return True
        if kind == "JPEG XL":
            importlib.import_module("pillow_jxl")  # registers itself
            return True
    return False


def check_picture(image: Image.Image) -> tuple[str, ...]:
    """Notes on what the file holds besides the opened image.

    Raises ImageError for a preview of a raw file, and for layers that only their own program can merge.
    """
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        if _TIFF_DNG in tags or (_is_reduced(image) and _TIFF_INNER in tags):
            raise ImageError(_WORDS["raw"])
        if _holds_larger(image):
            raise ImageError(_WORDS["preview"])
    if image.format == "PSD":
        for kind, _, data in getattr(image, "resources", ()):
            if kind == _PSD_VERSION and data[4:5] == b"\0":
                raise ImageError("it holds layers without their merged picture: save it with maximum compatibility")
    if image.format == "PCD":
        return ("of a Photo CD only the resolution of 768 x 512 is read",)
    return ()


def seek_whole(image: Image.Image) -> None:
    """Seeks to the full picture in a TIFF file that begins with previews of it."""
    with contextlib.suppress(EOFError):
        for page in range(1, _MAX_PREVIEWS):
            if not _is_reduced(image):
                return
            image.seek(page)
    if _is_reduced(image):
        image.seek(0)


def _is_reduced(image: Image.Image) -> bool:
    tags = getattr(image, "tag_v2", {})
    kind = tags.get(_TIFF_KIND, 0)
    return (isinstance(kind, int) and bool(kind & _REDUCED)) or tags.get(_TIFF_OLD_KIND) == _OLD_REDUCED


def _holds_larger(image: Image.Image) -> bool:
    """Whether an inner directory of a TIFF file has more pixels than the image: cameras do not always mark previews."""
    inner = getattr(image, "tag_v2", {}).get(_TIFF_INNER, ())
    stream = getattr(image, "fp", None)
    if not inner or stream is None:
        return False
    offsets = inner if isinstance(inner, tuple) else (inner,)
    largest_px = 0
    for offset in offsets[:_MAX_PREVIEWS]:
        # A broken directory that the image does not need, or a closed file.
        with contextlib.suppress(OSError, ValueError, TypeError, OverflowError, struct.error):
            before = stream.tell()
            largest_px = max(largest_px, pixels_at(stream, offset))
            stream.seek(before)
    return largest_px > image.width * image.height


def _kind(prefix: bytes) -> str:
    if prefix[4:8] == b"ftyp":
        return "raw" if prefix[8:12] == b"crx " else "HEIF" if prefix[8:12] in _HEIF_BRANDS else ""
    if prefix.startswith(_CAMERA_RAW) or _PHASE_ONE.match(prefix):
        return "raw"
    if prefix.startswith(_JPEG_XL):
        return "JPEG XL"
    return "SVG" if prefix.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_SVG) else ""
