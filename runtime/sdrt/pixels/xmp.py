"""XMP as bytes: what it says of the pixels, put right for a picture that is upright and alone.

Only what is wrong is changed: a parser finds where it stands, and the text around it stays byte for byte.
Sources: ISO 16684-1 and -2 (XMP), Ultra HDR 1.1 (gain maps and Google's container), IPTC Photo Metadata 2023.1 and
https://cv.iptc.org/newscodes/digitalsourcetype/ (where a picture comes from).
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


_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_SOURCE_TYPE = "DigitalSourceType"
_SOURCE_TYPES = b"http://cv.iptc.org/newscodes/digitalsourcetype/"
_PAINTED = _SOURCE_TYPES + b"compositeWithTrainedAlgorithmicMedia"
_SAID = (_PAINTED, _SOURCE_TYPES + b"trainedAlgorithmicMedia")
"""What says at least as much as _PAINTED."""
_MARK = b"".join(
    (
        b'<rdf:Description rdf:about="" xmlns:rdf="%s" xmlns:Iptc4xmpExt="%s">' % (_RDF.encode(), _IPTC.encode()),
        b"<Iptc4xmpExt:DigitalSourceType>%s</Iptc4xmpExt:DigitalSourceType></rdf:Description>" % _PAINTED,
    )
)
_PACKET = b"".join(
    (
        b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">',
        b'<rdf:RDF xmlns:rdf="%s">%s</rdf:RDF></x:xmpmeta><?xpacket end="r"?>' % (_RDF.encode(), _MARK),
    )
)


def painted(xmp: bytes | None) -> bytes:
    """The packet with the word that a network painted parts of the picture (IPTC's DigitalSourceType).

    Another word about the picture's source gives way, unless it says more. A packet without RDF, which no reader of XMP
    reads, gives way as a whole: a broken one must not be a way to leave the word out.
    """
    if xmp is None:
        return _PACKET
    if any(said in xmp for said in _SAID):
        return xmp
    xmp = _cut(xmp, _places(xmp, (f"{_IPTC} {_SOURCE_TYPE}",)))
    at = _end_of_rdf(xmp)
    return _PACKET if at is None else xmp[:at] + _MARK + xmp[at:]


def _end_of_rdf(xmp: bytes) -> int | None:
    """Where the end tag of the RDF begins; None where the packet is no UTF-8, not well-formed, or has none."""
    at: int | None = None
    parser = expat.ParserCreate(namespace_separator=" ")

    def end_element(name: str) -> None:
        nonlocal at
        if name == f"{_RDF} RDF" and xmp.startswith(b"</", parser.CurrentByteIndex):
            at = parser.CurrentByteIndex

    parser.EndElementHandler = end_element
    try:
        xmp.decode("utf-8")
        _parse(parser, xmp)
    except (expat.ExpatError, UnicodeDecodeError):
        return None
    return at


def orientation_of(xmp: bytes) -> int:
    """1..8; 1 where none is stated."""
    found = _ORIENTATION.search(xmp)
    return int(found[2]) if found else 1


def upright(xmp: bytes, width_px: int, height_px: int) -> bytes:
    """The packet for an upright picture of this size, without thumbnails, gain maps and extensions."""
    xmp = _ORIENTATION.sub(rb"\g<1>1", xmp)
    xmp = _WIDTH.sub(rb"\g<1>%d" % width_px, xmp)
    xmp = _HEIGHT.sub(rb"\g<1>%d" % height_px, xmp)
    return _cut(xmp, _places(xmp, _OTHER_PICTURES))


def _cut(xmp: bytes, gone: list[tuple[int, int]]) -> bytes:
    starts, stops = [0, *(stop for _, stop in gone)], [*(start for start, _ in gone), len(xmp)]
    return b"".join(xmp[start:stop] for start, stop in zip(starts, stops, strict=True))


def _places(xmp: bytes, wanted: tuple[str, ...]) -> list[tuple[int, int]]:
    """First byte and last byte + 1 of every element and attribute with one of the names, in ascending order.

    ``wanted``: as of _OTHER_PICTURES. None of them where the packet is not well-formed.
    """
    if not any(name.partition(" ")[0].encode() in xmp for name in wanted):
        return []
    found: list[tuple[int, int]] = []
    prefixes: set[str] = set()
    depth = gone_depth = gone_at = 0
    parser = expat.ParserCreate(namespace_separator=" ")

    def namespace(prefix: str | None, uri: str) -> None:
        if any(name.startswith(f"{uri} ") for name in wanted):
            prefixes.add(prefix or "")

    def start_element(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, gone_depth, gone_at
        depth += 1
        if gone_depth:
            return
        at = parser.CurrentByteIndex
        if name.startswith(wanted):
            gone_depth, gone_at = depth, at
            return
        names = {attribute.partition(" ")[2] for attribute in attributes if attribute.startswith(wanted)}
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

    parser.StartNamespaceDeclHandler = namespace
    parser.StartElementHandler = start_element
    parser.EndElementHandler = end_element
    try:
        _parse(parser, xmp)
    except (expat.ExpatError, UnicodeDecodeError):
        return []
    return found


def _parse(parser: expat.XMLParserType, xmp: bytes) -> None:
    """Raises ExpatError also for a document type, which XMP has not: entities are a bomb."""

    def doctype(*_: object) -> None:
        raise expat.ExpatError("XMP has no document type")

    parser.StartDoctypeDeclHandler = doctype
    parser.Parse(xmp.rstrip(b"\0"), True)


def _tag(xmp: bytes, at: int) -> bytes:
    found = _TAG.match(xmp, at)
    return found[0] if found else b""
