"""The truth map's judge: its ranks, its count of broken bounds, and a run on a small picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bench import truth
from sdrt.packs.manifest import ModelPack


def test_ranks_correlate() -> None:
    """Spearman's coefficient, with ties at their mean rank: a case worked by hand."""
    assert truth.rank_correlation([1, 2, 3, 4], [10, 100, 1000, 10000]) == pytest.approx(1)
    assert truth.rank_correlation([0, 0, 1, 1], [4, 3, 2, 1]) == pytest.approx(-0.8944, abs=1e-4)


def test_broken_bounds_are_counted(photo: NDArray[np.uint8]) -> None:
    """A cell that is painted as noise breaks what was promised of it; one of which nothing was promised does not."""
    promised = np.zeros((4, 6), np.uint8)
    promised[0, 1] = 2
    coded = truth.Coded("photo", photo, b"", promised, 0)
    assert truth.broken(coded, photo) == 0
    noisy = photo.copy()
    noisy[:32, :64] = np.random.default_rng(0).integers(0, 256, (32, 64, 3))
    assert truth.broken(coded, noisy) == 1


def test_the_command_judges(
    testpack: ModelPack,
    photo: NDArray[np.uint8],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Shares, correlation, bytes and bounds are printed; the exit code says whether bounds hold."""
    Image.fromarray(photo).save(tmp_path / "photo.png")
    monkeypatch.setattr(truth, "DEVICES", (("cpu", "w16"), ("cuda", "fp16")))
    monkeypatch.setattr(
        truth.Meter, "measure", lambda _self, pictures, *_: [{"alex": float(np.var(pictures[0]))}] * len(pictures)
    )
    assert truth.main([str(tmp_path), "--bpp", "1", "--cells", "9", "--model", "testpack"]) == 0
    text = capsys.readouterr().out
    assert "on 9 cells" in text and "bounds on cpu w16: 0 of 24 cells broken" in text and "cuda" not in text
