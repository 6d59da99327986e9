"""Whole processes: wall time from start to exit and the most memory that they ever held."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """Medians over the runs of one command. ``peak_mb``: peak resident memory in units of 10**6 bytes."""

    name: str
    wall_s: float
    min_s: float
    max_s: float
    cpu_s: float
    peak_mb: float


# A child's peak memory starts at its parent's: it counts what the parent held when it forked. So the command is started
# by a bare interpreter of about 10 MB and not by the benchmark, which holds gigabytes of networks.
_LAUNCHER = """
import json, os, subprocess, sys, time
started_s = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
cpu_s = usage.ru_utime + usage.ru_stime
print(json.dumps([process.returncode, time.perf_counter() - started_s, cpu_s, usage.ru_maxrss]))
"""


def measure(name: str, command: Sequence[str], repeats: int) -> Run:
    """Runs ``command`` (output dropped) ``repeats`` times. Raises RuntimeError with its last words where it fails."""
    walls_s, cpus_s, peaks = [], [], []
    # Installed packages come compiled; where this is set, a checkout is compiled again by every process.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(repeats):
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command]
        done = subprocess.run(launch, capture_output=True, text=True, check=True, env=environment)
        code, wall_s, cpu_s, peak = json.loads(done.stdout)
        if code:
            raise RuntimeError(f"{' '.join(command)} ended with {code}: {done.stderr.strip()[-300:]}")
        walls_s.append(wall_s)
        cpus_s.append(cpu_s)
        peaks.append(peak * (1 if sys.platform == "darwin" else 1024))
    median = statistics.median
    return Run(name, median(walls_s), min(walls_s), max(walls_s), median(cpus_s), median(peaks) / 1e6)


def table(runs: Sequence[Run]) -> str:
    width = max(len(r.name) for r in runs) + 2
    lines = [f"{'':<{width}}{'median s':>10}{'min-max s':>16}{'CPU s':>8}{'peak MB':>9}"]
    for r in runs:
        spread = f"{r.min_s:.2f}-{r.max_s:.2f}"
        lines.append(f"{r.name:<{width}}{r.wall_s:>10.2f}{spread:>16}{r.cpu_s:>8.2f}{r.peak_mb:>9.0f}")
    return "\n".join(lines)
