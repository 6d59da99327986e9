"""Target ``container``: whole .sdl files, decoded. Its fields are mutated one by one; the checksum is right again."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random

from tests.fuzz import alphas
from tests.fuzz.mutations import mutated, number
from tests.fuzz.target import Target
from tests.make_container_golden import SAMPLES

from sdrt.codec import Codec
from sdrt.container import sdl
from sdrt.errors import SdrtError

TESTS = Path(__file__).parents[1]
MAX_PIXELS = 1 << 16
"""A picture that decodes in milliseconds: work follows the pixels, and a service limits them."""

KINDS = (*SAMPLES, b"NEWS")
"""Of chunks that are put in: those of the golden files (`newS` is unknown), and a critical one that is unknown."""


@dataclass(frozen=True)
class _Parts:
    """A file in pieces that need not fit together. ``count``: the number of chunks it claims; None: none, and no bit.

    ``sides``: width - 1 and height - 1. ``padding``: useless bytes of each varint.
    """

    word: int
    sides: tuple[int, int]
    identities: bytes
    count: int | None
    chunks: tuple[tuple[bytes, bytes], ...]
    payload: bytes
    padding: int = 0

    @classmethod
    def of(cls, file: sdl.SdlFile) -> _Parts:
        chunks = tuple((chunk.kind, chunk.data) for chunk in file.chunks)
        return cls(
            file.step_index | (1 << 10 if chunks else 0),
            (file.width_px - 1, file.height_px - 1),
            file.space_identity + file.prior_identity,
            len(chunks) or None,
            chunks,
            file.payload,
        )

    def body(self) -> bytes:
        parts = [sdl.MAGIC, bytes([sdl.VERSION]), (self.word & 0xFFFF).to_bytes(2, "little")]
        parts += [_varint(side, self.padding) for side in self.sides]
        parts.append(self.identities)
        if self.count is not None:
            parts.append(bytes([self.count & 0xFF]))
            for kind, data in self.chunks:
                parts += [kind, _varint(len(data), self.padding), data]
        return b"".join((*parts, self.payload))


def _varint(value: int, padding: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    if padding:
        out[-1] |= 0x80
        out += b"\x80" * (padding - 1) + b"\0"
    return bytes(out)


def mutate(data: bytes, rng: Random) -> bytes:
    """One part of a sound file changed, or the bytes of any other, and the checksum put right."""
    if rng.random() < 0.1:
        return mutated(data, rng)
    body = data[:-4]
    try:
        parts = _Parts.of(sdl.unpack(data, max_pixels=None))
    except SdrtError:
        body = mutated(body, rng)
    else:
        body = mutated(body, rng) if rng.random() < 0.1 else _changed(parts, rng).body()
    return body + zlib.crc32(body).to_bytes(4, "little")


def _changed(parts: _Parts, rng: Random) -> _Parts:
    match rng.choice(("sides", "sides", "word", "payload", "payload", "chunk", "chunk", "chunks", "count", "rare")):
        case "sides":
            most = rng.choice((40, 300, 2**21 - 1, 2**28))
            sides = list(parts.sides)
            axis = rng.randrange(2)
            sides[axis] = number(sides[axis], rng, most)
            return replace(parts, sides=(sides[0], sides[1]))
        case "word":
            return replace(parts, word=number(parts.word, rng, 0xFFFF))
        case "payload":
            return replace(parts, payload=mutated(parts.payload, rng))
        case "chunk" if parts.chunks:
            chunks = list(parts.chunks)
            at = rng.randrange(len(chunks))
            kind, data = chunks[at]
            mutation = alphas.mutate_coded if kind == sdl.ALPHA else mutated
            chunks[at] = (kind, mutation(data, rng))
            return replace(parts, chunks=tuple(chunks))
        case "chunk" | "chunks":
            chunks = list(parts.chunks)
            if chunks and rng.random() < 0.4:
                del chunks[rng.randrange(len(chunks))]
            else:
                kind = rng.choice((*KINDS, rng.randbytes(4)))
                chunks.insert(rng.randint(0, len(chunks)), (kind, rng.randbytes(rng.choice((0, 1, 2, 30)))))
            if rng.random() < 0.8:
                chunks.sort()
            word = parts.word | 1 << 10 if chunks else parts.word & ~(1 << 10)
            return replace(parts, chunks=tuple(chunks), count=len(chunks) or None, word=word)
        case "count":
            return replace(parts, count=number(parts.count or 0, rng, 255), word=parts.word | 1 << 10)
        case _:
            if rng.random() < 0.5:
                return replace(parts, padding=rng.randint(1, 4))
            return replace(parts, identities=mutated(parts.identities, rng))


@cache
def _codec() -> Codec:
    os.environ["SDRT_MODELS"] = str(TESTS / "data")
    return Codec(device="cpu", threads=1, max_pixels=MAX_PIXELS)


def run(data: bytes) -> None:
    """What unpacks has one spelling only; what decodes is a picture of the size that the file says."""
    file = sdl.unpack(data, max_pixels=MAX_PIXELS)
    assert sdl.pack(file) == data, "two files of the same contents"
    picture = _codec().decode_picture(data)
    assert picture.rgb.shape == (file.height_px, file.width_px, 3)
    classes = _codec().truth_map(data)
    assert (classes is None) == (file.chunk(sdl.TRUTH) is None)
    assert (picture.alpha is None) == (file.chunk(sdl.ALPHA) is None)
    assert picture.alpha is None or picture.alpha.shape == picture.rgb.shape[:2]


def seeds() -> list[bytes]:
    """The golden files, and those of the container alone as if they were of the tests' pack."""
    files = [path.read_bytes() for path in sorted((TESTS / "golden" / "codec").glob("*.sdl"))]
    first = sdl.unpack(files[0])
    for path in sorted((TESTS / "golden" / "good").glob("*.sdl")):
        bare = sdl.unpack(path.read_bytes(), max_pixels=None)
        ours = replace(bare, space_identity=first.space_identity, prior_identity=first.prior_identity)
        files.append(sdl.pack(ours))
    return files


TARGET = Target("container", seeds, mutate, run)
