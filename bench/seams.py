"""How much tiles show: a picture through a pack in tiles against the same picture as one frame.

    python -m bench.seams PACK PICTURE... [--tile PX] [--fade PX] [--trim PX] [--save FOLDER]

A seam is seen as a line in a flat part: a step between neighboring pixels that is the same along many of them. So both
pictures are averaged over SEGMENT_PX pixels along each line, and where the picture painted whole steps by less than
FLAT levels of 255 from one such mean to the next, the steps of the tiled picture are looked at: the largest one and the
mean, inside the bands in which tiles meet ("seam") and outside ("else"). Invisible seams are those where inside and
outside are alike. Graphs with a halo have no difference to look for.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdrt.network import tile, transform
from sdrt.network.engine import Engine
from sdrt.packs import search
from sdrt.packs.manifest import ModelPack
from sdrt.pixels.load import load

SEGMENT_PX = 32
FLAT = 1.0

Levels = NDArray[np.float32]


def steps(levels: Levels) -> Levels:
    """(H, W, 3) -> the size of the step from each column to the next, of means over SEGMENT_PX rows: (., W - 1)."""
    rows = len(levels) // SEGMENT_PX * SEGMENT_PX
    means = levels[:rows].reshape(-1, SEGMENT_PX, *levels.shape[1:]).mean(axis=1)
    found: Levels = np.abs(np.diff(means, axis=1)).max(axis=2)
    return found


def flat_steps(whole: Levels, tiled: Levels, spans: Sequence[tile.Span], cell: int) -> tuple[Levels, Levels]:
    """Steps from column to column of ``tiled`` where ``whole`` is flat: inside the bands of ``spans``, and outside."""
    found, flat = steps(tiled), steps(whole) < FLAT
    inside = np.zeros(found.shape, bool)
    for span in spans[1:]:
        inside[:, max(0, span.start * cell - 1) : (span.start + span.fade) * cell] = True
    return found[flat & inside], found[flat & ~inside]


def compare(picture: Path, pack: ModelPack, tile_px: int, folder: Path | None) -> str:
    """One row of the table; the pictures go to ``folder``."""
    encoder, decoder = (Engine(path, device="cpu") for path in (pack.encoder_path(), pack.decoder_path()))
    rgb = load(picture).rgb
    height_px, width_px = rgb.shape[:2]
    painted: list[Levels] = []
    for side_px in (max(height_px, width_px) + 4096, tile_px):
        latents = transform.to_latents(rgb, pack, encoder, tile_px=side_px)
        strips = transform.pixel_strips(latents, pack, decoder, (0, 0, width_px, height_px), tile_px=side_px)
        painted.append(np.concatenate(list(strips)).astype(np.float32))
    whole, tiled = painted
    difference = tiled - whole
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, levels in (("whole", whole), ("tiled", tiled), ("difference x8", 128 + 8 * difference)):
            Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).save(folder / f"{picture.stem} {name}.png")
    size = np.abs(difference)
    psnr_db = [10 * np.log10(255**2 / np.mean((levels - rgb) ** 2)) for levels in painted]
    cell = pack.space.downscale
    rows, columns = latents.shape[1:]
    plan = transform.plan_tiles(pack, rows, columns, None, window=(0, 0, rows, columns), side=None, tile_px=tile_px)
    across = flat_steps(whole, tiled, plan.columns, cell)
    down = flat_steps(whole.swapaxes(0, 1), tiled.swapaxes(0, 1), plan.rows, cell)
    seams, others = (np.concatenate(pair) for pair in zip(across, down, strict=True))
    return (
        f"{picture.stem:<16}{width_px:>6}x{height_px:<6}{plan.count:>5}{size.mean():>8.2f}"
        f"{np.percentile(size, 99.9):>8.1f}{psnr_db[0]:>9.2f}{psnr_db[1]:>9.2f}"
        f"{seams.max(initial=0):>9.2f}{others.max(initial=0):>9.2f}{seams.mean():>10.3f}{others.mean():>10.3f}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.seams", description=__doc__.splitlines()[0])
    parser.add_argument("pack", help="name or folder")
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--tile", type=int, default=512, metavar="PX")
    parser.add_argument("--fade", type=int, default=transform.GLOBAL_FADE_PX, metavar="PX")
    parser.add_argument("--trim", type=int, default=transform.GLOBAL_TRIM_PX, metavar="PX")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="whole, tiled and 8 times their difference")
    options = parser.parse_args(argv)
    transform.GLOBAL_FADE_PX, transform.GLOBAL_TRIM_PX = options.fade, options.trim
    pack = search.load_pack(options.pack)
    print(f"tiles of {options.tile} px, {options.fade} px blended, {options.trim} px cut off; levels of 255")
    names = ("tiles", 5), ("mean", 8), ("99.9 %", 8), ("dB whole", 9), ("dB tiled", 9)
    places = ("seam max", 9), ("else max", 9), ("seam mean", 10), ("else mean", 10)
    print(f"{'picture':<29}" + "".join(f"{name:>{width}}" for name, width in (*names, *places)))
    for picture in options.pictures:
        print(compare(picture, pack, options.tile, options.save), flush=True)


if __name__ == "__main__":
    main()
