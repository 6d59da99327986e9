"""Writes tests/diseases: one small file for each way in which a file can be ill. Part of ``make golden``."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from sdrt import sdl

FOLDER = Path(__file__).parent / "diseases"


def sealed(body: bytes) -> bytes:
    """``body`` with a checksum that is right: what follows must be found by other means."""
    return body + zlib.crc32(body).to_bytes(4, "little")


def sdl_files(healthy: bytes, with_alpha: bytes) -> dict[str, bytes]:
    """Name -> bytes of ill .sdl files, made from a healthy one of 24x16 pixels."""
    body, parsed = healthy[:-4], sdl.unpack(healthy)
    alpha = sdl.unpack(with_alpha)
    coded_alpha = alpha.chunk(sdl.ALPHA)
    assert coded_alpha is not None
    huge = sdl.pack(replace(parsed, width_px=2**21, height_px=2**21))

    def changed(edit: Callable[[bytearray], None]) -> bytes:
        copy = bytearray(body)
        edit(copy)
        return sealed(bytes(copy))

    def set_byte(at: int, value: int) -> bytes:
        return changed(lambda copy: copy.__setitem__(at, value))

    unknown = sdl.pack(replace(parsed, chunks=(sdl.Chunk(b"ABCD", b"x"),)))
    overrun = bytearray(sdl.pack(replace(parsed, chunks=(sdl.Chunk(b"abcd", b"x"),)))[:-4])
    overrun[overrun.index(b"abcd") + 4] = 0x7F
    return {
        "empty.sdl": b"",
        "text.sdl": b"This is not an .sdl file.\n",
        "magic-only.sdl": b"SDL",
        "version-zero.sdl": set_byte(3, 0),
        "version-of-the-future.sdl": set_byte(3, 2),
        "reserved-bit.sdl": set_byte(5, body[5] | 0x80),
        "long-varint.sdl": sealed(body[:6] + b"\x97\x00" + body[7:]),
        "truncated.sdl": healthy[:-7],
        "bytes-behind-the-end.sdl": healthy + b"\0",
        "flipped-payload-bit.sdl": healthy[:-6] + bytes([healthy[-6] ^ 4]) + healthy[-5:],
        "flipped-checksum-bit.sdl": healthy[:-1] + bytes([healthy[-1] ^ 1]),
        "too-many-pixels.sdl": huge,
        "unknown-critical-chunk.sdl": unknown,
        "chunk-longer-than-the-file.sdl": sealed(bytes(overrun)),
        "alpha-cut-short.sdl": sdl.pack(replace(alpha, chunks=(sdl.Chunk(sdl.ALPHA, coded_alpha[:-3]),))),
        "alpha-of-another-size.sdl": sdl.pack(replace(alpha, height_px=17)),
        "other-latent-space.sdl": sdl.pack(replace(parsed, space_identity=b"\xde\xad\xbe\xef")),
        "other-prior.sdl": sdl.pack(replace(parsed, prior_identity=b"\xde\xad\xbe\xef")),
    }


def pictures() -> dict[str, bytes]:
    """Name -> bytes of pictures that cannot be encoded."""
    stream = BytesIO()
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(stream, "JPEG")
    jpeg = stream.getvalue()
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")):
        bomb += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return {
        "empty.png": b"",
        "text.jpg": b"This is not a picture.\n",
        "truncated.jpg": jpeg[: len(jpeg) * 3 // 4],
        "too-many-pixels.png": bomb,
    }


def write(healthy: bytes, with_alpha: bytes, folder: Path = FOLDER) -> None:
    """Write all of them."""
    folder.mkdir(exist_ok=True)
    for name, data in {**sdl_files(healthy, with_alpha), **pictures()}.items():
        (folder / name).write_bytes(data)
