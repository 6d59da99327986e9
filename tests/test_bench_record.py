"""Laws of bench.record and bench.compare: what was measured is kept whole, and two records are compared in pairs."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import pytest

from bench import compare, process, rd, record, speed
from bench.contest import Timing
from bench.record import Measurement, Record

PHOTOS = Path(__file__).parent.parent / "bench" / "photos"


def _record(rows: list[Measurement], bench: str = "rd") -> Record:
    better = {"psnr": "higher", "alex": "lower"}
    return record.make(bench, ["--bpp", "0.3", "a b"], rows, groups=("codec",), sample="image", better=better)


def _row(codec: str, image: str, psnr: float, alex: float) -> Measurement:
    return {"codec": codec, "image": image, "psnr": psnr, "alex": alex}


def test_a_record_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    """Command, machine, versions and rows survive; a row takes one line; JSON proper, also for an infinite PSNR."""
    made = _record([_row("ours", "01", 24.123456789, 0.1), _row("ours", "02", float("inf"), 0)])
    path = record.save(made, tmp_path / "0.5.0")
    assert path == tmp_path / "0.5.0" / "rd.json"
    loaded = record.load(path)
    assert loaded == made
    assert loaded.command == "python -m bench.rd --bpp 0.3 'a b'"
    assert {"sdrt", "commit", "python", "numpy", "pillow"} <= set(loaded.versions)
    assert [row["psnr"] for row in loaded.rows] == [24.1235, None]
    text = path.read_text(encoding="utf-8")
    assert '  {"codec": "ours", "image": "01", "psnr": 24.1235, "alex": 0.1},\n' in text
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_means_are_taken_over_what_both_have(tmp_path: Path) -> None:
    """A picture that one record lacks does not move the means; wins are counted in the measure's direction."""
    before = _record([_row("ours", "01", 24, 0.2), _row("ours", "02", 26, 0.3), _row("ours", "03", 99, 0.9)])
    after = _record([_row("ours", "02", 25, 0.1), _row("ours", "01", 26, 0.1), _row("theirs", "01", 30, 0.5)])
    psnr, alex = compare.changes(before, after)
    assert (psnr.group, psnr.before, psnr.after, psnr.samples, psnr.better) == (("ours",), 25, 25.5, 2, 1)
    assert (alex.measure, alex.before, alex.better) == ("alex", 0.25, 2)
    assert alex.after == pytest.approx(0.1)
    assert alex.relative == pytest.approx(-0.6)


def test_what_was_not_measured_is_left_out() -> None:
    """A measure that is null or absent on one side gives no pair, and no line where no pair is left."""
    before = _record([_row("ours", "01", float("inf"), 0.2), {"codec": "ours", "image": "02", "alex": 0.4}])
    after = _record([_row("ours", "01", 30, 0.2), _row("ours", "02", 30, 0.3)])
    (alex,) = compare.changes(before, after)
    assert (alex.measure, alex.samples, alex.better) == ("alex", 2, 1)
    assert compare.changes(before, dataclasses.replace(after, rows=())) == []


def test_two_names_are_compared_command_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands that both recorded, each under a line for either record."""
    for name, psnr in (("0.5.0", 24.0), ("wide", 26.0)):
        record.save(_record([_row("ours", "01", psnr, 0.2)]), tmp_path / name)
    record.save(_record([_row("ours", "01", 1, 1)], "hard"), tmp_path / "wide")
    assert compare.main(["0.5.0", str(tmp_path / "wide"), "--results", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "rd: codec" in text and "hard" not in text
    assert "24" in text and "26" in text and "+8.3%" in text and "better on 1 of 1" in text


@pytest.mark.parametrize(
    ("names", "word"),
    [(["0.4.0", "0.5.0"], r"'0\.4\.0'; there are: 0\.5\.0, broken"), (["0.5.0", "broken"], "not a record")],
)
def test_what_is_no_record_is_named_in_one_line(names: list[str], word: str, tmp_path: Path) -> None:
    """A name without records, with those that there are; a file of something else."""
    record.save(_record([_row("ours", "01", 24, 0.2)]), tmp_path / "0.5.0")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "rd.json").write_text('{"bench": "rd"}')
    with pytest.raises(SystemExit, match=word) as caught:
        compare.main([*names, "--results", str(tmp_path)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../elsewhere", "", ".hidden", "a/b"])
def test_a_name_that_would_leave_the_results_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What would leave bench/results is refused before anything is measured."""
    parser = argparse.ArgumentParser()
    record.add_argument(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--record", name])
    assert "is not a name" in capsys.readouterr().err


def test_rd_keeps_its_rows(tmp_path: Path) -> None:
    """``--record`` holds each image, codec and budget with its scores; it does not differ from itself."""
    arguments = [str(PHOTOS), "--limit", "1", "--codecs", "jpeg", "--metrics", "psnr", "--bpp", "0.5,1", "--no-page"]
    arguments += [
        "--out",
        str(tmp_path / "out"),
        "--cache",
        str(tmp_path / "cache"),
        "--record",
        "now",
        "--results",
        str(tmp_path),
    ]
    assert rd.main(arguments) == 0
    kept = record.load(tmp_path / "now" / "rd.json")
    assert [(row["image"], row["codec"], row["budget_bpp"]) for row in kept.rows] == [
        ("admiral", "jpeg", 1.0),
        ("admiral", "jpeg", 0.5),
    ]
    for change in compare.changes(kept, kept):
        assert change.before == change.after
        assert change.better == 0


def test_speed_keeps_ratios_and_memory() -> None:
    """Times as ratios to the first contestant, and whole processes beside them."""
    timings = [Timing("ours", (0.5, 0.4, 0.9), None), Timing("theirs", (2.0,), None)]
    kept = speed.to_record(timings, [process.Run("sdrt info", 0.1, 0.1, 0.2, 0.08, 19.0)], ["--quick"])
    ours, theirs, process_row = kept.rows
    assert (ours["ratio"], theirs["ratio"], theirs["median_s"], process_row["peak_mb"]) == (1, 4, 2, 19)
    assert {change.measure for change in compare.changes(kept, kept)} == {*kept.better}
