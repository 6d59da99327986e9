"""``python -m sdrt_export tensorrt PACK``: compiles a pack's graphs for this machine's GPU, ahead of time."""

from __future__ import annotations

import argparse
from pathlib import Path

from sdrt.errors import EngineError
from sdrt.network.devices import PRECISIONS, Sides, graph_precision
from sdrt.network.tensorrt_session import build_engine
from sdrt.network.transform import accelerator_sides
from sdrt.packs.manifest import ModelPack
from sdrt.packs.search import load_pack, read_verified

HALVES = ("encoder", "decoder")


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The subcommand ``tensorrt``."""
    parser = commands.add_parser(
        "tensorrt",
        help="compile the pack for this machine's GPU",
        description="Engines go to $SDRT_CACHE (default: sdrt in the user's cache folder), in a folder named by the "
        "graph's hash, ONNX Runtime, TensorRT and the GPU's architecture. `sdrt --device tensorrt` finds them there.",
    )
    parser.add_argument("pack", type=Path, help="the pack's folder, or its name")
    parser.add_argument(
        "--precision", choices=[p for p in PRECISIONS if p != "bf16"], help="default: fp16 if the pack has it"
    )
    parser.add_argument(
        "--sides",
        type=int,
        nargs=3,
        metavar=("MIN", "OPT", "MAX"),
        help="sides of pictures in pixels: minimum, tuned for, maximum (larger pictures are cut into tiles of MAX)",
    )
    parser.add_argument("--half", choices=HALVES, help="default: both, as far as the pack has them")
    parser.add_argument("--rebuild", action="store_true", help="build again even if an engine of these sizes exists")
    parser.set_defaults(run=_run)


def sides_in_cells(pixels: list[int] | None, pack: ModelPack, half: str) -> Sides:
    """``--sides`` as cells of the half's input: pixels for the encoder, latents for the decoder.

    Raises EngineError where they do not rise or are no multiples of the pack's downscale factor.
    """
    if pixels is None:
        return accelerator_sides(pack, half)
    cell = pack.space.downscale
    if any(side % cell for side in pixels):
        raise EngineError(f"--sides {' '.join(map(str, pixels))}: each must be a multiple of {cell} pixels, one latent")
    return Sides(*(pixels if half == "encoder" else [side // cell for side in pixels]))


def _run(options: argparse.Namespace) -> int:
    pack = load_pack(options.pack if options.pack.is_dir() else str(options.pack))
    halves = (options.half,) if options.half else tuple(half for half in HALVES if pack.graph_precisions(half))
    for half in halves:
        precision = graph_precision("tensorrt", options.precision, pack.graph_precisions(half))
        path = pack.encoder_path(precision) if half == "encoder" else pack.decoder_path(precision)
        sides = sides_in_cells(options.sides, pack, half)
        read_verified(pack, path.name)
        print(f"{path.name}: sides {sides.min}, {sides.opt}, {sides.max}; this takes minutes", flush=True)
        place, built = build_engine(path, sides, rebuild=options.rebuild)
        size = sum(entry.stat().st_size for entry in place.iterdir())
        print(f"{path.name}: {'built' if built else 'already built'}, {size / 1e6:.1f} MB in {place}")
    return 0
