"""A second decoder of payloads, written from docs/PRIOR.md alone: slow, position by position, in Python's integers.

It shares no line with ``sdrt.coding`` and needs no constriction. ``prior`` is always the arrays of a ``prior.npz``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Arrays = Mapping[str, NDArray[Any]]
Place = tuple[int, int]


class RefusedError(Exception):
    """The payload is no payload of this picture."""


@dataclass
class Scan:
    """One row of ``scans`` with its parts of the flat arrays."""

    start: int
    stop: int
    grids: list[list[int]]
    taps: list[list[int]]
    own_taps: list[list[int]]
    weights: Int64
    mean_weights: Int64
    own_weights: Int64
    global_weights: Int64
    shift: Int64
    out_weights: Int64
    out_shift: Int64


def scans_of(prior: Arrays) -> list[Scan]:
    """The flat arrays, cut."""
    near, at = int(prior["near"]), dict.fromkeys(prior, 0)

    def cut(key: str, *shape: int) -> Int64:
        count = int(np.prod(shape))
        piece = prior[key].reshape(-1)[at[key] : at[key] + count].astype(np.int64).reshape(shape)
        at[key] += count
        return piece

    found = []
    for start, stop, grids, taps, own, hidden in prior["scans"].tolist():
        n, wide, seen = stop - start, start >= near, min(start, near)
        columns = hidden if wide else hidden + 2 * n
        inputs = taps * seen + (near if wide else own * n + stop)
        if wide:
            inputs += (start - near) // 8 + (stop - near + 7) // 8
        found.append(
            Scan(
                start,
                stop,
                cut("grids", grids, 3).tolist(),
                cut("taps", taps, 2).tolist(),
                cut("taps", own, 2).tolist(),
                cut("weights", inputs, columns),
                cut("weights", near if wide else stop, columns),
                cut("own_weights", 2, own if wide else 0, n),
                cut("global_weights", 2, hidden + 2 * n),
                cut("shift", hidden),
                cut("out_weights", hidden, 2 * n),
                cut("out_shift", 2 * n),
            )
        )
    return found


def inverse_step(index: int) -> int:
    """The quality input of a step index."""
    octave, part = divmod(512 - index, 64)
    power = int(2 ** (13 + part / 64)) + 2
    while power**64 > 2 ** (13 * 64 + part):
        power -= 1
    return ((power << (8 + octave)) + 2**15) >> 16


class Picture:
    """What is known of a picture: ``v`` (h, w, coded channels), clipped, 0 where nothing is known."""

    def __init__(self, prior: Arrays, step_indices: Int64) -> None:
        self.prior, self.step_indices = prior, step_indices
        self.near, self.latents = int(prior["near"]), len(prior["steps"])
        self.extents = [0, *prior["extents"].tolist()]
        self.offset = int(len(self.extents) > 1)
        self.height, self.width = step_indices.shape
        self.v = np.zeros((self.height, self.width, self.latents + self.offset), np.int64)
        self.count = np.zeros(self.v.shape[2], np.int64)

    def places(self, scan: Scan) -> list[Place]:
        """Where a scan codes, in order."""
        found = [
            (y, x)
            for y0, x0, stride in scan.grids
            for y in range(y0, self.height, stride)
            for x in range(x0, self.width, stride)
        ]
        if self.offset and scan.start > 0:
            latent = scan.start - 1
            found = [p for p in found if self.extents[int(self.v[p][0])] > latent]
        return found

    def look(self, y: int, x: int) -> Int64:
        """``v`` at a position, which may lie outside."""
        inside = 0 <= y < self.height and 0 <= x < self.width
        return self.v[y, x] if inside else np.zeros(self.v.shape[2], np.int64)

    def bands(self, y: int, x: int) -> Int64:
        behind = np.abs(self.look(y, x)[self.near :])
        return np.array([min(1023, int(behind[i : i + 8].sum())) for i in range(0, len(behind), 8)], np.int64)

    def predict(self, scan: Scan, place: Place) -> tuple[Int64, Int64]:
        """Means in eighths of a symbol and scales in 1/256, each (n,)."""
        y, x = place
        window = [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        wide, n, hidden = scan.start >= self.near, scan.stop - scan.start, len(scan.shift)
        shown = self.near if wide else scan.stop
        inputs = [self.look(y + dy, x + dx)[: min(scan.start, self.near)] for dy, dx in scan.taps]
        own = [self.look(y + dy, x + dx)[scan.start : scan.stop] for dy, dx in scan.own_taps]
        if not wide:
            inputs += own
        inputs.append(sum((np.abs(self.look(*p))[:shown] for p in window), np.zeros(shown, np.int64)))
        if wide:
            inputs.append(self.bands(y, x)[: (scan.start - self.near) // 8])
            around = sum((self.bands(*p) for p in window), np.zeros_like(self.bands(y, x)))
            inputs.append(around[: (scan.stop - self.near + 7) // 8])
        sizes = 16 * self.size[:shown] // np.maximum(self.count[:shown], 1)
        sums = np.array([1, inverse_step(int(self.step_indices[place]))]) @ scan.global_weights >> 8
        columns = scan.weights.shape[1]
        sums[:columns] += np.concatenate(inputs) @ scan.weights + (sizes @ scan.mean_weights >> 4)
        if wide:
            for t, values in enumerate(own):
                sums[hidden : hidden + n] += values * scan.own_weights[0, t]
                sums[hidden + n :] += np.abs(values) * scan.own_weights[1, t]
        active = np.clip(sums[:hidden] >> scan.shift, 0, 4095)
        out = (active @ scan.out_weights + 16 * sums[hidden:]) >> scan.out_shift
        return np.clip(out[:n], -8184, 8184), np.clip(out[n:], 0, 65535)

    @property
    def size(self) -> Int64:
        return np.asarray(np.abs(self.v).sum((0, 1)))

    def learn(self, scan: Scan, places: list[Place], symbols: Int64) -> None:
        """Takes in a scan's symbols (places, n)."""
        for place, row in zip(places, symbols, strict=True):
            self.v[place][scan.start : scan.stop] = np.clip(row, -1023, 1023)
        self.count[scan.start : scan.stop] += len(places)


def predictions(prior: Arrays, coded: Int64, step_indices: Int64) -> Iterator[tuple[list[Place], Int64, Int64]]:
    """For each scan of known symbols (h, w, coded channels): places, means in eighths, scales, each (places, n)."""
    picture = Picture(prior, step_indices)
    for scan in scans_of(prior):
        places, n = picture.places(scan), scan.stop - scan.start
        rows = [picture.predict(scan, place) for place in places]
        means, scales = (np.array([row[i] for row in rows], np.int64).reshape(-1, n) for i in (0, 1))
        yield places, means, scales
        picture.learn(scan, places, np.array([coded[p][scan.start : scan.stop] for p in places]).reshape(-1, n))


class RangeDecoder:
    """The range coder, as a decoder: 64 bits of state, 32-bit words, frequencies in 2**-24."""

    def __init__(self, payload: bytes) -> None:
        self.payload, self.taken = payload, 8
        self.code = int.from_bytes(payload[:8].ljust(8, b"\0"), "big")
        self.range = 2**64 - 1

    def decode(self, starts: list[int]) -> int:
        """The entry whose interval [starts[i], starts[i + 1]) the code is in; the last of ``starts`` is 2**24."""
        scale = self.range >> 24
        target = self.code // scale
        if target >= 2**24:
            raise RefusedError("the code is in no interval")
        entry = next(i for i in range(len(starts) - 1) if target < starts[i + 1])
        self.code -= scale * starts[entry]
        self.range = scale * (starts[entry + 1] - starts[entry])
        if self.range < 2**32:
            word = int.from_bytes(self.payload[self.taken : self.taken + 4].ljust(4, b"\0"), "big")
            self.taken += 4
            if self.taken > len(self.payload) + 8:
                raise RefusedError("shorter than what was put out")
            self.range, self.code = self.range << 32, self.code << 32 | word
        return entry

    def uniform(self, size: int) -> int:
        """One of ``size`` numbers, all as likely."""
        scale = 2**24 // size
        starts = range(0, size * scale, scale)
        if self.code // (self.range >> 24) >= starts[-1]:  # spares a list of up to 2**23 numbers
            return self.decode([0, starts[-1], 2**24]) + size - 2 if size > 1 else self.decode([0, 2**24])
        number = self.code // (self.range >> 24) // scale
        self.decode([0, number * scale, (number + 1) * scale, 2**24] if number else [0, scale, 2**24])
        return int(number)

    def end(self) -> None:
        """Refuses a payload whose tail is not the shortest, or of the shortest the least, of its symbols."""
        length = len(self.payload)
        if length > self.taken:
            raise RefusedError("bytes are left over")
        if length == self.taken - 8:
            return
        unit, last = 256 ** (self.taken - length), self.payload[-1]
        if not last or self.code >= unit or self.code + (256 - last) * unit < self.range:
            raise RefusedError("these symbols have a shorter payload, or a lesser one")


def interval_starts(frequencies: list[int]) -> list[int]:
    """Where the intervals of a table begin, in 2**-24, and 2**24."""
    count = len(frequencies)
    sums = np.concatenate([[0], np.cumsum(frequencies)[:-1]])
    # The product of k and 2**24 - count, rounded to 24 significant bits, ties to even: what float32 holds.
    starts = [int(np.float32(int(k) * (2**24 - count) / 65536)) + i for i, k in enumerate(sums.tolist())]
    return [*starts, 2**24]


class Tables:
    """Classes and their tables."""

    def __init__(self, prior: Arrays) -> None:
        self.thresholds = prior["thresholds"].tolist()
        self.radius, self.low_bits = prior["radius"].tolist(), prior["low_bits"].tolist()
        flat, at = prior["frequencies"].reshape(-1).tolist(), 0
        self.starts: list[list[int]] = []
        for radius in self.radius:
            for _fraction in range(5):
                self.starts.append(interval_starts(flat[at : at + 2 * radius + 2]))
                at += 2 * radius + 2

    def table(self, scale: int, fraction: int) -> int:
        return 5 * sum(t <= scale for t in self.thresholds) + abs(fraction)


def decode(prior: Arrays, payload: bytes, step_indices: Int64) -> Int64:
    """The symbols (h, w, coded channels) of a payload. Raises RefusedError."""
    picture, tables, coder = Picture(prior, step_indices), Tables(prior), RangeDecoder(payload)
    coded = np.zeros(picture.v.shape, np.int64)
    for scan in scans_of(prior):
        places = picture.places(scan)
        rows = [picture.predict(scan, place) for place in places]
        eighths = [int(e) for means, _ in rows for e in means]
        scales = [int(s) for _, scales in rows for s in scales]
        means = [(e + 4) >> 3 for e in eighths]
        fractions = [e - 8 * m for e, m in zip(eighths, means, strict=True)]
        chosen = [tables.table(s, f) for s, f in zip(scales, fractions, strict=True)]
        symbols = _read_scan(coder, tables, means, fractions, chosen)
        values = np.array(symbols, np.int64).reshape(len(places), scan.stop - scan.start)
        if (
            picture.offset
            and scan.start == 0
            and values.size
            and not 0 <= values.min() <= values.max() <= (len(picture.extents) - 1)
        ):
            raise RefusedError("an extent that is none")
        for place, row in zip(places, values, strict=True):
            coded[place][scan.start : scan.stop] = row
        picture.learn(scan, places, values)
    coder.end()
    return coded


def _read_scan(
    coder: RangeDecoder, tables: Tables, means: list[int], fractions: list[int], chosen: list[int]
) -> list[int]:
    high, low = [0] * len(means), [0] * len(means)
    escaped = []
    for i in sorted(range(len(chosen)), key=lambda i: (chosen[i], i)):
        radius = tables.radius[chosen[i] // 5]
        entry = coder.decode(tables.starts[chosen[i]])
        high[i] = entry - radius
        if entry == 2 * radius + 1:
            escaped.append(i)
    for i, table in enumerate(chosen):
        if tables.low_bits[table // 5]:
            low[i] = coder.uniform(1 << tables.low_bits[table // 5])
    escaped.sort()
    signs = [coder.uniform(2) for _ in escaped]
    lengths = [coder.uniform(24) for _ in escaped]
    rests = [coder.uniform(1 << length) if length else 0 for length in lengths]
    for i, sign, length, rest in zip(escaped, signs, lengths, rests, strict=True):
        magnitude = tables.radius[chosen[i] // 5] + (1 << length) + rest
        high[i] = -magnitude if sign else magnitude
    symbols = []
    for i, mean in enumerate(means):
        residual = (high[i] << tables.low_bits[chosen[i] // 5]) + low[i]
        symbols.append(mean + (-residual if fractions[i] < 0 else residual))
        if abs(symbols[i]) > 2**20:
            raise RefusedError("a symbol beyond 2**20")
    return symbols
