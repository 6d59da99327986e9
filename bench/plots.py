"""Rate-distortion curves as one picture: a panel for each metric, a line for each codec."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.row import Row
from bench.summary import Point, points
from sdrt_metrics.meter import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Tol's bright palette: told apart by color-blind readers and in print.
_COLORS = {"jpeg": "#BBBBBB", "webp": "#228833", "avif": "#4477AA", "jxl": "#CCBB44"}
_OUR_COLORS = ("#EE6677", "#AA3377", "#66CCEE")


def _line(ax: Axes, mine: Sequence[Point], name: str, color: str, ours: bool) -> None:
    ax.plot(
        [p.bpp for p in mine],
        [p.scores[name] for p in mine],
        color=color,
        marker="o",
        markersize=4 if ours else 3,
        linewidth=2.4 if ours else 1.4,
        label=mine[0].title,
    )


def draw(rows: Sequence[Row], names: Sequence[str], path: Path) -> None:
    """Writes ``path`` (PNG): mean metric over mean bits per pixel, with sdrt drawn heavier."""
    import matplotlib as mpl

    mpl.use("Agg")  # no display is needed to write a file
    from matplotlib import pyplot as plt

    means = points(rows, names)
    fig, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3.8), squeeze=False, layout="constrained")
    codecs = list(dict.fromkeys(p.codec for p in means))
    ours = [c for c in codecs if c not in _COLORS]
    for ax, name in zip(axes[0], names, strict=True):
        for codec in codecs:
            color = _COLORS.get(codec) or _OUR_COLORS[ours.index(codec) % len(_OUR_COLORS)]
            _line(ax, [p for p in means if p.codec == codec], name, color, codec in ours)
        metric = METRICS[name]
        ax.set_title(f"{metric.title}, {'higher' if metric.higher_is_better else 'lower'} is better", fontsize=10)
        ax.set_xlabel("bits per pixel (real files)")
        ax.set_xlim(0, max(p.budget_bpp for p in means) * 1.02)
        ax.grid(alpha=0.3)
    axes[0][0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=130)
    plt.close(fig)
