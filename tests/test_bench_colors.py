"""Laws of bench.colors: what a chart and flat pictures say of a codec."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bench import colors
from bench.codecs import Coded
from bench.colors import FlatResult
from sdrt_metrics.fidelity import Rgb


@dataclass(frozen=True)
class _Raw:
    """Stands for a codec: keeps the pixels as they are and gives them back with ``red`` levels less red."""

    folder: Path
    red: int = 0
    name: str = "raw"
    title: str = "raw"
    suffix: str = ".npy"

    def encode(self, rgb: Rgb, budget_bytes: int) -> Coded:
        path = self.folder / f"{budget_bytes}{self.suffix}"
        np.save(path, rgb)
        return Coded(path, budget_bytes, "raw")

    def decode(self, path: Path) -> Rgb:
        picture = np.load(path).astype(int)
        picture[..., 0] -= self.red
        return picture.clip(0, 255).astype(np.uint8)


def test_the_chart_holds_24_colors_once() -> None:
    """Each patch is its own color and nothing else; what is around them is gray."""
    picture = colors.chart()
    assert len(set(colors.CHART)) == 24
    for patch, color in zip(colors.patches(picture), colors.CHART, strict=True):
        assert patch.shape == (64, 64, 3)
        assert (patch == color).all()
        patch[:] = 119
    assert (picture == 119).all()


def test_a_chart_that_comes_back_whole_has_no_difference(tmp_path: Path) -> None:
    """Zero for a perfect codec; less red is seen on red patches, and not where there is none to lose."""
    assert colors.judge_chart(_Raw(tmp_path), 0.3).mean == 0
    shifted = colors.judge_chart(_Raw(tmp_path, red=40), 0.3)
    by_color = dict(zip(colors.CHART, shifted.differences, strict=True))
    assert by_color[(0, 0, 255)] == by_color[(0, 255, 0)] == 0
    assert by_color[(255, 0, 0)] > 2
    assert shifted.bpp == pytest.approx(0.3, abs=1e-3)
    assert f"{max(shifted.differences):.2f}" in colors.report_charts([shifted])


def test_flats_are_judged_by_the_worst_level_and_the_mean() -> None:
    """A flat breaks the law by one level too far or by its mean, and the table names the color that is off most."""
    flats = [
        FlatResult("sdrt", size, color, worst, mean)
        for size in colors.FLAT_SIZES
        for color, worst, mean in (((0, 0, 0), 3, 1.5), ((0, 0, 85), 4, 0.1), ((85, 0, 0), 3, 1.6))
    ]
    for line in colors.report_flats(flats).splitlines()[4:7]:
        assert line.endswith("| 4 | 1.07 | 1.60 | (85, 0, 0) | 1 of 3 |")


def test_the_record_has_a_row_for_each_color(tmp_path: Path) -> None:
    """Patches and flats, grouped by codec and budget, codec and size."""
    chart = colors.judge_chart(_Raw(tmp_path), 0.3)
    kept = colors.to_record([chart], [FlatResult("sdrt", (17, 5), (0, 85, 170), 9, 2.5)], ["--bpp", "0.3"])
    assert len(kept.rows) == 25
    assert kept.rows[0]["what"] == "chart, raw, 0.3 bpp"
    assert kept.rows[-1] == {"what": "flat 17x5, sdrt", "color": "(0, 85, 170)", "worst": 9, "mean": 2.5}
