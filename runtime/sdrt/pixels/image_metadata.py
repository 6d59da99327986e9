"""Metadata of a Pillow image.

Reading finds the orientation that EXIF and XMP state and gives the same bytes, true of pixels that are upright.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import ExifTags, Image

from sdrt.pixels import iptc as iptc_text
from sdrt.pixels import xmp as xmp_text
from sdrt.pixels.exif import PREFIX, Exif
from sdrt.pixels.metadata import ITEMS, Metadata

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
class SourceMetadata:
    """What an image states: its ``orientation``, 1..8 as EXIF has it (1 where none is stated), the ``metadata`` of the
    upright picture, whether its colors are ``adobe_rgb``, and ``notes`` for a person on what could not be kept."""

    orientation: int
    metadata: Metadata
    adobe_rgb: bool
    notes: tuple[str, ...]


def read_metadata(image: Image.Image) -> SourceMetadata:
    """The metadata of a loaded image. Broken metadata are dropped with a note, never an error.

    Where EXIF states no orientation, XMP's counts, as in Pillow. A TIFF file was turned by Pillow on loading.
    """
    notes: tuple[str, ...] = ()
    exif = None
    if (data := _exif_bytes(image)) is not None:
        try:
            exif = Exif(data)
        except ValueError:
            data, notes = None, ("broken EXIF data: not kept",)
    items = {name: _bytes(image.info.get(name)) for name in ITEMS}
    found = Metadata(**{**items, "exif": data, "iptc": items["iptc"] or _iptc_bytes(image)})
    orientation = None if exif is None else exif.orientation
    if orientation is None:
        orientation = 1 if found.xmp is None or image.format == "TIFF" else xmp_text.orientation_of(found.xmp)
    sides = image.size if orientation < 5 else image.size[::-1]
    return SourceMetadata(orientation, found.upright(orientation, *sides), exif is not None and exif.adobe_rgb, notes)


def _bytes(value: object) -> bytes | None:
    """An entry of ``Image.info``, where whoever made the image in memory may have put anything. None: absent, empty."""
    if isinstance(value, str):
        value = value.encode("utf-8", "replace")
    return value if isinstance(value, bytes) and value else None


def _exif_bytes(image: Image.Image) -> bytes | None:
    exif = image.info.get("exif")
    if exif is None and (image.format == "TIFF" or "Raw profile type exif" in image.info):
        exif = _rebuilt_exif(image)
    if not isinstance(exif, bytes):
        return None
    return exif.removeprefix(PREFIX) or None


def _iptc_bytes(image: Image.Image) -> bytes | None:
    """IPTC where Pillow has it: in the resources of a JPEG, the raw profile of a PNG, a TIFF file's tag."""
    resources, profile = image.info.get("photoshop"), image.info.get("Raw profile type iptc")
    if isinstance(resources, dict):
        return _bytes(resources.get(iptc_text.RESOURCE))
    if isinstance(profile, str):
        return iptc_text.in_profile(profile.encode("latin-1", "replace"))
    return _iptc_of_tiff(image) if image.format == "TIFF" else None


def _iptc_of_tiff(image: Image.Image) -> bytes | None:
    """The bytes of the tag. Many writers call them numbers of 32 bits, of which Pillow would give the first."""
    from PIL.TiffImagePlugin import TiffImageFile  # only here: to open an .sdl file in Pillow takes none

    try:
        assert isinstance(image, TiffImageFile)
        return _bytes(image.tag.tagdata.get(iptc_text.TIFF_TAG))
    except Exception:  # as of EXIF
        return None


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
