"""Thumbnails: processor seconds of ``sdrt thumbnail``, and how near an estimated one comes to the decoded picture.

    python -m bench.thumbnails           # a minute on one core: taskset -c 1, OMP_NUM_THREADS=1

The large picture is a mosaic of the shipped photographs at their own size: it has all the detail that photographs have.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.places import PHOTOS
from bench.process import measure, table
from sdrt import Codec
from sdrt.pixels.load import load
from sdrt.pixels.picture import Pixels
from sdrt.pixels.thumbnail import reduce_strips

BUDGET_BPP = 0.152
SIDES_PX = (128, 256, 512)


def mosaic(width_px: int, height_px: int) -> Pixels:
    """Photographs side by side, row by row, each of its own size, until the picture is full."""
    photos = [load(path).rgb for path in sorted(PHOTOS.glob("*.webp"))]
    picture = np.zeros((height_px, width_px, 3), np.uint8)
    top = number = 0
    while top < height_px:
        left, deepest = 0, height_px
        while left < width_px:
            photo = photos[number % len(photos)]
            part = photo[: height_px - top, : width_px - left]
            picture[top : top + len(part), left : left + part.shape[1]] = part
            left, deepest, number = left + part.shape[1], min(deepest, len(photo)), number + 1
        top += deepest
    return picture


def main(argv: Sequence[str] | None = None) -> int:
    """Prints both tables. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.thumbnails", description=__doc__)
    parser.add_argument("--model", default="tiny", help="name or folder of a pack")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(argv)
    codec = Codec(options.model, device="cpu")
    with TemporaryDirectory() as folder:
        runs = []
        for width_px, height_px in ((512, 512), (4000, 3000)):
            path = Path(folder) / f"{width_px}x{height_px}.sdl"
            path.write_bytes(codec.encode(mosaic(width_px, height_px), target_bpp=BUDGET_BPP))
            for verb in ("thumbnail", "decode"):
                command = [sys.executable, "-m", "sdrt", verb, str(path)]
                command += [f"{folder}/out.png", "256"] if verb == "thumbnail" else ["-f", "-o", f"{folder}/out.ppm"]
                runs.append(measure(f"sdrt {verb}, {path.stem}", command, options.repeats))
        print(table(runs))
        print("\n4000x3000, longest side: PSNR to the decoded picture, reduced, and mean difference in levels")
        for side_px in SIDES_PX:
            exact = reduce_strips(codec.decode_strips(path), side_px).rgb.astype(float)
            error = codec.thumbnail(path, side_px).rgb - exact
            psnr = 10 * np.log10(255**2 / np.square(error).mean())
            print(f"{side_px:>5} {psnr:6.1f} dB {np.abs(error).mean():6.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
