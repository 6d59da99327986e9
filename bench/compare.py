"""Two records of bench side by side: ``make bench-compare BEFORE=0.5.0 AFTER=NAME``.

    python -m bench.compare 0.5.0 wide-1

For every command that both recorded: the means of each group over the samples that both have, their difference, and on
how many samples the second is better. Times of two machines do not compare, nor those of a busy one: look at ratios.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import record
from bench.places import RESULTS
from bench.record import Measurement, Record


@dataclass(frozen=True)
class Change:
    """One measure of one group: means over ``samples`` that both records have, and on how many the later is better."""

    group: tuple[object, ...]
    measure: str
    before: float
    after: float
    samples: int
    better: int

    @property
    def relative(self) -> float | None:
        """The difference as a fraction of the first mean; None where that is 0."""
        return (self.after - self.before) / abs(self.before) if self.before else None


def changes(before: Record, after: Record) -> list[Change]:
    """Every measure of every group that both records have, in the order of ``before``."""
    columns = [*before.groups, *([before.sample] if before.sample else [])]

    def by_key(one: Record) -> dict[tuple[object, ...], Measurement]:
        return {tuple(row.get(column) for column in columns): row for row in one.rows}

    first, second = by_key(before), by_key(after)
    groups: dict[tuple[object, ...], list[tuple[Measurement, Measurement]]] = {}
    for key, row in first.items():
        if key in second:
            groups.setdefault(key[: len(before.groups)], []).append((row, second[key]))
    return [
        change
        for group, pairs in groups.items()
        for measure in before.better
        for change in _change(group, measure, before.better[measure], pairs)
    ]


def _change(
    group: tuple[object, ...], measure: str, direction: str, pairs: Sequence[tuple[Measurement, Measurement]]
) -> Iterator[Change]:
    """The change of one measure, where any pair has it on both sides."""
    values = [(a, b) for a, b in ((x.get(measure), y.get(measure)) for x, y in pairs)]
    known = [(a, b) for a, b in values if isinstance(a, (int, float)) and isinstance(b, (int, float))]
    if known:
        n = len(known)
        sign = 1 if direction == "higher" else -1
        better = sum(sign * (b - a) > 0 for a, b in known)
        yield Change(group, measure, sum(a for a, _ in known) / n, sum(b for _, b in known) / n, n, better)


def report(before: Record, after: Record) -> str:
    """The changes as text, under one line for each record; what only one of them has is counted."""
    lines = [f"{before.bench}: {', '.join(before.groups)}"]
    for title, one in (("before", before), ("after", after)):
        made = f"sdrt {one.versions.get('sdrt', '?')}, commit {one.versions.get('commit', '?')}, {one.date}"
        lines.append(f"  {title + ':':<8}{made}, {one.machine}")
        lines.append(f"          {one.command}")
    found = changes(before, after)
    shown: tuple[object, ...] | None = None
    for change in found:
        if change.group != shown:
            shown = change.group
            lines.append("  " + ", ".join(map(str, shown)))
        relative = "" if change.relative is None else f"{change.relative:+9.1%}"
        wins = f"  better on {change.better} of {change.samples}"
        lines.append(f"    {change.measure:<10}{change.before:>11.5g}{change.after:>11.5g}{relative:>10}{wins}")
    if not found:
        lines.append("  nothing in common")
    return "\n".join(lines)


def _records(name: str, results: Path) -> dict[str, Record]:
    """The records of a name under ``results``, or of a folder, by command."""
    folder = results / name if (results / name).is_dir() else Path(name)
    found = [record.load(path) for path in sorted(folder.glob("*.json"))]
    if not found:
        kept = ", ".join(sorted(p.name for p in results.glob("*") if p.is_dir())) or "none yet"
        raise SystemExit(f"no records are called {name!r}; there are: {kept}")
    return {one.bench: one for one in found}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description="Two records side by side.")
    parser.add_argument("before", help="a name in bench/results, or a folder of records")
    parser.add_argument("after", help="the same, to compare with it")
    parser.add_argument("--results", type=Path, default=RESULTS, help="another folder than bench/results")
    options = parser.parse_args(arguments)
    before, after = (_records(name, options.results) for name in (options.before, options.after))
    common = [bench for bench in before if bench in after]
    if not common:
        raise SystemExit(f"{options.before} has {', '.join(before)}, {options.after} has {', '.join(after)}")
    print("\n\n".join(report(before[bench], after[bench]) for bench in common))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
