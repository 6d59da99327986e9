"""A validation log -> curves of rate and distortion: ``python -m sdrt_train.plot RUN --out plot.png``."""

from __future__ import annotations

import argparse
import csv
import math
import sys
from pathlib import Path

PANELS = {"psnr": "PSNR (dB)", "alex": "LPIPS (AlexNet)"}
_MAX_CURVES = 8
_TICKS = (0.1, 0.2, 0.5, 1, 2)


def read_log(path: Path) -> dict[int, list[dict[str, float]]]:
    """Rows of each validation by its update, without the unquantized one.

    Raises OSError or ValueError (no such log, a damaged one).
    """
    validations: dict[int, list[dict[str, float]]] = {}
    with path.open(newline="") as file:
        for text in csv.DictReader(file):
            row = {name: float(value) for name, value in text.items()}
            if row["bpp"] > 0:
                validations.setdefault(int(row["step"]), []).append(row)
    return validations


def plot(validations: dict[int, list[dict[str, float]]], out: Path) -> None:
    """One panel a metric, one curve an update, from light to dark; at most eight, the last among them."""
    from matplotlib.figure import Figure

    updates = sorted(validations)
    chosen = updates[::-1][:: max(1, math.ceil(len(updates) / _MAX_CURVES))][::-1]
    figure = Figure(figsize=(11, 4), layout="constrained")
    for panel, (column, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for i, update in enumerate(chosen):
            points = [(row["bpp"], row[column]) for row in validations[update] if not math.isnan(row[column])]
            if points:
                shade = 0.75 * (1 - (i + 1) / len(chosen))
                panel.plot(*zip(*points, strict=True), marker="o", markersize=3, color=str(shade), label=f"{update:,}")
        panel.set(title=title, xlabel="bits a pixel", xscale="log")
        panel.set_xticks(_TICKS, [str(tick) for tick in _TICKS])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend(title="update")
    figure.savefig(out, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sdrt_train.plot", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        plot(read_log(arguments.run / "validation.csv"), arguments.out)
    except (OSError, ValueError, TypeError, KeyError, ModuleNotFoundError) as error:
        print(f"sdrt_train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
