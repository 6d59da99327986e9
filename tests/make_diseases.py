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
from sdrt.container.binary_coder import BinaryEncoder

FOLDER = Path(__file__).parent / "diseases"


def sdl_files(healthy: bytes, with_alpha: bytes, with_map: bytes) -> dict[str, bytes]:
    """Name -> bytes of files whose container is sound but which cannot be decoded; all given are 24x16 pixels."""
    parsed, alpha, mapped = sdl.unpack(healthy), sdl.unpack(with_alpha), sdl.unpack(with_map)
    coded_alpha, coded_map = alpha.chunk(sdl.ALPHA), mapped.chunk(sdl.STEP_MAP)
    assert coded_alpha is not None and coded_map is not None

    def with_steps(data: bytes) -> bytes:
        return sdl.pack(replace(mapped, chunks=(sdl.Chunk(sdl.STEP_MAP, data),)))

    beyond = BinaryEncoder(20)
    for context, bit in ((0, 1), (3, 0), *((6 + i, 1) for i in range(7)), (13, 0)):
        beyond.bit(context, bit)
    return {
        "alpha-cut-short.sdl": sdl.pack(replace(alpha, chunks=(sdl.Chunk(sdl.ALPHA, coded_alpha[:-3]),))),
        "alpha-of-another-size.sdl": sdl.pack(replace(alpha, height_px=17)),
        "other-latent-space.sdl": sdl.pack(replace(parsed, space_identity=b"\xde\xad\xbe\xef")),
        "payload-goes-on.sdl": sdl.pack(replace(parsed, payload=parsed.payload + b"\x01")),
        "payload-ends-in-zero.sdl": sdl.pack(replace(parsed, payload=parsed.payload + b"\x00")),
        "steps-flat.sdl": with_steps(b""),
        "steps-go-on.sdl": with_steps(coded_map + b"\x00"),
        "steps-beyond-seven.sdl": with_steps(beyond.finish()),
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


def write(healthy: bytes, with_alpha: bytes, with_map: bytes, folder: Path = FOLDER) -> None:
    """Write those that are absent."""
    folder.mkdir(exist_ok=True)
    for name, data in {**sdl_files(healthy, with_alpha, with_map), **pictures()}.items():
        if not (folder / name).exists():
            (folder / name).write_bytes(data)
