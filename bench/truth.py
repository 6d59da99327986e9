"""Is the truth map true? Its classes against LPIPS cell by cell, its bounds on every device here, its bytes.

    python -m bench.truth                                  # Kodak and ../shared/data/hard at 0.152 bpp, 1,000 cells
    python -m bench.truth FOLDER --bpp 0.30 --cells 200

LPIPS (AlexNet) sees a cell with 16 pixels around it and knows nothing of the measure; the cells are drawn by chance, as
many in each picture. A bound is broken where a cell that some engine paints is further from the original than its class
allows.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import commandline
from bench.places import DATA
from bench.rd import load, photos
from sdrt.codec import Codec
from sdrt.container.truth_map import CELL_PX, Truth
from sdrt.errors import EngineError, ModelError
from sdrt.network.devices import Device, Precision
from sdrt.pixels import structure
from sdrt_metrics.fidelity import Rgb
from sdrt_metrics.meter import Meter

AROUND_PX = 16
DEVICES: tuple[tuple[Device, Precision], ...] = (
    ("cpu", "int8"),
    ("cpu", "w16"),
    ("openvino", "int8"),
    ("openvino", "w16"),
    ("openvino", "bf16"),
    ("cuda", "fp16"),
)


@dataclass(frozen=True, eq=False)
class Coded:
    """A picture, its file, the map in it, and the map's bytes with the head of its chunk."""

    name: str
    original: Rgb
    data: bytes
    classes: NDArray[np.uint8]
    map_bytes: int


def code(paths: Sequence[Path], codec: Codec, bpp: float) -> Iterator[Coded]:
    for path in paths:
        original = load(path)
        data = codec.encode(original, target_bpp=bpp, truth=True)
        classes = codec.truth_map(data)
        assert classes is not None
        yield Coded(path.stem, original, data, classes, 5 + codec.info(data).chunks["trth"])


def perceived(
    coded: Coded, painted: Rgb, count: int, rng: np.random.Generator, meter: Meter
) -> list[tuple[int, float]]:
    """The class and the LPIPS of so many whole cells."""
    height_px, width_px = coded.original.shape[:2]
    rows, columns = height_px // CELL_PX, width_px // CELL_PX
    chosen = rng.choice(rows * columns, min(count, rows * columns), replace=False)
    found = []
    for y, x in zip(*np.divmod(chosen, columns), strict=True):
        around = tuple(
            slice(max(0, at * CELL_PX - AROUND_PX), min(side, (at + 1) * CELL_PX + AROUND_PX))
            for at, side in ((int(y), height_px), (int(x), width_px))
        )
        scores = meter.measure([painted[around]], coded.original[around], ["alex"])
        found.append((int(coded.classes[y, x]), scores[0]["alex"]))
    return found


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float:
    """Spearman's: Pearson's of the ranks, equal values at their mean rank; not a number where all values are equal."""
    if len(set(left)) < 2 or len(set(right)) < 2:
        return float("nan")

    def ranks(values: Sequence[float]) -> NDArray[np.float64]:
        _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
        return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[which])

    return float(np.corrcoef(ranks(left), ranks(right))[0, 1])


def broken(coded: Coded, painted: Rgb) -> int:
    """Cells that are further from the original than their class allows."""
    holds = structure.classes(structure.compare(coded.original, painted, CELL_PX), margin=0)
    return int((holds > coded.classes).sum())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.truth", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, default=[DATA / "kodak", DATA / "hard"], metavar="FOLDER")
    parser.add_argument("--bpp", type=float, default=0.152)
    parser.add_argument("--cells", type=int, default=1000, help="cells that LPIPS is asked about")
    parser.add_argument("--limit", type=int, help="only the first so many pictures of each folder")
    parser.add_argument("--model", help="pack name or folder")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args(arguments)
    paths = [path for folder in options.folders for path in photos(folder)[: options.limit]]
    encoder = Codec(options.model, device="cpu", threads=options.threads)
    decoders = {pair: Codec(device=pair[0], precision=pair[1], threads=options.threads) for pair in DEVICES}
    meter, rng = Meter(options.threads), np.random.default_rng(0)
    violations = dict.fromkeys(decoders, 0)
    pairs: list[tuple[int, float]] = []
    cells, per_512, classes = 0, [], np.zeros(len(Truth), int)
    for number, coded in enumerate(code(paths, encoder, options.bpp)):
        want = options.cells * (number + 1) // len(paths) - len(pairs)
        pairs += perceived(coded, encoder.decode_picture(coded.data).rgb, want, rng, meter)
        cells += coded.classes.size
        classes += np.bincount(coded.classes.ravel(), minlength=len(Truth))
        per_512.append(coded.map_bytes * 256 / coded.classes.size)
        for pair, decoder in list(decoders.items()):
            try:
                violations[pair] += broken(coded, decoder.decode_picture(coded.data).rgb)
            except (EngineError, ModelError):  # no such device here, or no such precision in the pack
                del decoders[pair]
    print(f"{len(paths)} pictures at {options.bpp:g} bpp, {cells} cells")
    print(f"map: {np.mean(per_512):.1f} bytes for 256 cells (512x512), {max(per_512):.1f} at most")
    print("| class | share | cells asked | mean LPIPS |\n|---|---|---|---|")
    for truth in Truth:
        scores = [score for of, score in pairs if of == truth]
        mean = f"{np.mean(scores):.4f}" if scores else ""
        print(f"| {truth.name.lower()} | {classes[truth] / cells:.3f} | {len(scores)} | {mean} |")
    correlation = rank_correlation([of for of, _ in pairs], [score for _, score in pairs])
    print(f"rank correlation of class and LPIPS: {correlation:.3f} on {len(pairs)} cells")
    for (device, precision), _ in decoders.items():
        print(f"bounds on {device} {precision}: {violations[device, precision]} of {cells} cells broken")
    return 1 if any(violations[pair] for pair in decoders) else 0


if __name__ == "__main__":
    raise SystemExit(commandline.run(main))
