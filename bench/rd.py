"""Rate and distortion over a folder of photographs: our packs against JPEG, WebP, AVIF and JPEG XL, from real files.

    python -m bench.rd                                   # Kodak, the full table, plots and the page
    python -m bench.rd --bpp 0.152 --metrics psnr,msssim,alex,dists --codecs sdrt --no-page     # a few minutes
    python -m bench.rd FOLDER --model models/tiny --model models/other

At a budget point every codec gets ``floor(bpp * pixels / 8)`` bytes per image and uses the finest setting that stays
within them. Writes OUT/rows.csv (one row per image, codec and budget), OUT/rd.png, OUT/summary.md and OUT/index.html.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from bench import commandline, record
from bench.codecs import BenchCodec
from bench.places import DATA, OUT
from bench.row import Row
from bench.scores import Scores
from sdrt_export.photographs import SUFFIXES
from sdrt_metrics.fidelity import Rgb
from sdrt_metrics.meter import METRICS

BUDGETS_BPP = (0.03, 0.05, 0.08, 0.152, 0.30, 0.50)
DEFAULT_METRICS = tuple(name for name in METRICS if name != "wd")
"""Wasserstein Distortion takes as long as all others together: on request only."""
_PLACE_COLUMNS = ("image", "width_px", "height_px", "codec")
_SIZE_COLUMNS = ("budget_bpp", "budget_bytes", "bytes", "bpp", "over_budget", "setting")


def photos(folder: Path) -> list[Path]:
    """The pictures in ``folder``, sorted by name. Raises SystemExit with one line where there are none."""
    found = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not found:
        raise SystemExit(f"no pictures in {folder}: give a folder of photographs, e.g. python -m bench.rd bench/photos")
    return found


def load(path: Path) -> Rgb:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def measure_image(
    path: Path,
    codecs: Sequence[BenchCodec],
    budgets_bpp: Sequence[float],
    names: Sequence[str],
    scores: Scores,
    *,
    level_with: str | None = None,
) -> list[Row]:
    """Codes one image with every codec at every budget, decodes the files and measures them.

    ``level_with``: name of a codec that goes first; where its smallest file is over a budget, all may have its bytes.
    """
    reference = load(path)
    height, width = reference.shape[:2]
    points, pictures = [], []
    level: dict[float, int] = {}
    for codec in sorted(codecs, key=lambda codec: codec.name != level_with):
        # The finest first: its tries bracket the coarser budgets.
        for bpp in sorted(budgets_bpp, reverse=True):
            budget_bytes = max(int(bpp * width * height / 8), level.get(bpp, 0))
            coded = codec.encode(reference, budget_bytes)
            if codec.name == level_with:
                level[bpp] = coded.bytes
            points.append((codec, bpp, budget_bytes, coded))
            pictures.append(codec.decode(coded.path))
    measured = scores.measure(pictures, reference, names)
    rows = []
    for (codec, bpp, budget_bytes, coded), here in zip(points, measured, strict=True):
        again = partial(codec.decode, coded.path)
        rows.append(Row(path.stem, width, height, codec.name, codec.title, bpp, budget_bytes, coded, again, here))
    return rows


def write_csv(rows: Sequence[Row], names: Sequence[str], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as target:
        writer = csv.writer(target)
        writer.writerow([*_PLACE_COLUMNS, *_SIZE_COLUMNS, *names])
        for r in rows:
            size = [r.budget_bpp, r.budget_bytes, r.coded.bytes, f"{r.bpp:.5f}", int(r.over), r.coded.setting]
            scores = [f"{r.scores[name]:.5f}" for name in names]
            writer.writerow([r.image, r.width_px, r.height_px, r.codec, *size, *scores])


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def measure_folder(
    images: Sequence[Path],
    codecs: Sequence[BenchCodec],
    budgets_bpp: Sequence[float],
    names: Sequence[str],
    scores: Scores,
) -> list[Row]:
    """All rows, in the order image, codec, budget."""
    rows: list[Row] = []
    started_s = time.monotonic()
    for done, path in enumerate(images):
        rows += measure_image(path, codecs, budgets_bpp, names, scores)
        _progress(f"{done + 1}/{len(images)} images, {time.monotonic() - started_s:.0f} s")
    _progress("")
    return rows


def to_record(rows: Sequence[Row], names: Sequence[str], arguments: Sequence[str] | None) -> record.Record:
    """The rows as ``--record`` keeps them."""
    better = {"bytes": "lower"} | record.directions(names)
    flat: list[record.Measurement] = [{**r.fields, **r.scores} for r in rows]
    return record.make("rd", arguments, flat, groups=("codec", "budget_bpp"), sample="image", better=better)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.rd", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=DATA / "kodak", help="photographs (default: Kodak)")
    commandline.add(parser, bpp=BUDGETS_BPP, metrics=DEFAULT_METRICS, codecs="", out=OUT / "rd")
    parser.add_argument("--resampling", help="ours at these fractions of the sides, e.g. 1,2,4, each as its own codec")
    parser.add_argument("--limit", type=int, help="only the first so many images")
    parser.add_argument("--no-page", action="store_true", help="table and CSV only: no plots, no page")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    names, budgets_bpp = commandline.metric_names(options), commandline.budgets_bpp(options)
    images = photos(options.folder)[: options.limit]
    resamplings = [int(r) for r in options.resampling.split(",")] if options.resampling else [None]
    codecs = commandline.codecs(options, resamplings)
    options.out.mkdir(parents=True, exist_ok=True)

    rows = measure_folder(images, codecs, budgets_bpp, names, commandline.scores(options))
    write_csv(rows, names, options.out / "rows.csv")

    from bench import summary

    text = summary.report(rows, names)
    print(text)
    (options.out / "summary.md").write_text(text + "\n", encoding="utf-8")
    if not options.no_page:
        from bench import page, plots

        plots.draw(rows, names, options.out / "rd.png")
        page.write(rows, names, {p.stem: p for p in images}, options.out / "index.html")
    print(f"\nwritten to {options.out}")
    record.keep(to_record(rows, names, arguments), options)
    return 0


if __name__ == "__main__":
    raise SystemExit(commandline.run(main))
