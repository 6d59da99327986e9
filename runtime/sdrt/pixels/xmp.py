"""XMP as bytes: what it says of the pixels, put right for a picture that is upright and alone.

Only what is wrong is changed: a parser finds where it stands, and the text around it stays byte for byte.
Sources: ISO 16684-1 and -2 (XMP), Ultra HDR 1.1 (gain maps and Google's container).
"""

from __future__ import annotations

import re
from xml.parsers import expat

_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>))\s*([1-8])(?=\s*["'<])""")
_WIDTH = re.compile(rb"""((?:tiff:ImageWidth|exif:PixelXDimension)(?:\s*=\s*["']|>))\s*\d+(?=\s*["'<])""")
_HEIGHT = re.compile(rb"""((?:tiff:ImageLength|exif:PixelYDimension)(?:\s*=\s*["']|>))\s*\d+(?=\s*["'<])""")
_TAG = re.compile(rb"""<(?:[^"'>]|"[^"]*"|'[^']*')*>""")
_ATTRIBUTE = re.compile(rb"""\s+([^\s="'<>]+)\s*=\s*(?:"[^"]*"|'[^']*')""")

_OTHER_PICTURES = (
    "http://ns.adobe.com/hdr-gain-map/1.0/ ",
    "http://ns.apple.com/HDRGainMap/1.0/ ",
    "http://ns.google.com/photos/1.0/container/ ",
    "http://ns.adobe.com/xap/1.0/ Thumbnails",
    "http://ns.adobe.com/xmp/note/ HasExtendedXMP",
)
"""Namespaces, and names in namespaces, of what is about pictures beside this one; the last says that JPEG holds more
XMP in further segments, which are not read."""


def orientation_of(xmp: bytes) -> int:
    """1..8; 1 where none is stated."""
    found = _ORIENTATION.search(xmp)
    return int(found[2]) if found else 1


def upright(xmp: bytes, width_px: int, height_px: int) -> bytes:
    """The packet for an upright picture of this size, without thumbnails, gain maps and extensions."""
    xmp = _ORIENTATION.sub(rb"\g<1>1", xmp)
    xmp = _WIDTH.sub(rb"\g<1>%d" % width_px, xmp)
    xmp = _HEIGHT.sub(rb"\g<1>%d" % height_px, xmp)
    gone = _of_other_pictures(xmp)
    starts, stops = [0, *(stop for _, stop in gone)], [*(start for start, _ in gone), len(xmp)]
    return b"".join(xmp[start:stop] for start, stop in zip(starts, stops, strict=True))


def _of_other_pictures(xmp: bytes) -> list[tuple[int, int]]:
    """First byte and last byte + 1 of every element and attribute that is about another picture, in ascending order.

    None of them where the packet is not well-formed.
    """
    if not any(name.partition(" ")[0].encode() in xmp for name in _OTHER_PICTURES):
        return []
    found: list[tuple[int, int]] = []
    prefixes: set[str] = set()
    depth = gone_depth = gone_at = 0
    parser = expat.ParserCreate(namespace_separator=" ")

    def namespace(prefix: str | None, uri: str) -> None:
        if any(name.startswith(f"{uri} ") for name in _OTHER_PICTURES):
            prefixes.add(prefix or "")

    def start_element(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, gone_depth, gone_at
        depth += 1
        if gone_depth:
            return
        at = parser.CurrentByteIndex
        if name.startswith(_OTHER_PICTURES):
            gone_depth, gone_at = depth, at
            return
        names = {attribute.partition(" ")[2] for attribute in attributes if attribute.startswith(_OTHER_PICTURES)}
        if names:
            for attribute in _ATTRIBUTE.finditer(_tag(xmp, at)):
                prefix, _, local = attribute[1].decode().rpartition(":")
                if local in names and prefix in prefixes:
                    found.append((at + attribute.start(), at + attribute.end()))

    def end_element(_name: str) -> None:
        nonlocal depth, gone_depth
        if gone_depth == depth:
            tag = _tag(xmp, gone_at)
            stop = gone_at + len(tag) if tag.endswith(b"/>") else xmp.index(b">", parser.CurrentByteIndex) + 1
            found.append((gone_at, stop))
            gone_depth = 0
        depth -= 1

    def doctype(*_: object) -> None:
        raise expat.ExpatError("XMP has no document type")

    parser.StartNamespaceDeclHandler = namespace
    parser.StartElementHandler = start_element
    parser.EndElementHandler = end_element
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(xmp.rstrip(b"\0"), True)
    except (expat.ExpatError, UnicodeDecodeError):
        return []
    return found


def _tag(xmp: bytes, at: int) -> bytes:
    found = _TAG.match(xmp, at)
    return found[0] if found else b""
