"""The prior's file, its rules, and its integer arithmetic."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sdrt.coding.context import Canvas, inverse_step, predict, replay
from sdrt.coding.prior import (
    ENERGY_LIMIT,
    EXACT,
    FRACTIONS,
    GLOBAL_BITS,
    HIDDEN_BITS,
    HIDDEN_LIMIT,
    MEAN_BITS,
    SCALE_LIMIT,
    SYMBOL_LIMIT,
    Pass,
    build_prior,
    load_prior,
    write_prior,
)
from sdrt.errors import ModelError
from sdrt_export.prior_fit import generic_arrays

Arrays = dict[str, NDArray[np.generic]]


def heavy_arrays(channels: int = 8, hidden: int = 24, seed: int = 3) -> Arrays:
    """A prior whose network is random and as heavy as the rules allow."""
    random = np.random.default_rng(seed)
    arrays = generic_arrays(channels)
    half = channels // 2
    taps = [(y, x) for y in range(-2, 3) for x in range(-2, 3)]
    own = [tap for tap in taps if sum(tap) % 2]
    checkerboard = [[(0, 0, 2), (1, 1, 2)], [(0, 1, 2), (1, 0, 2)]]
    parts: dict[str, list[NDArray[np.generic]]] = {key: [] for key in ("weights", "global_weights", "out_weights")}
    rows, grids, offsets = [], [], []
    for start, stop in ((0, half), (half, channels)):
        for phase, own_taps in zip(checkerboard, ([], own), strict=True):
            size = stop - start
            columns = hidden + 2 * size
            inputs = len(taps) * start + len(own_taps) * size + stop
            weights = random.integers(-127, 128, (inputs, columns))
            largest = np.repeat([SYMBOL_LIMIT, ENERGY_LIMIT], [inputs - stop, stop])
            sizes = random.integers(-127, 128, (stop, columns))
            over = (np.abs(weights).T @ largest + np.abs(sizes).sum(0) * SYMBOL_LIMIT) / (EXACT - 2000)
            both = np.concatenate([weights, sizes])
            parts["weights"].append(np.trunc(both / np.maximum(over, 1)).astype(np.int8).ravel())
            parts["global_weights"].append(random.integers(-9, 10, (2, columns)).astype("<i4").ravel())
            out = random.integers(-127, 128, (hidden, 2 * size))
            out_over = np.abs(out).sum(0) * HIDDEN_LIMIT / (EXACT - 1)
            parts["out_weights"].append(np.trunc(out / np.maximum(out_over, 1)).astype(np.int8).ravel())
            rows.append([start, stop, len(phase), len(taps), len(own_taps), hidden])
            grids += phase
            offsets += taps + own_taps
    arrays.update({key: np.concatenate(pieces) for key, pieces in parts.items()})
    arrays["passes"] = np.array(rows, "<i2")
    arrays["grids"] = np.array(grids, np.int8)
    arrays["taps"] = np.array(offsets, np.int8)
    arrays["shift"] = random.integers(0, 12, 4 * hidden).astype(np.uint8)
    arrays["out_shift"] = random.integers(4, 12, 8 * half).astype(np.uint8)
    return arrays


def predict_in_int64(step: Pass, canvas: Canvas, step_index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """docs/PRIOR.md spelled out position by position in int64: (means in eighths, scales), (positions, size)."""
    hidden = len(step.shift)
    size = step.stop - step.start
    symbols, energy = canvas.symbols.astype(np.int64), canvas.energy.astype(np.int64)
    weights = step.weights.astype(np.int64)
    shift = np.round(-np.log2(step.shift)).astype(np.int64)
    means = 16 * canvas.sums[: step.stop] // np.maximum(canvas.counts[: step.stop], 1)
    bias = np.einsum("i,ij->j", means, step.mean_weights) >> 4
    bias += np.einsum("i,ij->j", [1, inverse_step(step_index)], step.global_weights) >> GLOBAL_BITS
    rows = []
    for grid in step.grids:
        for y in range(grid.y, canvas.height, grid.stride):
            for x in range(grid.x, canvas.width, grid.stride):
                earlier = [symbols[y + 2 + dy, x + 2 + dx, : step.start] for dy, dx in step.taps]
                own = [symbols[y + 2 + dy, x + 2 + dx, step.start : step.stop] for dy, dx in step.own_taps]
                inputs = np.concatenate([*earlier, *own, energy[y + 1, x + 1, : step.stop]])
                sums = np.einsum("i,ij->j", inputs, weights) + bias
                active = np.clip(sums[:hidden] >> shift, 0, HIDDEN_LIMIT)
                out = np.einsum("i,ij->j", active, step.out_weights.astype(np.int64))
                rows.append((out + (sums[hidden:] << HIDDEN_BITS)) >> step.out_shift)
    outputs = np.array(rows).reshape(-1, 2 * size)
    limit = SYMBOL_LIMIT << MEAN_BITS
    return np.clip(outputs[:, :size], -limit, limit), np.clip(outputs[:, size:], 0, SCALE_LIMIT)


@pytest.mark.parametrize("largest", [1, 40, 10**6])
def test_float_registers_hold_the_integers(largest: int) -> None:
    """Products carried by float32 equal int64 arithmetic to the last bit, for symbols far beyond the clip too."""
    prior = build_prior(heavy_arrays())
    random = np.random.default_rng(largest)
    symbols = random.integers(-largest, largest + 1, (9, 11, 8)).astype(np.int32)
    seen = 0
    canvas = Canvas(8, 9, 11)
    for step, values, prediction in replay(prior, symbols, 100):
        eighths, scale = predict_in_int64(step, canvas, 100)
        mean = (eighths + 4) >> MEAN_BITS
        fraction = eighths - (mean << MEAN_BITS)
        np.testing.assert_array_equal(prediction.mean, mean.ravel())
        np.testing.assert_array_equal(prediction.sign * (prediction.table % FRACTIONS), fraction.ravel())
        np.testing.assert_array_equal(prediction.table // FRACTIONS, prior.class_of[scale].ravel())
        seen += len(np.unique(prediction.table))
        canvas.store(step, values)
    assert seen > 20, "the test's network says too little to test anything"


def test_energy_is_the_sum_of_magnitudes_around() -> None:
    """After the last pass, every energy equals the 3x3 sum of clipped magnitudes."""
    prior = build_prior(heavy_arrays())
    symbols = np.random.default_rng(5).integers(-3000, 3000, (7, 6, 8)).astype(np.int32)
    canvas = Canvas(8, 7, 6)
    first = 0
    for step, values, _prediction in replay(prior, symbols, 512):
        canvas.store(step, values)
        first += values.size
    assert first == symbols.size
    padded = np.pad(np.minimum(np.abs(symbols), SYMBOL_LIMIT), ((1, 1), (1, 1), (0, 0)))
    expected = sum(padded[y : y + 7, x : x + 6] for y in range(3) for x in range(3))
    np.testing.assert_array_equal(canvas.energy[1:-1, 1:-1], expected)


def test_large_pictures_are_predicted_in_pieces() -> None:
    """A prediction does not depend on how many positions are computed at once."""
    from sdrt.coding import context

    prior = build_prior(heavy_arrays())
    symbols = np.random.default_rng(6).integers(-9, 10, (21, 19, 8)).astype(np.int32)
    whole = [p for _step, _values, p in replay(prior, symbols, 512)]
    before, context._CHUNK = context._CHUNK, 16
    try:
        pieces = [p for _step, _values, p in replay(prior, symbols, 512)]
    finally:
        context._CHUNK = before
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


def test_predict_needs_no_position() -> None:
    """A pass whose grids lie outside a small picture predicts nothing and fails at nothing."""
    prior = build_prior(generic_arrays(3))
    prediction = predict(prior, prior.passes[1], Canvas(3, 1, 1), 512)
    assert prediction.mean.shape == prediction.table.shape == (0,)


def test_writing_is_deterministic_and_small(tmp_path: Path) -> None:
    """The same arrays give the same bytes, bytes and path load alike, and arrays survive."""
    data = write_prior(heavy_arrays())
    assert data == write_prior(heavy_arrays())
    path = tmp_path / "prior.npz"
    path.write_bytes(data)
    one, two = load_prior(data), load_prior(path)
    for a, b in zip(one.passes, two.passes, strict=True):
        np.testing.assert_array_equal(a.weights, b.weights)
    np.testing.assert_array_equal(one.class_of, two.class_of)


def _changed(**changes: object) -> Arrays:
    arrays = generic_arrays(3)
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


@pytest.mark.parametrize(
    ("disease", "arrays"),
    [
        ("newer format", _changed(format=2)),
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
        ("a pass beyond the channels", _with("passes", 1, 4)),
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
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    with pytest.raises(ModelError) as caught:
        load_prior(buffer.getvalue())
    assert str(caught.value).startswith("prior.npz: "), disease
    assert "\n" not in str(caught.value)


def test_a_heavy_weight_is_refused() -> None:
    """A network whose sums could leave float32's exact integers does not load."""
    arrays = heavy_arrays()
    arrays["weights"] = np.full_like(arrays["weights"], 127)
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
