"""The conformance vectors (tests/conformance): what the pages promise, in numbers that any decoder can be held against.

Here the runtime and tests/reference.py run them; tests/test_web.py has the browser's decoder run the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests import reference
from tests.make_conformance import CASES, FOLDER, prior_arrays

from sdrt.bitstream import LatentCoder
from sdrt.codec import Codec
from sdrt.coding import payload
from sdrt.coding.context import inverse_step, replay
from sdrt.coding.prior import FRACTIONS
from sdrt.container import sdl
from sdrt.packs.search import load_pack

NAMES = [pytest.param(FOLDER / case.pack / name, id=name) for name, case in CASES.items()]


def vector(path: Path) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return expected


def indices_of(expected: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(expected["step_indices"], np.int64).reshape(expected["shape"][1:])


@pytest.mark.parametrize("path", NAMES)
def test_the_runtime_finds_the_integers(path: Path) -> None:
    """Symbols and step indices of a file, and the position, mean, sign and table of every symbol of every scan."""
    expected, coder = vector(path), LatentCoder(load_pack(path.parent))
    file = sdl.unpack(path.with_suffix(".sdl").read_bytes())
    indices = coder.step_indices(file)
    np.testing.assert_array_equal(indices, indices_of(expected))
    assert coder.symbols(file).ravel().tolist() == expected["symbols"]
    coded = payload.decode(file.payload, coder.prior, indices)
    for wanted, (scan, values, found) in zip(expected["scans"], replay(coder.prior, coded, indices), strict=True):
        assert (scan.start, scan.stop) == (wanted["start"], wanted["stop"])
        eighths = np.array(wanted["means"], np.int64)
        mean = (eighths + 4) >> 3
        np.testing.assert_array_equal(found.mean, mean)
        np.testing.assert_array_equal(found.sign, np.where(eighths < 8 * mean, -1, 1))
        assert found.table.tolist() == wanted["tables"]
        assert values.ravel().tolist() == wanted["symbols"]


@pytest.mark.parametrize("path", NAMES)
def test_the_second_decoder_finds_the_integers(path: Path) -> None:
    """The decoder written from docs/PRIOR.md alone: the same symbols, positions, means and scales."""
    expected, arrays = vector(path), prior_arrays(path.parent)
    file = sdl.unpack(path.with_suffix(".sdl").read_bytes())
    coded = reference.decode(arrays, file.payload, indices_of(expected))
    found = reference.predictions(arrays, coded, indices_of(expected))
    for wanted, (places, means, scales) in zip(expected["scans"], found, strict=True):
        assert [list(place) for place in places] == wanted["positions"]
        assert means.ravel().tolist() == wanted["means"]
        assert scales.ravel().tolist() == wanted["scales"]
        at = [coded[place][wanted["start"] : wanted["stop"]].tolist() for place in places]
        assert [symbol for row in at for symbol in row] == wanted["symbols"]


def test_the_coders_tables() -> None:
    """The quality input of every step index, and where the intervals of some tables begin."""
    expected = json.loads((FOLDER / "wide" / "coder.json").read_text())
    assert [inverse_step(index) for index in range(1024)] == expected["inverse_step"]
    starts = reference.Tables(prior_arrays(FOLDER / "wide")).starts
    for table, wanted in expected["starts"].items():
        assert starts[int(table)] == wanted


def test_every_kind_of_thing_is_in_the_vectors() -> None:
    """Every extent, both sides of the near channels, a cut band, low bits, escapes, negative fractions, every clip."""
    scans = [scan for case, path in zip(CASES.values(), NAMES, strict=True) if case.pack == "wide"
             for scan in vector(path.values[0])["scans"]]  # fmt: skip
    prior = LatentCoder(load_pack(FOLDER / "wide")).prior
    of = {
        key: np.concatenate([np.array(scan[key], np.int64) for scan in scans])
        for key in ("means", "scales", "tables", "symbols")
    }
    classes = of["tables"] // FRACTIONS
    assert {symbol for scan in scans if scan["start"] == 0 for symbol in scan["symbols"]} == {0, 1, 2, 3, 4}
    assert {scan.wide for scan in prior.scans} == {False, True} and (prior.coded_channels - prior.near) % 8
    assert {len(scan.grids) for scan in prior.scans} == {1, 2} and {g.stride for s in prior.scans for g in s.grids} == {
        1,
        2,
        4,
    }
    fraction = of["means"] - 8 * ((of["means"] + 4) >> 3)
    assert set(range(-4, 4)) == set(fraction.tolist())
    assert {-8184, 8184} <= set(of["means"].tolist()) and {0, 65535} <= set(of["scales"].tolist())
    assert (prior.low_bits[classes] > 0).any() and len(set(classes.tolist())) > 20
    high = (of["symbols"] - ((of["means"] + 4) >> 3)) >> prior.low_bits[classes]
    escaped = np.abs(high) > prior.radius[classes] + 1
    assert (escaped & (high < 0)).any() and (escaped & (high > 0)).any()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.pack == "wide"])
def test_the_runtime_paints_the_pictures(name: str) -> None:
    """A pack of 20 channels that is told the quality level: the committed picture, within one level."""
    painted = Codec(FOLDER / "wide", device="cpu").decode(FOLDER / "wide" / f"{name}.sdl")
    with Image.open(FOLDER / "wide" / f"{name}.png") as picture:
        wanted = np.asarray(picture, np.int16)
    assert np.abs(np.asarray(painted, np.int16) - wanted).max() <= 1
