"""Metadata as one value, handed from readers to writers; ``ITEMS`` has the facts of each item.

``image_metadata`` reads a Pillow image.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

from sdrt.limits import MAX_ANCILLARY_BYTES
from sdrt.pixels import iptc as iptc_text
from sdrt.pixels import xmp as xmp_text
from sdrt.pixels.exif import PREFIX, Exif


@dataclass(frozen=True)
class Item:
    """How files hold an item of metadata.

    ``chunk``: its kind in an .sdl file. ``png``: its text's keyword in a PNG; its chunk there unless ``png_text``.
    ``png_profile``: that text is a raw profile of it. ``utf8``: it is that, not any bytes. ``formats``: others that
    Pillow writes it to and reads it from. ``jpeg_prefix``: what stands before it in its segment of a JPEG.
    ``max_bytes``: the most of it that an .sdl file holds.
    """

    chunk: bytes
    png: bytes
    png_text: bool = True
    png_profile: bool = False
    utf8: bool = False
    formats: tuple[str, ...] = ("JPEG", "WEBP", "AVIF")
    jpeg_prefix: bytes = b""
    max_bytes: int = MAX_ANCILLARY_BYTES

    def why_not(self, data: bytes) -> str | None:
        """Why no .sdl file holds this item with these bytes, after its name in a note; None: one may."""
        if len(data) > self.max_bytes:
            return f"has {len(data)} bytes, at most {self.max_bytes} fit"
        return "is not UTF-8" if self.utf8 and not is_utf8(data) else None


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

    An .sdl file holds up to 1 MiB of each, where no less is said.

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
