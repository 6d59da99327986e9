"""Target ``patches``: chunks of patches, decoded. A case is height and width, one byte each, and the chunk's bytes."""

from __future__ import annotations

from random import Random

import numpy as np
from tests.fuzz.mutations import mutated, number
from tests.fuzz.target import Target

from sdrt.container.patches import CELL_PX, Coding, Patches, cells, decode_patches, encode_patches
from sdrt.patching import decoded
from sdrt.pixels.atlas import encode_av1, encode_vp8l
from sdrt.pixels.overlay import Overlay


def mutate(data: bytes, rng: Random) -> bytes:
    """A side or the chunk changed."""
    sides, chunk = data[:2].ljust(2, b"\0"), data[2:]
    if rng.random() < 0.2:
        at = rng.choice((0, 1))
        return sides[:at] + bytes([number(sides[at], rng, 255)]) + sides[at + 1 :] + chunk
    return sides + mutated(chunk, rng)


def run(data: bytes) -> None:
    """What decodes has the picture's size, marks a cell, and its fields have one spelling."""
    height_px, width_px = (1 + side for side in data[:2].ljust(2, b"\0"))
    patches = decode_patches(data[2:], height_px, width_px)
    assert patches.mask.shape == cells(height_px, width_px) and patches.mask.any()
    assert encode_patches(patches) == data[2:], "two spellings of the same patches"
    overlay: Overlay = decoded(patches, height_px, width_px)
    painted = np.zeros((height_px, width_px, 3), np.uint8)
    (picture,) = overlay.over(iter([painted]), (0, 0, width_px, height_px))
    assert picture.shape == painted.shape


def seeds() -> list[bytes]:
    """Patches over all, over one cell and over a checkerboard, in either coding."""
    rng = np.random.default_rng(1)
    found = []
    for side_px, mask in ((40, np.ones((3, 3))), (33, np.eye(3)[:, ::-1]), (90, np.indices((6, 6)).sum(0) % 2)):
        marked = mask.astype(np.bool_)
        rgb = rng.integers(0, 256, (side_px, side_px, 3)).astype(np.uint8) // 64 * 64
        streams: dict[Coding, bytes] = {
            "av1": encode_av1(rgb, 30, speed=8, subsampling="4:2:0"),
            "vp8l": encode_vp8l(rgb, method=1),
        }
        for coding, stream in streams.items():
            feather_px = 0 if marked.all() else 4
            assert side_px <= marked.shape[0] * CELL_PX
            chunk = encode_patches(Patches(marked, feather_px, coding, stream))
            found.append(bytes([side_px - 1, side_px - 1]) + chunk)
    return found


TARGET = Target("patches", seeds, mutate, run)
