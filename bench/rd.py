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

from bench.codecs import BenchCodec, SdrtCodec, anchors
from bench.row import Row
from bench.scores import Scores
from sdrt_metrics.fidelity import Rgb
from sdrt_metrics.meter import METRICS, Meter

ROOT = Path(__file__).resolve().parent.parent
KODAK = ROOT.parent / "shared" / "data" / "kodak"
BUDGETS_BPP = (0.03, 0.05, 0.08, 0.152, 0.30, 0.50)
_PLACE_COLUMNS = ("image", "width_px", "height_px", "codec")
_SIZE_COLUMNS = ("budget_bpp", "budget_bytes", "bytes", "bpp", "over_budget", "setting")
_PHOTO_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".avif"}


def photos(folder: Path) -> list[Path]:
    """The pictures in ``folder``, sorted by name. Raises SystemExit with one line where there are none."""
    found = sorted(p for p in folder.glob("*") if p.suffix.lower() in _PHOTO_SUFFIXES) if folder.is_dir() else []
    if not found:
        raise SystemExit(f"no pictures in {folder}: give a folder of photographs, e.g. python -m bench.rd bench/photos")
    return found


def load(path: Path) -> Rgb:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def measure_image(
    path: Path, codecs: Sequence[BenchCodec], budgets_bpp: Sequence[float], names: Sequence[str], scores: Scores
) -> list[Row]:
    """Codes one image with every codec at every budget, decodes the files and measures them."""
    reference = load(path)
    height, width = reference.shape[:2]
    points, pictures = [], []
    for codec in codecs:
        # The finest first: its tries bracket the coarser budgets.
        for bpp in sorted(budgets_bpp, reverse=True):
            budget_bytes = int(bpp * width * height / 8)
            coded = codec.encode(reference, budget_bytes)
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


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.rd", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=KODAK, help="photographs (default: Kodak)")
    parser.add_argument("--bpp", default=",".join(map(str, BUDGETS_BPP)), help="budgets in bits per pixel, with commas")
    parser.add_argument("--metrics", default=",".join(METRICS), help=f"of {','.join(METRICS)}")
    parser.add_argument("--codecs", default="", help="e.g. sdrt,webp,avif (default: all that this machine has)")
    parser.add_argument("--model", action="append", help="pack name or folder, may be repeated")
    parser.add_argument("--resampling", help="ours at these fractions of the sides, e.g. 1,2,4, each as its own codec")
    parser.add_argument("--limit", type=int, help="only the first so many images")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "rd", help="folder for the report")
    parser.add_argument("--cache", type=Path, default=ROOT / "out" / "cache", help="anchors' files and all scores")
    parser.add_argument("--threads", type=int, help="threads of the metrics' networks and of sdrt")
    parser.add_argument("--no-page", action="store_true", help="table and CSV only: no plots, no page")
    return parser.parse_args(arguments)


def choose_codecs(wanted: str, ours: Sequence[BenchCodec], cache: Path) -> list[BenchCodec]:
    """The codecs by name; "sdrt" stands for all of ``ours``. Raises SystemExit on a name that is not there."""
    others = anchors(cache)
    chosen: list[BenchCodec] = []
    for name in wanted.split(",") if wanted else ["sdrt", *others]:
        if name == "sdrt":
            chosen += ours
        elif name in others:
            chosen.append(others[name])
        else:
            raise SystemExit(f"no codec is called {name!r} here; there are sdrt, {', '.join(others)}")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    names = options.metrics.split(",")
    if unknown := [n for n in names if n not in METRICS]:
        raise SystemExit(f"no metric is called {unknown[0]!r}; there are {', '.join(METRICS)}")
    budgets_bpp = sorted(float(b) for b in options.bpp.split(","))
    images = photos(options.folder)[: options.limit]
    options.out.mkdir(parents=True, exist_ok=True)
    ours = [
        SdrtCodec(model, options.out / "files", threads=options.threads, resampling=resampling)
        for model in options.model or [None]
        for resampling in ([int(r) for r in options.resampling.split(",")] if options.resampling else [None])
    ]
    codecs = choose_codecs(options.codecs, ours, options.cache)
    scores = Scores(options.cache / "scores.jsonl", Meter(options.threads))

    rows = measure_folder(images, codecs, budgets_bpp, names, scores)
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
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
