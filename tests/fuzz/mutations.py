"""Small changes of bytes and numbers, of which each target makes changes of its own structure."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

Mutation = Callable[[bytes, Random], bytes]

EDGES = (0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 1023, 1024, 65535, 65536)
"""Numbers at which something changes in a format of bytes."""
LARGE = (2**20, 2**21 - 1, 2**21, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64)


def number(value: int, rng: Random, most: int) -> int:
    """Another number in 0..most: near ``value``, at an edge, or anywhere."""
    candidates = (value + rng.choice((-2, -1, 1, 2)), value ^ 1 << rng.randrange(8), *rng.sample((*EDGES, *LARGE), 2))
    chosen = rng.choice((*candidates, rng.randint(0, most)))
    return min(max(chosen, 0), most)


def mutated(data: bytes, rng: Random) -> bytes:
    """``data`` with one change: a byte or a run of bytes replaced, put in, taken out, repeated or moved."""
    return rng.choice(_CHANGES)(data, rng) if data else rng.randbytes(rng.randint(1, 9))


def _span(data: bytes, rng: Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + min(rng.choice((1, 1, 2, 4, 8, 30, 200)), len(data)))


def _flip(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _replace(data: bytes, rng: Random) -> bytes:
    start, stop = _span(data, rng)
    fill = rng.choice((bytes(stop - start), b"\xff" * (stop - start), rng.randbytes(stop - start)))
    return data[:start] + fill + data[stop:]


def _set_number(data: bytes, rng: Random) -> bytes:
    """A little-endian number of 1, 2 or 4 bytes at an edge of its range."""
    size = rng.choice((1, 2, 4))
    at = rng.randrange(len(data))
    value = rng.choice((*EDGES, *LARGE)) % (1 << 8 * size)
    return (data[:at] + value.to_bytes(size, "little") + data[at + size :])[: max(len(data), at + 1)]


def _insert(data: bytes, rng: Random) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.randbytes(rng.choice((1, 1, 2, 4, 30))) + data[at:]


def _delete(data: bytes, rng: Random) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + data[stop:]


def _repeat(data: bytes, rng: Random) -> bytes:
    start, stop = _span(data, rng)
    return data[:stop] + data[start:stop] * rng.choice((1, 2, 9)) + data[stop:]


def _move(data: bytes, rng: Random) -> bytes:
    start, stop = _span(data, rng)
    rest = data[:start] + data[stop:]
    at = rng.randint(0, len(rest))
    return rest[:at] + data[start:stop] + rest[at:]


def _truncate(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data))]


_CHANGES: tuple[Mutation, ...] = (
    _flip,
    _flip,
    _replace,
    _set_number,
    _insert,
    _delete,
    _repeat,
    _move,
    _truncate,
)
