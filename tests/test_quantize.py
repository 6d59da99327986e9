"""Latents to symbols and back: steps, extents, and decisions by rate and distortion."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.prior_samples import DENSE, WIDE, heavy_arrays

from sdrt.coding.payload import bits
from sdrt.coding.prior import MAX_SYMBOL, Prior
from sdrt.coding.prior_file import build_prior
from sdrt.coding.quantize import dequantize, quantize, step_scale
from sdrt.coding.symbols import arrange, to_channels, with_extents
from sdrt_export.prior_plan import generic_arrays, generic_prior

Float32 = NDArray[np.float32]


def smooth_latents(channels: int = 6, side: int = 24, seed: int = 0) -> Float32:
    """Latents (C, side, side) with neighbors alike and a few sharp places, as encoders give them."""
    random = np.random.default_rng(seed)
    noise = random.normal(0, 1, (channels, side + 4, side + 4))
    smooth = sum(noise[:, y : y + side, x : x + side] for y in range(5) for x in range(5)) / 5
    sharp = random.laplace(0, 1.5, smooth.shape) * (random.random(smooth.shape) < 0.05)
    return (0.8 * smooth + sharp).astype(np.float32)


def at(latents: Float32, step_index: int) -> NDArray[np.int64]:
    return np.full(latents.shape[1:], step_index, np.int64)


def test_step_scale_is_an_octave_every_64() -> None:
    """512 is 1, 64 indices double the step, larger is coarser; outside 0..1023 is a ValueError."""
    assert step_scale(512) == 1
    assert step_scale(576) == 2
    assert step_scale(0) == 2.0**-8
    assert all(step_scale(i) < step_scale(i + 1) for i in range(1023))
    for wrong in (-1, 1024):
        with pytest.raises(ValueError, match="step ind"):
            step_scale(wrong)
        with pytest.raises(ValueError, match="step ind"):
            quantize(np.zeros((2, 1, 1), np.float32), generic_prior(2), np.array([[wrong]]))


@pytest.mark.parametrize("step_index", [200, 512, 700])
def test_plain_rounding_stays_within_half_a_step(step_index: int) -> None:
    """With weight 0 every symbol is the nearest and rebuilt values are half a step away at most, in any order of
    channels."""
    arrays = generic_arrays(6)
    arrays["steps"] = np.array([0.5, 1, 2, 1, 1, 0.7], "<f4")
    arrays["order"] = np.array([3, 1, 5, 0, 2, 4], np.uint8)
    prior = build_prior(arrays)
    latents = smooth_latents()
    coded = quantize(latents, prior, at(latents, step_index), weight=0)
    step = prior.steps[:, None, None] * np.float32(step_scale(step_index))
    assert coded.dtype.kind == "i"
    np.testing.assert_array_equal(
        to_channels(coded, prior), np.rint(latents / prior.steps[:, None, None] / step_scale(step_index))
    )
    rebuilt = dequantize(coded, prior, at(latents, step_index))
    assert rebuilt.dtype == np.float32
    assert (np.abs(rebuilt - latents) <= 0.5001 * step + 1e-4).all()


def test_the_step_is_that_of_the_position() -> None:
    """Where indices differ from place to place, each position is quantized as if its index were everybody's."""
    prior, latents = generic_prior(6), smooth_latents()
    indices = np.random.default_rng(0).integers(400, 700, latents.shape[1:])
    coded = quantize(latents, prior, indices, weight=0)
    rebuilt = dequantize(coded, prior, indices)
    for y, x in ((0, 0), (3, 17), (23, 23)):
        alone = latents[:, y : y + 1, x : x + 1]
        one = quantize(alone, prior, indices[y : y + 1, x : x + 1], weight=0)
        np.testing.assert_array_equal(coded[y, x], one[0, 0])
        np.testing.assert_array_equal(rebuilt[:, y, x], dequantize(one, prior, indices[y : y + 1, x : x + 1])[:, 0, 0])


@pytest.mark.parametrize("prior", [generic_prior(5), build_prior(heavy_arrays(DENSE)), build_prior(heavy_arrays(WIDE))])
def test_layouts_are_inverse(prior: Prior) -> None:
    """Channels arranged, given their extents and put back are the same channels."""
    symbols = np.random.default_rng(0).integers(-5, 6, (prior.channels, 4, 3)).astype(np.int32)
    symbols[prior.order[prior.channels // 2 :], 1:] = 0
    arranged = np.asarray(arrange(symbols, prior), np.int32)
    coded = with_extents(arranged, prior)
    assert coded.shape == (4, 3, prior.coded_channels)
    np.testing.assert_array_equal(to_channels(coded, prior), symbols)


def test_extents_are_the_least_that_hold_the_symbols() -> None:
    """WIDE codes 2, 5, 13 or 21 channels at a position; the extent says which, and 0 where nothing is."""
    prior = build_prior(heavy_arrays(WIDE))
    for last, extent in ((None, 0), (0, 1), (1, 1), (2, 2), (4, 2), (5, 3), (12, 3), (13, 4), (20, 4)):
        symbols = np.zeros((1, 1, 21), np.int32)
        if last is not None:
            symbols[0, 0, last] = -1
        assert with_extents(symbols, prior)[0, 0, 0] == extent


def joint_cost(latents: Float32, prior: Prior, step_index: int, weight: float) -> float:
    """Squared error in steps plus priced bits."""
    coded = quantize(latents, prior, at(latents, step_index), weight=weight)
    rebuilt = dequantize(coded, prior, at(latents, step_index))
    error = np.square((rebuilt - latents) / step_scale(step_index)).sum()
    return float(error + np.log(2) / 6 * bits(coded, prior, at(latents, step_index)))


def test_decisions_lower_the_joint_cost() -> None:
    """With weight 1, error plus priced bits is lower than with rounding, and no symbol moves by more than one."""
    prior, latents = generic_prior(6), smooth_latents()
    assert joint_cost(latents, prior, 540, 1) < 0.99 * joint_cost(latents, prior, 540, 0)
    chosen = [quantize(latents, prior, at(latents, 540), weight=weight) for weight in (0.0, 1.0)]
    assert np.abs(chosen[0] - chosen[1]).max() == 1


def test_bits_fall_as_their_weight_grows() -> None:
    """More weight on bits means fewer bits and more error, monotonically."""
    prior, latents = generic_prior(6), smooth_latents()
    rates, errors = [], []
    for weight in (0.0, 0.5, 1.0, 2.0, 4.0):
        coded = quantize(latents, prior, at(latents, 540), weight=weight)
        rates.append(bits(coded, prior, at(latents, 540)))
        errors.append(float(np.square(dequantize(coded, prior, at(latents, 540)) - latents).mean()))
    assert rates == sorted(rates, reverse=True)
    assert errors == sorted(errors)


def test_decisions_stay_within_the_extents() -> None:
    """Decided symbols of a wide prior have a payload: none lies beyond its extent, which is the least."""
    arrays = heavy_arrays(WIDE)
    arrays["global_weights"][:] = 0
    prior = build_prior(arrays)
    latents = smooth_latents(21, 12) * np.float32(0.5)
    for weight in (0.0, 1.0, 8.0):
        coded = quantize(latents, prior, at(latents, 512), weight=weight)
        np.testing.assert_array_equal(with_extents(coded[:, :, 1:], prior), coded)
        assert bits(coded, prior, at(latents, 512)) > 0


def test_insensitive_channels_give_up_bits_first() -> None:
    """A channel that pixels hardly feel is rounded towards cheaper symbols more than one that they feel."""
    arrays = generic_arrays(2)
    arrays["sensitivity"] = np.array([0.1, 10], "<f4")
    prior = build_prior(arrays)
    one = smooth_latents(1, 32)
    latents = np.concatenate([one, one])
    plain, decided = (quantize(latents, prior, at(latents, 540), weight=weight) for weight in (0.0, 1.0))
    changed = (plain != decided).mean((0, 1))
    assert changed[0] > 3 * changed[1]


def test_huge_latents_are_clipped() -> None:
    """Values beyond what a payload can say become its limit."""
    latents = np.array([[[1e9, -1e9, 0.2]]], np.float32)
    for weight in (0.0, 1.0):
        coded = quantize(latents, generic_prior(1), at(latents, 512), weight=weight)
        assert coded.ravel().tolist() == [MAX_SYMBOL, -MAX_SYMBOL, 0]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_is_refused(wrong: float) -> None:
    """NaN and infinity are a ValueError, not an integer."""
    latents = np.zeros((2, 3, 3), np.float32)
    latents[1, 2, 0] = wrong
    with pytest.raises(ValueError, match="finite"):
        quantize(latents, generic_prior(2), at(latents, 512))


def test_other_channel_counts_are_refused() -> None:
    """Latents of another space are a ValueError."""
    with pytest.raises(ValueError, match="fit"):
        quantize(np.zeros((3, 4, 4), np.float32), generic_prior(2), np.full((4, 4), 512))
