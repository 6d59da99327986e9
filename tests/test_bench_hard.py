"""Laws of bench.hard, faces and reading: type that can be read, faces inside their boxes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from bench import hard, reading
from bench.codecs import Coded
from bench.faces import FACES, Box, Face
from bench.scores import Scores
from sdrt_metrics.fidelity import Rgb
from sdrt_metrics.meter import Meter

LINES = ("The quick brown fox", "jumps over 13 lazy dogs")


@dataclass(frozen=True)
class _Smudge:
    """Stands for a codec: everything comes back as it was, but for a box that is gray."""

    folder: Path
    box: Box
    name: str = "smudge"
    title: str = "smudge"
    suffix: str = ".npy"

    def encode(self, rgb: Rgb, budget_bytes: int) -> Coded:
        path = self.folder / f"{len(list(self.folder.iterdir()))}{self.suffix}"
        np.save(path, rgb)
        return Coded(path, budget_bytes + 1, "raw")

    def decode(self, path: Path) -> Rgb:
        picture: Rgb = np.load(path)
        self.box.inside(picture)[:] = 128
        return picture


@pytest.fixture(scope="module")
def page() -> Rgb:
    """A picture (200, 480, 3) with two lines of type, 32 pixels high."""
    image = Image.new("RGB", (480, 200), "white")
    for i, line in enumerate(LINES):
        ImageDraw.Draw(image).text((20, 30 + 70 * i), line, fill="black", font=ImageFont.load_default(32))
    return np.asarray(image)


needs_tesseract = pytest.mark.skipif(
    reading.tesseract() is None, reason="tesseract is not installed (Debian: apt-get install tesseract-ocr)"
)


@pytest.mark.parametrize(
    ("text", "truth", "count"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("abc", "abc", 0)]
)
def test_edits_are_levenshteins(text: str, truth: str, count: int) -> None:
    """The textbook's word pair, nothing against something, and either way round."""
    assert reading.edits(text, truth) == reading.edits(truth, text) == count


def test_the_error_rate_is_of_the_original() -> None:
    """Per character of what stood there; no text in the original is no rate of zero."""
    assert reading.error_rate("abcd", "ab") == 1
    assert reading.error_rate("ab", "abcd") == 0.5
    with pytest.raises(ValueError, match="no text"):
        reading.error_rate("anything", "")


@needs_tesseract
def test_type_is_read_and_a_smudge_costs_its_characters(page: Rgb, tmp_path: Path) -> None:
    """Clean type is read as it stands; with the second line gone, as many characters are wrong."""
    assert reading.text_in(page) == " ".join(LINES)
    Image.fromarray(page).save(tmp_path / "page.png")
    (tmp_path / "files").mkdir()
    codec = _Smudge(tmp_path / "files", Box(0, 90, 480, 110))
    scores = Scores(tmp_path / "scores.jsonl", Meter())
    (part,), _ = hard.measure([tmp_path / "page.png"], [], [codec], [0.3], names=["psnr"], scores=scores)
    assert part.name == "screens"
    assert part.scores["cer"] == pytest.approx((len(LINES[1]) + 1) / (len(LINES[0]) + len(LINES[1]) + 1), abs=0.08)
    text = hard.report([part], ["psnr"])
    assert f"| {part.scores['cer']:.3f} | {part.scores['psnr']:.2f} | 1 of 1 |" in text


def test_without_tesseract_there_is_no_rate(page: Rgb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other metrics are measured all the same; asking for text is refused in a line that says how to get it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    Image.fromarray(page).save(tmp_path / "page.png")
    scores = Scores(tmp_path / "scores.jsonl", Meter())
    codec = _Smudge(tmp_path, Box(0, 0, 9, 9))
    (part,), _ = hard.measure([tmp_path / "page.png"], [], [codec], [0.3], names=["psnr"], scores=scores)
    assert set(part.scores) == {"psnr"}
    with pytest.raises(reading.ReadingError, match="apt-get install tesseract-ocr"):
        reading.text_in(page)


@pytest.mark.skipif(os.name != "posix", reason="stands a shell script in for the program")
def test_a_tesseract_that_fails_is_no_text(page: Rgb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last words instead of an empty page."""
    program = tmp_path / "tesseract"
    program.write_text("#!/bin/sh\necho 'no such language: eng' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    with pytest.raises(reading.ReadingError, match=r"ended with 3: no such language"):
        reading.text_in(page)


def test_inside_and_outside_share_no_pixel(photo: Rgb) -> None:
    """What is wrong in the box shows inside alone, what is wrong elsewhere outside alone."""
    box = Box(20, 10, 50, 40)
    wrong_inside, wrong_outside = photo.copy(), 255 - photo
    box.inside(wrong_inside)[:] = 0
    box.inside(wrong_outside)[:] = box.inside(photo)
    assert box.inside(photo).shape == (40, 50, 3)
    assert (box.outside(wrong_inside, photo) == photo).all()
    assert (box.inside(wrong_outside) == box.inside(photo)).all()
    assert (box.outside(wrong_outside, photo) == wrong_outside).all()


def test_faces_are_judged_inside_and_outside(photo: Rgb, tmp_path: Path) -> None:
    """A smudged face costs inside and nothing outside; MS-SSIM is left out where the box is too small for it."""
    large = np.tile(photo, (2, 2, 1))
    Image.fromarray(large).save(tmp_path / "photo.png")
    (tmp_path / "files").mkdir()
    face = Face(tmp_path / "photo.png", "portraits", Box(30, 20, 60, 50))
    codec = _Smudge(tmp_path / "files", face.box)
    scores = Scores(tmp_path / "scores.jsonl", Meter())
    (inside, rest), rows = hard.measure([], [face], [codec], [0.3], names=["psnr", "msssim"], scores=scores)
    assert (inside.name, rest.name) == ("portraits", "portraits, rest")
    assert set(inside.scores) == {"psnr"}
    assert inside.scores["psnr"] < rows[0].scores["psnr"] < rest.scores["psnr"] == float("inf")
    assert rest.scores["msssim"] == pytest.approx(1)
    kept = hard.to_record([inside, rest], ["psnr", "msssim"], [])
    assert [row["part"] for row in kept.rows] == ["portraits", "portraits, rest"]
    assert "MS-SSIM: means of the faces of at least 161 pixels." in hard.report([inside, rest], ["psnr", "msssim"])


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.picture.stem)
def test_every_box_lies_in_its_picture(face: Face) -> None:
    """And holds a face that LPIPS can be computed on."""
    if not face.picture.exists():
        pytest.skip(f"{face.picture} is absent")
    with Image.open(face.picture) as image:
        assert face.box.left + face.box.width <= image.width
        assert face.box.top + face.box.height <= image.height
    assert min(face.box.width, face.box.height) >= 60
    assert face.group in hard.PARTS and f"{face.group}, rest" in hard.PARTS
