"""EXIF and XMP as one value, read from a Pillow image and handed to Pillow's writers.

Reading finds the orientation that they state and gives the same bytes with the orientation set upright.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from PIL import ExifTags, Image

EXIF_PREFIX = b"Exif\x00\x00"
"""What JPEG and Pillow put before EXIF bytes. sdrt keeps EXIF without it, from the TIFF header on."""

_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>))\s*([1-8])(?=\s*["'<])""")
_SHORT, _LONG = 3, 4
_DESCRIPTIVE_TAGS = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.XResolution,
    ExifTags.Base.YResolution,
    ExifTags.Base.ResolutionUnit,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.Copyright,
)


@dataclass(frozen=True)
class Metadata:
    """What a file says about its picture. Each item has Pillow's name for it, and is None where there is none.

    Attributes:
        exif: From the TIFF header on, without "Exif\\0\\0". It states orientation 1: the pixels are upright.
        xmp: The packet, UTF-8. It states orientation 1 as well.
    """

    exif: bytes | None = None
    xmp: bytes | None = None

    def for_pillow(self) -> dict[str, bytes]:
        """The items that there are, as Pillow has them in ``Image.info`` and takes them in ``Image.save``."""
        items = {name: data for name, data in vars(self).items() if data is not None}
        return items if self.exif is None else {**items, "exif": EXIF_PREFIX + self.exif}


@dataclass(frozen=True)
class SourceMetadata:
    """What an image states: its ``orientation``, 1..8 as EXIF has it (1 where none is stated), the ``metadata`` of the
    upright picture, and ``notes`` for a person on what could not be kept."""

    orientation: int
    metadata: Metadata
    notes: tuple[str, ...]


def read_metadata(image: Image.Image) -> SourceMetadata:
    """The metadata of a loaded image. Broken metadata are dropped with a note, never an error.

    Where EXIF states no orientation, XMP's counts, as in Pillow. A TIFF file was turned by Pillow on loading.
    """
    notes: tuple[str, ...] = ()
    exif = _exif_bytes(image)
    entries: list[tuple[str, int, int]] = []
    if exif is not None:
        try:
            entries = _orientation_entries(exif)
        except (struct.error, ValueError):
            exif = None
            notes = ("broken EXIF data: not kept",)
    xmp = image.info.get("xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode("utf-8", "replace")
    if not isinstance(xmp, bytes) or not xmp:
        xmp = None
    orientation = 1
    if entries:
        order, offset, size_bytes = entries[-1]
        assert exif is not None
        stated = int.from_bytes(exif[offset : offset + size_bytes], "little" if order == "<" else "big")
        orientation = stated if 1 <= stated <= 8 else 1
    elif xmp is not None and image.format != "TIFF":
        found = _XMP_ORIENTATION.search(xmp)
        orientation = int(found[2]) if found else 1
    upright = Metadata(
        exif=None if exif is None else _upright_exif(exif, entries),
        xmp=None if xmp is None else _XMP_ORIENTATION.sub(rb"\g<1>1", xmp),
    )
    return SourceMetadata(orientation, upright, notes)


def _exif_bytes(image: Image.Image) -> bytes | None:
    exif = image.info.get("exif")
    if exif is None and (image.format == "TIFF" or "Raw profile type exif" in image.info):
        exif = _rebuilt_exif(image)
    if not isinstance(exif, bytes):
        return None
    return exif.removeprefix(EXIF_PREFIX) or None


def _rebuilt_exif(image: Image.Image) -> bytes | None:
    """EXIF bytes from an image that has none as such: a TIFF file's own tags, or ImageMagick's hexadecimal text.

    Only tags that describe the picture are taken: a TIFF file's other tags say where its own pixels lie.
    """
    try:
        source = image.getexif()
        kept = Image.Exif()
        kept.update({tag: source[tag] for tag in _DESCRIPTIVE_TAGS if tag in source})
        if image.format != "TIFF" and ExifTags.Base.Orientation in source:
            kept[ExifTags.Base.Orientation] = source[ExifTags.Base.Orientation]
        for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            if tags := source.get_ifd(ifd):
                kept[ifd] = dict(tags)
        return kept.tobytes() if len(kept) else None
    except Exception:  # Pillow's readers and writers of hostile tags raise anything
        return None


def _orientation_entries(exif: bytes) -> list[tuple[str, int, int]]:
    """Byte order, offset and size in bytes of every orientation value in the first directory.

    Raises ValueError or struct.error where ``exif`` has no TIFF header or no such directory.
    """
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(exif[:4])
    if order is None:
        raise ValueError("no TIFF header")
    (directory,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, directory)
    entries = []
    for start in range(directory + 2, min(directory + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, values = struct.unpack_from(f"{order}HHI", exif, start)
        if tag == ExifTags.Base.Orientation and kind in (_SHORT, _LONG) and values == 1:
            entries.append((order, start + 8, 2 if kind == _SHORT else 4))
    return entries


def _upright_exif(exif: bytes, entries: list[tuple[str, int, int]]) -> bytes:
    upright = bytearray(exif)
    for order, offset, size_bytes in entries:
        upright[offset : offset + size_bytes] = (1).to_bytes(size_bytes, "little" if order == "<" else "big")
    return bytes(upright)
