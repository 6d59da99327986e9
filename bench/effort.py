"""What ``sdrt encode --effort`` buys: real files of Kodak at each effort, against effort 0 at the same bytes.

    python -m bench.effort                                       # 24 pictures, hours on one core
    python -m bench.effort --pictures 04,08,15 --efforts 0,3,6   # some of them

The tuning "eyes" needs the effort pack: python -m sdrt_export effort.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from bench import commandline, record
from bench.places import DATA, OUT
from bench.rd import load, photos
from sdrt.codec import Codec
from sdrt.options import TUNES, Tune
from sdrt_metrics.meter import METRICS

BUDGETS_BPP = (0.152, 0.30)
EFFORTS = (0, 3, 6, 9)
METRIC_NAMES = ("psnr", "msssim", "vgg", "alex", "dists", "wd")


@dataclass(frozen=True)
class Row:
    """One picture at one tuning, budget and effort. ``cpu_s``: of the whole encode, all threads, model loaded."""

    image: str
    tune: str
    budget_bpp: float
    effort: int
    bytes: int
    cpu_s: float
    scores: dict[str, float]


def changes(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """A Markdown table: means for each tuning, budget and effort, and their change from effort 0.

    PSNR and MS-SSIM change by a difference, distances by a share. Last the picture whose DISTS fares worst.
    """
    titles = [METRICS[name].title for name in names]
    lines = [f"| tune | bpp | effort | CPU s | bytes | {' | '.join(titles)} | worst DISTS |"]
    lines.append("|" + "---|" * (6 + len(names)))
    groups: dict[tuple[str, float], dict[int, list[Row]]] = {}
    for row in rows:
        groups.setdefault((row.tune, row.budget_bpp), {}).setdefault(row.effort, []).append(row)
    for (tune, bpp), efforts in groups.items():
        base = efforts.get(0, [])
        for effort, here in sorted(efforts.items()):
            cpu_s, size = (statistics.fmean(getattr(row, name) for row in here) for name in ("cpu_s", "bytes"))
            cells = [tune, f"{bpp:g}", str(effort), f"{cpu_s:.1f}", f"{size:.0f}"]
            cells += [_cell(name, here, base if effort else []) for name in names]
            cells.append(_worst(here, base) if effort and base and "dists" in names else "")
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cell(name: str, rows: Sequence[Row], base: Sequence[Row]) -> str:
    metric = METRICS[name]
    mean = statistics.fmean(row.scores[name] for row in rows)
    text = f"{mean:.{metric.digits}f}"
    if not base:
        return text
    before = statistics.fmean(row.scores[name] for row in base)
    if metric.higher_is_better:
        return f"{text} ({mean - before:+.{metric.digits}f})"
    return f"{text} ({mean / before - 1:+.1%})"


def _worst(rows: Sequence[Row], base: Sequence[Row]) -> str:
    before = {row.image: row.scores["dists"] for row in base}
    change, image = max((row.scores["dists"] / before[row.image] - 1, row.image) for row in rows)
    return f"{image} {change:+.1%}"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.effort", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=DATA / "kodak", help="photographs (default: Kodak)")
    parser.add_argument("--pictures", metavar="NAMES", help="only these, without suffix, with commas")
    parser.add_argument("--efforts", default=",".join(map(str, EFFORTS)), help="with commas; 0 is always measured")
    parser.add_argument("--tunes", default=",".join(TUNES))
    commandline.add(parser, bpp=BUDGETS_BPP, metrics=METRIC_NAMES, codecs="sdrt", out=OUT / "effort")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    names, budgets_bpp, scores = (
        commandline.metric_names(options),
        commandline.budgets_bpp(options),
        commandline.scores(options),
    )
    efforts = sorted({0, *map(int, options.efforts.split(","))})
    (model,) = options.model or [None]
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    text = "no pictures"
    with Codec(model, threads=options.threads) as codec:
        codec.encode(np.zeros((16, 16, 3), np.uint8))  # loads the model
        for path in photos(options.folder):
            if options.pictures is not None and path.stem not in options.pictures.split(","):
                continue
            reference = load(path)
            for tune in options.tunes.split(","):
                for bpp in budgets_bpp:
                    for effort in efforts:
                        started_s = time.process_time()
                        data = codec.encode(reference, target_bpp=bpp, tune=cast(Tune, tune), effort=effort)
                        cpu_s = time.process_time() - started_s
                        file = options.out / f"{path.stem}-{tune}-{bpp:g}-{effort}.sdl"
                        file.write_bytes(data)
                        picture = np.asarray(codec.decode(file))
                        Image.fromarray(picture).save(file.with_suffix(".png"))
                        measured = scores.measure([picture], reference, names)[0]
                        rows.append(Row(path.stem, tune, bpp, effort, len(data), cpu_s, measured))
            text = "\n".join(changes(rows, names))
            (options.out / "table.md").write_text(text + "\n", encoding="utf-8")  # hours are not lost to Ctrl-C
    print(text)
    flat: list[record.Measurement] = [
        {**{key: value for key, value in vars(row).items() if key != "scores"}, **row.scores} for row in rows
    ]
    better = {"bytes": "lower", "cpu_s": "lower", **record.directions(names)}
    groups = ("tune", "budget_bpp", "effort")
    record.keep(record.make("effort", arguments, flat, groups=groups, sample="image", better=better), options)
    return 0


if __name__ == "__main__":
    raise SystemExit(commandline.run(main))
