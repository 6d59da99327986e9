"""The entropy coder against others, at identical integers: ``make bench-coder``.

For each pack: bits a pixel on Kodak at three rates, plain rounding, so that everybody codes the same integers;
the gain of rate-distortion decisions at equal pixel error and at equal LPIPS; seconds on one core. Beside models/tiny
it takes the real pretrained autoencoder in ../shared/weights/taef2, exported and fitted on first use under out/coder.

What was computed once is kept there: the pack, its prior, latents, and what the others spend on which integers. So a
run that was cut off goes on where it was, but for a prior's fit, and a second run takes minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from bench.lossless import Int32, adaptive_order0, others, seed_method
from bench.summary import bd_rate
from sdrt.coding import payload
from sdrt.coding.payload import bits
from sdrt.coding.prior import Prior
from sdrt.coding.prior_file import load_prior
from sdrt.coding.quantize import bit_weight_for_psnr, dequantize, quantize
from sdrt.coding.symbols import to_channels
from sdrt.limits import MAX_STEP_INDEX
from sdrt.network.engine import Engine
from sdrt.network.transform import to_latents, to_pixels
from sdrt.packs.manifest import ModelPack
from sdrt.packs.search import load_pack
from sdrt.pixels.load import load
from sdrt_metrics.fidelity import Rgb, psnr
from sdrt_metrics.meter import Meter

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
BUDGETS = (0.30, 0.152, 0.08)
"""Bits a pixel, mean of the pictures, of plainly rounded integers."""
RDO_BUDGETS = (0.40, 0.30, 0.20, 0.152, 0.10)
GOAL_ORDER0, GOAL_OTHERS, GOAL_RDO, GOAL_SECONDS = 0.25, 0.20, 0.08, 0.030

Float32 = NDArray[np.float32]


def flat(latents: Float32, step_index: int) -> NDArray[np.int64]:
    """The step indices of latents (C, h, w) without a step map."""
    return np.full(latents.shape[1:], step_index)


@dataclass(frozen=True, eq=False)
class Subject:
    """A pack and its latents (C, h, w) of each picture, in normalized units."""

    pack: ModelPack
    prior: Prior
    latents: dict[str, Float32]

    @cached_property
    def steps(self) -> dict[float, int]:
        """Each rate of BUDGETS and RDO_BUDGETS -> the finest step index at which plainly rounded integers keep it."""

        @cache
        def saved(step_index: int) -> float:  # bits a pixel, negative: bisection wants what rises with the index
            shown = ((latents, flat(latents, step_index)) for latents in self.latents.values())
            return -sum(bits(quantize(x, self.prior, at, weight=0), self.prior, at) for x, at in shown) / self.pixels

        return {bpp: bisect_left(range(MAX_STEP_INDEX), -bpp, key=saved) for bpp in {*BUDGETS, *RDO_BUDGETS}}

    @property
    def pixels(self) -> int:
        return sum(int(p[0].size) for p in self.latents.values()) * self.pack.space.downscale**2


def latents_path(pack: ModelPack, out: Path) -> Path:
    """Where the latents of a pack's encoder are kept."""
    return out / f"{pack.name}-{pack.files['encoder.onnx'][:12]}.npz"


def open_subject(pack: ModelPack, photos: list[Path], out: Path) -> Subject:
    """Runs the encoder over the photographs, or reads what it gave before."""
    cache = latents_path(pack, out)
    latents: dict[str, Float32] = dict(np.load(cache)) if cache.exists() else {}
    if not all(p.stem in latents for p in photos):
        encoder = Engine(pack.encoder_path(), device="cpu")
        latents = {p.stem: to_latents(load(p).rgb, pack, encoder) for p in photos}
        out.mkdir(parents=True, exist_ok=True)
        np.savez(cache, **latents)  # type: ignore[arg-type]
    return Subject(pack, load_prior(pack.prior_path), {p.stem: latents[p.stem] for p in photos})


def bits_of_others(pictures: list[Int32], out: Path) -> dict[str, float]:
    """What each of the others spends on all pictures, looked up where these very integers were coded before.

    Other versions of their libraries are others: their sizes are remembered apart.
    """
    path = out / f"others-pillow{PIL.__version__}.json"
    known: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(repr(picture.shape).encode() + picture.astype("<i4").tobytes())
    totals = {}
    for name, coder in others().items():
        key = f"{name} {digest.hexdigest()[:24]}"
        if key not in known:
            with ThreadPoolExecutor() as pool:  # WebP at its best takes seconds a picture
                known[key] = sum(pool.map(coder, pictures))
            path.write_text(json.dumps(known, indent=1) + "\n")
        totals[name] = known[key]
    return totals


def compare_coders(subject: Subject, out: Path) -> tuple[float, float]:
    """Prints the table; returns the mean savings against order 0 and against the best of the others."""
    coders = list(others())
    print(f"\n{subject.pack.name}: bits a pixel at identical integers, {len(subject.latents)} pictures")
    print("  index  ours    order 0 " + "".join(f"{name:>11}" for name in coders) + "   vs order 0   vs best other")
    savings = []
    for step_index in (subject.steps[bpp] for bpp in BUDGETS):
        pictures, ours = [], 0
        for latents in subject.latents.values():
            indices = flat(latents, step_index)
            coded = quantize(latents, subject.prior, indices, weight=0)
            pictures.append(to_channels(coded, subject.prior))
            ours += len(payload.encode(coded, subject.prior, indices))
        totals = bits_of_others(pictures, out)
        best = min(totals.values())
        totals["ours"] = 8.0 * ours
        totals["order 0"] = sum(map(adaptive_order0, pictures))
        savings.append((1 - totals["ours"] / totals["order 0"], 1 - totals["ours"] / best))
        bpp = {name: total / subject.pixels for name, total in totals.items()}
        print(
            f"  {step_index:5}  {bpp['ours']:.4f}  {bpp['order 0']:.4f} "
            + "".join(f"{bpp[name]:11.4f}" for name in coders)
            + f"{savings[-1][0]:12.1%}{savings[-1][1]:15.1%}",
            flush=True,
        )
    mean = np.mean(savings, 0)
    print(f"  mean savings: {mean[0]:.1%} against order 0 (goal {GOAL_ORDER0:.0%}), ", end="")
    print(f"{mean[1]:.1%} against the best other (goal {GOAL_OTHERS:.0%})", flush=True)
    return float(mean[0]), float(mean[1])


def compare_decisions(subject: Subject, photos: list[Path], count: int, meter: Meter) -> tuple[float, float]:
    """Bits that ``--tune psnr`` saves against plain rounding, at equal PSNR and at equal LPIPS."""
    decoder = Engine(subject.pack.decoder_path(), device="cpu")
    chosen = photos[:: max(1, len(photos) // count)][:count]
    weights = {"plain": 0.0, "decided": bit_weight_for_psnr(subject.prior)}
    curves: dict[str, list[tuple[float, float, float]]] = {"plain": [], "decided": []}
    for step_index in (subject.steps[bpp] for bpp in RDO_BUDGETS):
        for name, points in curves.items():
            spent, scores = 0.0, np.zeros(2)
            for photo in chosen:
                latents = subject.latents[photo.stem]
                indices = flat(latents, step_index)
                coded = quantize(latents, subject.prior, indices, weight=weights[name])
                spent += 8 * len(payload.encode(coded, subject.prior, indices))
                rebuilt = dequantize(coded, subject.prior, indices)
                rgb = load(photo).rgb
                measured = meter.measure([_paint(subject, decoder, rebuilt, rgb, indices)], rgb, ("psnr", "alex"))[0]
                scores += (measured["psnr"], -measured["alex"])
            points.append((spent, *(scores / len(chosen))))
    savings = []
    for column in (1, 2):
        plain, decided = ([(p[0], p[column]) for p in points] for points in curves.values())
        savings.append(-(bd_rate(decided, plain) or 0.0) / 100)
    low, high = (curves["plain"][i][1] for i in (-1, 0))
    print(
        f"  decisions (--tune psnr): {savings[0]:.1%} fewer bits at equal PSNR, {savings[1]:.1%} at equal LPIPS (Alex)",
        end="",
    )
    print(f" ({low:.1f} to {high:.1f} dB, {len(chosen)} pictures; goal {GOAL_RDO:.0%} at equal PSNR)", flush=True)
    return savings[0], savings[1]


def _paint(subject: Subject, decoder: Engine, latents: Float32, rgb: Rgb, indices: NDArray[np.int64]) -> Rgb:
    """The decoder's picture of ``latents`` in 8 bits, as large as ``rgb``."""
    painted = to_pixels(latents, subject.pack, decoder, (0, 0, rgb.shape[1], rgb.shape[0]), indices=indices)
    return np.asarray(painted, np.uint8)


def print_seed_method(subject: Subject, photos: list[Path]) -> None:
    """The seed's own method on the same latents, beside ours at no more bits."""
    photo = photos[0]
    latents = subject.latents[photo.stem]
    budget, rebuilt = seed_method(latents)
    decoder = Engine(subject.pack.decoder_path(), device="cpu")
    prior = subject.prior
    for step_index in range(300, 1024, 8):
        indices = flat(latents, step_index)
        coded = quantize(latents, prior, indices)
        ours = 8 * len(payload.encode(coded, prior, indices))
        if ours <= budget:
            break
    pixels = latents[0].size * subject.pack.space.downscale**2
    rgb = load(photo).rgb
    seed_db = psnr(_paint(subject, decoder, rebuilt, rgb, indices), rgb)
    our_db = psnr(_paint(subject, decoder, dequantize(coded, prior, indices), rgb, indices), rgb)
    print(f"  seed's palette, dither and zlib on {photo.stem}: {budget / pixels:.3f} bpp, {seed_db:.2f} dB; ", end="")
    print(f"ours {ours / pixels:.3f} bpp, {our_db:.2f} dB", flush=True)


def time_coder(pack_name: str, step_indices: list[int], out: Path) -> None:
    """Prints the median seconds of CPU to encode and to decode 512x512 pixels' worth of a Kodak picture's latents, at
    the steps of BUDGETS."""
    pack = load_pack(pack_name)
    prior = load_prior(pack.prior_path)
    side = 512 // pack.space.downscale
    with np.load(latents_path(pack, out)) as stored:
        latents = stored[stored.files[0]][:, :side, :side]
    for bpp, step_index in zip(BUDGETS, step_indices, strict=True):
        indices = flat(latents, step_index)
        symbols = quantize(latents, prior, indices, weight=0)
        coded = payload.encode(symbols, prior, indices)
        payload.decode(coded, prior, indices)
        spans: dict[str, list[float]] = {"encode": [], "decode": [], "decide": []}
        for _ in range(15):
            at = [time.process_time()]
            payload.encode(symbols, prior, indices)
            at.append(time.process_time())
            payload.decode(coded, prior, indices)
            at.append(time.process_time())
            quantize(latents, prior, indices, weight=bit_weight_for_psnr(prior))
            at.append(time.process_time())
            for name, seconds in zip(spans, np.diff(at), strict=True):
                spans[name].append(float(seconds))
        figures = ", ".join(f"{name} {1000 * float(np.median(s)):.1f} ms" for name, s in spans.items())
        print(f"  512x512 of the first at the step of {bpp:g} bpp, one core, CPU time: {figures}", flush=True)


def taef2_pack(photos: Path, out: Path, crops: int) -> ModelPack | None:
    """The pretrained pack under ``out``, made where it is not there; None without its weights."""
    weights, folder = SHARED / "weights" / "taef2", out / "taef2"
    if not weights.is_dir():
        print(f"taef2 left out: no {weights}")
        return None
    export = [sys.executable, "-m", "sdrt_export"]
    if not (folder / "encoder.onnx").exists():
        subprocess.run([*export, "graph", str(weights), "--out", str(folder)], check=True)
    if not (folder / "prior.npz").exists():
        # Uniform steps keep the integers those of the table in the weights' README.
        wish = ["--images", str(photos), "--photos", str(crops), "--uniform-steps"]
        subprocess.run([*export, "prior", str(folder), *wish], check=True)
    return load_pack(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kodak", type=Path, default=SHARED / "data" / "kodak", help="the yardstick")
    parser.add_argument("--train", type=Path, default=SHARED / "data" / "train", help="fits taef2's prior")
    parser.add_argument("--crops", type=int, default=900, help="for taef2's prior, on first use")
    parser.add_argument("--pack", action="append", help="only these packs (name or folder)")
    parser.add_argument("--images", type=int, default=24, help="pictures of the yardstick")
    parser.add_argument("--decision-images", type=int, default=6, help="of them for decisions at equal quality")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "coder", help="what is kept between runs")
    parser.add_argument("--time", nargs="+", metavar=("PACK", "STEP"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    out: Path = options.out.resolve()
    if options.time:
        time_coder(options.time[0], [int(step_index) for step_index in options.time[1:]], out)
        return 0
    photos = sorted(options.kodak.glob("*.png"))[: options.images]
    if not photos:
        print(f"no pictures in {options.kodak}", file=sys.stderr)
        return 2
    started = time.monotonic()
    packs = [load_pack(name) for name in options.pack or ["tiny"]]
    if not options.pack:
        packs += [pack for pack in [taef2_pack(options.train, out, options.crops)] if pack]
    for pack in packs:
        subject = open_subject(pack, photos, out)
        compare_coders(subject, out)
        compare_decisions(subject, photos, options.decision_images, Meter())
        print_seed_method(subject, photos)
        single = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        again = [sys.executable, "-m", "bench.coder", "--out", str(out), "--time", str(pack.folder)]
        again += [str(subject.steps[bpp]) for bpp in BUDGETS]
        subprocess.run(again, check=True, env=single, cwd=ROOT)
        print(f"  {time.monotonic() - started:.0f} s since the start", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
