"""Target ``payload``: the entropy coder's bytes.

A case is which prior (1 byte), step index (2 bytes), height, width (1 each), payload. The index rises by one a column,
so that positions differ.
"""

from __future__ import annotations

from functools import cache
from random import Random

import numpy as np
from numpy.typing import NDArray
from tests.fuzz.containers import TESTS
from tests.fuzz.mutations import mutated, number
from tests.fuzz.target import Target
from tests.prior_samples import WIDE, heavy_arrays, laplace

from sdrt.coding import payload
from sdrt.coding.prior import MAX_SYMBOL, Prior
from sdrt.coding.prior_file import build_prior, load_prior
from sdrt.limits import MAX_STEP_INDEX

SIDE = 24
"""Sides up to 24 symbols."""
_HEAD_BYTES = 5


@cache
def priors() -> tuple[Prior, Prior]:
    """A dense one, of the tests' pack, and a wide one."""
    return load_prior(TESTS / "data" / "testpack" / "prior.npz"), build_prior(heavy_arrays(WIDE))


def mutate(data: bytes, rng: Random) -> bytes:
    """The payload changed, or one of the numbers that say how to read it."""
    head, coded = data[:_HEAD_BYTES].ljust(_HEAD_BYTES, b"\0"), data[_HEAD_BYTES:]
    match rng.randrange(8):
        case 0:
            step = number(int.from_bytes(head[1:3], "little"), rng, MAX_STEP_INDEX)
            return head[:1] + step.to_bytes(2, "little") + head[3:] + coded
        case 1:
            at = rng.choice((0, 3, 4))
            return head[:at] + bytes([number(head[at], rng, SIDE - 1)]) + head[at + 1 :] + coded
    return head + mutated(coded, rng)


def _read(data: bytes) -> tuple[Prior, NDArray[np.int64], bytes]:
    head = data[:_HEAD_BYTES].ljust(_HEAD_BYTES, b"\0")
    rows, columns = 1 + head[3] % SIDE, 1 + head[4] % SIDE
    first = int.from_bytes(head[1:3], "little") & MAX_STEP_INDEX
    indices = np.tile(np.minimum(first + np.arange(columns), MAX_STEP_INDEX), (rows, 1))
    return priors()[head[0] % 2], indices, data[_HEAD_BYTES:]


def run(data: bytes) -> None:
    """What decodes are symbols in range, which come back when they are coded again."""
    prior, indices, coded = _read(data)
    symbols = payload.decode(coded, prior, indices)
    assert symbols.shape == (*indices.shape, prior.coded_channels) and symbols.dtype.kind == "i"
    assert abs(symbols).max() <= MAX_SYMBOL
    again = payload.encode(symbols, prior, indices)
    assert np.array_equal(payload.decode(again, prior, indices), symbols)


def seeds() -> list[bytes]:
    """Payloads of symbols from none to beyond every table."""
    made = []
    for which, prior in enumerate(priors()):
        for spread, height, width, step_index in ((0, 5, 4, 512), (0.6, 16, 9, 512), (6, 7, 12, 300), (4000, 3, 2, 0)):
            head = bytes([which]) + step_index.to_bytes(2, "little") + bytes([height - 1, width - 1])
            symbols = laplace((height, width), prior, spread)
            made.append(head + payload.encode(symbols, prior, _read(head)[1]))
    return made


TARGET = Target("payload", seeds, mutate, run)
