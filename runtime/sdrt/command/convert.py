"""``sdrt encode`` and ``sdrt decode``: plans inputs and outputs, and converts one file after another."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sdrt.atomic import file_identity, make_folder
from sdrt.codec import Codec
from sdrt.command import process
from sdrt.command.console import (
    STDIO,
    USAGE,
    Progress,
    check_input,
    check_output,
    print_stderr,
    read_input,
    report_error,
    standard_input,
    standard_output,
    write_output,
)
from sdrt.container.sdl import SUFFIX
from sdrt.container.truth_map import CELL_PX
from sdrt.errors import OutputError, UnsupportedError
from sdrt.options import EncodeKeywords, EncodeOptions
from sdrt.pixels.picture import Picture, gather
from sdrt.pixels.save import SAVE_OPTIONS, format_of, save
from sdrt.pixels.truth_overlay import overlay

STDIN, STDOUT = 0, 1


@dataclass(frozen=True)
class Job:
    """One input and where its result goes; ``-`` is stdin or stdout."""

    source: str
    destination: str


class UsageError(Exception):
    """Options that exclude each other; the message names them."""


def plan_jobs(
    inputs: list[str], output: str | None, out_dir: str | None, suffix: str, truth: str | None = None
) -> list[Job]:
    """Name the output of every input: ``output``, or the input's name with ``suffix``, beside it or in ``out_dir``.

    ``truth``: another file that is written, of the only input.

    Raises UsageError: one output for several inputs, stdin twice, an output that is an input or another output, or an
    output without ``-o``.
    """
    if output is not None and len(inputs) > 1:
        raise UsageError(f"-o names one file, but there are {len(inputs)} inputs: use --out-dir")
    if output is None and out_dir is None and len(inputs) == 2 and _is_output(inputs, suffix):
        raise UsageError(
            f"{inputs[1]} is taken for a second input, which is not there: -o {inputs[1]} makes it the output"
        )
    if inputs.count(STDIO) > 1:
        raise UsageError("stdin can be read once only")
    jobs = [Job(source, _destination(source, out_dir, suffix) if output is None else output) for source in inputs]
    sources = {_identity(job.source, STDIN) for job in jobs} - {None}
    owners: dict[object, str] = {}
    for job in jobs:
        file = _identity(job.destination, STDOUT)
        if file in sources:
            raise UsageError(f"{job.destination} is an input and would be overwritten")
        if job.destination == STDIO:
            continue
        key = file or _place(job.destination)
        if key in owners:
            raise UsageError(f"{owners[key]} and {job.source} would both be written to {job.destination}")
        owners[key] = job.source
    if truth is not None:
        file = _identity(truth, STDOUT)
        if len(inputs) > 1 or truth == STDIO or file in sources or (file or _place(truth)) in owners:
            raise UsageError("--truth needs one input and a file that is neither an input nor the output")
    return jobs


def _is_output(inputs: list[str], suffix: str) -> bool:
    """Whether the second of two names is no file yet and means the output, as it does for dwebp and cjxl."""
    outputs = {SUFFIX} if suffix == SUFFIX else set(SAVE_OPTIONS)
    first, second = (Path(name).suffix.lower() for name in inputs)
    return first not in outputs and second in outputs and not os.path.lexists(inputs[1])


def _destination(source: str, out_dir: str | None, suffix: str) -> str:
    if source == STDIO:
        return STDIO if out_dir is None else str(Path(out_dir) / f"stdin{suffix}")
    path = Path(source)
    if not path.name:  # a folder (. or /), reading it raises the error
        return f"{source}{suffix}"
    named = path.with_suffix(suffix) if path.suffix else path.with_name(path.name + suffix)
    return str(named if out_dir is None else Path(out_dir) / named.name)


def _identity(name: str, descriptor: int) -> tuple[int, int] | None:
    """Of the regular file behind a name, or behind ``descriptor`` for ``-``."""
    return file_identity(descriptor if name == STDIO else name)


def _place(name: str) -> tuple[int, int, str] | str:
    """Identifies a file that does not exist yet: device and inode of its folder, and its name."""
    try:
        folder = Path(name).parent.stat()
    except (OSError, ValueError):
        return name
    return folder.st_dev, folder.st_ino, Path(name).name


def encode_files(arguments: argparse.Namespace) -> int:
    """``sdrt encode``; returns the exit code: 0, or that of the first error."""

    asked = {name: value for name, value in vars(arguments).items() if name in EncodeKeywords.__annotations__}
    options = EncodeOptions(**asked, exact_alpha=arguments.alpha == "exact")

    def encode(codec: Codec, job: Job) -> str:
        source = standard_input() if job.source == STDIO else job.source
        process.take_noise()
        data, about = codec.encode_with_info(
            source,
            options,
            progress=Progress(job.source, wanted=not arguments.quiet),
            note=None if arguments.quiet else lambda text: print_stderr(f"{job.source}: {text}"),
        )
        noise = process.take_noise()
        if noise and not arguments.quiet:
            print_stderr(f"{job.source}: decoder warning: {noise}")
        write_output(job.destination, data, overwrite=arguments.force)
        quality = "" if about.quality is None else f", quality {about.quality:g}"
        quality += "" if about.resampling == 1 else f", resampling {about.resampling}"
        return f"{len(data)} bytes, {about.bits_per_pixel:.3f} bpp{quality}"

    return _run(arguments, SUFFIX, encode)


def decode_files(arguments: argparse.Namespace) -> int:
    """``sdrt decode``; returns the exit code: 0, or that of the first error."""
    suffix = f".{(arguments.format or 'png').lower().lstrip('.')}"
    if suffix not in SAVE_OPTIONS:
        print_stderr(f"sdrt decode: error: --format {arguments.format}: choose one of {' '.join(SAVE_OPTIONS)}")
        return USAGE

    def decode(codec: Codec, job: Job) -> str:
        data = read_input(job.source)
        classes = None
        if arguments.truth is not None:
            check_output(arguments.truth, overwrite=arguments.force)
            format_of(Path(arguments.truth).suffix)  # before the picture is decoded and written
            classes = codec.truth_map(data)
            if classes is None:
                raise UnsupportedError("the file has no truth map: encode with --truth")
        strips = codec.decode_strips(
            data, crop=arguments.crop, progress=Progress(job.source, wanted=not arguments.quiet)
        ).for_file(strip=arguments.strip)
        whole = None if classes is None else gather(strips)
        picture = strips if whole is None else whole
        if job.destination == STDIO:
            with standard_output() as stream:
                save(picture, stream, suffix=suffix)
        else:
            wanted = suffix if arguments.format else None
            save(picture, job.destination, suffix=wanted, overwrite=arguments.force)
        if classes is not None and whole is not None:
            # A link led nowhere before the picture was there.
            if file_identity(arguments.truth) == file_identity(job.destination) is not None:
                raise OutputError(f"{arguments.truth} is the picture that was just written")
            tinted = Picture(overlay(whole.rgb, classes, CELL_PX, arguments.crop))
            save(tinted, arguments.truth, overwrite=arguments.force)
        return f"{strips.width_px}x{strips.height_px}"

    return _run(arguments, suffix, decode, arguments.truth)


def _run(
    arguments: argparse.Namespace, suffix: str, work: Callable[[Codec, Job], str], truth: str | None = None
) -> int:
    try:
        jobs = plan_jobs(arguments.inputs, arguments.output, arguments.out_dir, suffix, truth)
    except UsageError as error:
        print_stderr(f"sdrt: error: {error}")
        return USAGE
    if arguments.out_dir is not None:
        make_folder(arguments.out_dir)
    codec = Codec(
        arguments.model,
        device=arguments.device,
        precision=arguments.precision,
        threads=arguments.threads,
        max_pixels=arguments.max_pixels,
        tile_px=arguments.tile,
    )
    code = 0
    written: dict[tuple[int, int] | None, str] = {}
    for job in jobs:
        start = time.perf_counter()
        try:
            check_input(job.source)  # before the output: a name that is not there is what has to be mended
            check_output(job.destination, overwrite=arguments.force)
            earlier = written.get(_identity(job.destination, STDOUT))
            if earlier is not None:  # names that turned out to be one file's when it was there
                raise OutputError(f"{job.destination} was just written from {earlier}")
            summary = work(codec, job)
        except Exception as error:  # one bad input must not stop the others
            failure = report_error(error, job.source)
            code = code or failure
            continue
        file = _identity(job.destination, STDOUT)
        if file is not None:
            written[file] = job.source
        if arguments.verbose:
            seconds = time.perf_counter() - start
            ran = "no network" if codec.used_device is None else f"{codec.used_device} {codec.used_precision}"
            how = f"{ran}, {seconds:.2f} s"
            print_stderr(f"{job.source} -> {job.destination}: {summary}, {how}")
    return code
