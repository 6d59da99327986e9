"""Writes tests/diseases: a small file for each illness that the container alone cannot show. Part of ``make golden``.

Those of the container are in tests/golden/errors.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from sdrt.container import sdl

FOLDER = Path(__file__).parent / "diseases"


def sdl_files(healthy: bytes, with_alpha: bytes) -> dict[str, bytes]:
    """Name -> bytes of files whose container is sound but which cannot be decoded; both given are 24x16 pixels."""
    parsed, alpha = sdl.unpack(healthy), sdl.unpack(with_alpha)
    coded_alpha = alpha.chunk(sdl.ALPHA)
    assert coded_alpha is not None
    return {
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
