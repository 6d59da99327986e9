"""Target ``alpha``: coded alpha planes. A case is height and width, two bytes each, and the chunk's bytes."""

from __future__ import annotations

import zlib
from random import Random

import numpy as np
from tests.fuzz.mutations import mutated, number
from tests.fuzz.target import Target

from sdrt.container.alpha import decode_alpha, encode_alpha

SIDE_BITS = 9
"""Sides up to 512: a plane whose worst coding takes a tenth of a second."""
_CONSTANT, _DIFFERENCES, _INTERPOLATED, _EDGES = range(4)


def mutate_coded(coded: bytes, rng: Random) -> bytes:
    """The bytes of a plane; what is deflated is changed inside and deflated again."""
    kind = coded[0] if coded else 0
    if kind in (_DIFFERENCES, _INTERPOLATED) and rng.random() < 0.6:
        decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            values = decompressor.decompress(coded[2:], 1 << 16)
        except zlib.error:
            return mutated(coded, rng)
        compressor = zlib.compressobj(rng.choice((0, 1, 9)), zlib.DEFLATED, -zlib.MAX_WBITS)
        return coded[:2] + compressor.compress(mutated(values, rng)) + compressor.flush()
    if rng.random() < 0.2:
        return bytes([rng.randrange(6)]) + coded[1:]
    return mutated(coded, rng)


def mutate(data: bytes, rng: Random) -> bytes:
    """A side or the coded plane changed."""
    sides, coded = data[:4].ljust(4, b"\0"), data[4:]
    if rng.random() < 0.2:
        at = rng.choice((0, 2))
        side = number(int.from_bytes(sides[at : at + 2], "little"), rng, (1 << SIDE_BITS) - 1)
        return sides[:at] + side.to_bytes(2, "little") + sides[at + 2 :] + coded
    return sides + mutate_coded(coded, rng)


def run(data: bytes) -> None:
    """What decodes is a plane of the size that was asked for, which comes back exactly when it is coded again."""
    height_px, width_px = (1 + int.from_bytes(data[at : at + 2], "little") % (1 << SIDE_BITS) for at in (0, 2))
    plane = decode_alpha(data[4:], height_px, width_px)
    assert plane.shape == (height_px, width_px) and plane.dtype == np.uint8
    if plane.size <= 1 << 12:
        assert np.array_equal(decode_alpha(encode_alpha(plane, max_error=0), height_px, width_px), plane)


def seeds() -> list[bytes]:
    """A plane for each coding."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:40, :37]
    disc = ((y - 20) ** 2 + (x - 18) ** 2 < 150).astype(np.uint8) * 255
    ramp = np.clip(4 * x + 3 * y, 0, 255).astype(np.uint8)
    soft = np.clip(disc.astype(int) - (x * 5) % 90, 0, 255).astype(np.uint8)
    planes = [disc, ramp, soft, rng.integers(0, 256, (16, 16), np.uint8), np.full((9, 500), 77, np.uint8), disc[:1, :1]]
    made = []
    for plane in planes:
        sides = b"".join((side - 1).to_bytes(2, "little") for side in plane.shape)
        made += [sides + encode_alpha(plane, max_error=error) for error in (0, 8)]
    kinds = {case[4] for case in made}
    assert kinds == {_CONSTANT, _DIFFERENCES, _INTERPOLATED, _EDGES}, kinds
    return made


TARGET = Target("alpha", seeds, mutate, run)
