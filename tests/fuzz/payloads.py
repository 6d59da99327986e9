"""Target ``payload``: the entropy coder's bytes. A case is step index (2 bytes), height, width (1 each), payload."""

from __future__ import annotations

from functools import cache
from random import Random

import numpy as np
from tests.fuzz.containers import TESTS
from tests.fuzz.mutations import mutated, number
from tests.fuzz.target import Target

from sdrt.coding import payload
from sdrt.coding.prior import MAX_SYMBOL, Prior, load_prior
from sdrt.container.sdl import MAX_STEP_INDEX

SIDE = 24
"""Sides up to 24 symbols."""


@cache
def _prior() -> Prior:
    return load_prior(TESTS / "data" / "testpack" / "prior.npz")


def mutate(data: bytes, rng: Random) -> bytes:
    """The payload changed, or one of the numbers that say how to read it."""
    head, coded = data[:4].ljust(4, b"\0"), data[4:]
    match rng.randrange(8):
        case 0:
            step = number(int.from_bytes(head[:2], "little"), rng, MAX_STEP_INDEX)
            return step.to_bytes(2, "little") + head[2:] + coded
        case 1:
            at = rng.choice((2, 3))
            return head[:at] + bytes([number(head[at], rng, SIDE - 1)]) + head[at + 1 :] + coded
    return head + mutated(coded, rng)


def run(data: bytes) -> None:
    """What decodes are symbols in range, which come back when they are coded again."""
    head = data[:4].ljust(4, b"\0")
    step_index = int.from_bytes(head[:2], "little") & MAX_STEP_INDEX
    shape = (_prior().channels, 1 + head[2] % SIDE, 1 + head[3] % SIDE)
    symbols = payload.decode(data[4:], shape, _prior(), step_index)
    assert symbols.shape == shape and symbols.dtype == np.int32 and abs(symbols).max() <= MAX_SYMBOL
    again = payload.encode(symbols, _prior(), step_index)
    assert np.array_equal(payload.decode(again, shape, _prior(), step_index), symbols)


def seeds() -> list[bytes]:
    """Payloads of symbols from none to beyond every table."""
    rng = np.random.default_rng(1)
    made = []
    for spread, height, width, step_index in ((0, 5, 4, 512), (0.6, 16, 9, 512), (6, 7, 12, 300), (4000, 3, 2, 0)):
        symbols = np.rint(rng.laplace(0, spread, (_prior().channels, height, width))).astype(np.int32)
        head = step_index.to_bytes(2, "little") + bytes([height - 1, width - 1])
        made.append(head + payload.encode(symbols, _prior(), step_index))
    return made


TARGET = Target("payload", seeds, mutate, run)
