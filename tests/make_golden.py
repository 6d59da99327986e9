"""``make golden``: write the golden files that are not there yet. Those that are stay as they are, for ever.

``python -m tests.make_golden --rewrite`` writes all of them anew: before 1.0 only, for a changed format.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests import make_diseases, testpack
from tests.conftest import synthetic_photo
from tests.make_container_golden import write_container_files

from sdrt.bitstream import FileWriter, LatentCoder
from sdrt.codec import Codec
from sdrt.container.patches import Patches, encode_patches, kept_lines
from sdrt.container.patches import cells as patch_cells
from sdrt.container.sdl import PATCHES, Chunk
from sdrt.container.step_map import cells
from sdrt.network.engine import Engine
from sdrt.network.transform import to_latents
from sdrt.options import EncodeOptions
from sdrt.packs.search import load_pack
from sdrt.pixels.atlas import encode_av1

TESTS = Path(__file__).parent
PICTURES: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "1x1": ((1, 1), {}),
    "1x999": ((999, 1), {}),
    "161x97-low": ((97, 161), {"target_bytes": 300}),
    "161x97-high": ((97, 161), {"quality": 100}),
    "161x97-alpha": ((97, 161), {"quality": 20}),
    "512x16-coarsest": ((16, 512), {"target_bytes": 90}),
    "161x97-half": ((97, 161), {"resampling": 2}),
    "161x97-map": ((97, 161), {}),
    "161x97-patches": ((97, 161), {}),
}


def write_codec_files(folder: Path) -> None:
    """For each case that is absent an .sdl, the picture as PNG, and the integers' shape and hash in expected.json."""
    folder.mkdir(parents=True, exist_ok=True)
    codec, listed = Codec("testpack", device="cpu"), folder / "expected.json"
    expected = json.loads(listed.read_text()) if listed.exists() else {}
    for name, (size_px, wishes) in PICTURES.items():
        path = folder / f"{name}.sdl"
        if path.exists():
            continue
        rgb = synthetic_photo(*size_px)
        if name.endswith("alpha"):
            alpha = np.full(size_px, 255, np.uint8)
            alpha[10:50, 20:100] = 40
            rgb = np.dstack([rgb, alpha])
        if name.endswith("map"):
            data = write_with_map(rgb)
        elif name.endswith("patches"):
            data = write_with_patches(rgb)
        else:
            data = codec.encode(rgb, **wishes)
        symbols = codec.symbols(data)
        path.write_bytes(data)
        codec.decode(data).save(path.with_suffix(".png"), optimize=True)
        expected[path.name] = {
            "shape": list(symbols.shape),
            "sha256": hashlib.sha256(symbols.astype("<i4").tobytes()).hexdigest(),
        }
    listed.write_text(json.dumps(expected, indent=2) + "\n")


def write_with_map(rgb: NDArray[np.uint8]) -> bytes:
    """A file with a step map, of whose offsets each differs from its neighbors."""
    pack = load_pack(testpack.FOLDER)
    latents = to_latents(rgb, pack, Engine(pack.encoder_path(), device="cpu"))
    shape = cells(latents.shape[1], latents.shape[2], pack.space.downscale)[:2]
    offsets = (np.arange(shape[0] * shape[1]) * 5 % 15 - 7).astype(np.int8).reshape(shape)
    writer = FileWriter(LatentCoder(pack), rgb.shape[1], rgb.shape[0], (), EncodeOptions(quality=60), offsets)
    return writer.write(lambda _resampling, _final: latents)[0]


def write_with_patches(rgb: NDArray[np.uint8]) -> bytes:
    """A file with AV1 patches in two places, one of them at the corner, that fade over 4 pixels."""
    pack = load_pack(testpack.FOLDER)
    mask = np.zeros(patch_cells(*rgb.shape[:2]), np.bool_)
    mask[1:4, 2:5] = mask[-2:, -2:] = True
    rows, columns = kept_lines(mask, *rgb.shape[:2])
    stream = encode_av1(rgb[np.ix_(rows, columns)], 50, speed=6, subsampling="4:2:0")
    chunk = Chunk(PATCHES, encode_patches(Patches(mask, 4, "av1", stream)))
    latents = to_latents(rgb, pack, Engine(pack.encoder_path(), device="cpu"))
    options = EncodeOptions(quality=60)
    writer = FileWriter(LatentCoder(pack), rgb.shape[1], rgb.shape[0], (chunk,), options, mask=mask)
    return writer.write(lambda _resampling, _final: latents)[0]


def write_diseases() -> None:
    """The ill files of tests/diseases, made from two healthy ones, as far as they are absent."""
    rgb = synthetic_photo(16, 24)
    alpha = np.full((16, 24, 1), 255, np.uint8)
    alpha[4:9, 5:20] = 0
    codec = Codec("testpack", device="cpu")
    make_diseases.write(codec.encode(rgb), codec.encode(np.dstack([rgb, alpha])), write_with_map(rgb))


def remove_old() -> None:
    """Golden files, so that all are written anew."""
    for folder in (
        TESTS / "golden" / "codec",
        TESTS / "golden" / "good",
        TESTS / "golden" / "errors",
        TESTS / "diseases",
    ):
        for path in folder.iterdir():
            path.unlink()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rewrite", action="store_true", help="remove all that are there first")
    os.environ["SDRT_MODELS"] = str(TESTS / "data")
    if parser.parse_args().rewrite:
        remove_old()
        testpack.write(testpack.FOLDER)
    write_codec_files(TESTS / "golden" / "codec")
    write_container_files(TESTS / "golden")
    write_diseases()
