"""Memory over many pictures: what one picture took is all that a thousand take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdrt.codec import Codec

SIDE_PX = 192
COUNT = 1000
WARM = 100
GROWTH_BYTES = 8 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_a_thousand_pictures_of_a_thousand_sizes() -> None:
    """Encoded and decoded with the default pack, the last of 1,000 sizes leaves the process as the 100th did.

    The first picture is as large as any: what stays of a picture is bounded by the largest.
    """
    rng = np.random.default_rng(0)
    places = rng.permutation((SIDE_PX - 8) ** 2)[: COUNT - 1]
    sizes = [(SIDE_PX, SIDE_PX), *((8 + int(p) // (SIDE_PX - 8), 8 + int(p) % (SIDE_PX - 8)) for p in places)]
    assert len(set(sizes)) == COUNT
    codec = Codec("tiny", device="cpu", threads=1)
    resident: list[int] = []
    for height_px, width_px in sizes:
        rgb = np.broadcast_to(rng.integers(0, 255, (height_px, 1, 3), np.uint8), (height_px, width_px, 3))
        assert codec.decode(codec.encode(np.ascontiguousarray(rgb))).size == (width_px, height_px)
        resident.append(resident_bytes())
    assert resident[-1] - resident[WARM] < GROWTH_BYTES
