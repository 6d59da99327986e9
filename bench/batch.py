"""A run of sdrt_batch against one process: pictures a second, and memory over a long run.

    python -m bench.batch                  # 2,000 pictures of 512x512 made of the shipped photographs, all cores
    python -m bench.batch --count 400 --workers 2

One process encodes a share of the pictures in a loop with one thread; the goal is .9 of its rate times the workers,
from the first result to the last: starting Ray is told apart. As many such processes at once tell what the machine
gives, whose cores may share their arithmetic. Memory is the proportional set of everything under the driver, Ray's own
processes included, at each tenth of the run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from bench.latents import crops
from bench.places import ROOT
from sdrt import Codec
from sdrt.parallel import usable_cores

SIDE_PX = 512
_ALONE = 100
"""Pictures that the one process does: its rate is steady."""
_LOOK_S = 0.2


@dataclass(frozen=True)
class Run:
    """Seconds to the first result and from there to the last; megabytes of all processes at each tenth of the run."""

    start_s: float
    work_s: float
    memory_mb: tuple[float, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.batch", description="A run of sdrt_batch, timed.")
    parser.add_argument("--count", type=int, default=2000, help="of pictures (default: 2000)")
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--model", default="tiny")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = write_pictures(folder / "in", options.count)
        alone = rate_alone(pictures[:_ALONE], options.model)
        together = rate_together(pictures, options.workers, options.model)
        run = rate_of_run(folder, options.count, options.workers, options.model)
    rate = options.count / run.work_s
    print(f"one process: {alone:.2f} pictures a second")
    share = rate / alone / options.workers
    print(f"{options.workers} workers: {rate:.2f} a second, {share:.3f} of {options.workers} times one (goal: .9)")
    print(f"{options.workers} bare processes: {together:.2f} a second; the run is {rate / together:.3f} of them")
    print(f"start of Ray and the workers: {run.start_s:.1f} s; the work: {run.work_s:.1f} s")
    print("memory in MB at each tenth: " + " ".join(f"{of:.0f}" for of in run.memory_mb))
    settled = run.memory_mb[len(run.memory_mb) // 5 :]
    print(f"after the first fifth it changes from {settled[0]:.0f} to {settled[-1]:.0f} MB, at most {max(settled):.0f}")
    return 0


def write_pictures(folder: Path, count: int) -> list[Path]:
    """``count`` JPEG files of SIDE_PX a side."""
    folder.mkdir()
    paths = [folder / f"{number:06}.jpg" for number in range(count)]
    for path, rgb in zip(paths, crops(count, SIDE_PX), strict=True):
        Image.fromarray(rgb).save(path, quality=90)
    return paths


def rate_alone(pictures: Sequence[Path], model: str) -> float:
    """Pictures a second of a codec with one thread, its start not counted."""
    codec = Codec(model, threads=1)
    codec.encode(pictures[0])
    started_s = time.perf_counter()
    for path in pictures:
        codec.encode_file(path, path.with_suffix(".sdl"))
    seconds = time.perf_counter() - started_s
    for path in pictures:
        path.with_suffix(".sdl").unlink()
    return len(pictures) / seconds


def rate_together(pictures: Sequence[Path], workers: int, model: str) -> float:
    """Pictures a second of `rate_alone` in ``workers`` processes at once."""
    shares = [pictures[worker::workers][:_ALONE] for worker in range(workers)]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return sum(pool.map(rate_alone, shares, [model] * workers))


def rate_of_run(folder: Path, count: int, workers: int, model: str) -> Run:
    """The command, as people start it. Raises RuntimeError where it fails."""
    out = folder / "out"
    command = [sys.executable, "-m", "sdrt_batch", "encode", str(folder / "in"), "--out", str(out)]
    command += ["--model", model, "--workers", str(workers)]
    roots = os.pathsep.join(str(ROOT / root) for root in ("runtime", "batch"))
    started_s = time.perf_counter()
    first_s = last_s = 0.0
    memory_mb: list[float] = []
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": roots}, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(_LOOK_S)
            there = sum(entry.name.endswith(".sdl") for entry in os.scandir(out)) if out.is_dir() else 0
            if there and not first_s:
                first_s = time.perf_counter()
            if there < count:
                last_s = time.perf_counter()
            if there >= count * (len(memory_mb) + 1) / 10 and len(memory_mb) < 10:
                memory_mb.append(memory_of(process.pid))
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return Run(first_s - started_s, last_s - first_s, tuple(memory_mb))


def memory_of(process: int) -> float:
    """Megabytes of a process and all under it, pages that several share counted once; Linux only."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    family = {process}
    while more := {of for of, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(map(_proportional_kb, family)) / 1000


def _proportional_kb(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended meanwhile
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    raise SystemExit(main())
