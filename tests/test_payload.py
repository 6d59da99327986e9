"""The payload: exact both ways, tight, the same everywhere, harmless when damaged."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.test_prior import heavy_arrays

from sdrt.coding.payload import bits, decode, encode
from sdrt.coding.prior import MAX_SYMBOL, build_prior
from sdrt.errors import CorruptError
from sdrt_export.prior_fit import generic_arrays, generic_prior

Int32 = NDArray[np.int32]


def laplace(shape: tuple[int, int, int], spread: float, seed: int = 0) -> Int32:
    values = np.random.default_rng(seed).laplace(0, spread, shape) if spread else np.zeros(shape)
    return np.clip(np.rint(values), -MAX_SYMBOL, MAX_SYMBOL).astype(np.int32)


@pytest.mark.parametrize("channels", [1, 3, 4, 32])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (2, 3), (16, 16), (33, 17)])
@pytest.mark.parametrize("spread", [0, 0.2, 3, 1e5])
def test_symbols_return(channels: int, size: tuple[int, int], spread: float) -> None:
    """decode(encode(s)) == s for every shape and spread, escapes included, and the estimate is near."""
    prior = generic_prior(channels)
    symbols = laplace((channels, *size), spread)
    payload = encode(symbols, prior, 512)
    np.testing.assert_array_equal(decode(payload, symbols.shape, prior, 512), symbols)
    estimate = bits(symbols, prior, 512)
    assert abs(8 * len(payload) - estimate) <= 12 + 0.005 * estimate


def test_a_network_in_every_state_returns_symbols() -> None:
    """Symbols return under a network that drives means, scales and classes to their limits."""
    prior = build_prior(heavy_arrays())
    for step_index in (0, 512, 1023):
        for spread in (0.5, 300):
            symbols = laplace((8, 11, 14), spread)
            payload = encode(symbols, prior, step_index)
            np.testing.assert_array_equal(decode(payload, symbols.shape, prior, step_index), symbols)


def test_extremes_return() -> None:
    """+-2**20 is the largest symbol, and returns; beyond it encode refuses."""
    prior = generic_prior(2)
    symbols = np.array([[[MAX_SYMBOL, -MAX_SYMBOL]], [[1, 0]]], np.int32)
    np.testing.assert_array_equal(decode(encode(symbols, prior, 512), (2, 1, 2), prior, 512), symbols)
    symbols[0, 0, 0] = MAX_SYMBOL + 1
    with pytest.raises(ValueError, match="beyond"):
        encode(symbols, prior, 512)


def certain_prior(channels: int) -> object:
    """A prior that is all but certain of zero."""
    arrays = generic_arrays(channels)
    arrays["global_weights"] = np.zeros_like(arrays["global_weights"])
    return build_prior(arrays)


def test_silence_costs_next_to_nothing() -> None:
    """131,072 zeros cost a few bytes where the prior expects zeros, and an empty payload decodes to zeros."""
    prior = certain_prior(32)
    payload = encode(np.zeros((32, 64, 64), np.int32), prior, 512)  # type: ignore[arg-type]
    assert len(payload) <= 4
    assert not decode(b"", (32, 4, 4), prior, 512).any()  # type: ignore[arg-type]


def test_the_tail_is_tight() -> None:
    """Over many small payloads, bytes exceed the estimate by less than one on average: no padding of words."""
    prior = generic_prior(4)
    excess = []
    for seed in range(200):
        symbols = laplace((4, 3, 3), 1.5, seed)
        payload = encode(symbols, prior, 512)
        np.testing.assert_array_equal(decode(payload, symbols.shape, prior, 512), symbols)
        excess.append(len(payload) - bits(symbols, prior, 512) / 8)
    assert np.mean(excess) < 1
    assert max(excess) < 2


def test_golden_words() -> None:
    """The stream is pinned: another version of the coder, numpy or this module must give these very bytes."""
    random = np.random.default_rng(2024)
    symbols = random.integers(-6, 7, (2, 4, 5)).astype(np.int32)
    symbols[0, 1, 1], symbols[1, 3, 4] = 70_000, -300
    payload = encode(symbols, generic_prior(2), 480)
    assert payload.hex() == GOLDEN
    np.testing.assert_array_equal(decode(bytes.fromhex(GOLDEN), (2, 4, 5), generic_prior(2), 480), symbols)


GOLDEN = "0019893d4f820ed77c94f758a36dc556a1f9746cddc0b73d183bad892ec3b7df73255b22d1de25499a9d0cce5f1db4ad59"


def test_frequencies_reach_the_coder_exactly() -> None:
    """constriction turns k / 65536 in float32 into k / 65536 of its range, to 1/64 of a unit."""
    import constriction

    frequencies = np.array([1, 2, 77, 4096, 30000, 31360], np.float32)
    model = constriction.stream.model.Categorical(frequencies / np.float32(65536), perfect=False)
    for symbol, frequency in enumerate(frequencies):
        coder = constriction.stream.queue.RangeEncoder()
        coder.encode(np.array([symbol], np.int32), model)
        assert abs(coder.pos()[1][1] / 2**64 * 65536 - frequency) < 1 / 64


def test_damaged_payloads_end() -> None:
    """Flipped bits, truncation, noise and garbage behind the end give integers in range or CorruptError."""
    prior = generic_prior(4)
    symbols = laplace((4, 12, 9), 2.5)
    payload = encode(symbols, prior, 512)
    random = np.random.default_rng(1)
    damaged = [payload[:n] for n in range(len(payload))] + [payload + b"\xff" * 40, b"\xff" * 400, b""]
    damaged += [random.bytes(n) for n in (1, 9, 100, 5000) for _ in range(10)]
    for position in range(len(payload)):
        flipped = bytearray(payload)
        flipped[position] ^= 1 << int(random.integers(8))
        damaged.append(bytes(flipped))
    changed = 0
    for data in damaged:
        try:
            result = decode(data, symbols.shape, prior, 512)
        except CorruptError:
            changed += 1
            continue
        assert result.shape == symbols.shape
        assert np.abs(result).max() <= MAX_SYMBOL
        changed += not np.array_equal(result, symbols)
    assert changed >= len(damaged) - 1


def test_the_step_index_is_part_of_the_code() -> None:
    """The network sees the quality: one prior codes the same symbols differently at different steps."""
    arrays = generic_arrays(4)
    wide = arrays["global_weights"].copy().reshape(2, 2, 9)
    wide[:, 1, 5:] = 40
    arrays["global_weights"] = wide.ravel()
    prior = build_prior(arrays)
    symbols = laplace((4, 8, 8), 2)
    assert encode(symbols, prior, 300) != encode(symbols, prior, 700)


@pytest.mark.parametrize("shape", [(3, 4, 4), (5, 4, 4), (4, 0, 4)])
def test_wrong_shapes_are_refused(shape: tuple[int, int, int]) -> None:
    """A shape that is not the prior's is a ValueError, on both sides."""
    prior = generic_prior(4)
    with pytest.raises(ValueError, match="fit"):
        encode(np.zeros(shape, np.int32), prior, 512)
    with pytest.raises(ValueError, match="fit"):
        decode(b"", shape, prior, 512)
