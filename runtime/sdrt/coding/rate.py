"""Rate control: the finest step whose file fits a budget, in few codings.

Only the coding repeats; the networks have run before. A file shrinks as the step index rises, by 0.5 to 2 % per index
in pictures that are not tiny. Its size to the power of 0.6 is nearly a linear function of the index (at high rates the
size itself would be, at low rates its logarithm), so the search interpolates that power, inside a bracket that every
coding shrinks. In small files one index is worth several per cent: the bytes that the best step leaves unused are then
filled by the next finer step, quantized with a larger weight on bits.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

from sdrt.errors import UnsupportedError
from sdrt.limits import MAX_STEP_INDEX


class TargetError(UnsupportedError):
    """No file is as small as the target."""


FULL = 0.995
"""The search ends at a file that uses at least this share of its budget."""
FILLED = 0.98
"""Below this share a finer step is tried with a larger weight on bits."""
_MAX_BIT_WEIGHT = 16.0
_BIT_WEIGHT_TRIES = 5
_STRAIGHT = 0.6
"""The power of a file's size that is nearly linear in the index: measured on tiny and on taef2."""
_EMPTY = 225
"""Indices from the first guess to an empty file, roughly: gives the slope until two sizes are known."""


def budget_of(target_bpp: float, width_px: int, height_px: int) -> int:
    """Bytes of a whole file at ``target_bpp`` bits a pixel, rounded down, so that the rate is never exceeded."""
    return int(target_bpp * width_px * height_px / 8)


def step_for_quality(quality: float, quality_range: tuple[int, int]) -> int:
    """The step index of a quality 0..100: linear between the ends of the pack's range (coarse, fine).

    Raises UnsupportedError for a quality outside 0..100.
    """
    if not 0 <= quality <= 100:
        raise UnsupportedError(f"quality is {quality:g}, it must be from 0 to 100")
    coarse, fine = quality_range
    return round(coarse + (fine - coarse) * quality / 100)


def finest_within(
    code: Callable[[int, float], bytes], budget_bytes: int, *, guess: int, finest: int, coarsest: int = MAX_STEP_INDEX
) -> bytes:
    """The file of the finest step index whose size is at most ``budget_bytes``, and at least 98 % of it if possible.

    Args:
        code: ``code(index, bit_weight)`` makes a file. ``bit_weight``: 1 for the weight of bits (lambda) that the
            options ask for, above 1 for a larger one, which saves bytes at the same step. ``code`` is called at most 17
            times, on photographs three to four times (tests/test_shipped_pack.py). Sizes should fall with both
            arguments; where they do not, the result still fits the budget.
        budget_bytes: The size that must not be exceeded.
        guess: The step index to try first.
        finest: The smallest step index to use.
        coarsest: The largest step index to use.

    Returns:
        The bytes of the file, one that ``code`` returned.

    Raises:
        TargetError: The file at ``coarsest`` is too large; the message states the smallest size. If it is the coarsest
            index of all, larger bit weights were tried as well.
    """
    fits, too_large = coarsest + 1, finest - 1  # the open bracket: indices not yet tried lie strictly between
    sizes: dict[int, int] = {}
    best, smallest = b"", sys.maxsize

    def fit(index: int, bit_weight: float = 1.0) -> bool:
        nonlocal best, smallest
        coded = code(index, bit_weight)
        smallest = min(smallest, len(coded))
        if bit_weight == 1:
            sizes[index] = len(coded)
        if len(coded) > budget_bytes:
            return False
        if len(coded) >= len(best):
            best = coded
        return True

    index, last, alike, side = min(max(guess, finest), coarsest), None, 0, False
    while too_large + 1 < fits and not (best and len(best) >= FULL * budget_bytes):
        fitted = fit(index)
        alike = alike + 1 if fitted == side else 1  # codings in a row that ended on this side of the budget
        side = fitted
        if fitted:
            fits, far = index, too_large
        else:
            too_large, far = index, fits
        if alike > 2 and far in sizes:
            after = (fits + too_large) // 2  # a crooked curve must not make the search crawl from one side
        else:
            after = _next(sizes, index, far if far in sizes else last, budget_bytes, 4.0 ** max(0, alike - 2))
        last, index = index, min(max(after, too_large + 1), fits - 1)
    if fits - 1 >= finest and (best or coarsest == MAX_STEP_INDEX):
        low, high = 1.0, _MAX_BIT_WEIGHT
        for _ in range(_BIT_WEIGHT_TRIES):
            if len(best) >= FILLED * budget_bytes:
                break
            middle = (low * high) ** 0.5
            low, high = (low, middle) if fit(fits - 1, middle) else (middle, high)
    if not best:
        raise TargetError(
            f"{budget_bytes} bytes cannot be reached: the smallest file of this picture has {smallest} bytes"
        )
    return best


def _next(sizes: dict[int, int], index: int, other: int | None, budget_bytes: int, reach: float) -> int:
    """The index at which a line through ``size ** 0.6`` at ``index`` and ``other`` meets the budget.

    ``reach`` multiplies the distance. Without ``other`` the line reaches zero ``_EMPTY`` indices on.
    """
    aim, height = math.pow((1 + FULL) / 2 * budget_bytes, _STRAIGHT), math.pow(sizes[index], _STRAIGHT)
    slope = -height / _EMPTY
    if other is not None:
        measured = (math.pow(sizes[other], _STRAIGHT) - height) / (other - index)
        slope = measured if measured < 0 else slope
    return index + round(reach * (aim - height) / slope)
