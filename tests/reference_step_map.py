"""A second decoder of the chunk ``STEP``, written from docs/FORMAT.md alone."""

from __future__ import annotations


class RefusedError(Exception):
    """The data are no step map of this size."""


class Bits:
    """The binary range decoder of the page."""

    def __init__(self, data: bytes) -> None:
        self.data, self.taken = data, 4
        self.code, self.range = int.from_bytes(data[:4].ljust(4, b"\0"), "big"), 2**32 - 1
        self.zero: dict[int, int] = {}
        self.shift: dict[int, int] = {}

    def bit(self, context: int) -> int:
        zero, shift = self.zero.get(context, 32768), self.shift.get(context, 1)
        bound = (self.range >> 16) * zero
        found = int(self.code >= bound)
        if found:
            self.code, self.range = self.code - bound, self.range - bound
            zero -= zero >> shift
        else:
            self.range = bound
            zero += (65536 - zero) >> shift
        self.zero[context], self.shift[context] = zero, min(shift + 1, 6)
        while self.range < 2**24:
            following = self.data[self.taken] if self.taken < len(self.data) else 0
            self.taken, self.range, self.code = self.taken + 1, self.range * 256, self.code * 256 + following
        if self.code >= self.range:
            raise RefusedError
        return found


def decode(data: bytes, rows: int, columns: int) -> list[list[int]]:
    """The offsets, row by row."""
    bits = Bits(data)
    offsets: list[list[int]] = []
    for y in range(rows):
        offsets.append([])
        for x in range(columns):
            above = offsets[y - 1][x] if y else None
            left = offsets[y][x - 1] if x else None
            a = above if above is not None else left if left is not None else 0
            b = left if left is not None else a
            kind, difference = min(2, abs(b - a)), 0
            if bits.bit(kind):
                negative = bits.bit(3 + kind)
                difference = 1
                while difference < 14 and bits.bit(5 + difference):
                    difference += 1
                difference = -difference if negative else difference
            offsets[y].append(((a + b) >> 1) + difference)
            if abs(offsets[y][x]) > 7:
                raise RefusedError
    if bits.code or bits.taken < len(data) or data[-1:] == b"\0" or not any(map(any, offsets)):
        raise RefusedError
    return offsets
