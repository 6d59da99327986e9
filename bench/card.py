"""Facts and figures of docs/MODEL_CARD.md, from the default pack's manifest and the newest records: ``make card``.

The text between the two marks of the page is written here and nowhere else; the rest is written by hand. A new default
pack brings a new manifest and new records (``--record VERSION``); this command puts both on the page.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import record
from bench.places import RESULTS, ROOT
from bench.record import Record

CARD = ROOT / "docs" / "MODEL_CARD.md"
PACK = ROOT / "models" / "tiny"
BEGIN, END = "<!-- written by make card -->", "<!-- end of what make card writes -->"
"""The marks around the text that is replaced."""


def main() -> int:
    """Replaces the text between the marks. Returns the exit code."""
    CARD.write_text(replaced(CARD.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"written: {CARD}")
    return 0


def replaced(page: str, pack: Path = PACK, results: Path = RESULTS) -> str:
    """The page with today's text between the marks. Raises SystemExit where the marks are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the model card lacks the line {END if begin else BEGIN!r}")
    manifest = json.loads((pack / "manifest.json").read_text(encoding="utf-8"))
    lines = [BEGIN, "", "## Facts", "", *facts(manifest), "", "## Figures", "", *figures(results), END]
    return before + "\n".join(lines) + after


def facts(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What the manifest says, a row each. A field that the pack's training did not write has no row."""
    space, training, files = manifest["space"], manifest.get("training", {}), manifest["files"]
    hours = training.get("hours")
    rows = {
        "latent space": f"{space['id']}, identity {space.get('identity', '-')}",
        "latents": f"{space['channels']} channels, one position for {space['downscale']} x {space['downscale']} pixels",
        "quality level as an input of the decoder": "yes" if manifest.get("quality_input") else "no",
        "files": ", ".join(f"{name} {entry['bytes'] / 1e6:.2f} MB" for name, entry in files.items()),
        "license": manifest.get("license"),
        "photographs": manifest.get("source", {}).get("photographs"),
        "training, by the clock": None if hours is None else f"{hours:.2f} hours",
        "last stage of training": training.get("settings", {}).get("stage"),
        "photographs that the prior was fitted on": manifest.get("prior", {}).get("photos"),
    }
    return _table(("what", "models/tiny"), [(name, str(value)) for name, value in rows.items() if value is not None])


def figures(results: Path) -> Iterator[str]:
    """Means of the newest record of each command, under a line that says how they were measured."""
    found: dict[str, Record] = {}
    for folder in sorted((p for p in results.iterdir() if _version(p.name)), key=lambda p: _version(p.name)):
        found.update((one.bench, one) for one in map(record.load, sorted(folder.glob("*.json"))))
    for one in found.values():
        yield f"`{one.command}`, sdrt {one.versions['sdrt']}, {one.date}, {one.machine}:"
        yield ""
        yield from _table((*one.groups, "samples", *one.better), list(_means(one)))
        yield ""


def _version(name: str) -> tuple[int, ...]:
    """(0, 6, 0) of "0.6.0"; () of a record that is no version's."""
    return tuple(map(int, name.split("."))) if re.fullmatch(r"\d+(\.\d+)*", name) else ()


def _means(one: Record) -> Iterator[Sequence[str]]:
    """The cells of each group: its name, how many rows it has, and the means of what was measured in all of them."""
    groups: dict[tuple[object, ...], list[record.Measurement]] = {}
    for row in one.rows:
        groups.setdefault(tuple(row.get(column) for column in one.groups), []).append(row)
    for group, rows in sorted(groups.items(), key=lambda item: str(item[0])):
        values = [[row.get(measure) for row in rows] for measure in one.better]
        means = [[float(v) for v in column if isinstance(v, (int, float))] for column in values]
        shown = [_number(statistics.fmean(known)) if len(known) == len(rows) else "" for known in means]
        yield (*map(str, group), str(len(rows)), *shown)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table, line by line."""
    for cells in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    raise SystemExit(main())
