"""The net itself: a bounded run, the corpus, and the proof that it can catch."""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from tests.fuzz.__main__ import TARGETS
from tests.fuzz.run import CORPUS, LARGEST_KEPT_BYTES, MOST_CASE_BYTES, Settings, corpus_of, fuzz
from tests.fuzz.target import Target

from sdrt.errors import CorruptError

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, limits memory and reads /proc")


def test_mutated_files_raise_our_errors_only_and_cost_little() -> None:
    """Twenty CPU seconds of ``make fuzz``: no foreign exception, no case above a CPU second, memory flat."""
    command = [sys.executable, "-m", "tests.fuzz", "--cpu-s", "20", "--seed", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 faults" in done.stdout


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_small_and_each_of_it_has_an_outcome_of_its_own(name: str) -> None:
    """Every kept input is accepted or refused as ours, and none is there twice.

    How deep JSON may be nested differs between versions of Python, so two manifests may share an outcome.
    """
    corpus = corpus_of(TARGETS[name])
    outcomes = [TARGETS[name].outcome(data) for data in corpus.values()]
    assert corpus and len(set(outcomes)) >= len(corpus) - (name == "manifest")
    assert all(len(data) <= LARGEST_KEPT_BYTES for data in corpus.values())
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_accepted_and_cases_repeat(name: str) -> None:
    """Most seeds are good inputs, and a case depends on its number alone."""
    target = TARGETS[name]
    seeds = target.seeds()
    assert sum(target.outcome(seed) == "accepted" for seed in seeds) >= len(seeds) / 3
    one, other = ([target.case(seeds, [], Random(f"0 {number}")) for number in range(30)] for _ in range(2))
    assert one == other and len(set(one)) > 20


def dying(_data: bytes) -> None:
    faulthandler.disable()  # pytest's would tell the whole world
    os.abort()


def busy(_data: bytes) -> None:
    sum(range(3_000_000))


_kept: list[bytes] = []

FAULTS: dict[str, tuple[Callable[[bytes], object], str]] = {
    "foreign": (int, "ValueError"),
    "two lines": (lambda _data: (_ for _ in ()).throw(CorruptError("a\nb")), "an error is one line"),
    "slow": (busy, "CPU seconds"),
    "large": (lambda _data: bytes(2 * MOST_CASE_BYTES), "MemoryError"),
    "growing": (lambda _data: _kept.append(bytes(1 << 16)), "memory grew"),
    "dead": (dying, "died of signal 6"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_every_kind_of_fault_is_caught_and_its_input_kept(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A reader that does what none must do makes the run fail and leaves the case as a file."""
    run, words = FAULTS[kind]

    def reader(data: bytes) -> None:
        if data.startswith(b"bad"):
            run(data)

    target = Target("broken", lambda: [b"good"], lambda _data, _rng: b"bad", reader)
    settings = Settings(
        count=3000 if kind == "growing" else 2, corpus=tmp_path, found=tmp_path / "found", most_cpu_s=0.02
    )
    assert fuzz([target], settings) >= 1
    assert words in capfd.readouterr().out
    if kind != "growing":
        (path,) = (tmp_path / "found").iterdir()
        assert path.read_bytes() == b"bad"


def test_what_is_new_is_kept_once(tmp_path: Path) -> None:
    """``--keep`` adds the smallest input of each outcome to the corpus, and a second run finds nothing new."""
    settings = Settings(count=400, keep=True, corpus=tmp_path)
    assert fuzz([TARGETS["alpha"]], settings) == 0
    first = corpus_of(TARGETS["alpha"], tmp_path)
    assert len(first) > 4
    assert fuzz([TARGETS["alpha"]], Settings(count=1, keep=True, corpus=tmp_path)) == 0
    assert set(corpus_of(TARGETS["alpha"], tmp_path)) == set(first)
