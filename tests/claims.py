"""What small files that claim many pixels cost: ``python -m tests.claims`` prints SECURITY.md's figures.

Three files of 5000 x 5000 pixels of the default pack, at the coarsest step: no payload at all; every symbol 0; every
symbol 0 but one in each tile, so that no tile is like another.
"""

from __future__ import annotations

import argparse
import time
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sdrt.bitstream import LatentCoder
from sdrt.codec import Codec
from sdrt.coding import payload
from sdrt.container import sdl
from sdrt.errors import CorruptError
from sdrt.limits import MAX_STEP_INDEX
from sdrt.model_cache import DEFAULT_MODEL
from sdrt.packs.search import load_pack


def claims(side_px: int) -> dict[str, bytes]:
    """What it holds -> the file."""
    pack = load_pack(DEFAULT_MODEL)
    prior, rows = LatentCoder(pack).prior, ceil(side_px / pack.space.downscale)
    indices = np.full((rows, rows), MAX_STEP_INDEX)
    zeros = np.zeros((rows, rows, prior.coded_channels), np.int32)
    spots = zeros.copy()
    every = 512 // pack.space.downscale
    for number, (y, x) in enumerate(np.ndindex(rows // every, rows // every)):
        spots[y * every + every // 2, x * every + number % every, prior.offset] = 1
    if prior.offset:
        spots[:, :, 0] = np.any(spots[:, :, 1:], axis=2)
    files = {"nothing": b""}
    for name, symbols in (("zeros", zeros), ("zeros, and a spot in each tile", spots)):
        files[name] = payload.encode(symbols, prior, indices)
    return {
        name: sdl.pack(sdl.SdlFile(side_px, side_px, pack.space.identity, pack.prior_identity, MAX_STEP_INDEX, data))
        for name, data in files.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=5000, metavar="PX")
    side_px = parser.parse_args().side
    codec = Codec(device="cpu", threads=1)
    with TemporaryDirectory() as folder:
        for name, data in claims(side_px).items():
            before_s = time.process_time()
            try:
                codec.decode_file(data, Path(folder) / "out.png")
                outcome = "a picture"
            except CorruptError as error:
                outcome = f"refused ({error})"
            spent_s = time.process_time() - before_s
            print(f"{len(data):6} bytes, {side_px**2 / 1e6:.1f} MP, {name}: {spent_s:.2f} CPU s, {outcome}")


if __name__ == "__main__":
    main()
