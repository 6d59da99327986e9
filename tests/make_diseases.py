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
from sdrt.container.truth_map import encode_truth_map
from sdrt.pixels.atlas import encode_av1, encode_vp8l

FOLDER = Path(__file__).parent / "diseases"


IN_ANCILLARY = ("truth-cut-short.sdl", "truth-goes-on.sdl")
"""Files whose picture decodes: what is ill is read on request only."""


def sdl_files(healthy: bytes, with_alpha: bytes, with_map: bytes) -> dict[str, bytes]:
    """Name -> bytes of files whose container is sound but which cannot be decoded; all given are 24x16 pixels."""
    parsed, alpha, mapped = sdl.unpack(healthy), sdl.unpack(with_alpha), sdl.unpack(with_map)
    coded_alpha, coded_map = alpha.chunk(sdl.ALPHA), mapped.chunk(sdl.STEP_MAP)
    assert coded_alpha is not None and coded_map is not None

    def with_steps(data: bytes) -> bytes:
        return sdl.pack(replace(mapped, chunks=(sdl.Chunk(sdl.STEP_MAP, data),)))

    def with_truth(data: bytes) -> bytes:
        return sdl.pack(replace(parsed, chunks=(sdl.Chunk(sdl.TRUTH, data),)))

    beyond = BinaryEncoder(20)
    for context, bit in ((0, 1), (3, 0), *((6 + i, 1) for i in range(7)), (13, 0)):
        beyond.bit(context, bit)

    def with_patches(data: bytes) -> bytes:
        return sdl.pack(replace(parsed, chunks=(sdl.Chunk(sdl.PATCHES, data),)))

    whole = np.full((16, 24, 3), 200, np.uint8)
    av1, vp8l = encode_av1(whole, 50, speed=8, subsampling="4:2:0"), encode_vp8l(whole)
    wide = av1_stream_of_another_size(av1)
    return {
        "alpha-cut-short.sdl": sdl.pack(replace(alpha, chunks=(sdl.Chunk(sdl.ALPHA, coded_alpha[:-3]),))),
        "alpha-of-another-size.sdl": sdl.pack(replace(alpha, height_px=17)),
        "other-latent-space.sdl": sdl.pack(replace(parsed, space_identity=b"\xde\xad\xbe\xef")),
        "payload-goes-on.sdl": sdl.pack(replace(parsed, payload=parsed.payload + b"\x01")),
        "payload-ends-in-zero.sdl": sdl.pack(replace(parsed, payload=parsed.payload + b"\x00")),
        "payload-too-short.sdl": sdl.pack(replace(parsed, payload=b"")),
        "payload-too-short-for-25-megapixels.sdl": sdl.pack(
            replace(parsed, width_px=5000, height_px=5000, payload=b"")
        ),
        "steps-flat.sdl": with_steps(b""),
        "steps-go-on.sdl": with_steps(coded_map + b"\x00"),
        "steps-beyond-seven.sdl": with_steps(beyond.finish()),
        "patches-empty.sdl": with_patches(b""),
        "patches-reserved-bit.sdl": with_patches(b"\x41" + vp8l),
        "patches-newer-coding.sdl": with_patches(b"\x03" + vp8l),
        "patches-mask-missing.sdl": with_patches(b"\x11"),
        "patches-mask-longer-than-chunk.sdl": with_patches(b"\x11\x7f" + vp8l),
        "patches-mask-of-nothing.sdl": with_patches(b"\x11\x00" + vp8l),
        "patches-mask-goes-on.sdl": with_patches(b"\x11\x02\x90\x00" + vp8l),
        "patches-fade-into-nothing.sdl": with_patches(b"\x05" + vp8l),
        "patches-larger-than-picture.sdl": with_patches(b"\x01" + encode_vp8l(np.full((17, 24, 3), 200, np.uint8))),
        "patches-not-halved.sdl": with_patches(b"\x21" + vp8l),
        "patches-vp8l-bomb.sdl": with_patches(b"\x01\x2f\xff\xff\xff\x0f" + vp8l[5:]),
        "patches-vp8l-cut.sdl": with_patches(b"\x01" + vp8l[:8]),
        "patches-vp8l-none.sdl": with_patches(b"\x01"),
        "patches-av1-bomb.sdl": with_patches(b"\x00" + wide),
        "patches-av1-cut.sdl": with_patches(b"\x00" + av1[:-3]),
        "patches-av1-without-frame.sdl": with_patches(b"\x00" + av1[: 2 + av1[1]]),
        "patches-av1-two-frames.sdl": with_patches(b"\x00" + av1 + av1[2 + av1[1] :]),
        "patches-av1-broken-frame.sdl": with_patches(b"\x00" + av1[:-6] + bytes(6)),
        "patches-av1-as-vp8l.sdl": with_patches(b"\x01" + av1),
        "truth-cut-short.sdl": with_truth(b"\xff\xff"),
        "truth-goes-on.sdl": with_truth(encode_truth_map([[2]]) + b"\0"),
        "other-prior.sdl": sdl.pack(replace(parsed, prior_identity=b"\xde\xad\xbe\xef")),
    }


def av1_stream_of_another_size(stream: bytes) -> bytes:
    """The stream of 24 x 16 pixels whose sequence header says 32 x 32: all bits of its width and its height are set."""
    header = int.from_bytes(stream[2:12], "big")
    bits = 8 * 10 - (3 + 1 + 1 + 5 + 4 + 4)
    wide, high = (header >> bits + 4 & 15) + 1, (header >> bits & 15) + 1
    header |= ((1 << wide + high) - 1) << bits - wide - high
    return stream[:2] + header.to_bytes(10, "big") + stream[12:]


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
