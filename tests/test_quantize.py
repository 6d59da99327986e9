"""Latents to symbols and back: steps, reconstruction, and decisions by rate and distortion."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sdrt.coding.context import Canvas, replay, symbols_of, table_entries
from sdrt.coding.influence import Influence
from sdrt.coding.payload import bits
from sdrt.coding.prior import MAX_SYMBOL, build_prior
from sdrt.coding.quantize import dequantize, quantize, step_scale
from sdrt_export.prior_fit import generic_arrays, generic_prior

Float32 = NDArray[np.float32]


def smooth_latents(channels: int = 6, side: int = 24, seed: int = 0) -> Float32:
    """Latents with neighbours alike and a few sharp places, as encoders give them."""
    random = np.random.default_rng(seed)
    noise = random.normal(0, 1, (channels, side + 4, side + 4))
    smooth = sum(noise[:, y : y + side, x : x + side] for y in range(5) for x in range(5)) / 5
    sharp = random.laplace(0, 1.5, smooth.shape) * (random.random(smooth.shape) < 0.05)
    return (0.8 * smooth + sharp).astype(np.float32)


def test_step_scale_is_an_octave_every_64() -> None:
    """512 is 1, 64 indices double the step, larger is coarser; outside 0..1023 is a ValueError."""
    assert step_scale(512) == 1
    assert step_scale(576) == 2
    assert step_scale(0) == 2.0**-8
    assert all(step_scale(i) < step_scale(i + 1) for i in range(1023))
    for wrong in (-1, 1024):
        with pytest.raises(ValueError, match="step index"):
            step_scale(wrong)


@pytest.mark.parametrize("step_index", [200, 512, 700])
def test_plain_rounding_stays_within_half_a_step(step_index: int) -> None:
    """With rdo 0 every symbol is the nearest; rebuilt values stay in their cells."""
    arrays = generic_arrays(6)
    arrays["steps"] = np.array([0.5, 1, 2, 1, 1, 0.7], "<f4")
    prior = build_prior(arrays)
    latents = smooth_latents()
    symbols = quantize(latents, prior, step_index, rdo=0)
    step = arrays["steps"].astype(np.float64)[:, None, None] * step_scale(step_index)
    assert symbols.dtype == np.int32
    assert np.abs(latents - symbols * step).max() <= 0.5001 * step.max()
    np.testing.assert_array_equal(symbols, np.rint(latents / step.astype(np.float32)))
    rebuilt = dequantize(symbols, prior, step_index)
    assert rebuilt.dtype == np.float32
    assert (np.abs(rebuilt - symbols * step) <= 0.5 * step + 1e-4).all()


def test_centres_of_a_peaked_table_pull_towards_the_mean() -> None:
    """Rebuilding at the tables' centres beats mid-points where large values are rare."""
    prior = generic_prior(6)
    latents = smooth_latents()
    symbols = quantize(latents, prior, 560, rdo=0)
    middle = symbols * np.float32(step_scale(560))
    assert np.square(dequantize(symbols, prior, 560) - latents).mean() < np.square(middle - latents).mean()


def test_decisions_lower_the_joint_cost() -> None:
    """With rdo 1, error plus priced bits is lower than with rounding, and no symbol moves by more than one."""
    prior = generic_prior(6)
    latents = smooth_latents()
    step_index = 540
    joint = []
    symbols = [quantize(latents, prior, step_index, rdo=rdo) for rdo in (0.0, 1.0)]
    for chosen in symbols:
        error = np.square((dequantize(chosen, prior, step_index) - latents) / step_scale(step_index)).sum()
        joint.append(error + np.log(2) / 6 * bits(chosen, prior, step_index))
    assert joint[1] < 0.99 * joint[0]
    assert np.abs(symbols[0] - symbols[1]).max() == 1


def influences(symbols: NDArray[np.int32], step_index: int) -> tuple[Float32, Float32]:
    """(slope, magnitude) of symbols (C, h, w) in the order 0, 1 .. of a generic prior, each (h, w, C)."""
    coded = np.ascontiguousarray(symbols.transpose(1, 2, 0))
    prior = generic_prior(coded.shape[2])
    canvas, influence = Canvas(coded.shape[2], *coded.shape[:2]), Influence(prior, *coded.shape[:2])
    for step in prior.passes:
        influence.add(step, canvas, step_index, symbols_of(step, coded))
        canvas.store(step, symbols_of(step, coded))
    return influence.slope[2:-2, 2:-2], influence.magnitude[1:-1, 1:-1]


def test_influence_points_where_later_bits_fall() -> None:
    """One more at the places of steepest fall saves bits of later symbols; one less there costs some."""
    latents = 3 * smooth_latents(2, 20)
    symbols = quantize(latents, generic_prior(2), 512, rdo=0)
    slope, magnitude = influences(symbols, 512)
    # The first pass of the generic prior: its own bits do not depend on anything.
    early = np.zeros((20, 20), bool)
    early[0::2, 0::2] = early[1::2, 1::2] = True
    steepest = np.where(early & (symbols[0] > 0), (slope + magnitude)[..., 0], np.inf)
    changes = []
    for sign in (1, -1):
        changed = symbols.copy()
        for place in np.argsort(steepest.ravel())[:6]:
            changed[0].ravel()[place] += sign
        before, after = (later_bits(s) for s in (symbols, changed))
        changes.append(after - before)
    assert changes[0] < 0 < changes[1]


def later_bits(symbols: NDArray[np.int32]) -> float:
    """Bits of what the second pass of a generic prior codes."""
    prior = generic_prior(len(symbols))
    coded = np.ascontiguousarray(symbols.transpose(1, 2, 0))
    total = 0.0
    for step, values, prediction in list(replay(prior, coded, 512))[1:]:
        assert step.start == 0
        entry, _low, _high = table_entries(prior, prediction, values.ravel())
        total += float(prior.costs[prior.row_offsets[prediction.table] + entry].sum())
    return total


def test_knowing_later_bits_lowers_the_joint_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Error plus priced bits falls further, on each of three pictures, when decisions know that."""
    prior, step_index = generic_prior(6), 540

    def joint(latents: Float32) -> float:
        chosen = quantize(latents, prior, step_index, rdo=1.0)
        error = np.square((dequantize(chosen, prior, step_index) - latents) / step_scale(step_index)).sum()
        return float(error + np.log(2) / 6 * bits(chosen, prior, step_index))

    pictures = [smooth_latents(seed=seed) for seed in range(3)]
    knowing = [joint(picture) for picture in pictures]
    monkeypatch.setattr(Influence, "add", lambda *_args: None)
    assert all(one < joint(picture) for one, picture in zip(knowing, pictures, strict=True))


def test_bits_fall_as_their_weight_grows() -> None:
    """More weight on bits means fewer bits and more error, monotonically (0 apart, which ignores centres)."""
    prior = generic_prior(6)
    latents = smooth_latents()
    rates, errors = [], []
    for rdo in (0.5, 1.0, 2.0, 4.0):
        symbols = quantize(latents, prior, 540, rdo=rdo)
        rates.append(bits(symbols, prior, 540))
        errors.append(float(np.square(dequantize(symbols, prior, 540) - latents).mean()))
    assert rates == sorted(rates, reverse=True)
    assert errors == sorted(errors)


def test_insensitive_channels_give_up_bits_first() -> None:
    """A channel that pixels hardly feel is rounded towards cheaper symbols more than one that they feel."""
    arrays = generic_arrays(2)
    arrays["sensitivity"] = np.array([0.1, 10], "<f4")
    prior = build_prior(arrays)
    one = smooth_latents(1, 32)
    latents = np.concatenate([one, one])
    changed = (quantize(latents, prior, 540, rdo=1.0) != quantize(latents, prior, 540, rdo=0)).mean((1, 2))
    assert changed[0] > 3 * changed[1]


def test_huge_latents_are_clipped() -> None:
    """Values beyond what a payload can say become its limit."""
    latents = np.array([[[1e9, -1e9, 0.2]]], np.float32)
    for rdo in (0.0, 1.0):
        assert quantize(latents, generic_prior(1), 512, rdo=rdo).tolist() == [[[MAX_SYMBOL, -MAX_SYMBOL, 0]]]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_is_refused(wrong: float) -> None:
    """NaN and infinity are a ValueError, not an integer."""
    latents = np.zeros((2, 3, 3), np.float32)
    latents[1, 2, 0] = wrong
    with pytest.raises(ValueError, match="finite"):
        quantize(latents, generic_prior(2), 512)


def test_other_channel_counts_are_refused() -> None:
    """Latents of another space are a ValueError."""
    with pytest.raises(ValueError, match="fit"):
        quantize(np.zeros((3, 4, 4), np.float32), generic_prior(2), 512)
