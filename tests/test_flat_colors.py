"""The law of flat colors: what is one color comes back as that color, everywhere, whatever the picture's size."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

import sdrt
from sdrt.codec import Codec

COLORS = list(product((0, 85, 170, 255), repeat=3))
CORNERS = list(product((0, 255), repeat=3))
SIZES = ((64, 64), (200, 313), (17, 5))
"""Height and width: whole tiles, sides that no grid divides, smaller than a cell."""
MAX_LEVELS = 3


def worst(codec: Codec, color: tuple[int, ...], size: tuple[int, int]) -> int:
    """The largest error of any value, in levels, at the default quality."""
    picture: NDArray[np.uint8] = np.broadcast_to(np.array(color, np.uint8), (*size, 3)).copy()
    back = codec.decode_picture(codec.encode(picture)).rgb
    return int(np.abs(back.astype(int) - picture).max())


@pytest.mark.parametrize(
    ("colors", "sizes"),
    [
        pytest.param(CORNERS, SIZES[::2], id="corners"),
        pytest.param(COLORS, SIZES, id="all", marks=pytest.mark.slow),
    ],
)
def test_flat_colors_stay_flat_and_right(colors: list[tuple[int, ...]], sizes: tuple[tuple[int, int], ...]) -> None:
    """Every color of four levels a channel is within 3 levels everywhere at 64x64, 313x200 and 5x17 pixels."""
    codec = Codec("tiny", device="cpu", threads=1)
    errors = {(color, size): worst(codec, color, size) for size in sizes for color in colors}
    assert {case: levels for case, levels in errors.items() if levels > MAX_LEVELS} == {}


def test_what_is_kept_whole_has_no_quality() -> None:
    """One color is kept exactly by a patch: nothing is painted, and neither encoder nor info claims a quality."""
    picture = np.full((48, 64, 3), (200, 30, 90), np.uint8)
    codec = Codec("tiny", device="cpu", threads=1)
    data, about = codec.encode_with_info(picture, quality=50)
    assert about.quality is None and sdrt.info(data).quality is None
    assert (np.asarray(codec.decode(data)) == picture).all()
    _, painted = codec.encode_with_info(picture, quality=50, protect="none")
    assert painted.quality == 50
