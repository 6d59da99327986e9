"""What the judge of regions measures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import regions
from bench.faces import Box, Face
from sdrt_metrics.meter import Meter


def test_inside_and_outside_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong in the box counts there alone, what is wrong beside it in the rest alone."""
    monkeypatch.setattr(
        Meter,
        "measure",
        lambda _self, pictures, target, _names: [
            {"alex": float(np.abs(p.astype(int) - target).sum()), "msssim": 1.0} for p in pictures
        ],
    )
    face = Face(Path("none"), "portraits", Box(10, 20, 30, 40))
    reference = np.zeros((100, 100, 3), np.uint8)
    inside, beside = reference.copy(), reference.copy()
    inside[25, 15], beside[5, 5] = 1, 2
    assert regions.errors(face, inside, reference, Meter()).tolist() == [3, 0, 0, 0]
    assert regions.errors(face, beside, reference, Meter()).tolist() == [0, 0, 6, 0]
