"""Laws of bench.demo: equal bytes, said plainly, shown side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import demo
from bench.codecs import Coded, anchors
from bench.contact import Panel, sheet
from sdrt_metrics.fidelity import Rgb


@dataclass(frozen=True)
class _Mosaic:
    """Stands for our codec: keeps one pixel in 32 and pads the file to 97 % of the budget."""

    folder: Path
    name: str = "sdrt"
    title: str = "sdrt"
    suffix: str = ".bin"

    def encode(self, rgb: Rgb, budget_bytes: int) -> Coded:
        path = self.folder / f"{budget_bytes}{self.suffix}"
        small = rgb[::32, ::32]
        path.write_bytes(bytes([rgb.shape[0] // 32, rgb.shape[1] // 32]) + small.tobytes())
        with path.open("ab") as target:
            target.write(bytes(int(budget_bytes * 0.97) - path.stat().st_size))
        return Coded(path, path.stat().st_size, "mosaic")

    def decode(self, path: Path) -> Rgb:
        data = path.read_bytes()
        rows, columns = data[:2]
        small = np.frombuffer(data, np.uint8, rows * columns * 3, 2).reshape(rows, columns, 3)
        return small.repeat(32, 0).repeat(32, 1)


@pytest.fixture(scope="module")
def photo() -> Rgb:
    with Image.open(demo.PHOTO) as image:
        return np.asarray(image.convert("RGB"))[:256, :384]


def test_others_get_our_bytes(photo: Rgb, tmp_path: Path) -> None:
    """WebP and JPEG stay within our file's size, not within the size that was asked for; else the table says so."""
    codecs = anchors(tmp_path / "cache")
    groups = demo.compare(photo, _Mosaic(tmp_path), [codecs["webp"], codecs["jpeg"]], [1000, 4000])
    for group in groups:
        ours, *others = group
        for trial in others:
            assert trial.budget_bytes == ours.coded.bytes == int(ours.budget_bytes * 0.97)
            assert trial.over or trial.coded.bytes <= ours.coded.bytes
    assert all(t.over for t in groups[0][1:]), "neither can make 970 bytes of this"
    assert not any(t.over for t in groups[1])
    text = demo.table(photo, groups)
    assert text.count("more bytes than ours") == 2
    assert f"{groups[1][1].coded.bytes:,}" in text


def test_the_sheet_shows_each_version_and_crops_at_2x(photo: Rgb) -> None:
    """A column per version as wide as the picture; a crop's pixel is a 2x2 block of the same color."""
    black = np.zeros_like(photo)
    result = np.asarray(sheet([Panel("a", "", photo), Panel("b", "", black)], [(0.25, 0.5)]))
    height, width = photo.shape[:2]
    assert result.shape[1] == 2 * width + 8
    assert np.array_equal(result[56 : 56 + height, :width], photo)
    assert not result[56 : 56 + height, width + 8 :].any()
    crop = result[56 + height + 8 :, :width]
    top = min(height // 2, height - 144)
    assert np.array_equal(crop, photo[top : top + 144, 96:288].repeat(2, 0).repeat(2, 1))


def test_the_demo_photograph_was_not_lossily_coded() -> None:
    """The photograph on which codecs are compared is stored without loss, so that no codec finds its own traces."""
    data = demo.PHOTO.read_bytes()
    assert data[12:16] == b"VP8L"


def test_every_shipped_photograph_has_its_source() -> None:
    """Each file in bench/photos is a row of SOURCES.md with CC0 or public domain beside it, and the other way round."""
    folder = demo.PHOTO.parent
    rows = [line.split("|") for line in (folder / "SOURCES.md").read_text().splitlines() if ".webp |" in line]
    named = {row[1].strip() for row in rows}
    assert named == {p.name for p in folder.iterdir() if p.suffix == ".webp"}
    for row in rows:
        assert "CC0" in row[5] or "public domain" in row[5]
        with Image.open(folder / row[1].strip()) as image:
            assert row[2].strip() == f"{image.width}x{image.height}"
            assert max(image.size) <= 1024
