"""Target ``truth-map``: coded truth maps. A case is rows and columns, one byte each, and the chunk's bytes."""

from __future__ import annotations

from random import Random

import numpy as np
from tests.fuzz import step_maps
from tests.fuzz.target import Target

from sdrt.container.truth_map import CELL_PX, Truth, decode_truth_map, encode_truth_map, shares


def mutate(data: bytes, rng: Random) -> bytes:
    """A side or the coded map changed, as of a step map."""
    return step_maps.mutate(data, rng)


def run(data: bytes) -> None:
    """What decodes is a map of the size that was asked for, of known classes, and has one spelling."""
    rows, columns = (1 + side % step_maps.SIDE for side in data[:2].ljust(2, b"\0"))
    classes = decode_truth_map(data[2:], rows * CELL_PX, columns * CELL_PX)
    assert len(classes) == rows and {len(row) for row in classes} == {columns}
    assert {value for row in classes for value in row} <= set(Truth)
    assert abs(sum(shares(classes).values()) - 1) < 1e-9
    assert encode_truth_map(classes) == data[2:], "two spellings of one map"


def seeds() -> list[bytes]:
    """Maps that are all kept, wild, of one cell, and mostly of one class."""
    y, x = np.mgrid[:9, :14]
    wild = np.random.default_rng(4).integers(0, 3, (6, 5))
    maps = [np.zeros((3, 40), int), wild, np.full((1, 1), 2), (x > 5) + (y > 3), np.full((8, 8), 1)]
    return [bytes(side - 1 for side in of.shape) + encode_truth_map(of.astype(int).tolist()) for of in maps]


TARGET = Target("truth-map", seeds, mutate, run)
