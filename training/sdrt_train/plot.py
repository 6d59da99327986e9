"""Validation logs -> one picture: ``python -m sdrt_train.plot training/runs/a training/runs/b --out plot.png``.

Runs stand one after another on the axis of hours, as each went on from the one before.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

COLUMNS = ("bpp", "psnr", "alex", "dists")
MIDDLE_STEP = 0.0  # log2


def read_log(path: Path) -> list[dict[str, float]]:
    """Rows of the middle step. Raises OSError or ValueError (no such log, a damaged one)."""
    with path.open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [row for row in rows if row["log2_step"] == MIDDLE_STEP]


def plot(logs: list[list[dict[str, float]]], names: list[str], out: Path) -> None:
    """One panel a column; a log that lacks a column is left out of its panel."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 2.8), layout="constrained")
    panels = figure.subplots(1, len(COLUMNS))
    start = 0.0
    for rows, name in zip(logs, names, strict=True):
        for panel, column in zip(panels, COLUMNS, strict=True):
            points = [(start + row["hours"], row[column]) for row in rows if column in row]
            if points:
                panel.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
        start += max((row["hours"] for row in rows), default=0.0)
    for panel, column in zip(panels, COLUMNS, strict=True):
        panel.set(title=column, xlabel="hours")
        panel.grid(alpha=0.3)
    panels[0].legend()
    figure.savefig(out, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sdrt_train.plot", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, in the order they went on")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        logs = [read_log(run / "validation.csv") for run in arguments.runs]
        plot(logs, [run.name for run in arguments.runs], arguments.out)
    except (OSError, ValueError, KeyError, ModuleNotFoundError) as error:
        print(f"sdrt_train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
