"""Time and memory on this machine, ratios first: our runtime against the decoders that people run today.

    python -m bench.speed              # all, under 12 minutes on two slow cores
    python -m bench.speed --quick      # without the SD VAE, three rounds
    python -m bench.speed --large      # also 25 and 100 megapixels: seconds and peak memory

One process decodes one 512x512 picture (``--size``) with every contestant in turn, round after round; another table
measures whole processes of the command line. Others have random weights, which take as long as trained ones.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench import contest, process, record
from bench.codecs import anchors
from bench.contest import Contestant, Timing
from bench.places import OUT, PHOTOS
from sdrt import Codec, SdrtError
from sdrt.errors import EngineError
from sdrt.network import onnxruntime_session, openvino_session
from sdrt.network.devices import graph_precision, precisions_by_device
from sdrt.network.engine import Engine
from sdrt.network.installed import available_devices
from sdrt.network.transform import accelerator_sides
from sdrt.packs import search

PHOTO = PHOTOS / "astronaut.webp"
BUDGET_BPP = 0.152
DEFAULT_PACK = "tiny"
YARDSTICK = "matrix product, float32"
TAESD = "TAESD's architecture"
SD = "SD 1.5 VAE"
OURS_SD = "sdrt SD 1.5 pack"
LIMIT_S = 15
"""For each contestant, after three rounds: with the SD VAE's half dozen this keeps a slow machine under 12 minutes."""

Arithmetic = Callable[[Path, Sequence[int]], float | None]


def our_contestants(photo: Image.Image, threads: int, arithmetic: Arithmetic) -> Iterator[Contestant]:
    """Every pack, precision and device of ours, the default pack on the CPU first: all ratios are to it; then files."""
    packs = sorted(search.list_packs(), key=lambda p: p.name != DEFAULT_PACK)
    for pack in packs:
        cell = pack.space.downscale
        channels = pack.space.channels + pack.quality_input
        shape = (1, channels, photo.height // cell, photo.width // cell)
        for device, precision in _our_ways(pack.precisions):
            path = pack.decoder_path(graph_precision(device, precision, pack.precisions))
            name = f"sdrt {pack.name}, {device} {precision}: decoder network"
            settings = {"device": device, "precision": precision, "threads": threads}
            yield from _network(name, path, shape, arithmetic, sides=accelerator_sides(pack, "decoder"), **settings)
    codec = Codec(device="cpu", threads=threads)
    data = codec.encode(photo, target_bpp=BUDGET_BPP)
    yield Contestant(f"sdrt {DEFAULT_PACK}: whole file to pixels", partial(codec.decode, data))
    encode = partial(codec.encode, photo, target_bpp=BUDGET_BPP)
    yield Contestant(f"sdrt {DEFAULT_PACK}: picture to file of a given size", encode)


def _network(
    name: str, path: Path, shape: tuple[int, ...], arithmetic: Arithmetic, **settings: Any
) -> Iterator[Contestant]:
    """A graph in our engine; nothing, with a word, where this machine cannot: no driver, say, or no bf16."""
    try:
        engine = Engine(path, **settings)
    except EngineError as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return
    latents = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    yield Contestant(name, partial(engine.run, latents), arithmetic(path, shape))


def _our_ways(here: Sequence[str]) -> list[tuple[str, str]]:
    """(device, precision): all graphs on the CPU, its own choice first; OpenVINO's arithmetics; others' choices."""
    unasked = precisions_by_device(here)
    ways = [("cpu", name) for name in sorted(here, key=lambda name: name != unasked["cpu"]) if name != "fp16"]
    for report in available_devices():
        if report.available and report.device == "openvino":
            ways += [("openvino", graph_precision("openvino", "bf16", here)), ("openvino", "bf16")]
            ways += [("openvino", "int8")] if "int8" in here else []
        elif report.available and report.device != "cpu" and report.device in unasked:
            ways.append((report.device, unasked[report.device]))
    return ways


def pillow_contestants(photo: Image.Image, cache: Path) -> Iterator[Contestant]:
    """Pillow's decoders on files of as many bytes."""
    rgb = np.asarray(photo)
    budget_bytes = int(BUDGET_BPP * photo.width * photo.height / 8)
    for codec in anchors(cache).values():
        path = codec.encode(rgb, budget_bytes).path
        yield Contestant(f"{codec.title} (Pillow): whole file to pixels", partial(codec.decode, path))


def plain_contestants(
    name: str, path: Path, shape: tuple[int, ...], threads: int, arithmetic: Arithmetic
) -> Iterator[Contestant]:
    """One ONNX graph as it runs out of the box: ONNX Runtime and OpenVINO with their own settings but for threads."""
    onnxruntime = onnxruntime_session.load()
    latents = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: latents}
    yield Contestant(f"{name}, ONNX Runtime", partial(session.run, None, feeds), arithmetic(path, shape))
    if importlib.util.find_spec("openvino") is None:
        print("openvino is not installed: its rows are left out (pip install openvino)", file=sys.stderr)
        return
    openvino = openvino_session.load()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    yield Contestant(f"{name}, OpenVINO", partial(request.infer, [latents]), arithmetic(path, shape))


def sd_contestants(path: Path, shape: tuple[int, ...], threads: int, arithmetic: Arithmetic) -> Iterator[Contestant]:
    """The SD 1.5 VAE's decoder as ``make export`` writes it, through our engine on every device that a CPU offers."""
    for device, precision in (("cpu", "w16"), ("openvino", "bf16")):
        name = f"{OURS_SD}, {device} {precision}"
        yield from _network(name, path, shape, arithmetic, device=device, precision=precision, threads=threads)


def torch_contestants(
    size_px: tuple[int, int], threads: int, cache: Path, arithmetic: Arithmetic, *, with_sd: bool
) -> Iterator[Contestant]:
    """TAESD, CompressAI's decoders and the SD 1.5 VAE. Empty, with a word, without torch."""
    if importlib.util.find_spec("torch") is None:
        print("torch is not installed: TAESD, CompressAI and the SD VAE are left out", file=sys.stderr)
        return
    import torch

    from bench import neighbors

    torch.set_num_threads(threads)
    width, height = size_px

    def latents(channels: int, downscale: int) -> Any:
        return torch.randn(1, channels, height // downscale, width // downscale)

    sd_latents = latents(neighbors.SD_CHANNELS, neighbors.SD_DOWNSCALE)
    for title, decoder, channels in (
        ("CompressAI mbt2018-mean, torch", neighbors.mbt2018_mean(), 192),
        ("CompressAI cheng2020-anchor, torch", neighbors.cheng2020_anchor(), 128),
    ):
        run = neighbors.torch_decode(decoder, latents(channels, 16), "float32")
        yield Contestant(f"{title}: decoder network only", run)
    if importlib.util.find_spec("diffusers") is None:
        print("diffusers is not installed: TAESD and the SD VAE are left out", file=sys.stderr)
        return
    made = [(TAESD, "taesd", neighbors.taesd)]
    if with_sd:
        made.append((SD, "sd15", neighbors.sd15_vae))
    for title, name, make in made:
        vae = make()
        for dtype in ("float32", "bfloat16"):
            yield Contestant(f"{title}, diffusers {dtype}", neighbors.torch_decode(vae.decode, sd_latents, dtype))
        path = neighbors.export_decoder(make, name, cache / "graphs")
        shape = tuple(sd_latents.shape)
        yield from plain_contestants(title, path, shape, threads, arithmetic)
        if title == SD:
            yield from sd_contestants(path, shape, threads, arithmetic)


def headlines(timings: Sequence[Timing]) -> list[str]:
    """The ratios that the project is judged by, one line each, as far as their contestants ran."""
    ours = timings[0]
    medians = {timing.name: timing.median_s for timing in timings}
    ours_sd = {name: median_s for name, median_s in medians.items() if name.startswith(f"{OURS_SD},")}
    plain_sd = {
        name: median_s for name, median_s in medians.items() if name in (f"{SD}, ONNX Runtime", f"{SD}, OpenVINO")
    }
    lines = []
    for other in (f"{SD}, diffusers float32", f"{TAESD}, ONNX Runtime"):
        if other in medians:
            lines.append(f"{ours.name} against {other}: {medians[other] / ours.median_s:.1f} times as fast")
    if ours_sd and plain_sd:
        best, rival = min(ours_sd, key=ours_sd.__getitem__), min(plain_sd, key=plain_sd.__getitem__)
        fp32_s = medians[f"{SD}, diffusers float32"]
        lines.append(f"{best} against {SD}, diffusers float32: {fp32_s / ours_sd[best]:.1f} times as fast")
        lines.append(
            f"{best} against the best out of the box, {rival}: {ours_sd[best] / plain_sd[rival]:.2f} of its time"
        )
    return lines


def yardsticks(threads: int) -> Iterator[Contestant]:
    """Products of large matrices: the rate that no network on this machine exceeds. Empty without torch."""
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    from bench.arithmetic import matrix_product

    torch.set_num_threads(threads)
    for name, dtype in ((YARDSTICK, "float32"), ("matrix product, bfloat16", "bfloat16")):
        yield Contestant(name, *matrix_product(dtype))


def _arithmetic() -> Arithmetic:
    if importlib.util.find_spec("onnx") is None:
        return lambda _path, _shape: None
    from bench.arithmetic import gflop

    return gflop


def process_runs(repeats: int, *, large: bool) -> list[process.Run]:
    """The command line as people run it: start-up, memory, and with ``large`` 25 and 100 megapixels."""
    python = sys.executable
    sdrt = [python, "-m", "sdrt"]
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        coded, back = folder / "photo.sdl", folder / "photo.png"
        runs.append(process.measure("python alone", [python, "-c", "pass"], repeats))
        runs.append(process.measure("python, numpy and Pillow", [python, "-c", "import numpy, PIL.Image"], repeats))
        encode = [*sdrt, "encode", str(PHOTO), "-o", str(coded), "--force", "--quiet"]
        runs.append(process.measure("sdrt encode 512x512", encode, repeats))
        decode = [*sdrt, "decode", str(coded), "-o", str(back), "--force", "--quiet"]
        runs.append(process.measure("sdrt decode 512x512", decode, repeats))
        runs.append(process.measure("sdrt info", [*sdrt, "info", str(coded)], repeats))
        for side_px in (5000, 10000) if large else ():
            source = folder / f"{side_px}.png"
            _synthetic(side_px).save(source, compress_level=1)
            big, megapixels = folder / f"{side_px}.sdl", side_px**2 // 10**6
            limit = ["--max-pixels", str(side_px**2)]
            encode = [*sdrt, "encode", str(source), "-o", str(big), "--force", "--quiet", *limit]
            runs.append(process.measure(f"sdrt encode {megapixels} megapixels", encode, 1))
            decode = [*sdrt, "decode", str(big), "-o", str(folder / "big.png"), "--force", "--quiet", *limit]
            runs.append(process.measure(f"sdrt decode {megapixels} megapixels", decode, 1))
    return runs


def _synthetic(side_px: int) -> Image.Image:
    """A photograph repeated until it fills the square."""
    with Image.open(PHOTO) as image:
        tile = image.convert("RGB")
    result = Image.new("RGB", (side_px, side_px))
    for y in range(0, side_px, tile.height):
        for x in range(0, side_px, tile.width):
            result.paste(tile, (x, y))
    return result


def to_record(timings: Sequence[Timing], runs: Sequence[process.Run], arguments: Sequence[str] | None) -> record.Record:
    """The tables as ``--record`` keeps them: ratios are to the first contestant."""
    rows: list[record.Measurement] = [
        {"what": t.name, "ratio": t.median_s / timings[0].median_s, "median_s": t.median_s} for t in timings
    ]
    rows += [{"what": r.name, "wall_s": r.wall_s, "cpu_s": r.cpu_s, "peak_mb": r.peak_mb} for r in runs]
    better = dict.fromkeys(("ratio", "median_s", "wall_s", "cpu_s", "peak_mb"), "lower")
    return record.make("speed", arguments, rows, groups=("what",), sample="", better=better)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.speed", description="Time and memory, ratios first.")
    parser.add_argument("--quick", action="store_true", help="three rounds, without the SD VAE")
    parser.add_argument("--large", action="store_true", help="also 25 and 100 megapixels (minutes)")
    parser.add_argument("--rounds", type=int, help="default 15, or 3 with --quick")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of every contestant")
    parser.add_argument("--size", type=int, default=512, help="side of the square picture in pixels, a multiple of 16")
    parser.add_argument("--cache", type=Path, default=OUT / "cache")
    parser.add_argument("--out", type=Path, default=OUT / "speed.txt")
    record.add_argument(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    rounds = options.rounds or (3 if options.quick else 15)
    with Image.open(PHOTO) as image:
        photo = image.convert("RGB").resize((options.size, options.size), Image.Resampling.LANCZOS)
    load = f", load {os.getloadavg()[0]:.1f} before the run" if hasattr(os, "getloadavg") else ""
    size = f"{options.size}x{options.size} pixels"
    parts = [f"{record.machine()}{load}; {options.threads} threads each; {size}"]
    arithmetic = _arithmetic()
    try:
        contestants = [
            *our_contestants(photo, options.threads, arithmetic),
            *torch_contestants(photo.size, options.threads, options.cache, arithmetic, with_sd=not options.quick),
            *pillow_contestants(photo, options.cache),
            *yardsticks(options.threads),
        ]
        timings = contest.race(contestants, rounds, LIMIT_S)
        parts += [contest.table(timings, YARDSTICK), "\n".join(headlines(timings))]
        runs = process_runs(3 if options.quick else 7, large=options.large)
        parts.append(process.table(runs))
    except SdrtError as error:
        raise SystemExit(f"bench: {error}") from error
    text = "\n\n".join(parts)
    print(text)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text + "\n", encoding="utf-8")
    record.keep(to_record(timings, runs, arguments), options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
