"""Times contestants against each other: interleaved rounds, medians with their spread, ratios first."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Contestant:
    """``run`` does the work once. ``gflop``: its arithmetic, None where unknown."""

    name: str
    run: Callable[[], object]
    gflop: float | None = None


@dataclass(frozen=True)
class Timing:
    """Wall times in seconds of one contestant, one for each round that it took part in."""

    name: str
    times_s: tuple[float, ...]
    gflop: float | None

    @property
    def median_s(self) -> float:
        return statistics.median(self.times_s)

    @property
    def spread(self) -> str:
        return f"{min(self.times_s):.3f}-{max(self.times_s):.3f}"


def race(
    contestants: Sequence[Contestant], rounds: int, limit_s: float, *, clock: Callable[[], float] = time.perf_counter
) -> list[Timing]:
    """Every contestant once untimed, then ``rounds`` rounds in which all run in turn.

    Interleaving spreads what else the machine does over all. A contestant that has used ``limit_s`` seconds sits out
    the later rounds, after three at least. ``clock``: ``time.process_time`` where the process's own work counts alone.
    """
    times_s: list[list[float]] = [[] for _ in contestants]
    for contestant in contestants:
        contestant.run()
    for _ in range(rounds):
        for contestant, mine in zip(contestants, times_s, strict=True):
            if len(mine) >= 3 and sum(mine) > limit_s:
                continue
            started_s = clock()
            contestant.run()
            mine.append(clock() - started_s)
    return [Timing(c.name, tuple(mine), c.gflop) for c, mine in zip(contestants, times_s, strict=True)]


def table(timings: Sequence[Timing], yardstick: str | None = None) -> str:
    """Ratios to the first contestant, medians and spread.

    ``yardstick``: the name of the contestant whose operations a second are the machine's rate; then also the time that
    each one's arithmetic takes at that rate, and the share of the rate that it reaches.
    """
    rates = [t.gflop / t.median_s for t in timings if t.name == yardstick and t.gflop]
    width = max(len(t.name) for t in timings) + 2
    limit = f"{'limit s':>9}{'of rate':>9}" if rates else ""
    lines = [f"{'':<{width}}{'times':>9}{'median s':>10}{'min-max s':>16}{'runs':>6}{limit}"]
    for t in timings:
        line = f"{t.name:<{width}}{t.median_s / timings[0].median_s:>8.3g}x{t.median_s:>10.4f}{t.spread:>16}"
        line += f"{len(t.times_s):>6}"
        if rates and t.gflop:
            limit_s = t.gflop / rates[0]
            line += f"{limit_s:>9.4f}{limit_s / t.median_s:>9.0%}"
        lines.append(line)
    return "\n".join(lines)
