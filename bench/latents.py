"""Caches of latents: bytes and read speed of .sdl files against kohya's .npz and safetensors, and what an error costs.

    python -m bench.latents                     # a thousand latents of 512x512 crops of the shipped photographs
    python -m bench.latents --count 100 --model models/other

First the decoded picture: how much its PSNR to the original changes when the latents are rounded to a given error. Then
each kind of cache is written to a scratch folder and read back whole, as a trainer reads it in an epoch, with the files
in the system's memory; times are CPU seconds of one process.
"""

from __future__ import annotations

import argparse
import io
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from bench.contest import Contestant, race, table
from bench.places import PHOTOS
from sdrt import Codec
from sdrt.latents.kohya import read_npz, write_npz
from sdrt.latents.safetensors import write_safetensors
from sdrt.latents.sample import LatentSample
from sdrt.latents.units import to_raw
from sdrt.network.engine import Engine
from sdrt.network.transform import to_latents, to_pixels
from sdrt.options import NEAR_LOSSLESS
from sdrt.packs.manifest import ModelPack
from sdrt.packs.search import load_pack
from sdrt.pixels.load import load

Latents = NDArray[np.float32]
Pixels = NDArray[np.uint8]

ERRORS = (0.2, 0.1, 0.05, NEAR_LOSSLESS, 0.02, 0.01)
LIMIT_S = 60


def crops(count: int, side_px: int) -> Iterator[Pixels]:
    """``count`` squares of the shipped photographs, in turn, at places that are the same each time."""
    rng = np.random.default_rng(0)
    photos = [
        rgb for rgb in (load(path).rgb for path in sorted(PHOTOS.glob("*.webp"))) if min(rgb.shape[:2]) >= side_px
    ]
    for number in range(count):
        rgb = photos[number % len(photos)]
        top, left = (int(rng.integers(side - side_px + 1)) for side in rgb.shape[:2])
        yield rgb[top : top + side_px, left : left + side_px]


def errors_of(pack: ModelPack, pictures: Sequence[Pixels]) -> str:
    """For each error: bits a number, the step, and by how much the decoded pictures' PSNR changes, mean and worst."""
    codec = Codec(pack.folder, precision="w16", threads=1)
    encoder, decoder = (Engine(path, device="cpu", threads=1) for path in (pack.encoder_path(), pack.decoder_path()))
    lines = [f"{'error':>7}{'SNR dB':>8}{'bits a number':>15}{'mean change dB':>16}{'worst dB':>10}"]
    for error in ERRORS:
        bits, changes = [], []
        for rgb in pictures:
            data = codec.encode(rgb, latent_error=error)
            latents = codec.latents(data, scaled=True)
            indices = np.full(latents.shape[1:], codec.info(data).step_index)
            exact = to_latents(rgb, pack, encoder)
            crop = (0, 0, rgb.shape[1], rgb.shape[0])
            painted = (to_pixels(of, pack, decoder, crop, indices=indices) for of in (exact, latents))
            before, after = (psnr(pixels, rgb) for pixels in painted)
            bits.append(8 * len(data) / latents.size)
            changes.append(before - after)
        snr = -20 * math.log10(error)
        lines.append(
            f"{error:>7g}{snr:>8.1f}{np.mean(bits):>15.2f}{np.mean(changes):>16.4f}{np.max(np.abs(changes)):>10.4f}"
        )
    return "\n".join(lines)


def psnr(one: Pixels, other: Pixels) -> float:
    return float(10 * np.log10(255**2 / np.square(one.astype(np.float64) - other).mean()))


def write_caches(
    pack: ModelPack, pictures: Iterator[Pixels], folder: Path
) -> list[tuple[str, str, Callable[[Path], object]]]:
    """Writes every kind of cache; name, suffix and reader of each, the one that all are compared with first."""
    codec = Codec(pack.folder)
    encoder = Engine(pack.encoder_path(), device="cpu", threads=1)
    for number, rgb in enumerate(pictures):
        size_px = rgb.shape[1], rgb.shape[0]
        raw = to_raw(to_latents(rgb, pack, encoder), pack.space)
        sample = LatentSample(str(number), raw)
        half = LatentSample(str(number), raw.astype(np.float16))
        files = {
            "kohya.npz": write_npz(sample, size_px),
            "half.npz": write_npz(half, size_px),
            "packed.npz": packed(half.latents),
            "latent": write_safetensors(sample),
            "half.latent": write_safetensors(sample, half=True),
            "near.sdl": codec.encode_latents(raw, *size_px, latent_error=NEAR_LOSSLESS),
            "default.sdl": codec.encode_latents(raw, *size_px),
        }
        for suffix, data in files.items():
            (folder / f"{number}.{suffix}").write_bytes(data)
    return [
        ("kohya's npz, float32", "kohya.npz", numpy_loads),
        ("npz, float16", "half.npz", numpy_loads),
        ("npz, float16, compressed", "packed.npz", numpy_loads),
        ("kohya's npz by sdrt's reader", "kohya.npz", lambda path: read_npz(path.read_bytes(), "")),
        ("safetensors, float32", "latent", load_file),
        ("safetensors, float16", "half.latent", load_file),
        (f"sdl, latent error {NEAR_LOSSLESS:g}", "near.sdl", codec.latents),
        ("sdl, default quality", "default.sdl", codec.latents),
    ]


def packed(latents: Latents) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, latents=latents)
    return stream.getvalue()


def numpy_loads(path: Path) -> list[NDArray[np.generic]]:
    """All fields of a cache, as sd-scripts reads them."""
    with np.load(path) as arrays:
        return [arrays[name] for name in arrays.files]


def read_all(read: Callable[[Path], object], paths: Sequence[Path]) -> None:
    for path in paths:
        read(path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.latents", description="Caches of latents, and their error.")
    parser.add_argument("--model", default="tiny", help="name or folder of the pack")
    parser.add_argument("--count", type=int, default=1000, help="of latents (default: 1000)")
    parser.add_argument("--side", type=int, default=512, help="of the crops in pixels (default: 512)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    pack = load_pack(options.model)
    print(errors_of(pack, list(crops(min(options.count, 100), options.side))), end="\n\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        caches = write_caches(pack, crops(options.count, options.side), folder)
        numbers = pack.space.channels * math.ceil(options.side / pack.space.downscale) ** 2
        print(f"{options.count} latents of {options.side}x{options.side} pixels, {numbers} numbers each")
        first_bytes = 0
        contestants = []
        for of, suffix, read in caches:
            paths = [folder / f"{number}.{suffix}" for number in range(options.count)]
            total_bytes = sum(path.stat().st_size for path in paths)
            first_bytes = first_bytes or total_bytes
            bits = 8 * total_bytes / numbers / options.count
            print(f"{of:<32}{total_bytes / options.count:>10.0f} bytes{bits:>8.2f} bits a number", end="")
            print(f"{first_bytes / total_bytes:>8.1f} times smaller")
            contestants.append(Contestant(of, partial(read_all, read, paths)))
        print("\n" + table(race(contestants, options.rounds, LIMIT_S, clock=time.process_time)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
