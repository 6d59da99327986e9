"""Laws of rate control."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sdrt.coding import rate
from sdrt.errors import UnsupportedError


def curve(noise: float, seed: int = 0) -> Callable[[int], int]:
    """Sizes as a coder gives them: an exponential with a floor, and a little noise."""
    wobble = np.random.default_rng(seed).normal(scale=noise, size=1024)
    return lambda index: int(26 + 300_000 * 2 ** (-index / 70 + wobble[index]))


@pytest.mark.parametrize("budget", [40, 100, 1000, 5000, 60_000, 310_000])
def test_the_finest_step_that_fits_is_found(budget: int) -> None:
    """On a falling curve the budget is used to 99.5 %, or as far as an index can; in few codings, none twice."""
    size = curve(0)
    for guess in (0, 300, 512, 1023):
        asked: list[tuple[int, float]] = []

        def code(index: int, bit_weight: float, asked: list[tuple[int, float]] = asked) -> bytes:
            asked.append((index, bit_weight))
            return bytes(round(size(index) / bit_weight**0.1))

        found = rate.finest_within(code, budget, guess=guess, finest=100)
        best = max(size(index) for index in range(100, 1024) if size(index) <= budget)
        assert min(best, 0.995 * budget) <= len(found) <= budget
        assert len(asked) <= 17 and len(set(asked)) == len(asked)


@pytest.mark.parametrize("seed", range(20))
def test_a_wobbling_curve_still_never_exceeds(seed: int) -> None:
    """Sizes that rise now and then lead to a budget that is kept, and used to 2 %."""
    size = curve(0.004, seed)
    found = rate.finest_within(lambda index, _bit_weight: bytes(size(index)), 5000, guess=512, finest=0)
    assert 0.98 * 5000 <= len(found) <= 5000


@pytest.mark.parametrize("cliff", [100, 101, 500, 900, 1022, 1023])
@pytest.mark.parametrize("slope", [0.0, 1e-4, 1e-3])
def test_no_curve_is_so_crooked_that_it_takes_more_than_20_codings(cliff: int, slope: float) -> None:
    """Where sizes fall at one index and hardly anywhere else, interpolation says nothing: the search bisects."""
    for guess in (0, 512, 1023):
        asked: list[int] = []

        def code(index: int, _bit_weight: float, asked: list[int] = asked) -> bytes:
            asked.append(index)
            return bytes(int((50_000 if index < cliff else 700) * 2 ** (-slope * index)))

        assert len(rate.finest_within(code, 1000, guess=guess, finest=100)) <= 1000
        assert cliff in asked and len(asked) <= 20


def test_a_larger_bit_weight_fills_what_steps_leave() -> None:
    """Where an index is worth 20 %, the budget is used to 98 % by a finer step with a larger bit weight."""

    def code(index: int, bit_weight: float) -> bytes:
        return bytes(int(40_000 * 1.2 ** -(index // 10) / bit_weight**0.2))

    for budget in (777, 1000, 5000):
        found = rate.finest_within(code, budget, guess=100, finest=0)
        assert 0.98 * budget <= len(found) <= budget


def test_an_impossible_budget_names_the_smallest_size() -> None:
    """A budget below the coarsest file is refused with that file's size."""
    with pytest.raises(UnsupportedError, match="smallest file of this picture has 37 bytes"):
        rate.finest_within(lambda index, _bit_weight: bytes(curve(0)(index)), 36, guess=512, finest=0)


@pytest.mark.parametrize("budget", [0, 1, 36])
def test_no_budget_is_too_small_to_be_told_the_smallest_size(budget: int) -> None:
    """Also a rate that rounds down to no byte at all is refused with the size of a file that there is."""
    for coarsest in (1023, 700):
        smallest = curve(0)(coarsest)
        with pytest.raises(rate.TargetError, match=f"{budget} bytes .* has {smallest} bytes"):
            rate.finest_within(
                lambda index, _bit_weight: bytes(curve(0)(index)), budget, guess=512, finest=0, coarsest=coarsest
            )


def test_a_generous_budget_gives_the_finest_step() -> None:
    """More bytes than the finest step needs: the finest step."""
    assert rate.finest_within(lambda index, _bit_weight: b"%d" % index, 10**9, guess=512, finest=333) == b"333"


def test_a_pack_with_one_step_serves_or_refuses_by_it() -> None:
    """A pack with a single step is served or refused by that step."""
    assert rate.finest_within(lambda *_: bytes(50), 50, guess=7, finest=7, coarsest=7) == bytes(50)
    with pytest.raises(UnsupportedError):
        rate.finest_within(lambda *_: bytes(51), 50, guess=7, finest=7, coarsest=7)


def test_quality_is_linear_and_checked() -> None:
    """Quality 0 is the coarse end, 100 the fine end, halves lie half way; nothing beyond, and no NaN."""
    assert [rate.step_for_quality(q, (800, 400)) for q in (0, 25, 50, 100)] == [800, 700, 600, 400]
    for quality in (-1, 100.5, float("nan")):
        with pytest.raises(UnsupportedError, match="quality"):
            rate.step_for_quality(quality, (800, 400))


def test_bits_per_pixel_are_never_exceeded() -> None:
    """The budget of a rate is rounded down."""
    assert rate.budget_of(0.152, 512, 512) == 4980
    assert rate.budget_of(1, 3, 3) == 1
