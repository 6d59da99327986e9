"""Laws of bench.rd, summary, plots and page: rows to figures."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import commandline, rd, summary
from bench.codecs import anchors
from bench.scores import Scores
from bench.summary import Point
from sdrt_metrics.meter import METRICS, Meter

PHOTOS = Path(__file__).parent.parent / "bench" / "photos"
RATES_BPP = (0.4, 0.8, 1.2)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small true run: two photographs, three codecs at three budgets, metrics without torch."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("rd")
    (folder / "in").mkdir()
    for name in ("coffee", "cat"):
        with Image.open(PHOTOS / f"{name}.webp") as image:
            image.convert("RGB").resize((256, 176)).save(folder / "in" / f"{name}.png")
    arguments = [str(folder / "in"), "--out", str(folder / "out"), "--cache", str(folder / "cache")]
    arguments += ["--codecs", "jpeg,webp", "--metrics", "psnr,msssim", "--bpp", ",".join(map(str, RATES_BPP))]
    assert rd.main(arguments) == 0
    return folder / "out"


def test_the_csv_has_a_row_for_each_image_codec_and_budget(report: Path) -> None:
    """2 images x 2 codecs x 3 budgets; sizes are within the budget or marked; more bytes never lower PSNR."""
    with (report / "rows.csv").open(newline="") as source:
        rows = list(csv.DictReader(source))
    assert len(rows) == 12
    for row in rows:
        assert int(row["budget_bytes"]) == int(float(row["budget_bpp"]) * 256 * 176 / 8)
        assert (int(row["bytes"]) > int(row["budget_bytes"])) == bool(int(row["over_budget"]))
        assert float(row["bpp"]) == pytest.approx(int(row["bytes"]) * 8 / (256 * 176), abs=1e-5)
    for image in ("coffee", "cat"):
        for codec in ("jpeg", "webp"):
            mine = [r for r in rows if (r["image"], r["codec"]) == (image, codec)]
            in_order = [float(r["psnr"]) for r in sorted(mine, key=lambda r: float(r["budget_bpp"]))]
            assert in_order == sorted(in_order)


def test_all_may_have_the_bytes_of_a_codec_that_is_over(tmp_path: Path) -> None:
    """At a budget that JPEG cannot keep, WebP gets JPEG's bytes with ``level_with``; at others, its own."""
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    known = anchors(tmp_path / "cache")
    codecs = [known["webp"], known["jpeg"]]
    rows = rd.measure_image(
        tmp_path / "noise.png", codecs, (0.2, 9.0), ["psnr"], Scores(tmp_path / "scores", Meter(1)), level_with="jpeg"
    )
    (over, kept), (leveled, own) = (
        sorted((row for row in rows if row.codec == name), key=lambda row: row.budget_bpp) for name in ("jpeg", "webp")
    )
    assert over.over and leveled.budget_bytes == over.coded.bytes > 0.2 * 64 * 64 / 8
    assert not kept.over and own.budget_bytes == kept.budget_bytes == int(9.0 * 64 * 64 / 8)


def test_the_summary_means_are_those_of_the_rows(report: Path) -> None:
    """The table's PSNR at a budget is the mean over the images."""
    with (report / "rows.csv").open(newline="") as source:
        rows = [r for r in csv.DictReader(source) if r["codec"] == "webp" and float(r["budget_bpp"]) == 0.8]
    mean = np.mean([float(r["psnr"]) for r in rows])
    text = (report / "summary.md").read_text()
    part = text[text.index("At no more than 0.8 bpp") :]
    line = next(line for line in part.splitlines() if line.startswith("| WebP"))
    assert float(line.split("|")[3]) == pytest.approx(mean, abs=0.006)


def test_the_page_holds_all_that_it_shows(report: Path) -> None:
    """The page has every picture inside, asks for nothing from outside, and its data is well-formed."""
    html = (report / "index.html").read_text()
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", html)
    match = re.search(r"^const data = (.*);$", html, re.M)
    assert match is not None
    data = json.loads(match[1])
    assert [i["name"] for i in data["images"]] == ["cat", "coffee"]
    for image in data["images"]:
        assert image["original"]["source"].startswith("data:image/webp;base64,")
        for versions in image["rates"]:
            assert versions["jpeg"]["source"].startswith("data:image/jpeg;base64,")
            assert set(versions) == {"jpeg", "webp"}


def test_the_plot_is_a_picture(report: Path) -> None:
    """One panel per metric."""
    with Image.open(report / "rd.png") as image:
        assert image.width > 1.5 * image.height


def test_bd_rate_of_a_scaled_curve_is_the_scale() -> None:
    """A codec that needs 0.7 times the bits at every quality has a BD-rate of -30 %, and back +42.86 %."""
    anchor = [(0.1, 25.0), (0.2, 28.0), (0.4, 30.5), (0.8, 32.0)]
    curve = [(bpp * 0.7, quality) for bpp, quality in anchor]
    assert summary.bd_rate(curve, anchor) == pytest.approx(-30, abs=1e-6)
    assert summary.bd_rate(anchor, curve) == pytest.approx(100 / 0.7 - 100, abs=1e-6)
    assert summary.bd_rate(anchor, anchor) == pytest.approx(0, abs=1e-9)


def test_bd_rate_needs_nothing_newer_than_the_lowest_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy 1.26, which pyproject.toml allows, knows the rule of trapezoids by another name than 2.x."""
    for name in ("trapezoid", "trapz"):
        monkeypatch.delattr(np, name, raising=False)
    anchor = [(0.1, 28.0), (0.3, 31.0)]
    assert summary.bd_rate([(rate / 2, quality) for rate, quality in anchor], anchor) == pytest.approx(-50)


def test_bd_rate_uses_the_common_range_only() -> None:
    """Points of one curve outside the other's qualities do not count; without overlap there is no figure."""
    anchor = [(0.1, 25.0), (0.2, 28.0), (0.4, 31.0)]
    assert summary.bd_rate([(0.1, 28.0), (0.2, 31.0), (0.4, 34.0)], anchor) == pytest.approx(-50, abs=1e-6)
    assert summary.bd_rate([(0.1, 40.0), (0.2, 45.0)], anchor) is None
    assert summary.bd_rate([(0.1, 28.0), (0.1, 28.0)], anchor) is None


@pytest.mark.parametrize("name", list(METRICS))
def test_goodness_rises_with_quality(name: str) -> None:
    """Whatever the metric's direction, a better value has more goodness."""
    worse, better = (0.5, 0.9) if METRICS[name].higher_is_better else (0.9, 0.5)
    assert summary.goodness(name, better) > summary.goodness(name, worse)


def test_bd_rates_say_fewer_bits_for_the_better_codec() -> None:
    """At equal bits and lower LPIPS the BD-rate is negative: directions are not mixed up."""

    def means(codec: str, factor: float) -> list[Point]:
        return [
            Point(codec, codec, b, b, 1, 0, {"alex": factor * (0.5 - 0.4 * b), "psnr": 30.0}) for b in (0.1, 0.3, 0.6)
        ]

    rates = summary.bd_rates([*means("webp", 1.0), *means("sdrt", 0.9)], ["alex"])
    assert rates["sdrt"]["alex"] is not None
    assert rates["sdrt"]["alex"] < 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--metrics", "pnsr"], "pnsr"),
        (["--codecs", "bpg"], "bpg"),
        (["--bpp", "0.1;0.2"], "numbers with commas"),
        (["--bpp", "0,0.2"], "no bytes"),
        (["nowhere"], "no pictures in nowhere"),
    ],
)
def test_a_wrong_word_ends_in_one_line(arguments: list[str], word: str, tmp_path: Path) -> None:
    """What is not there is named, with what is, before any work is done."""
    folder = [] if arguments[0] == "nowhere" else [str(PHOTOS)]
    with pytest.raises(SystemExit, match=word):
        rd.main([*folder, *arguments, "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")])


def test_an_error_of_sdrt_ends_in_one_line(tmp_path: Path) -> None:
    """A pack that is not there is named, without a traceback."""
    arguments = [str(PHOTOS), "--limit", "1", "--codecs", "sdrt", "--model", "nowhere", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"^bench: .*nowhere") as caught:
        commandline.run(lambda: rd.main([*arguments, "--cache", str(tmp_path / "cache")]))
    assert "\n" not in str(caught.value)
