"""A second reader of the fields of chunk ``PTCH``, written from docs/FORMAT.md alone; the stream stays as it is."""

from __future__ import annotations

from typing import NamedTuple

from tests.reference_step_map import Bits


class Fields(NamedTuple):
    coding: int
    feather_px: int
    mask: list[list[int]]
    stream: bytes
    halved: bool


def decode(data: bytes, height_px: int, width_px: int) -> Fields:
    """The fields of a sound chunk of a picture of this size."""
    rows, columns = (height_px + 15) // 16, (width_px + 15) // 16
    mask, at = [[1] * columns for _ in range(rows)], 1
    if data[0] & 16:
        length, place = 0, 0
        while True:
            length |= (data[at] & 127) << place
            place, at = place + 7, at + 1
            if data[at - 1] < 128:
                break
        bits = Bits(data[at : at + length])
        at += length
        for y in range(rows):
            for x in range(columns):

                def known(dy: int, dx: int, y: int = y, x: int = x) -> int:
                    inside = y + dy >= 0 and 0 <= x + dx < columns
                    return mask[y + dy][x + dx] if inside else 0

                context = known(0, -1) + 2 * known(-1, 0) + 4 * known(-1, -1) + 8 * known(-1, 1)
                mask[y][x] = bits.bit(context)
    return Fields(data[0] & 3, (0, 2, 4, 8)[data[0] >> 2 & 3], mask, data[at:], data[0] & 32 > 0)
