"""From rows to tables: means per codec and budget, and BD-rates.

BD-rate: Bjontegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001; with the monotone
piecewise cubic of Fritsch and Carlson (1980) instead of one polynomial, as JCT-VC tools do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.row import Row
from sdrt_metrics.meter import METRICS

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """The mean of all images at one budget. ``over``: images whose smallest file exceeds the budget."""

    codec: str
    title: str
    budget_bpp: float
    bpp: float
    images: int
    over: int
    scores: dict[str, float]


def points(rows: Sequence[Row], names: Sequence[str]) -> list[Point]:
    """One Point per codec and budget, in the order of first appearance, budgets rising."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.codec, row.budget_bpp), []).append(row)
    order = {codec: i for i, codec in enumerate(dict.fromkeys(row.codec for row in rows))}
    return [
        Point(
            codec,
            group[0].title,
            budget,
            float(np.mean([r.bpp for r in group])),
            len(group),
            sum(r.over for r in group),
            {name: float(np.mean([r.scores[name] for r in group])) for name in names},
        )
        for (codec, budget), group in sorted(groups.items(), key=lambda item: (order[item[0][0]], item[0][1]))
    ]


def _slopes(x: Array, y: Array) -> Array:
    """Fritsch-Carlson slopes at the knots of a monotone curve."""
    steps, rises = np.diff(x), np.diff(y) / np.diff(x)
    slopes = np.empty_like(y)
    slopes[0], slopes[-1] = rises[0], rises[-1]
    before, after = 2 * steps[1:] + steps[:-1], steps[1:] + 2 * steps[:-1]
    with np.errstate(divide="ignore"):
        inner = (before + after) / (before / rises[:-1] + after / rises[1:])
    slopes[1:-1] = np.where(rises[:-1] * rises[1:] > 0, inner, 0)
    return slopes


def _curve(x: Array, y: Array, at: Array) -> Array:
    """The monotone cubic through (x, y), x rising, evaluated inside [x[0], x[-1]]."""
    slopes = _slopes(x, y)
    i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    h = x[i + 1] - x[i]
    t = (at - x[i]) / h
    value: Array = (
        (1 + 2 * t) * (1 - t) ** 2 * y[i]
        + t * (1 - t) ** 2 * h * slopes[i]
        + t**2 * (3 - 2 * t) * y[i + 1]
        + t**2 * (t - 1) * h * slopes[i + 1]
    )
    return value


def _rising(curve: Sequence[tuple[float, float]]) -> tuple[Array, Array]:
    """(bpp, quality) pairs -> quality and log rate with quality strictly rising; what falls back is dropped."""
    kept: list[tuple[float, float]] = []
    for bpp, quality in sorted(curve):
        if not kept or quality > kept[-1][1] + 1e-9:
            kept.append((bpp, quality))
    return np.array([q for _, q in kept]), np.log(np.array([b for b, _ in kept]))


def bd_rate(curve: Sequence[tuple[float, float]], anchor: Sequence[tuple[float, float]]) -> float | None:
    """Mean difference in rate at equal quality, in percent; negative where ``curve`` needs fewer bits than ``anchor``.

    Both are (bits per pixel, quality) pairs with quality higher for better. None where fewer than two points remain
    or the two ranges of quality do not overlap.
    """
    (q, r), (anchor_q, anchor_r) = _rising(curve), _rising(anchor)
    if len(q) < 2 or len(anchor_q) < 2:
        return None
    low, high = max(q[0], anchor_q[0]), min(q[-1], anchor_q[-1])
    if high <= low:
        return None
    at = np.linspace(low, high, 1001)
    difference = _curve(q, r, at) - _curve(anchor_q, anchor_r, at)
    trapezoids = (difference[1:] + difference[:-1]) / 2
    return float(np.expm1(trapezoids.mean()) * 100)


def goodness(name: str, value: float) -> float:
    """A metric turned so that more is better; MS-SSIM in decibels, since it crowds below one."""
    if name == "msssim":
        return float(-10 * np.log10(max(1 - value, 1e-9)))
    return value if METRICS[name].higher_is_better else -value


def bd_rates(means: Sequence[Point], names: Sequence[str], anchor: str = "webp") -> dict[str, dict[str, float | None]]:
    """codec -> metric -> BD-rate in percent against ``anchor``. Empty where the anchor was not run."""

    def curve(codec: str, name: str) -> list[tuple[float, float]]:
        return [(p.bpp, goodness(name, p.scores[name])) for p in means if p.codec == codec]

    codecs = dict.fromkeys(p.codec for p in means)
    if anchor not in codecs:
        return {}
    return {c: {n: bd_rate(curve(c, n), curve(anchor, n)) for n in names} for c in codecs if c != anchor}


def report(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Markdown tables: one per budget, then BD-rates against WebP."""
    means = points(rows, names)
    titles = {p.codec: p.title for p in means}
    head = " | ".join(METRICS[n].title for n in names)
    lines = []
    for budget in sorted({p.budget_bpp for p in means}):
        here = [p for p in means if p.budget_bpp == budget]
        lines += [
            f"At no more than {budget:g} bpp, means of {here[0].images} images:",
            "",
            f"| codec | bpp | {head} | over budget |",
            "|---" * (len(names) + 3) + "|",
        ]
        for p in here:
            cells = " | ".join(f"{p.scores[n]:.{METRICS[n].digits}f}" for n in names)
            over = f"{p.over} of {p.images}" if p.over else ""
            lines.append(f"| {p.title} | {p.bpp:.4f} | {cells} | {over} |")
        lines.append("")
    if any(p.over for p in means):
        lines += ['"Over budget": images whose smallest file is larger than the budget; it is used all the same.']
        lines += [""]
    rates = bd_rates(means, names) if len({p.budget_bpp for p in means}) > 1 else {}
    if rates:
        lines += ["BD-rate against WebP (bits at equal quality; negative: fewer), over the common range:", ""]
        lines += [f"| codec | {head} |", "|---" * (len(names) + 1) + "|"]
        for codec, by_name in rates.items():
            cells = " | ".join("-" if (v := by_name[n]) is None else f"{v:+.1f} %" for n in names)
            lines.append(f"| {titles[codec]} | {cells} |")
    return "\n".join(lines).rstrip()
