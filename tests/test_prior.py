"""The prior's file, its rules, and its integer arithmetic."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests import reference
from tests.prior_samples import DENSE, WIDE, heavy_arrays, laplace, plan

from sdrt.coding import context
from sdrt.coding.context import Canvas, inverse_step, predict, replay
from sdrt.coding.prior import FRACTIONS, MEAN_BITS
from sdrt.coding.prior_file import build_prior, load_prior, write_prior
from sdrt.errors import ModelError
from sdrt_export.prior_plan import Plan, generic_arrays, generic_prior, layout_arrays

Arrays = dict[str, NDArray[np.generic]]


@pytest.mark.parametrize("largest", [0.4, 30, 10**6])
@pytest.mark.parametrize("of", [DENSE, WIDE], ids=["dense", "wide"])
def test_float_registers_hold_the_integers(of: Plan, largest: float) -> None:
    """Products carried by float32 equal the arithmetic of docs/PRIOR.md in integers, at each position and step index.

    That holds for symbols far beyond the clip, with extents, bands and own neighbors, in the middle and at the edges.
    """
    arrays = heavy_arrays(of)
    prior = build_prior(arrays)
    symbols = laplace((7, 9), prior, largest)
    indices = np.random.default_rng(2).integers(0, 1024, (7, 9))
    seen, coded = set(), 0
    expected = reference.predictions(arrays, symbols.astype(np.int64), indices)
    for (scan, values, prediction), (places, eighths, scale) in zip(
        replay(prior, symbols, indices), expected, strict=True
    ):
        mean = (eighths + 4) >> MEAN_BITS
        fraction = eighths - (mean << MEAN_BITS)
        np.testing.assert_array_equal(values, [symbols[p][scan.start : scan.stop] for p in places])
        np.testing.assert_array_equal(prediction.mean, mean.ravel())
        np.testing.assert_array_equal(prediction.sign * (prediction.table % FRACTIONS), fraction.ravel())
        np.testing.assert_array_equal(prediction.table // FRACTIONS, prior.class_of[scale].ravel())
        seen |= set(prediction.table.tolist())
        coded += values.size
    assert len(seen) > 60, "the test's network says too little to test anything"
    assert coded >= (symbols != 0).sum()


def test_extents_spare_what_lies_beyond_them() -> None:
    """Of a position of extent 0 nothing but the extent is coded, of one of the largest extent all channels are."""
    prior = build_prior(heavy_arrays(WIDE))
    symbols = laplace((8, 8), prior, 3)
    symbols[:4, :, 0], symbols[:4, :, 1:] = 0, 0
    symbols[4:, :, 0] = len(prior.extents)
    coded = sum(values.size for _scan, values, _prediction in replay(prior, symbols, np.full((8, 8), 512)))
    assert coded == 64 + 32 * prior.channels


def test_step_indices_of_a_position_reach_that_position_alone() -> None:
    """The quality input is one for each position: two halves of different steps are predicted as in two pictures."""
    prior = build_prior(heavy_arrays(DENSE))
    symbols = np.zeros((4, 8, 8), np.int32)
    halves = np.repeat([[300, 700]], 4, axis=1).repeat(4, axis=0)
    mixed = [p.table for _scan, _values, p in replay(prior, symbols, halves)]
    for step_index, half in ((300, slice(0, 4)), (700, slice(4, 8))):
        pure = [p.table for _scan, _values, p in replay(prior, symbols, np.full((4, 8), step_index))]
        for scan, one, other in zip(prior.scans, mixed, pure, strict=True):
            places = Canvas(prior, halves).positions(scan)
            inside = (places % (8 + 4) - 2 >= half.start) & (places % (8 + 4) - 2 < half.stop)
            np.testing.assert_array_equal(one.reshape(-1, scan.size)[inside], other.reshape(-1, scan.size)[inside])


def test_large_pictures_are_predicted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prediction does not depend on how many positions are computed at once."""
    prior = build_prior(heavy_arrays(WIDE))
    symbols = laplace((13, 11), prior, 4)
    indices = np.arange(13 * 11).reshape(13, 11) % 3 + 500
    whole = [p for _scan, _values, p in replay(prior, symbols, indices)]
    monkeypatch.setattr(context, "_CHUNK", 16)
    pieces = [p for _scan, _values, p in replay(prior, symbols, indices)]
    for one, other in zip(whole, pieces, strict=True):
        np.testing.assert_array_equal(one.table, other.table)
        np.testing.assert_array_equal(one.mean, other.mean)


def test_inverse_step_is_exact() -> None:
    """The quality input falls from 8192 to 0.13 in 1024 steps of 2**(1/64), rounded."""
    values = [inverse_step(i) for i in range(1024)]
    assert values[0] == 8192
    assert values[512] == 32
    exact = [32 * 2.0 ** ((512 - i) / 64) for i in range(1024)]
    assert max(abs(v - e) / max(e, 1) for v, e in zip(values, exact, strict=True)) <= 0.51
    assert all(a >= b for a, b in pairwise(values))
    assert values == [reference.inverse_step(i) for i in range(1024)]


def test_predict_needs_no_position() -> None:
    """A scan whose grids lie outside a small picture predicts nothing and fails at nothing."""
    prior = generic_prior(3)
    canvas = Canvas(prior, np.full((1, 1), 512))
    places = canvas.positions(prior.scans[1])
    prediction = predict(canvas, prior.scans[1], places)
    assert len(places) == 0
    assert prediction.mean.shape == prediction.table.shape == (0,)


def test_writing_is_deterministic_and_small(tmp_path: Path) -> None:
    """The same arrays give the same bytes, bytes and path load alike, and arrays survive."""
    data = write_prior(heavy_arrays(WIDE))
    assert data == write_prior(heavy_arrays(WIDE))
    path = tmp_path / "prior.npz"
    path.write_bytes(data)
    one, two = load_prior(data), load_prior(path)
    for a, b in zip(one.scans, two.scans, strict=True):
        np.testing.assert_array_equal(a.weights, b.weights)
    np.testing.assert_array_equal(one.class_of, two.class_of)


def _changed(of: Arrays | None = None, /, **changes: object) -> Arrays:
    arrays = dict(generic_arrays(3) if of is None else of)
    for key, value in changes.items():
        if value is None:
            del arrays[key]
        else:
            arrays[key] = np.asarray(value, arrays[key].dtype)
    return arrays


def _with(key: str, index: int, value: int) -> Arrays:
    arrays = generic_arrays(3)
    flat = arrays[key].copy().reshape(-1)
    flat[index] = value  # type: ignore[call-overload]
    arrays[key] = flat.reshape(arrays[key].shape)
    return arrays


def zipped(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("disease", "arrays"),
    [
        ("newer format", _changed(format=3)),
        ("the format before", _changed(format=1)),
        ("no steps", _changed(steps=None)),
        ("a negative step", _changed(steps=[1, -1, 1])),
        ("a step that is no number", _changed(steps=[1, np.nan, 1])),
        ("a channel twice", _changed(order=[0, 1, 1])),
        ("too few channels in the order", _changed(order=[0, 1])),
        ("too many sensitivities", _changed(sensitivity=[1, 1, 1, 1])),
        ("thresholds that fall", _with("thresholds", 4, 1)),
        ("a frequency of zero", _with("frequencies", 5, 0)),
        ("frequencies that miss the total", _with("frequencies", 5, 9)),
        ("a radius that wants more tables", _with("radius", 3, 200)),
        ("25 low bits", _with("low_bits", 3, 25)),
        ("a scan beyond the channels", _with("scans", 1, 4)),
        ("a scan of no channel", _with("scans", 1, 0)),
        ("a scan with a part of a tap", _with("scans", 3, -1)),
        ("no scan", _changed(scans=np.zeros((0, 6)))),
        ("no near channel", _changed(near=0)),
        ("more near channels than there are", _changed(near=4)),
        ("decisions below zero", _changed(decisions=-1)),
        ("a grid coded twice", _with("grids", 3, 0)),
        ("a grid of stride 3", _with("grids", 2, 3)),
        ("a tap out of reach", _with("taps", 0, 3)),
        ("a shift of 24", _with("shift", 0, 24)),
        ("a global weight that overflows", _with("global_weights", 9, 2**30)),
        ("weights cut short", _changed(weights=np.zeros(5))),
        ("weights too many", _changed(weights=np.zeros(9999))),
        ("weights of another type", {**generic_arrays(3), "weights": np.zeros(72, np.int16)}),
    ],
)
def test_a_broken_prior_is_refused(disease: str, arrays: Arrays) -> None:
    """Every broken rule is a ModelError of one line that names the file."""
    with pytest.raises(ModelError) as caught:
        load_prior(zipped(arrays))
    assert str(caught.value).startswith("prior.npz: "), disease
    assert "\n" not in str(caught.value)


def _planned(of: Plan) -> Arrays:
    """Arrays of a plan that may break rules: networks as those of WIDE, which no rule gets to see."""
    return {**heavy_arrays(WIDE), **layout_arrays(of)}


@pytest.mark.parametrize(
    ("rule", "arrays"),
    [
        ("extents increase", _changed(heavy_arrays(WIDE), extents=[2, 2, 13, 21])),
        ("the last extent is all channels", _changed(heavy_arrays(WIDE), extents=[2, 5, 13, 20])),
        ("the last extent is all channels", _changed(heavy_arrays(WIDE), extents=[2, 5, 13, 22])),
        ("the channels of a scan have one extent", _changed(heavy_arrays(WIDE), extents=[2, 6, 13, 21])),
        ("the channels of a scan have one extent", _planned(plan(21, 6, WIDE.extents, (0, 3, 6, 14, 22)))),
        ("a scan is on one side of the near channels", _changed(heavy_arrays(WIDE), near=5)),
        ("wide scans code whole bands", _changed(heavy_arrays(WIDE), near=3)),
        ("extents are coded first", _planned(replace(WIDE, scans=WIDE.scans[2:] + WIDE.scans[:2]))),
        ("at most 32 extents", _changed(heavy_arrays(WIDE), extents=range(1, 40))),
    ],
)
def test_a_broken_wide_prior_is_refused(rule: str, arrays: Arrays) -> None:
    """Rules of extents, near channels and bands are named by what breaks them."""
    with pytest.raises(ModelError, match=rule):
        load_prior(zipped(arrays))


def test_a_heavy_weight_is_refused() -> None:
    """A network whose sums could leave float32's exact integers does not load."""
    for key in ("weights", "out_weights"):
        arrays = heavy_arrays(plan(8, 8, (), (0, 4, 8), hidden=40))
        arrays[key] = np.full_like(arrays[key], 127)
        with pytest.raises(ModelError, match=r"2\*\*24"):
            build_prior(arrays)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    """Absent, empty, truncated, pickled and swollen files are ModelErrors."""
    with pytest.raises(ModelError, match="cannot be read"):
        load_prior(tmp_path / "absent.npz")
    data = write_prior(generic_arrays(2))
    for broken in (b"", b"PK", data[: len(data) // 2], data[:-30]):
        with pytest.raises(ModelError):
            load_prior(broken)
    pickled = io.BytesIO()
    np.savez(pickled, format=np.array([{}], object))
    with pytest.raises(ModelError):
        load_prior(pickled.getvalue())
    swollen = io.BytesIO()
    with zipfile.ZipFile(swollen, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("format.npy", bytes(9 * 2**20))
    with pytest.raises(ModelError, match="limit"):
        load_prior(swollen.getvalue())


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as made:
        for key, content in members.items():
            made.writestr(f"{key}.npy", content)
    return stream.getvalue()


def members_with(key: str, header: bytes, content: bytes = bytes(12), version: bytes = b"\x01\x00") -> dict[str, bytes]:
    """The files of a good prior of three channels, but for one with this header."""
    good = io.BytesIO(write_prior(generic_arrays(3)))
    with zipfile.ZipFile(good) as made:
        members = {name.removesuffix(".npy"): made.read(name) for name in made.namelist()}
    members[key] = b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + content
    return members


HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }\n"
HOSTILE = {
    "an attribute instead of a type": HEADER.replace(b"'<f4'", b"None"),
    "objects": HEADER.replace(b"<f4", b"|O8"),
    "a type of many fields": HEADER.replace(b"'<f4'", b"[('a', '<f4')]"),
    "a type of no bytes": HEADER.replace(b"<f4", b"|V0"),
    "doubles": HEADER.replace(b"<f4", b"<f8"),
    "the other byte order": HEADER.replace(b"<f4", b">f4"),
    "a side of ten to the thirteenth": HEADER.replace(b"3,", b"1%013d," % 0),
    "a side of five thousand digits": HEADER.replace(b"3,", b"9" * 5000 + b","),
    "a negative side": HEADER.replace(b"3,", b"-3,"),
    "a side that is true": HEADER.replace(b"3,", b"True,"),
    "a side of an underscore": HEADER.replace(b"3,", b"3_0,"),
    "a side too many": HEADER.replace(b"3,", b"4,"),
    "no sides and no number": HEADER.replace(b"3,", b","),
    "forty dimensions": HEADER.replace(b"3,", b"1, " * 39 + b"3"),
    "dimensions whose product wraps": HEADER.replace(b"3,", b"65536, 65536"),
    "nothing times much": HEADER.replace(b"3,", b"0, 99999999"),
    "columns first": HEADER.replace(b"False", b"True"),
    "a program": b"__import__('os').abort()\n",
    "an open string": b"{'descr': '<f4\n",
    "brackets without end": b"(" * 3000,
    "no text": b"\xff\xfe" * 20,
    "nothing": b"",
}


@pytest.mark.parametrize("disease", HOSTILE)
def test_a_hostile_header_is_refused_before_anything_is_allocated(disease: str) -> None:
    """Whatever stands where numpy writes type and shape: a ModelError of one line that names the file and the array."""
    with pytest.raises(ModelError, match=r"^prior\.npz: .*\bsteps\b") as caught:
        load_prior(archive(members_with("steps", HOSTILE[disease])))
    assert "\n" not in str(caught.value)


def test_a_hostile_archive_is_refused() -> None:
    """Damage and lies in the zip around the arrays: nothing but ModelError, at every byte, and no work for nothing."""
    good = members_with("steps", HEADER, np.ones(3, "<f4").tobytes())
    data = archive(good)
    load_prior(data)
    ill = [
        archive({**good, "steps": b"\x93NUMPY"}),
        archive(members_with("steps", HEADER, version=b"\x02\x00")),
        archive(good, zipfile.ZIP_BZIP2),
        archive(good, zipfile.ZIP_LZMA),
        archive({**good, "more": bytes(9 * 2**20)}),
        archive({f"{key}{n}": content for key, content in good.items() for n in range(9)}),
        data + b"PK",
        bytes(22),
        b"PK\5\6" + bytes(18),
        bytes(8 * 2**20 + 1),
    ]
    rng = np.random.default_rng(7)
    for at in (*range(0, len(data), 199), *range(len(data) - 300, len(data))):
        ill.append(data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :])
    refused = 0
    for number, copy in enumerate(ill):
        try:
            load_prior(copy)
        except ModelError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert number > 9, "a date, say, may differ"
    assert refused > len(ill) / 2


def test_the_hostile_priors_that_were_found(shared: Path) -> None:
    """Those on which 0.5.0 raised what is no error of ours."""
    found = sorted((shared / "cases" / "priors").glob("*.npz"))
    for path in found:
        with pytest.raises(ModelError, match=path.name):
            load_prior(path)
    assert found


def test_the_largest_prior_stays_within_its_memory() -> None:
    """Loading takes a small multiple of what the file may unpack to, whatever it holds."""
    zeros = b"{'descr': '|i1', 'fortran_order': False, 'shape': (%d,), }\n"
    count = 8 * 2**20 - 200_000
    data = archive(members_with("weights", zeros % count, bytes(count)))
    tracemalloc.start()
    with pytest.raises(ModelError, match=r"weights.* too long"):
        load_prior(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
