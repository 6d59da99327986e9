"""The container's golden files: whole files that must unpack for ever, and broken ones named after their disease."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from sdrt.container.sdl import ALPHA, PATCHES, SCALE, STEP_MAP, TRUTH, Chunk, SdlFile, pack
from sdrt.container.step_map import encode_step_map
from sdrt.container.truth_map import encode_truth_map
from sdrt.pixels.metadata import ITEMS

SPACE = bytes.fromhex("a1b2c3d4")
PRIOR = bytes.fromhex("0f1e2d3c")
PATCH = bytes.fromhex("15 03 5f ff 40 2f 0f c0 03 00 a8 47 91 cb d3 ff 00")
"""A patch in the second of 3 x 2 cells, which fades over 2 pixels: 16 x 16 pixels of one color in VP8L."""
EMPTY_EXIF = bytes.fromhex("4d4d 002a 00000008 0000 00000000")
IPTC = bytes.fromhex("1c 02 78 0005") + b"K\xf6ln."
"""One data set, the caption."""
CLASSES = [[0, 1], [2, 2]]
STEPS = np.array([[0, 0], [-2, 1]], np.int8)
GOOD = {
    "plain": SdlFile(768, 512, SPACE, PRIOR, 512, b"hello"),
    "smallest": SdlFile(1, 1, SPACE, PRIOR, 0, b""),
    "largest-step": SdlFile(129, 16384, SPACE, PRIOR, 1023, bytes(range(256))),
    "longest-sides": SdlFile(2**21, 2**21, SPACE, PRIOR, 1, b"\x80"),
    "all-chunks": SdlFile(
        100,
        50,
        SPACE,
        PRIOR,
        600,
        b"payload",
        (Chunk(ALPHA, b"\x00\x80"), Chunk(b"exif", b"II*\x00"), Chunk(b"xmpp", b"x" * 200)),
    ),
    "metadata": SdlFile(
        100, 50, SPACE, PRIOR, 600, b"payload", (Chunk(b"exif", EMPTY_EXIF), Chunk(b"xmpp", b"<x:xmpmeta/>"))
    ),
    "resampled": SdlFile(1023, 17, SPACE, PRIOR, 700, b"payload", (Chunk(SCALE, b"\x02"),)),
    "patches": SdlFile(40, 24, SPACE, PRIOR, 512, b"hello", (Chunk(PATCHES, PATCH),)),
    "step-map": SdlFile(128, 65, SPACE, PRIOR, 512, b"hello", (Chunk(STEP_MAP, encode_step_map(STEPS)),)),
    "truth-map": SdlFile(64, 33, SPACE, PRIOR, 512, b"hello", (Chunk(TRUTH, encode_truth_map(CLASSES)),)),
    "unknown-ancillary": SdlFile(100, 50, SPACE, PRIOR, 600, b"payload", (Chunk(b"newS", b""),)),
}
"""Name -> contents of a file that every version of sdrt reads."""
for _name, _item in ITEMS.items():
    _any = "K\xf6ln, 1998".encode("utf-8" if _item.utf8 else "latin-1")
    _data = {"exif": EMPTY_EXIF, "xmp": b"<x:xmpmeta/>", "iptc": IPTC}.get(_name, _any)
    GOOD[f"metadata-{_name}"] = SdlFile(100, 50, SPACE, PRIOR, 600, b"payload", (Chunk(_item.chunk, _data),))
SAMPLES = {chunk.kind: chunk.data for file in GOOD.values() for chunk in file.chunks}
"""Kind of a chunk -> its data in the last of these files: a valid item where it is one of ``Metadata``."""

_SIDES = bytes.fromhex("ff05 ff03")


def build(
    flags: int = 512, sides: bytes = _SIDES, rest: bytes = b"hello", *, version: int = 1, magic: bytes = b"SDL"
) -> bytes:
    """A file from its raw parts with a right checksum, whatever the parts are."""
    body = magic + bytes([version]) + flags.to_bytes(2, "little") + sides + SPACE + PRIOR + rest
    return body + zlib.crc32(body).to_bytes(4, "little")


def with_chunks(chunks: bytes) -> bytes:
    return build(512 | 1 << 10, rest=chunks)


def bad_files() -> dict[str, tuple[str, bytes]]:
    """Disease -> (the error's class, the bytes)."""
    plain = build()
    chunky = with_chunks(b"\x01exif\x04II*\x00hello")
    return {
        "empty": ("NotSdlError", b""),
        "png-instead": ("NotSdlError", b"\x89PNG\r\n\x1a\n" + bytes(40)),
        "lower-case-magic": ("NotSdlError", build(magic=b"sdl")),
        "magic-only": ("CorruptError", b"SDL"),
        "version-0": ("CorruptError", build(version=0)),
        "version-2": ("UnsupportedError", build(version=2)),
        "version-2-truncated": ("UnsupportedError", b"SDL\x02"),
        "truncated-header": ("CorruptError", plain[:15]),
        "truncated-payload": ("CorruptError", plain[:-5]),
        "truncated-checksum": ("CorruptError", plain[:-1]),
        "checksum-wrong": ("CorruptError", plain[:-4] + bytes(4)),
        "payload-bit-flipped": ("CorruptError", plain[:-6] + bytes([plain[-6] ^ 1]) + plain[-5:]),
        "trailing-byte": ("CorruptError", plain + b"\x00"),
        "line-ends-changed": ("CorruptError", build(rest=b"a\nb").replace(b"\n", b"\r\n")),
        "reserved-flag-set": ("CorruptError", build(512 | 1 << 11)),
        "highest-reserved-flag-set": ("CorruptError", build(512 | 1 << 15)),
        "width-not-shortest": ("CorruptError", build(sides=bytes.fromhex("8000 ff03"))),
        "height-not-shortest": ("CorruptError", build(sides=bytes.fromhex("ff05 ff8300"))),
        "width-too-long": ("CorruptError", build(sides=bytes.fromhex("ffffff01 ff03"))),
        "pixels-beyond-limit": ("LimitError", build(sides=bytes.fromhex("ffff7f ffff7f"))),
        "chunks-none": ("CorruptError", with_chunks(b"\x00hello")),
        "chunks-17": (
            "CorruptError",
            with_chunks(b"\x11" + b"".join(b"ab" + bytes([97 + i]) + b"c\x00" for i in range(17))),
        ),
        "chunks-missing": ("CorruptError", with_chunks(b"")),
        "chunk-repeated": ("CorruptError", with_chunks(b"\x02exif\x01aexif\x01b")),
        "chunk-out-of-order": ("CorruptError", with_chunks(b"\x02xmpp\x01aexif\x01b")),
        "chunk-kind-not-letters": ("CorruptError", with_chunks(b"\x01exi1\x01a")),
        "chunk-kind-cut": ("CorruptError", with_chunks(b"\x01ex")),
        "chunk-longer-than-file": ("CorruptError", with_chunks(b"\x01exif\x40hello")),
        "chunk-length-not-shortest": ("CorruptError", with_chunks(b"\x01exif\x81\x00hello")),
        "chunk-length-too-long": ("CorruptError", with_chunks(b"\x01ALPH\xff\xff\xff\xff\x01hello")),
        "chunk-bit-flipped": ("CorruptError", chunky.replace(b"II*", b"II+")),
        "chunk-metadata-too-large": ("LimitError", with_chunks(b"\x01exif\x81\x80\x40hello")),
        "scale-none": ("CorruptError", with_chunks(b"\x01SCAL\x01\x00hello")),
        "scale-too-large": ("CorruptError", with_chunks(b"\x01SCAL\x01\x04hello")),
        "scale-two-bytes": ("CorruptError", with_chunks(b"\x01SCAL\x02\x01\x01hello")),
        "chunk-critical-unknown": ("UnsupportedError", with_chunks(b"\x01NEWS\x01ahello")),
    }


def write_container_files(folder: Path) -> None:
    """``good/NAME.sdl`` and ``errors/DISEASE.sdl`` under ``folder``, those that are absent."""
    files = {f"good/{name}.sdl": pack(contents) for name, contents in GOOD.items()}
    files |= {f"errors/{disease}.sdl": data for disease, (_, data) in bad_files().items()}
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            (folder / name).write_bytes(data)
