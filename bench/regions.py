"""Do bytes that move into a face help it? The portraits' boxes as regions, at equal bytes.

    python -m bench.regions                             # weights 1.42, 2 and 3 at 0.152 bpp: half a minute
    python -m bench.regions --model models/other --weights 2

Every figure is relative to the same picture without regions: LPIPS (AlexNet) and 1 - MS-SSIM of the box, cut out, and
of the rest, the whole picture with the original's pixels in the box.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench import commandline
from bench.faces import FACES, Face
from bench.rd import load
from sdrt.codec import Codec
from sdrt.options import Region
from sdrt_metrics.fidelity import Rgb
from sdrt_metrics.meter import Meter

COLUMNS = ("face LPIPS", "face 1 - MS-SSIM", "rest LPIPS", "rest 1 - MS-SSIM")


def errors(face: Face, painted: Rgb, reference: Rgb, meter: Meter) -> NDArray[np.float64]:
    """The four measures of COLUMNS; less is better."""
    found = []
    for picture, target in (
        (face.box.inside(painted), face.box.inside(reference)),
        (face.box.outside(painted, reference), reference),
    ):
        scores = meter.measure([picture], target, ["alex", "msssim"])[0]
        found += [scores["alex"], 1 - scores["msssim"]]
    return np.array(found)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.regions", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--weights", default="1.42,2,3", help="of the regions, with commas")
    parser.add_argument("--bpp", type=float, default=0.152)
    parser.add_argument("--model", help="pack name or folder")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args(arguments)
    faces = [face for face in FACES if face.group == "portraits" and face.picture.exists()]
    if not faces:
        raise SystemExit("the portraits of ../shared/data/hard are not here")
    codec, meter = Codec(options.model, device="cpu", threads=options.threads), Meter(options.threads)
    weights = [1.0, *map(float, options.weights.split(","))]
    sums = {weight: np.zeros(len(COLUMNS)) for weight in weights}
    for face in faces:
        reference = load(face.picture)
        for weight in weights:
            region = Region(face.box.left, face.box.top, face.box.width, face.box.height, weight)
            data = codec.encode(reference, target_bpp=options.bpp, protect="none", regions=[region])
            sums[weight] += errors(face, codec.decode_picture(data).rgb, reference, meter)
    print(f"{len(faces)} portraits at {options.bpp:g} bpp, means relative to weight 1:\n")
    print(f"| weight | {' | '.join(COLUMNS)} |\n{'|---' * (len(COLUMNS) + 1)}|")
    for weight in weights[1:]:
        changes = (f"{100 * change:+.1f} %" for change in sums[weight] / sums[1.0] - 1)
        print(f"| {weight:g} | {' | '.join(changes)} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(commandline.run(main))
