"""The truth map's chunk and its measure once more, written from docs/FORMAT.md and docs/TRUTH.md alone."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from tests.reference_step_map import Bits, RefusedError

CELL = 32


def decode_map(data: bytes, rows: int, columns: int) -> list[list[int]]:
    """0 kept, 1 plausible, 2 invented, row by row."""
    bits = Bits(data)
    classes: list[list[int]] = []
    for y in range(rows):
        classes.append([])
        for x in range(columns):
            above = classes[y - 1][x] if y else None
            left = classes[y][x - 1] if x else None
            known = [value for value in (above, left) if value is not None]
            context = {0: 0, 1: 4 * sum(known), 2: 2 * sum(known)}[len(known)]
            classes[y].append(0 if not bits.bit(context) else 1 + bits.bit(context + 1))
    if bits.code or bits.taken < len(data) or data[-1:] == b"\0":
        raise RefusedError
    return classes


def measure(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> tuple[list[list[float]], list[list[float]]]:
    """Contrast and error of each cell."""
    x, y = _blurred(before), _blurred(after)
    difference = [[b - a for a, b in zip(*rows, strict=True)] for rows in zip(x, y, strict=True)]
    return _deviations(x), _deviations(difference)


def _blurred(rgb: NDArray[np.uint8]) -> list[list[float]]:
    height, width = rgb.shape[:2]
    luma = [[0.299 * int(r) + 0.587 * int(g) + 0.114 * int(b) for r, g, b in row] for row in rgb]
    weights = {-2: 1, -1: 4, 0: 6, 1: 4, 2: 1}

    def at(y: int, x: int) -> float:
        return luma[min(max(y, 0), height - 1)][min(max(x, 0), width - 1)]

    return [
        [
            sum(v * w * at(y + dy, x + dx) for dy, v in weights.items() for dx, w in weights.items()) / 256
            for x in range(width)
        ]
        for y in range(height)
    ]


def _deviations(values: list[list[float]]) -> list[list[float]]:
    height, width = len(values), len(values[0])
    found = []
    for top in range(0, height, CELL):
        found.append([])
        for left in range(0, width, CELL):
            cell = [v for row in values[top : top + CELL] for v in row[left : left + CELL]]
            mean = sum(cell) / len(cell)
            found[-1].append(math.sqrt(sum((v - mean) ** 2 for v in cell) / len(cell)))
    return found
