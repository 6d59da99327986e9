"""The chunks of a WebP file that make its picture. Source: RFC 9649, 2.3 to 2.7."""

from __future__ import annotations

SIGNATURE = b"RIFF"
"""Of other files as well: ``without_metadata`` looks at the rest."""
_OF_THE_PICTURE = (b"VP8X", b"ICCP", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L")
_EXIF_AND_XMP = 0x0C
"""Flags in the first byte of VP8X: there are such chunks."""


def without_metadata(data: bytes) -> bytes | None:
    """The file with the whole chunks of its picture alone; None for a file that is no WebP.

    What is cut short is left out, so that a file whose end is missing has all of its picture or none.
    """
    if data[8:12] != b"WEBP":
        return None
    body = b"WEBP"
    at = 12
    while at + 8 <= len(data):
        kind, size_bytes = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        content = data[at + 8 : at + 8 + size_bytes]
        at += 8 + size_bytes + size_bytes % 2
        if kind in _OF_THE_PICTURE and len(content) == size_bytes:
            if kind == b"VP8X":
                content = bytes([content[0] & ~_EXIF_AND_XMP]) + content[1:] if content else content
            body += kind + size_bytes.to_bytes(4, "little") + content + bytes(size_bytes % 2)
    return SIGNATURE + len(body).to_bytes(4, "little") + body
