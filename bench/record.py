"""Measurements that are kept: ``--record NAME`` writes bench/results/NAME/BENCH.json, one file for each command.

A record says which command measured what, when, on which machine, with which versions. Its rows are flat objects, one a
line, so that a diff shows what changed. ``bench.compare`` reads two of them.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import features

from bench.places import RESULTS, ROOT
from sdrt_metrics.meter import METRICS

_PACKAGES = ("numpy", "pillow", "constriction", "onnxruntime", "openvino", "torch")
_LIBRARIES = {"libavif": "avif", "libwebp": "webp", "libjpeg-turbo": "libjpeg_turbo"}

Value = str | int | float | None
Measurement = Mapping[str, Value]


@dataclass(frozen=True)
class Record:
    """What one command measured.

    Attributes:
        bench: the command's module, e.g. "rd".
        groups: columns that name what was measured; means are taken over rows that agree in all of them.
        sample: column that tells the rows of a group apart, e.g. "image"; "" where a group has one row.
        better: measured columns, each with the direction that is better, "higher" or "lower".
        rows: values by column; a measure that a row lacks, or null, was not taken.
        command: what was run, as typed in a shell.
        date: ISO 8601, UTC.
        machine: processor and cores.
        versions: of sdrt, the commit, python, packages and Pillow's libraries.
    """

    bench: str
    groups: tuple[str, ...]
    sample: str
    better: dict[str, str]
    rows: tuple[Measurement, ...]
    command: str
    date: str
    machine: str
    versions: dict[str, str]


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--record NAME``, checked before anything is measured, and ``--results FOLDER``."""
    parser.add_argument("--record", type=_name, metavar="NAME", help="keep the rows in bench/results/NAME")
    parser.add_argument("--results", type=Path, default=RESULTS, help="another folder than bench/results")


def _name(text: str) -> str:
    if not re.fullmatch(r"\w[\w.+-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name: letters, digits, '.', '_', '+' and '-' only")
    return text


def directions(names: Sequence[str]) -> dict[str, str]:
    """``Record.better`` of the metrics ``names``."""
    return {name: "higher" if METRICS[name].higher_is_better else "lower" for name in names}


def make(
    bench: str,
    arguments: Sequence[str] | None,
    rows: Sequence[Measurement],
    *,
    groups: Sequence[str],
    sample: str,
    better: Mapping[str, str],
) -> Record:
    """A record of this machine, now. ``arguments``: of the command's main function, None for the process's own."""
    words = ["python", "-m", f"bench.{bench}", *(sys.argv[1:] if arguments is None else arguments)]
    return Record(
        bench=bench,
        groups=tuple(groups),
        sample=sample,
        better=dict(better),
        rows=tuple({key: _rounded(value) for key, value in row.items()} for row in rows),
        command=shlex.join(words),
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        machine=machine(),
        versions=versions(),
    )


def _rounded(value: Value) -> Value:
    """Six significant digits; what JSON has no number for becomes null."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


def keep(record: Record, options: argparse.Namespace) -> None:
    """Saves the record and says where, if ``--record`` asks for it."""
    if options.record is not None:
        print(f"rows kept in {save(record, options.results / options.record)}")


def save(record: Record, folder: Path) -> Path:
    """Writes FOLDER/BENCH.json, in place of an earlier one, and returns its path."""
    head = {key: value for key, value in vars(record).items() if key != "rows"}
    lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in record.rows)
    text = json.dumps(head, indent=1, ensure_ascii=False)[:-2] + f',\n "rows": [\n{lines}\n ]\n}}\n'
    path = folder / f"{record.bench}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return path


def load(path: Path) -> Record:
    """Reads what ``save`` wrote. Raises SystemExit with one line where the file is not a record."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        record = Record(**{**fields, "groups": tuple(fields["groups"]), "rows": tuple(fields["rows"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SystemExit(f"{path} is not a record of bench: {error}") from error
    return record


def machine() -> str:
    """Processor and cores, for people."""
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """Of all that may change a figure; what is not installed is left out."""
    import sdrt

    found = {"sdrt": sdrt.__version__, "commit": _commit(), "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    for library, feature in _LIBRARIES.items():
        version = features.version(feature)
        if version is not None:
            found[library] = version
    return found


def _commit() -> str:
    """The checkout's commit, with "-dirty" where files differ from it; "unknown" outside a repository."""
    try:
        described = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
        done = subprocess.run(described, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
