"""What the commands that code pictures have in common on the command line: codecs, budgets, metrics, folders."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import record
from bench.codecs import BenchCodec, SdrtCodec, anchors
from bench.places import OUT
from bench.reading import ReadingError
from bench.scores import Scores
from sdrt.errors import SdrtError
from sdrt.options import PROTECTS
from sdrt_metrics.meter import METRICS, Meter


def add(
    parser: argparse.ArgumentParser, *, bpp: Sequence[float], codecs: str, out: Path, metrics: Sequence[str] = ()
) -> None:
    """Adds the arguments with a command's own defaults; ``--metrics`` only where it has some."""
    parser.add_argument("--bpp", default=",".join(map(str, bpp)), help="budgets in bits per pixel, with commas")
    if metrics:
        parser.add_argument("--metrics", default=",".join(metrics), help=f"of {','.join(METRICS)}")
    parser.add_argument("--codecs", default=codecs, help="e.g. sdrt,webp,avif (empty: all that this machine has)")
    parser.add_argument("--model", action="append", help="pack name or folder, may be repeated")
    parser.add_argument("--protect", action="append", choices=PROTECTS, help="of sdrt, may be repeated")
    parser.add_argument("--out", type=Path, default=out, help="folder for the report")
    parser.add_argument("--cache", type=Path, default=OUT / "cache", help="anchors' files and all scores")
    parser.add_argument("--threads", type=int, help="threads of the metrics' networks and of sdrt")
    record.add_argument(parser)


def budgets_bpp(options: argparse.Namespace) -> list[float]:
    """The budgets, rising. Raises SystemExit on what is not a positive number."""
    try:
        budgets = sorted(float(b) for b in options.bpp.split(","))
    except ValueError as error:
        raise SystemExit(f"--bpp takes numbers with commas between them: {error}") from error
    if not budgets[0] > 0:
        raise SystemExit(f"a budget of {budgets[0]:g} bits per pixel leaves no bytes")
    return budgets


def metric_names(options: argparse.Namespace) -> list[str]:
    """The metrics, in order. Raises SystemExit on a name that is not there."""
    names: list[str] = options.metrics.split(",")
    if unknown := [n for n in names if n not in METRICS]:
        raise SystemExit(f"no metric is called {unknown[0]!r}; there are {', '.join(METRICS)}")
    return names


def codecs(options: argparse.Namespace, resamplings: Sequence[int | None] = (None,)) -> list[BenchCodec]:
    """The codecs by name; "sdrt" stands for every model, at each of ``resamplings`` and ``--protect``.

    Raises SystemExit on a name that is not there.
    """
    files = options.out / "files"
    ours = [
        SdrtCodec(model, files, threads=options.threads, resampling=resampling, protect=protect)
        for model in options.model or [None]
        for resampling in resamplings
        for protect in options.protect or ["auto"]
    ]
    others = anchors(options.cache)
    chosen: list[BenchCodec] = []
    for name in options.codecs.split(",") if options.codecs else ["sdrt", *others]:
        if name == "sdrt":
            chosen += ours
        elif name in others:
            chosen.append(others[name])
        else:
            raise SystemExit(f"no codec is called {name!r} here; there are sdrt, {', '.join(others)}")
    return chosen


def scores(options: argparse.Namespace) -> Scores:
    """The remembered scores of ``--cache``, measured with ``--threads``."""
    return Scores(options.cache / "scores.jsonl", Meter(options.threads))


def run(main: Callable[[], int]) -> int:
    """What a command's process ends with: an error that the user can mend takes one line, without a traceback."""
    try:
        return main()
    except (SdrtError, ReadingError) as error:
        raise SystemExit(f"bench: {error}") from error
