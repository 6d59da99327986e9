"""Laws of bench.codecs and bench.scores: equal bytes, real files, nothing measured twice."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.codecs import anchors, fingerprint, largest_within
from bench.scores import Scores
from sdrt_metrics.fidelity import Rgb
from sdrt_metrics.meter import Meter

PHOTOS = Path(__file__).parent.parent / "bench" / "photos"


@pytest.fixture(scope="module")
def photo() -> Rgb:
    with Image.open(PHOTOS / "coffee.webp") as image:
        return np.asarray(image.convert("RGB").resize((240, 160)))


def _rising_sizes(seed: int) -> list[int]:
    source = random.Random(seed)
    sizes = [source.uniform(500, 9000)]
    for _ in range(100):
        sizes.append(sizes[-1] * (1 + source.uniform(0.01, 0.06) * source.choice([0, 1, 1, 2])))
    return [int(s) for s in sizes]


@pytest.mark.parametrize("seed", range(40))
def test_the_search_finds_what_trying_all_finds(seed: int) -> None:
    """On sizes that never fall, the search gives the same quality as trying every one, in at most 16 tries."""
    sizes = _rising_sizes(seed)
    budget_bytes = int(math.exp(random.Random(seed).uniform(math.log(300), math.log(90_000))))
    tried: dict[int, int] = {}

    def size_bytes(quality: int) -> int:
        tried[quality] = sizes[quality]
        return sizes[quality]

    expected = max((q for q, n in enumerate(sizes) if n <= budget_bytes), default=0)
    assert largest_within(size_bytes, 0, 100, budget_bytes, {}) == expected
    assert len(tried) <= 16
    known = dict(tried)
    tried.clear()
    assert largest_within(size_bytes, 0, 100, budget_bytes, known) == expected
    assert not tried, "sizes that are known are not made again"


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_an_anchor_uses_its_budget(name: str, photo: Rgb, tmp_path: Path) -> None:
    """The file is on disk, within the budget, and the next quality would exceed it."""
    codec = anchors(tmp_path)[name]
    budget_bytes = 4000
    coded = codec.encode(photo, budget_bytes)
    assert coded.path.stat().st_size == coded.bytes <= budget_bytes
    assert len(codec.bytes_at(photo, int(coded.setting[1:]) + 1)) > budget_bytes
    assert codec.decode(coded.path).shape == photo.shape


def test_an_impossible_budget_gives_the_smallest_file(photo: Rgb, tmp_path: Path) -> None:
    """Where no quality fits, the coarsest one is used and its true size is told."""
    codec = anchors(tmp_path)["webp"]
    coded = codec.encode(photo, 10)
    assert coded.setting == "q0"
    assert coded.bytes == len(codec.bytes_at(photo, 0)) > 10


def test_files_are_made_once(photo: Rgb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run takes every anchor file from the cache; other pixels are not taken for these."""
    first = anchors(tmp_path)["webp"].encode(photo, 4000)
    codec = anchors(tmp_path)["webp"]

    def refuse(*_: object) -> bytes:
        raise AssertionError("coded again")

    monkeypatch.setattr(type(codec), "bytes_at", refuse)
    assert codec.encode(photo, 4000) == first
    with pytest.raises(AssertionError, match="coded again"):
        codec.encode(photo[::-1], 4000)


def test_fingerprints_tell_shape_from_content() -> None:
    """The same bytes in another shape are another picture."""
    flat = np.zeros((4, 6, 3), np.uint8)
    assert fingerprint(flat) != fingerprint(flat.reshape(6, 4, 3))
    assert fingerprint(flat) == fingerprint(np.asfortranarray(flat))


@dataclass
class _CountingMeter(Meter):
    calls: list[int] = field(default_factory=list)

    def measure(self, pictures: Sequence[Rgb], reference: Rgb, names: Iterable[str]) -> list[dict[str, float]]:
        self.calls.append(len(pictures))
        return super().measure(pictures, reference, names)


def test_scores_are_measured_once_and_survive_a_broken_line(photo: Rgb, tmp_path: Path) -> None:
    """A second run measures nothing; a torn last line of the file costs that line only."""
    path = tmp_path / "scores.jsonl"
    pictures = [photo // 2, photo // 3, photo // 2]
    meter = _CountingMeter()
    scores = Scores(path, meter).measure(pictures, photo, ["psnr"])
    assert scores[0] == scores[2] != scores[1]
    assert sum(meter.calls) == 2, "equal pictures are measured once"

    with path.open("a") as target:
        target.write('{"picture": "tor')
    again = _CountingMeter()
    assert Scores(path, again).measure(pictures, photo, ["psnr"]) == scores
    assert not again.calls
