"""Rate control: the finest step whose file fits a budget, in few codings.

Only coding repeats; the networks have run before. The size of a file falls with the step index, almost always by
0.5 to 1.5 % an index, and its logarithm is nearly straight: so the search interpolates there, inside a bracket that
every coding shrinks.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log

from sdrt.errors import UnsupportedError

MAX_STEP_INDEX = 1023
FILLED = 0.98
"""A file that uses this share of its budget is near enough: sizes wobble, so the next finer indices may fit too."""


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
    code: Callable[[int], bytes], budget_bytes: int, *, guess: int, finest: int, coarsest: int = MAX_STEP_INDEX
) -> bytes:
    """``code`` of the smallest index in ``finest..coarsest`` that has at most ``budget_bytes``.

    ``guess`` is tried first. ``code`` is called about 5 times, 15 at most, and its size is expected to fall with the
    index; where it does not quite, the result fits the budget all the same.

    Raises UnsupportedError, which names the smallest possible size, when even ``coarsest`` does not fit.
    """
    fits, too_large = coarsest + 1, finest - 1  # the open bracket: indices not yet tried lie strictly between
    sizes: dict[int, int] = {}
    best = b""

    def fit(index: int) -> bool:
        nonlocal best
        coded = code(index)
        sizes[index] = len(coded)
        if len(coded) > budget_bytes:
            return False
        best = coded
        return True

    index, reach = min(max(guess, finest), coarsest), 32
    while too_large + 1 < fits:
        if fit(index):
            fits = index
        else:
            too_large = index
        if len(sizes) >= 8:
            index = (fits + too_large) // 2
        elif fits not in sizes:
            index, reach = too_large + reach, 4 * reach
        elif too_large not in sizes:
            index, reach = fits - reach, 4 * reach
        else:
            index = _interpolate(too_large, sizes[too_large], fits, sizes[fits], budget_bytes)
        index = min(max(index, too_large + 1), fits - 1)
    if fits not in sizes:
        raise UnsupportedError(
            f"{budget_bytes} bytes cannot be reached: the smallest file of this picture has {sizes[coarsest]} bytes"
        )
    for finer in range(fits - 2, max(fits - 5, finest - 1), -1):
        if len(best) >= FILLED * budget_bytes:
            break
        if finer not in sizes:
            fit(finer)
    return best


def _interpolate(low: int, low_size: int, high: int, high_size: int, budget_bytes: int) -> int:
    """Where a straight line of log size between two indices meets the budget, kept off the bracket's very ends."""
    if low_size <= high_size:
        return (low + high) // 2
    share = (log(low_size) - log(max(budget_bytes, 1))) / (log(low_size) - log(max(high_size, 1)))
    margin = max((high - low) // 16, 1)
    return min(max(low + round(share * (high - low)), low + margin), high - margin)
