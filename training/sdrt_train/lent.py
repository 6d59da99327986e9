"""Training on a machine that is lent for minutes at a time and reads no network: ``python -m sdrt_train.lent``.

``pack`` makes folders that one call each can carry, ``unpack`` takes one over into a folder that lasts as long as the
machine does, ``train`` trains there and writes what is worth bringing back in files that are small enough, and ``join``
puts them together at home. The machine needs torch, numpy and Pillow. Carried:

first call    photos/*  fonts/*.ttf  metrics.npz     validation photographs and others; see sdrt_metrics.weights
others        photos/*
last call     photos/*  start.pt                     averaged weights in fp16

A photograph's name ends in 0 where it is kept for validation and in 1 where it is not, so both stay apart whichever
calls are made (``sdrt_export.photographs.held_out``).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import itertools
import math
import os
import random
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import torch

from sdrt.atomic import write_atomic
from sdrt_export.photographs import spread
from sdrt_metrics.weights import CARRIED_VARIABLE, carried_weights
from sdrt_train.data import list_photos
from sdrt_train.drawings import FONTS_VARIABLE, font_files
from sdrt_train.model import read_checkpoint
from sdrt_train.recipe import read_recipe
from sdrt_train.train import FAULTS, run

PART_BYTES = 15 << 20
"""Of a file that comes back, at most; 16 MiB are allowed."""
_VALIDATION = 24
_FONTS, _FONT_BYTES = 12, 512 << 10
_METRICS, _START, _HASHES = "metrics.npz", "start.pt", "average.sha256"
_LINE = re.compile(r"([0-9a-f]{64})  (average\.(?:pt|\d+))")


def deal(photos: Sequence[Path], first_bytes: int, last_bytes: int, limit_bytes: int) -> list[list[Path]]:
    """Deals photographs out to calls, in a fixed random order.

    The first and the last call are filled before others are added: with these two alone a machine can train.

    Args:
        photos: each goes to one call.
        first_bytes: what else the first call carries.
        last_bytes: what else the last one does.
        limit_bytes: of one call, at most.

    Returns:
        The photographs of each call, two or more.

    Raises:
        ValueError: a call cannot hold what it must, or no call can hold some photograph.
        OSError: a photograph is not there.
    """
    calls: list[list[Path]] = [[], []]
    rooms = [limit_bytes - first_bytes, limit_bytes - last_bytes]
    if min(rooms) < 0:
        raise ValueError(f"{max(first_bytes, last_bytes):,} bytes must go into one call of {limit_bytes:,}")
    order = list(photos)
    random.Random(0).shuffle(order)
    at = 0
    for path in order:
        size = path.stat().st_size
        if size > limit_bytes:
            raise ValueError(f"{path} ({size:,} bytes) does not fit into a call of {limit_bytes:,}")
        while size > rooms[at]:
            at += 1
            if at == len(calls):
                calls.append([])
                rooms.append(limit_bytes)
        calls[at].append(path)
        rooms[at] -= size
    return [calls[0], *calls[2:], calls[1]]


def pack(photos: Path, start: Path, out: Path, limit_bytes: int) -> list[Path]:
    """Writes the folders that calls carry.

    Args:
        photos: folder of photographs.
        start: a checkpoint whose averaged weights training starts from.
        out: gets call-00, call-01 and so on; none may be there.
        limit_bytes: of one folder's files, at most.

    Returns:
        The folders, in the order of the calls.

    Raises:
        ValueError: something does not fit.
        OSError: a file cannot be read or written, or a folder is there already.
        MetricWeightsError: the metrics' packages are not installed.
        ModelError: ``start`` is no checkpoint.
    """
    weights, metrics = averages(start), carried_weights()
    training, held = list_photos(photos)
    held = spread(held, _VALIDATION)
    small = [path for path in map(Path, font_files()) if path.stat().st_size <= _FONT_BYTES]
    fonts = spread(small, _FONTS)
    first_bytes = len(metrics) + sum(path.stat().st_size for path in [*held, *fonts])
    calls = deal(training, first_bytes, len(weights), limit_bytes)
    folders = [out / f"call-{number:02}" for number in range(len(calls))]
    names = itertools.count()
    for folder, call in zip(folders, [[*held, *calls[0]], *calls[1:]], strict=True):
        (folder / "photos").mkdir(parents=True)
        for path in call:
            shutil.copy2(path, folder / "photos" / f"{next(names):05}-{int(path not in held)}{path.suffix}")
    (folders[0] / "fonts").mkdir()
    for path in fonts:
        shutil.copy(path, folders[0] / "fonts")
    (folders[0] / _METRICS).write_bytes(metrics)
    (folders[-1] / _START).write_bytes(weights)
    return folders


def averages(checkpoint: Path) -> bytes:
    """A checkpoint's averaged weights in fp16.

    Args:
        checkpoint: of a run, or one that this function made.

    Returns:
        A file that ``--start-from`` and ``read_checkpoint`` take, of two bytes a weight.

    Raises:
        ModelError: no checkpoint.
        OSError: it cannot be read.
    """
    _, state = read_checkpoint(checkpoint)
    kept: dict[str, Any] = {name: state[name] for name in ("stage", "step", "seconds", "model_config", "recipe")}
    for name in ("average", "average_rate"):
        kept[name] = {key: value.half() if value.is_floating_point() else value for key, value in state[name].items()}
    file = io.BytesIO()
    torch.save(kept, file)
    return file.getvalue()


def unpack(carried: Path, work: Path) -> None:
    """Takes a carried folder over into the work folder, beside what former calls brought.

    Args:
        carried: one that `pack` wrote.
        work: made where it is not there.

    Raises:
        OSError: the folder is not there, or the work folder cannot be written.
    """
    shutil.copytree(carried, work, dirs_exist_ok=True)


def train(recipe_file: Path, work: Path, out: Path, *, seconds: float = math.inf, validate_every: int = 2000) -> None:
    """Trains in a work folder, from its checkpoint if there is one, and writes the averaged weights whatever ends it.

    Args:
        recipe_file: see `recipe`.
        work: what `unpack` filled; holds the checkpoint, for as long as the machine is lent.
        out: gets average.0, average.1 and so on, their hashes, log.txt and validation.csv.
        seconds: as `run` takes it; to write the parts comes on top.
        validate_every: updates between two measures.

    Raises:
        ValueError: the last call's folder is not in ``work``, or as `run` raises it.
        OSError, SdrtError, MetricWeightsError, FloatingPointError: as `run` and `read_recipe` raise them.
    """
    recipe, name = read_recipe(recipe_file)
    checkpoint, start = work / "run" / "checkpoint.pt", work / _START
    if not checkpoint.exists() and not start.exists():
        raise ValueError(f"{work} holds neither {_START} nor a checkpoint: unpack the last call's folder first")
    # Processes that cut crops see them too.
    os.environ.update({CARRIED_VARIABLE: str(work / _METRICS), FONTS_VARIABLE: str(work / "fonts")})
    out.mkdir(parents=True, exist_ok=True)
    log = work / "log.txt"
    try:
        with log.open("a") as file, contextlib.redirect_stdout(_Both(sys.stdout, file)):
            run(
                work / "photos",
                checkpoint.parent,
                recipe,
                name=name,
                cache=work / "cache",
                start_from=[start],
                seconds=seconds,
                validate_every=validate_every,
            )
    finally:
        for written in (log, checkpoint.with_name("validation.csv")):
            if written.exists():
                shutil.copy(written, out)
        if checkpoint.exists():
            write_parts(averages(checkpoint), out)


class _Both(io.TextIOBase):
    """Writes to two files."""

    def __init__(self, *files: TextIO) -> None:
        self._files = files

    def write(self, text: str) -> int:
        for file in self._files:
            file.write(text)
            file.flush()
        return len(text)


def write_parts(data: bytes, out: Path) -> None:
    """Writes average.0, average.1 and so on, each of at most PART_BYTES, and the hashes of all and of the whole.

    Args:
        data: what `join` will write.
        out: a folder that is there.

    Raises:
        OSError: they cannot be written.
    """
    lines = [f"{_digest(data)}  average.pt"]  # as sha256sum writes and checks them
    for number, begin in enumerate(range(0, len(data), PART_BYTES)):
        part = data[begin : begin + PART_BYTES]
        (out / f"average.{number}").write_bytes(part)
        lines.append(f"{_digest(part)}  average.{number}")
    (out / _HASHES).write_text("\n".join(lines) + "\n")


def join(parts: Path, out: Path) -> None:
    """Puts parts together to one file, or leaves it as it was.

    Args:
        parts: folder that holds what `train` wrote.
        out: the checkpoint to write.

    Raises:
        ValueError: a part, or the list of hashes, is not what `train` wrote.
        OSError: a part is missing.
        OutputError: ``out`` cannot be written.
    """
    listed = [_LINE.fullmatch(line) for line in (parts / _HASHES).read_text(errors="replace").splitlines()]
    hashes = {match[2]: match[1] for match in listed if match}
    whole = hashes.pop("average.pt", "")
    data = b""
    for name, digest in hashes.items():
        part = (parts / name).read_bytes()
        if _digest(part) != digest:
            raise ValueError(f"{parts / name} is not what was written on the lent machine: its hash differs")
        data += part
    if _digest(data) != whole:
        raise ValueError(f"{parts / _HASHES} does not list all parts")
    write_atomic(out, data)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sdrt_train.lent", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    at_home = commands.add_parser("pack", help="photographs and weights -> folders that one call each can carry")
    at_home.add_argument("photos", type=Path)
    at_home.add_argument("--start", type=Path, required=True, help="checkpoint whose averaged weights to start from")
    at_home.add_argument("--out", type=Path, required=True, help="gets call-00, call-01 and so on")
    at_home.add_argument("--limit-mb", type=float, default=60.0, help="millions of bytes in one folder")
    there = commands.add_parser("unpack", help="on the machine: take a carried folder over")
    there.add_argument("carried", type=Path)
    there.add_argument("work", type=Path, help="a folder that lasts as long as the machine")
    training = commands.add_parser("train", help="on the machine: train, and write what to bring back")
    training.add_argument("recipe", type=Path)
    training.add_argument("work", type=Path)
    training.add_argument("--out", type=Path, required=True, help="gets the averaged weights in parts, log and curves")
    training.add_argument("--seconds", type=float, default=math.inf, help="no update begins later")
    training.add_argument("--validate-every", type=int, default=2000, metavar="STEPS")
    back = commands.add_parser("join", help="parts -> a checkpoint")
    back.add_argument("parts", type=Path)
    back.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        if arguments.command == "pack":
            for folder in pack(arguments.photos, arguments.start, arguments.out, int(arguments.limit_mb * 1e6)):
                files = [path for path in folder.rglob("*") if path.is_file()]
                print(f"{folder}: {len(files)} files, {sum(path.stat().st_size for path in files):,} bytes")
        elif arguments.command == "unpack":
            unpack(arguments.carried, arguments.work)
        elif arguments.command == "train":
            limits = {"seconds": arguments.seconds, "validate_every": arguments.validate_every}
            train(arguments.recipe, arguments.work, arguments.out, **limits)
        else:
            join(arguments.parts, arguments.out)
    except FAULTS as error:
        print(f"sdrt_train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
