"""Metadata as one value, read from a Pillow image and handed to writers; ``ITEMS`` has the facts of each item.

Reading finds the orientation that EXIF and XMP state and gives the same bytes, true of pixels that are upright.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

from PIL import ExifTags, Image

from sdrt.pixels import iptc as iptc_text
from sdrt.pixels import xmp as xmp_text
from sdrt.pixels.exif import PREFIX, Exif

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
class Item:
    """How files hold an item of metadata.

    ``chunk``: its kind in an .sdl file. ``png``: its text's keyword in a PNG; its chunk there unless ``png_text``.
    ``png_profile``: that text is a raw profile of it. ``utf8``: it is that, not any bytes. ``formats``: others that
    Pillow writes it to and reads it from. ``jpeg_prefix``: what stands before it in its segment of a JPEG.
    """

    chunk: bytes
    png: bytes
    png_text: bool = True
    png_profile: bool = False
    utf8: bool = False
    formats: tuple[str, ...] = ("JPEG", "WEBP", "AVIF")
    jpeg_prefix: bytes = b""


ITEMS = {
    "exif": Item(b"exif", b"eXIf", png_text=False, jpeg_prefix=PREFIX),
    "xmp": Item(b"xmpp", b"XML:com.adobe.xmp", utf8=True, jpeg_prefix=b"http://ns.adobe.com/xap/1.0/\0"),
    "iptc": Item(
        b"iptc",
        b"Raw profile type iptc",
        png_profile=True,
        formats=("JPEG", "TIFF"),
        jpeg_prefix=iptc_text.JPEG_PREFIX,
    ),
}
"""Field of ``Metadata``, and key in ``Image.info`` -> its facts, in the order of the fields."""


def is_utf8(data: bytes) -> bool:
    """Whether the bytes are UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@dataclass(frozen=True)
class Metadata:
    """The metadata of a picture. Each item has Pillow's name, if it has one there; None: absent.

    An .sdl file holds up to 1 MiB of each.

    Attributes:
        exif: From the TIFF header on, without "Exif\\0\\0". It is true of the upright picture: orientation 1, its own
            sides, no thumbnail.
        xmp: The packet, UTF-8. It is true of the upright picture as well.
        iptc: IPTC-IIM's data sets: what Pillow has in ``Image.info["photoshop"][0x0404]``. They are true of the upright
            picture: its own orientation, no preview.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None

    def for_pillow(self) -> dict[str, bytes]:
        """The present items, as in ``Image.info``."""
        items = {name: data for name, data in vars(self).items() if data is not None}
        return items if self.exif is None else {**items, "exif": PREFIX + self.exif}

    def for_saving(self, kind: str) -> dict[str, object]:
        """The items that Pillow writes to files of the format ``kind``, as keywords of ``Image.save``."""
        items = {name: data for name, data in self.for_pillow().items() if kind in ITEMS[name].formats}
        iptc = items.pop("iptc", None)
        if iptc is None:
            return {**items}
        if kind == "JPEG":
            return {**items, "extra": iptc_text.as_segment(iptc)}
        return {**items, "tiffinfo": {iptc_text.TIFF_TAG: iptc}}

    def painted(self) -> Metadata:
        """The same with XMP that states that a network painted parts of the picture."""
        return replace(self, xmp=xmp_text.painted(self.xmp))

    def upright(self, orientation: int, width_px: int, height_px: int) -> Metadata:
        """The same for a picture of this size, or for such a part of it, that was turned from ``orientation`` to 1.

        Items that cannot be parsed stay unchanged.
        """
        exif = self.exif
        if exif is not None:
            with contextlib.suppress(ValueError):
                exif = Exif(exif).upright(orientation, width_px, height_px)
        xmp = None if self.xmp is None else xmp_text.upright(self.xmp, width_px, height_px)
        iptc = None if self.iptc is None else iptc_text.upright(self.iptc, width_px, height_px) or None
        return replace(self, exif=exif, xmp=xmp, iptc=iptc)


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
