"""``python -m sdrt_batch``: encode, decode or turn into latents whole folders, tars and Parquet files, on Ray Data."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sdrt.command import process
from sdrt.command.console import flush_stdout, print_stderr, print_stdout, report_error
from sdrt.errors import UnsupportedError
from sdrt.limits import DEFAULT_MAX_PIXELS
from sdrt.network.devices import DEVICES, PRECISIONS
from sdrt.options import LATENT_FORMS, NEAR_LOSSLESS, EncodeOptions
from sdrt.packs.archive import SUFFIX
from sdrt.pixels.save import SAVE_OPTIONS
from sdrt_batch.items import extensions
from sdrt_batch.progress import Progress
from sdrt_batch.settings import Settings, with_record
from sdrt_batch.units import FILES_A_UNIT, SHARDS, Kind, Unit, find_units

SOME_FAILED = 1
_MAX_DIGITS = 15
"""Of a number that somebody means; Python itself reads no more than 4,300."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command: 0 where every picture has a result, 1 where some have not, else the exit code of the error."""
    arguments = _parser().parse_args(argv)
    try:
        code = _run(arguments)
        flush_stdout()
        return code
    except Exception as error:
        return report_error(error, program="sdrt_batch")


def _run(arguments: argparse.Namespace) -> int:
    files_a_unit = FILES_A_UNIT if arguments.form in (None, "files") else arguments.shard_size
    suffixes = [f".{extension}" for extension in extensions(arguments.job, arguments.to)]
    units = find_units(arguments.source, suffixes, files_a_unit)
    settings = with_record(_settings(arguments, units), again=arguments.force)
    try:
        from sdrt_batch import run  # Ray takes seconds, a mistake none
    except ImportError as error:
        raise UnsupportedError(f"{error}: pip install 'sdrt[batch]' brings Ray Data") from None
    total = sum(len(unit.keys) + len(unit.rejected) for unit in units)
    progress = Progress(total if all(unit.kind == "files" for unit in units) else None)
    cluster = run.Cluster(
        address=arguments.address, workers=arguments.workers, gpus=arguments.gpus, cores=arguments.threads
    )
    summary = run.run(units, settings, cluster, progress)
    progress.end()
    print_stdout(summary.in_words())
    if summary.failed:
        print_stderr(f"sdrt_batch: {summary.failed:,} failed, see {Path(arguments.out) / run.ERRORS}")
    return SOME_FAILED if summary.failed else 0


def _settings(arguments: argparse.Namespace, units: Sequence[Unit]) -> Settings:
    kinds: set[Kind] = {unit.kind for unit in units}
    if arguments.form is None and len(kinds) > 1:
        raise UnsupportedError(f"the source holds {' and '.join(sorted(kinds))}: choose the output with --form")
    rate = {name: getattr(arguments, name) for name in ("quality", "target_bytes", "target_bpp", "latent_error")}
    if arguments.job == "latents" and not any(value is not None for value in rate.values()):
        rate["latent_error"] = NEAR_LOSSLESS
    model = arguments.model
    if model is not None and (os.path.isdir(model) or Path(model).suffix.lower() == SUFFIX):  # noqa: PTH112 (Path's may raise)
        model = str(Path(model).absolute())
    return Settings(
        job=arguments.job,
        destination=str(Path(arguments.out).absolute()),  # workers may stand in another folder
        form=arguments.form or kinds.pop(),
        model=model,
        device=arguments.device,
        precision=arguments.precision,
        threads=arguments.threads,
        max_pixels=DEFAULT_MAX_PIXELS if arguments.max_pixels is None else arguments.max_pixels or None,
        options=replace(EncodeOptions(keep_metadata=arguments.keep_metadata), **rate),
        picture_format=arguments.format,
        latent_form=arguments.to,
        picture_column=arguments.picture_column,
        key_column=arguments.key_column,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sdrt_batch", description=__doc__)
    parser.add_argument(
        "job", choices=("encode", "decode", "latents"), help="latents: between .sdl and trainers' files"
    )
    parser.add_argument("source", nargs="+", metavar="SOURCE", help="folder, pattern, file, .tar or .parquet")
    parser.add_argument("--out", "-o", required=True, metavar="FOLDER", help="of the results; every worker sees it")
    parser.add_argument(
        "--form", choices=("files", *SHARDS.values()), help="how results are kept (default: as the source is)"
    )
    parser.add_argument("--shard-size", type=_count, default=1000, metavar="N", help="files in a shard (default: 1000)")
    parser.add_argument("--force", action="store_true", help="over the results of other settings")
    where = parser.add_argument_group("where it runs")
    where.add_argument(
        "--address", metavar="HOST:PORT", help="of a Ray cluster; auto finds one (default: this machine)"
    )
    where.add_argument("--workers", type=_count, metavar="N", help="default: one for each core, or GPU with --gpus")
    where.add_argument("--gpus", type=_share, default=0.0, metavar="X", help="of each worker; .5 puts two on one GPU")
    where.add_argument("--threads", type=_count, default=1, metavar="N", help="and cores of each worker (default: 1)")
    codec = parser.add_argument_group("what is done")
    codec.add_argument("--model", metavar="NAME|FOLDER")
    codec.add_argument("--device", choices=DEVICES, default="auto")
    codec.add_argument("--precision", choices=PRECISIONS)
    codec.add_argument("--max-pixels", type=_limit, metavar="N", help="refuse larger pictures (0: no limit)")
    rate = codec.add_mutually_exclusive_group()
    rate.add_argument("-q", "--quality", type=float, metavar="0..100")
    rate.add_argument("--target-bytes", type=_count, metavar="N")
    rate.add_argument("--target-bpp", type=float, metavar="BITS")
    rate.add_argument("--latent-error", type=float, metavar="E", help="a cache of latents has .03")
    codec.add_argument("--keep-metadata", action="store_true")
    formats = [suffix.lstrip(".") for suffix in SAVE_OPTIONS]
    codec.add_argument("--format", default="png", choices=formats, help="of decoded pictures (default: png)")
    codec.add_argument("--to", choices=LATENT_FORMS, default="npz", help="of latents (default: npz)")
    codec.add_argument("--picture-column", metavar="NAME", help="of Parquet files (default: image, bytes ...)")
    codec.add_argument("--key-column", metavar="NAME", help="of Parquet files (default: key, id ..., else the row)")
    return parser


def _count(text: str) -> int:
    if not _limit(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


def _limit(text: str) -> int:
    if not text.isdecimal() or len(text) > _MAX_DIGITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return share


if __name__ == "__main__":
    process.begin()  # Ctrl-C ends it at once, the same command goes on; messages of Ray's libraries are set apart
    raise SystemExit(main())
