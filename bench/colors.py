"""How true colors come back: a chart of 24 saturated and skin colors, and flat pictures.

    python -m bench.colors                               # both, a minute
    python -m bench.colors --codecs sdrt,avif --bpp 0.3  # the chart through other codecs too

The chart is coded for a budget like any photograph, and judged by CIEDE2000 over all pixels of its patches. The flats
are 64 colors (0, 85, 170 and 255 in each channel) in three sizes, at one quality of our own codec, and judged by the
error of their levels: no level may be more than 3 off, and 1.5 on average.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

import sdrt
from bench import commandline, record
from bench.codecs import BenchCodec, model_words
from bench.places import OUT
from sdrt_metrics.color import ciede2000, lab
from sdrt_metrics.fidelity import Rgb

CHART = (
    *((255, 0, 0), (255, 128, 0), (255, 255, 0), (128, 255, 0), (0, 255, 0), (0, 255, 128)),
    *((0, 255, 255), (0, 128, 255), (0, 0, 255), (128, 0, 255), (255, 0, 255), (255, 0, 128)),
    *((128, 0, 0), (128, 128, 0), (0, 128, 0), (0, 128, 128), (0, 0, 128), (128, 0, 128)),
    *((250, 220, 196), (232, 190, 160), (205, 155, 122), (165, 114, 82), (115, 74, 52), (66, 42, 32)),
)
"""Twelve hues at full saturation, six of half their levels, and six skins from light to dark, row by row."""
BUDGETS_BPP = (0.152, 0.30)
FLAT_SIZES = ((64, 64), (200, 313), (17, 5))  # (width, height) in pixels
FLAT_LEVELS = (0, 85, 170, 255)
WORST_ALLOWED, MEAN_ALLOWED = 3, 1.5  # levels of 255

_COLUMNS, _PATCH_PX, _GAP_PX = 6, 64, 16
_GAP_LEVEL = 119  # L* = 50


def chart() -> Rgb:
    """The chart, uint8 (336, 496, 3): patches of 64x64 pixels, 16 of middle gray around each."""
    rows, cell = len(CHART) // _COLUMNS, _PATCH_PX + _GAP_PX
    picture = np.full((rows * cell + _GAP_PX, _COLUMNS * cell + _GAP_PX, 3), _GAP_LEVEL, np.uint8)
    for patch, color in zip(patches(picture), CHART, strict=True):
        patch[:] = color
    return picture


def patches(picture: Rgb) -> list[Rgb]:
    """Views of the 24 patches of a chart, in the order of CHART."""
    starts = range(_GAP_PX, picture.shape[0], _PATCH_PX + _GAP_PX)
    columns = range(_GAP_PX, picture.shape[1], _PATCH_PX + _GAP_PX)
    return [picture[y : y + _PATCH_PX, x : x + _PATCH_PX] for y in starts for x in columns]


@dataclass(frozen=True)
class ChartResult:
    """A chart through one codec. ``differences``: the mean CIEDE2000 of each patch, in the order of CHART."""

    codec: str
    title: str
    budget_bpp: float
    bpp: float
    differences: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.differences))


def judge_chart(codec: BenchCodec, budget_bpp: float) -> ChartResult:
    """Codes the chart for a budget, decodes it and compares its patches."""
    picture = chart()
    pixels = picture.shape[0] * picture.shape[1]
    coded = codec.encode(picture, int(budget_bpp * pixels / 8))
    pairs = zip(patches(codec.decode(coded.path)), patches(picture), strict=True)
    differences = tuple(float(ciede2000(lab(painted), lab(meant)).mean()) for painted, meant in pairs)
    return ChartResult(codec.name, codec.title, budget_bpp, coded.bytes * 8 / pixels, differences)


@dataclass(frozen=True)
class FlatResult:
    """A flat picture, decoded: the worst and the mean error of its levels over all pixels and channels."""

    codec: str
    size: tuple[int, int]
    color: tuple[int, int, int]
    worst: int
    mean: float


def judge_flats(
    model: str | None, quality: float | None, threads: int | None, protect: sdrt.Protect
) -> Iterator[FlatResult]:
    """Every color in every size through our codec, at ``quality`` (None: the pack's default)."""
    name, codec = model_words(model), sdrt.Codec(model, threads=threads)
    name += "" if protect == "auto" else f" protect={protect}"
    for size in FLAT_SIZES:
        for color in itertools.product(FLAT_LEVELS, FLAT_LEVELS, FLAT_LEVELS):
            picture = np.full((size[1], size[0], 3), color, np.uint8)
            painted = codec.decode_picture(codec.encode(picture, quality=quality, protect=protect)).rgb
            error = np.abs(painted.astype(int) - picture)
            yield FlatResult(name, size, color, int(error.max()), float(error.mean()))


def report_charts(charts: Sequence[ChartResult]) -> str:
    lines = ["Color chart, CIEDE2000 over the pixels of 24 patches:", ""]
    lines += ["| codec | budget | bpp | mean | worst patch | its color |", "|---" * 6 + "|"]
    for c in charts:
        worst = max(c.differences)
        color = CHART[c.differences.index(worst)]
        lines.append(f"| {c.title} | {c.budget_bpp:g} | {c.bpp:.4f} | {c.mean:.2f} | {worst:.2f} | {color} |")
    return "\n".join(lines)


def report_flats(flats: Sequence[FlatResult]) -> str:
    """The flats of one codec, a line for each size."""
    lines = [f"Flat pictures of {len(FLAT_LEVELS) ** 3} colors through {flats[0].codec}, errors in levels of 255:", ""]
    lines += ["| size | worst | mean | worst mean of a color | that color | colors within the law |", "|---" * 6 + "|"]
    for size in FLAT_SIZES:
        here = [f for f in flats if f.size == size]
        held = sum(f.worst <= WORST_ALLOWED and f.mean <= MEAN_ALLOWED for f in here)
        far = max(here, key=lambda f: f.mean)
        mean = float(np.mean([f.mean for f in here]))
        figures = f"{max(f.worst for f in here)} | {mean:.2f} | {far.mean:.2f} | {far.color} | {held} of {len(here)}"
        lines.append(f"| {size[0]}x{size[1]} | {figures} |")
    lines += ["", f"The law: every level within {WORST_ALLOWED}, {MEAN_ALLOWED} on average over a picture."]
    return "\n".join(lines)


def to_record(
    charts: Sequence[ChartResult], flats: Sequence[FlatResult], arguments: Sequence[str] | None
) -> record.Record:
    """Patches and flats as ``--record`` keeps them, a row for each color."""
    rows: list[record.Measurement] = [
        {"what": f"chart, {c.codec}, {c.budget_bpp:g} bpp", "color": str(color), "bpp": c.bpp, "ciede2000": difference}
        for c in charts
        for color, difference in zip(CHART, c.differences, strict=True)
    ]
    rows += [
        {"what": f"flat {f.size[0]}x{f.size[1]}, {f.codec}", "color": str(f.color), "worst": f.worst, "mean": f.mean}
        for f in flats
    ]
    better = dict.fromkeys(("ciede2000", "bpp", "worst", "mean"), "lower")
    return record.make("colors", arguments, rows, groups=("what",), sample="color", better=better)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.colors", description=(__doc__ or "").split("\n")[0])
    commandline.add(parser, bpp=BUDGETS_BPP, codecs="sdrt", out=OUT / "colors")
    parser.add_argument("--quality", type=float, help="of the flats, 0 to 100 (default: the pack's)")
    options = parser.parse_args(arguments)
    budgets, codecs = commandline.budgets_bpp(options), commandline.codecs(options)
    charts = [judge_chart(codec, bpp) for codec in codecs for bpp in budgets]
    print(report_charts(charts), flush=True)
    flats: list[FlatResult] = []
    for model, protect in itertools.product(options.model or [None], options.protect or ["auto"]):
        here = list(judge_flats(model, options.quality, options.threads, protect))
        print("\n" + report_flats(here), flush=True)
        flats += here
    record.keep(to_record(charts, flats, arguments), options)
    return 0


if __name__ == "__main__":
    raise SystemExit(commandline.run(main))
