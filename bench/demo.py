"""The main job on one photograph that the repository ships: encode at several sizes, decode, compare, show.

    make demo          or          python -m bench.demo [PHOTO] [--sizes 1500,3000,4980,10000]

Each of our files comes first; WebP and JPEG then get as many bytes: the largest quality that stays at or under them, or
else the smallest file that they can make, said plainly. Prints a table and writes a picture, out/demo.png, that shows
all of them side by side. Needs what the runtime needs, no torch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bench.codecs import BenchCodec, Coded, PillowCodec, SdrtCodec, anchors
from bench.contact import Panel, sheet
from bench.places import OUT, PHOTOS
from sdrt_metrics.fidelity import MS_SSIM_MIN_SIDE_PX, Rgb, ms_ssim, psnr

PHOTO = PHOTOS / "astronaut.webp"
SIZES_BYTES = (1500, 3000, 4980, 10000)
SHOWN_BYTES = 4980  # the seed article's size for 512x512
CROPS = ((0.25, 0.0), (0.12, 0.52))  # left and top of the squares shown at 2x: face, shoulder patch


@dataclass(frozen=True, eq=False)
class Trial:
    """One file of one codec and the picture that came back from it."""

    title: str
    budget_bytes: int
    coded: Coded
    picture: Rgb
    encode_s: float
    decode_s: float

    @property
    def over(self) -> bool:
        return self.coded.bytes > self.budget_bytes


def attempt(codec: BenchCodec, rgb: Rgb, budget_bytes: int) -> Trial:
    """Encodes to a file, decodes the file, and takes the time of both.

    Pillow's codecs are timed for one file of the quality that was found: they know no target size, and the search
    (and its cache) is ours.
    """
    started_s = time.perf_counter()
    coded = codec.encode(rgb, budget_bytes)
    if isinstance(codec, PillowCodec):
        started_s = time.perf_counter()
        codec.bytes_at(rgb, int(coded.setting[1:]))
    encoded_s = time.perf_counter()
    picture = codec.decode(coded.path)
    decoded_s = time.perf_counter()
    return Trial(codec.title, budget_bytes, coded, picture, encoded_s - started_s, decoded_s - encoded_s)


def compare(rgb: Rgb, ours: BenchCodec, others: Sequence[BenchCodec], sizes_bytes: Sequence[int]) -> list[list[Trial]]:
    """For every size: our file, then each other codec with our file's bytes as its budget."""
    groups = []
    for size_bytes in sizes_bytes:
        first = attempt(ours, rgb, size_bytes)
        groups.append([first, *(attempt(codec, rgb, first.coded.bytes) for codec in others)])
    return groups


def table(rgb: Rgb, groups: Sequence[Sequence[Trial]]) -> str:
    height, width = rgb.shape[:2]
    lines = [f"{'codec':<8}{'bytes':>8}{'bpp':>8}{'PSNR dB':>9}{'MS-SSIM':>9}{'encode s':>10}{'decode s':>10}"]
    for group in groups:
        lines.append("")
        for t in group:
            similarity = f"{ms_ssim(t.picture, rgb):.4f}" if min(height, width) >= MS_SSIM_MIN_SIDE_PX else "-"
            bpp = t.coded.bytes * 8 / (width * height)
            note = "" if not t.over else f"  more bytes than ours: {t.title}'s smallest file"
            lines.append(
                f"{t.title:<8}{t.coded.bytes:>8,}{bpp:>8.3f}{psnr(t.picture, rgb):>9.2f}{similarity:>9}"
                f"{t.encode_s:>10.2f}{t.decode_s:>10.2f}{note}"
            )
    return "\n".join(lines)


def panels(rgb: Rgb, group: Sequence[Trial]) -> list[Panel]:
    """The original, then each trial of one size, labeled with its bytes."""
    raw_bytes = rgb.size
    shown = [Panel("original", f"{raw_bytes:,} bytes of pixels", rgb)]
    return [*shown, *(Panel(t.title, f"{t.coded.bytes:,} bytes", t.picture) for t in group)]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.demo", description="Encode, decode, compare, show.")
    parser.add_argument("photo", nargs="?", type=Path, default=PHOTO)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES_BYTES)), help="target sizes in bytes, with commas")
    parser.add_argument("--shown", type=int, default=SHOWN_BYTES, help="the size that the picture shows")
    parser.add_argument("--model", help="pack name or folder (default: the default pack)")
    parser.add_argument("--out", type=Path, default=OUT / "demo.png", help="the picture")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    import sdrt

    options = _parse(arguments)
    sizes_bytes = sorted({*(int(s) for s in options.sizes.split(",")), options.shown})
    with Image.open(options.photo) as image:
        rgb = np.asarray(image.convert("RGB"))
    others = anchors(OUT / "cache")
    ours = SdrtCodec(options.model, OUT / "demo")
    try:
        first_s = attempt(ours, rgb, sizes_bytes[0])  # opens the pack: its time is told apart
        groups = compare(rgb, ours, [others["webp"], others["jpeg"]], sizes_bytes)
    except sdrt.SdrtError as error:
        raise SystemExit(f"demo: {error}") from error
    print(f"{options.photo.name}, {rgb.shape[1]}x{rgb.shape[0]} pixels, {rgb.size:,} bytes of pixels")
    print(f"first file, with opening the model: {first_s.encode_s + first_s.decode_s:.2f} s\n")
    print(table(rgb, groups))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    shown = groups[sizes_bytes.index(options.shown)]
    sheet(panels(rgb, shown), CROPS).save(options.out, quality=92)
    print("\nWebP and JPEG get our file's bytes: the largest quality within them; their time is for that one file.")
    print("PSNR and MS-SSIM favor blur over texture: see the picture, and `make bench-rd` for LPIPS and DISTS.")
    print(f"pictures side by side: {options.out}      our files: {shown[0].coded.path.parent}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
