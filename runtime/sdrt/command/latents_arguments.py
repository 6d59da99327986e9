"""The arguments of ``sdrt latents``, apart from its work, which loads numpy: every command parses them."""

from __future__ import annotations

import argparse
from typing import Any

from sdrt.command.convert_arguments import add_max_pixels, parse_number, parse_quality
from sdrt.options import LATENT_FORMS


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds the parser of this command."""
    latents = commands.add_parser(
        "latents",
        help=".sdl files <-> latents of trainers: kohya's .npz, ComfyUI's .latent, WebDataset tars",
        description="Latents out of .sdl files, and .sdl files out of latents, without running a network.",
    )
    latents.add_argument("inputs", nargs="+", metavar="FILE", help=".sdl, .npz, .latent, .safetensors or .tar")
    latents.add_argument(
        "--to",
        choices=LATENT_FORMS,
        help="default: npz for .sdl, sdl for all others; npz-grid: field names as for SD 3 and Flux",
    )
    where = latents.add_mutually_exclusive_group()
    where.add_argument("-o", "--output", metavar="FILE.tar", help="one WebDataset tar of all inputs")
    where.add_argument("--out-dir", metavar="FOLDER", help="write to this folder instead of beside the inputs")
    latents.add_argument("-f", "--force", action="store_true", help="overwrite files that exist")
    rate = latents.add_mutually_exclusive_group()
    rate.add_argument(
        "-q", "--quality", type=parse_quality, metavar="0..100", help="of .sdl files, instead of --latent-error"
    )
    rate.add_argument(
        "--latent-error",
        type=parse_number,
        metavar="E",
        help="of .sdl files: the largest RMS error relative to the latents' RMS, .001 to 1 (default: .03)",
    )
    latents.add_argument("--model", metavar="NAME|FOLDER", help="the pack of the VAE that made the latents")
    add_max_pixels(latents)
    latents.add_argument("-v", "--verbose", action="store_true", help="a line for each file that is written")
    latents.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from sdrt.command import latents

    return latents.convert(arguments)
