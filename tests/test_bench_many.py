"""The benchmark of many pictures runs, on a small one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bench import many


def test_every_contestant_runs(
    photo: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three tables: encoders, decoders and batches, each line with its ratio to the first."""
    Image.fromarray(photo).save(tmp_path / "photo.png")
    monkeypatch.setattr(many, "PICTURES", [tmp_path / "photo.png"])
    monkeypatch.setattr(many, "SIDE_PX", 64)
    assert many.main(["--rounds", "1", "--workers", "2"]) == 0
    text = capsys.readouterr().out
    assert text.count("times  median s") == 3
    for name in ("encode_many, 2 workers", "decode_many, 2 workers, threads=1", "one batch"):
        assert name in text
