"""Target ``step-map``: coded step maps. A case is rows and columns, one byte each, and the chunk's bytes."""

from __future__ import annotations

from random import Random

import numpy as np
from tests.fuzz.mutations import mutated, number
from tests.fuzz.target import Target

from sdrt.container.step_map import MAX_OFFSET, decode_step_map, encode_step_map

SIDE = 40
"""Sides up to 40 cells."""


def mutate(data: bytes, rng: Random) -> bytes:
    """A side or the coded map changed."""
    sides, coded = data[:2].ljust(2, b"\0"), data[2:]
    if rng.random() < 0.2:
        at = rng.choice((0, 1))
        return sides[:at] + bytes([number(sides[at], rng, SIDE - 1)]) + sides[at + 1 :] + coded
    return sides + mutated(coded, rng)


def run(data: bytes) -> None:
    """What decodes is a map of the size that was asked for, within its range, and has one spelling."""
    rows, columns = (1 + side % SIDE for side in data[:2].ljust(2, b"\0"))
    offsets = decode_step_map(data[2:], (rows, columns))
    assert offsets.shape == (rows, columns) and abs(offsets).max() <= MAX_OFFSET
    assert encode_step_map(offsets) == data[2:], "two spellings of one map"


def seeds() -> list[bytes]:
    """Maps that are smooth, wild, of one cell, and nearly flat."""
    y, x = np.mgrid[:9, :14]
    wild = np.random.default_rng(4).integers(-MAX_OFFSET, MAX_OFFSET + 1, (6, 5))
    maps = [(x + y) // 3 - 3, wild, np.full((1, 1), -MAX_OFFSET), (x == 5).astype(int), np.full((3, 40), 2)]
    return [bytes(side - 1 for side in of.shape) + encode_step_map(of.astype(np.int8)) for of in maps]


TARGET = Target("step-map", seeds, mutate, run)
