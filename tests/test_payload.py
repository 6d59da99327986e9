"""The payload: exact both ways, tight, the same everywhere, harmless when damaged."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests import reference
from tests.prior_samples import DENSE, WIDE, heavy_arrays, laplace

from sdrt.coding.context import Canvas, Positions, Prediction, predict
from sdrt.coding.payload import bits, decode, encode
from sdrt.coding.prior import MAX_SYMBOL, Prior, Scan
from sdrt.coding.prior_file import build_prior
from sdrt.errors import CorruptError
from sdrt_export.prior_plan import Plan, generic_arrays, generic_prior

StepIndices = NDArray[np.int64]


def flat(height: int, width: int, step_index: int = 512) -> StepIndices:
    return np.full((height, width), step_index, np.int64)


def mapped(height: int, width: int) -> StepIndices:
    """A step index that differs from place to place."""
    return 512 + 16 * np.random.default_rng(7).integers(-7, 8, (height, width))


@pytest.mark.parametrize("channels", [1, 3, 4, 32])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (2, 3), (16, 16), (33, 17)])
@pytest.mark.parametrize("spread", [0, 0.2, 3, 1e5])
def test_decoding_gives_the_encoded_symbols(channels: int, size: tuple[int, int], spread: float) -> None:
    """decode(encode(s)) == s for every shape and spread, escapes included, and the estimate is near."""
    prior = generic_prior(channels)
    symbols = laplace(size, prior, spread)
    payload = encode(symbols, prior, flat(*size))
    np.testing.assert_array_equal(decode(payload, prior, flat(*size)), symbols)
    estimate = bits(symbols, prior, flat(*size))
    assert abs(8 * len(payload) - estimate) <= 12 + 0.005 * estimate


@pytest.mark.parametrize("of", [DENSE, WIDE], ids=["dense", "wide"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1), (3, 3), (11, 14)])
def test_a_network_in_every_state_returns_symbols(of: Plan, size: tuple[int, int]) -> None:
    """Symbols return under a network that drives means, scales and classes to their limits, with and without a map."""
    prior = build_prior(heavy_arrays(of))
    for indices in (flat(*size, 0), flat(*size), flat(*size, 1023), mapped(*size)):
        for spread in (0, 0.5, 300, 1e5):
            symbols = laplace(size, prior, spread)
            np.testing.assert_array_equal(decode(encode(symbols, prior, indices), prior, indices), symbols)


@pytest.mark.parametrize("arrays", [generic_arrays(3), heavy_arrays(DENSE), heavy_arrays(WIDE)])
@pytest.mark.parametrize("spread", [0.3, 4, 1e5])
def test_a_second_decoder_reads_payloads(arrays: dict[str, Any], spread: float) -> None:
    """A decoder written from docs/PRIOR.md, range coder and all, gives the same integers, and refuses what is added."""
    prior = build_prior(arrays)
    symbols, indices = laplace((6, 7), prior, spread), mapped(6, 7)
    payload = encode(symbols, prior, indices)
    np.testing.assert_array_equal(reference.decode(arrays, payload, indices), symbols)
    for altered in (payload + b"\0", payload + b"\1", payload + bytes(8) + b"\1"):
        with pytest.raises(reference.RefusedError):
            reference.decode(arrays, altered, indices)


def test_both_decoders_refuse_the_same() -> None:
    """For payloads of a picture of a few symbols, cut, altered and made up, both decoders agree to the byte."""
    arrays = generic_arrays(2)
    prior, indices = build_prior(arrays), flat(2, 2)
    random = np.random.default_rng(0)
    outcomes = set()
    for seed in range(12):
        payload = encode(laplace((2, 2), prior, 2, seed), prior, indices)
        flipped = bytearray(payload)
        flipped[int(random.integers(len(payload)))] ^= 1 << int(random.integers(8))
        for data in (payload, payload[:-1], bytes(flipped), payload[:-1] + b"\xff", random.bytes(len(payload))):
            try:
                found = decode(data, prior, indices).tolist()
            except CorruptError:
                with pytest.raises(reference.RefusedError):
                    reference.decode(arrays, data, indices)
                outcomes.add(False)
                continue
            assert reference.decode(arrays, data, indices).tolist() == found
            outcomes.add(True)
    assert outcomes == {False, True}


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(127, np.int8), (128, np.int16), (2**15 - 1, np.int16), (2**15, np.int32), (MAX_SYMBOL, np.int32)],
)
def test_symbols_are_held_in_the_smallest_type(largest: int, dtype: type[np.signedinteger]) -> None:
    """What a late scan needs room for leaves earlier symbols as they are, and both decoders agree on what follows."""
    arrays = heavy_arrays(DENSE)
    prior, indices = build_prior(arrays), flat(5, 6)
    symbols = laplace((5, 6), prior, 2)
    assert symbols.dtype == np.int8
    symbols = symbols.astype(np.int32)
    symbols[2, 3, -3] = -largest
    payload = encode(symbols, prior, indices)
    found = decode(payload, prior, indices)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, symbols)
    np.testing.assert_array_equal(reference.decode(arrays, payload, indices), symbols)


def test_the_largest_symbols_come_back_and_larger_are_refused() -> None:
    """+-2**20 is the largest symbol, and returns; beyond it encode refuses."""
    prior = generic_prior(2)
    symbols = np.array([[[MAX_SYMBOL, 1], [-MAX_SYMBOL, 0]]], np.int32)
    np.testing.assert_array_equal(decode(encode(symbols, prior, flat(1, 2)), prior, flat(1, 2)), symbols)
    symbols[0, 0, 0] = MAX_SYMBOL + 1
    with pytest.raises(ValueError, match="beyond"):
        encode(symbols, prior, flat(1, 2))


def certain_prior(channels: int) -> Prior:
    """A prior that is all but certain of zero."""
    arrays = generic_arrays(channels)
    arrays["global_weights"] = np.zeros_like(arrays["global_weights"])
    return build_prior(arrays)


def test_a_prior_goes_when_nobody_holds_it() -> None:
    """What coding has made for a prior does not keep it: a codec that is closed gives its memory back."""
    prior = generic_prior(3)
    payload = encode(laplace((4, 4), prior, 1), prior, flat(4, 4))
    decode(payload, prior, flat(4, 4))
    alive = weakref.ref(prior)
    del prior
    gc.collect()
    assert alive() is None


def test_silence_costs_next_to_nothing() -> None:
    """131,072 zeros cost a few bytes where the prior expects zeros; an empty payload is what the cheapest become."""
    prior = certain_prior(32)
    assert len(encode(np.zeros((64, 64, 32), np.int32), prior, flat(64, 64))) <= 4
    assert not decode(b"", certain_prior(1), flat(1, 1)).any()


def test_a_payload_is_as_long_as_what_its_coder_put_out() -> None:
    """Symbols whose number is 0, each as improbable as can be, have one payload: as many zero bytes as left the coder,
    not none at all. Both decoders refuse fewer and more."""
    arrays = generic_arrays(2)
    prior, indices = build_prior(arrays), flat(3, 4)
    written = 0
    for length in range(90):
        try:
            symbols = decode(bytes(length), prior, indices)
        except CorruptError:
            with pytest.raises(reference.RefusedError):
                reference.decode(arrays, bytes(length), indices)
            continue
        assert encode(symbols, prior, indices) == bytes(length)
        assert reference.decode(arrays, bytes(length), indices).tolist() == symbols.tolist()
        assert abs(bits(symbols, prior, indices) / 8 - length) < 8
        written += 1
    assert written == 1


def test_a_claim_of_many_symbols_costs_a_scan() -> None:
    """What a few bytes cannot hold is refused before the second scan is predicted."""
    prior = generic_prior(32)
    predicted = []

    def count(canvas: Canvas, scan: Scan, places: Positions) -> Prediction:
        predicted.append(scan)
        return predict(canvas, scan, places)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdrt.coding.payload.predict", count)
        for data in (b"", b"\x80", b"\xff" * 7 + b"\x7f"):
            with pytest.raises(CorruptError):
                decode(data, prior, flat(64, 64))
    assert len(predicted) == 3


def test_the_tail_is_tight() -> None:
    """Over many small payloads, bytes exceed the estimate by less than one on average: no padding of words."""
    prior = generic_prior(4)
    excess = []
    for seed in range(200):
        symbols = laplace((3, 3), prior, 1.5, seed)
        excess.append(len(encode(symbols, prior, flat(3, 3))) - bits(symbols, prior, flat(3, 3)) / 8)
    assert np.mean(excess) < 1
    assert max(excess) < 2


def test_the_coded_bytes_are_pinned() -> None:
    """The stream is pinned: another version of the coder, numpy or this module must give these very bytes."""
    random = np.random.default_rng(2024)
    symbols = random.integers(-6, 7, (4, 5, 2)).astype(np.int32)
    symbols[1, 1, 0], symbols[3, 4, 1] = 70_000, -300
    payload = encode(symbols, generic_prior(2), flat(4, 5, 480))
    assert payload.hex() == GOLDEN
    np.testing.assert_array_equal(decode(bytes.fromhex(GOLDEN), generic_prior(2), flat(4, 5, 480)), symbols)


GOLDEN = "008779dee7be275a6947e7568f13c8a353ed9b91f5f77259dfbcadf5b3a796e58fa83296933d6b8292daa399965f3fa2396c"


def test_frequencies_become_intervals_as_the_page_says() -> None:
    """constriction cuts its range where docs/PRIOR.md says, for tables of every size."""
    import constriction

    random = np.random.default_rng(3)
    for count in (2, 3, 17, 162, 512):
        frequencies = random.dirichlet(np.full(count, 0.3))
        frequencies = 1 + np.floor(frequencies * (65536 - 2 * count)).astype(np.int64)
        frequencies[0] += 65536 - frequencies.sum()
        model = constriction.stream.model.Categorical((frequencies / 65536).astype(np.float32), perfect=False)
        starts = reference.interval_starts(frequencies.tolist())
        for symbol in {0, count - 1, *random.integers(0, count, 20).tolist()}:
            coder = constriction.stream.queue.RangeEncoder()
            coder.encode(np.array([symbol], np.int32), model)
            lower, span = coder.pos()[1]
            scale = (2**64 - 1) >> 24
            assert (lower, span) == (scale * starts[symbol], scale * (starts[symbol + 1] - starts[symbol]))


@pytest.mark.parametrize("of", [None, WIDE], ids=["generic", "wide"])
def test_damaged_payloads_are_refused_or_are_other_symbols(of: Plan | None) -> None:
    """Flipped bits, truncation, noise and garbage behind the end: CorruptError, unless the bytes are the very payload
    of other symbols within the range. So no two payloads decode to the same symbols, and none has a tail."""
    prior = generic_prior(4) if of is None else build_prior(heavy_arrays(of))
    indices = mapped(6, 5)
    symbols = laplace((6, 5), prior, 2.5)
    payload = encode(symbols, prior, indices)
    random = np.random.default_rng(1)
    for behind in (b"\0", b"\1", bytes(7) + b"\x80", b"\xff" * 40):
        with pytest.raises(CorruptError):
            decode(payload + behind, prior, indices)
    damaged = [payload[:n] for n in range(0, len(payload), 9)] + [b"\xff" * 400]
    damaged += [random.bytes(n) for n in (1, 9, len(payload), 500) for _ in range(5)]
    for position in range(0, len(payload), 11):
        flipped = bytearray(payload)
        flipped[position] ^= 1 << int(random.integers(8))
        damaged.append(bytes(flipped))
    refused = 0
    for data in damaged:
        try:
            result = decode(data, prior, indices)
        except CorruptError:
            refused += 1
            continue
        assert result.shape == symbols.shape
        assert np.abs(result).max() <= MAX_SYMBOL
        assert encode(result, prior, indices) == data
        assert not np.array_equal(result, symbols)
    assert refused > len(damaged) // 3


def test_extents_out_of_range_are_refused() -> None:
    """A symbol beyond its position's extent, or an extent that is none, has no payload; decoders refuse these."""
    prior = build_prior(heavy_arrays(WIDE))
    zeros = np.zeros((2, 2, prior.coded_channels), np.int32)
    for channel, value in ((0, -1), (0, len(prior.extents) + 1), (1, 1)):
        symbols = zeros.copy()
        symbols[1, 0, channel] = value
        with pytest.raises(ValueError, match="extent"):
            encode(symbols, prior, flat(2, 2))
    random = np.random.default_rng(0)
    messages = set()
    for _ in range(200):
        try:
            decode(random.bytes(30), prior, flat(2, 2))
        except CorruptError as error:
            messages.add(str(error))
    assert any("extent" in message for message in messages)


def test_the_step_index_is_part_of_the_code() -> None:
    """The network sees the quality: one prior codes the same symbols differently at different steps."""
    arrays = generic_arrays(4)
    wide = arrays["global_weights"].copy().reshape(2, 2, 9)
    wide[:, 1, 5:] = 40  # type: ignore[call-overload]
    arrays["global_weights"] = wide.ravel()
    prior = build_prior(arrays)
    symbols = laplace((8, 8), prior, 2)
    coded = {encode(symbols, prior, indices) for indices in (flat(8, 8, 300), flat(8, 8, 700), mapped(8, 8))}
    assert len(coded) == 3


@pytest.mark.parametrize("shape", [(4, 4, 3), (4, 4, 5), (0, 4, 4), (4, 4)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    """A shape that is not the prior's is a ValueError."""
    with pytest.raises(ValueError, match="fit"):
        encode(np.zeros(shape, np.int32), generic_prior(4), flat(4, 4))
