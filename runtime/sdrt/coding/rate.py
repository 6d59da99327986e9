"""Rate control: the finest step whose file fits a budget, in few codings.

Only the coding repeats; the networks have run before. The search begins where the latents say: bits are nearly
proportional to the symbols that are not 0 (``activity``). A file shrinks as the step index rises, by 0.5 to 2 % per
index in pictures that are not tiny. Its size to a small power is nearly a linear function of the index: 0.6 fits one
default pack, 0.15 the wide one after it. So the search takes one between, and bends the line as soon as three sizes
are known (inverse quadratic interpolation, as in Brent's method), inside a bracket that every coding shrinks. A file
that is a little too large then gets a larger weight on bits, which fills the budget where no step does.
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
_NEAR = 1.03
"""A file of at most this share of the budget is made to fit by a larger weight on bits."""
_SURE = 8
"""Indices within which a file shrinks by more than that: so far below the coarsest step, that step fits for sure."""
_INTERPOLATED = 5
"""Codings before the search bisects: few curves are so crooked, and a bound must hold for all."""
_MAX_DOUBLINGS = 4.0
"""Of the weight on bits."""
_FILL_TRIES = 5
_SHRINKS = 0.2
"""By how much a doubled weight on bits shrinks a file, about, as a share of its size."""
_STRAIGHT = 0.3
"""The power of a file's size that is taken for linear in the index."""
_EMPTY = 250
"""Indices from the first guess to an empty file, were it linear: gives the slope until two sizes are known."""


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
    """A file of at most ``budget_bytes``, and at least 99.5 % of it if possible: of about the finest step that fits.

    Args:
        code: ``code(index, bit_weight)`` makes a file. ``bit_weight``: 1 for the weight of bits (lambda) that the
            options ask for, above 1 for a larger one, which saves bytes at the same step. ``code`` is called at most 25
            times, on photographs three to four times (tests/test_shipped_pack.py). Sizes should fall with both
            arguments; where they do not, the result still fits the budget.
        budget_bytes: The size that must not be exceeded.
        guess: The step index to try first; one beyond the ends counts as the end.
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
    aim = max((1 + FULL) / 2 * budget_bytes, sys.float_info.min)

    def full() -> bool:
        return bool(best) and len(best) >= FULL * budget_bytes

    def size_of(index: int, bit_weight: float = 1.0) -> int:
        nonlocal best, smallest
        coded = code(index, bit_weight)
        smallest = min(smallest, len(coded))
        if len(best) <= len(coded) <= budget_bytes:
            best = coded
        return len(coded)

    def fill(index: int) -> None:
        """Codes at one step with larger weights on bits until the budget is full: secants, within a bracket."""
        low, high = 0.0, _MAX_DOUBLINGS
        doublings, excess, slope = 0.0, math.log(max(sizes[index], 1) / aim), -_SHRINKS
        for _ in range(_FILL_TRIES):
            after = doublings - excess / slope
            after = after if low < after < high else (low + high) / 2
            size = size_of(index, 2.0**after)
            if full():
                return
            low, high = (low, after) if size <= budget_bytes else (after, high)
            more = math.log(max(size, 1) / aim) - excess
            slope = more / (after - doublings) if more * (after - doublings) < 0 else -_SHRINKS
            doublings, excess = after, excess + more

    index = min(max(guess, finest), coarsest)
    filled: set[int] = set()
    while not full():
        is_closed, near = too_large + 1 >= fits, sizes.get(too_large, math.inf) <= _NEAR * budget_bytes
        may_fill = best or coarsest == MAX_STEP_INDEX
        if not is_closed:
            may_fill = near and not filled and (may_fill or too_large + _SURE <= coarsest)
        if may_fill and too_large in sizes and too_large not in filled:
            filled.add(too_large)
            fill(too_large)
        elif is_closed:
            break
        else:
            sizes[index] = size_of(index)
            fits, too_large = (index, too_large) if sizes[index] <= budget_bytes else (fits, index)
            after = round(_meeting(sizes, budget_bytes)) if len(sizes) < _INTERPOLATED else (fits + too_large) // 2
            index = min(max(after, too_large + 1), fits - 1)
    if not best:
        raise TargetError(
            f"{budget_bytes} bytes cannot be reached: the smallest file of this picture has {smallest} bytes"
        )
    return best


def _meeting(sizes: dict[int, int], budget_bytes: int) -> float:
    """The index at which ``size ** 0.3`` meets the budget, by the polynomial through the sizes nearest to it.

    One of the second degree in that power at most, through sizes that fall as they should. Through a single size goes a
    line that reaches zero ``_EMPTY`` indices on.
    """
    aim = math.pow((1 + FULL) / 2 * budget_bytes, _STRAIGHT)
    powers = ((math.pow(size, _STRAIGHT), index) for index, size in sizes.items())
    nearest: list[tuple[float, int]] = []
    for power, index in sorted(powers, key=lambda point: abs(point[0] - aim)):
        if len(nearest) < 3 and all((power - other) * (index - place) < 0 for other, place in nearest):
            nearest.append((power, index))
    if len(nearest) == 1:
        power, index = nearest[0]
        return index + _EMPTY * (1 - aim / power)
    return sum(
        index * math.prod((aim - other) / (power - other) for other, _ in nearest if other != power)
        for power, index in nearest
    )
