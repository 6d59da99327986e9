"""Measured qualities, remembered by content: the same two pictures are never measured twice.

A line of the file is one JSON object: the fingerprints of picture and reference, and some metrics. Lines are appended
whole, so that two runs may share the file; a line that does not parse is passed over and measured again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.codecs import fingerprint
from sdrt_metrics.fidelity import Rgb
from sdrt_metrics.meter import Meter

_BATCH = 6  # pictures of one reference in one pass: bounds memory at about 3 GB for 768x512


@dataclass
class Scores:
    """``path``: the file of remembered scores; ``meter`` measures what is not in it."""

    path: Path
    meter: Meter
    _known: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
                self._known.setdefault((row["picture"], row["reference"]), {}).update(row["scores"])
            except (ValueError, KeyError, TypeError):
                continue

    def measure(self, pictures: Sequence[Rgb], reference: Rgb, names: Sequence[str]) -> list[dict[str, float]]:
        """As Meter.measure, with what is known taken from the file and what is new added to it."""
        keys = [(fingerprint(picture), fingerprint(reference)) for picture in pictures]
        for name in names:
            missing: dict[tuple[str, str], Rgb] = {}
            for key, picture in zip(keys, pictures, strict=True):
                if name not in self._known.get(key, {}):
                    missing[key] = picture
            todo = list(missing.items())
            for start in range(0, len(todo), _BATCH):
                batch = todo[start : start + _BATCH]
                results = self.meter.measure([picture for _, picture in batch], reference, [name])
                for (key, _), scores in zip(batch, results, strict=True):
                    self._remember(key, scores)
        return [{name: self._known[key][name] for name in names} for key in keys]

    def _remember(self, key: tuple[str, str], scores: dict[str, float]) -> None:
        self._known.setdefault(key, {}).update(scores)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        row = json.dumps({"picture": key[0], "reference": key[1], "scores": scores})
        with self.path.open("a", encoding="utf-8") as target:
            target.write(row + "\n")
