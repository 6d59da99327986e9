"""Reads ``prior.npz`` into a ``Prior`` and writes its arrays. docs/PRIOR.md lists the arrays and their rules."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdrt.coding.prior import (
    BAND,
    EXACT,
    FORMAT,
    FRACTIONS,
    GLOBAL_BITS,
    HIDDEN_LIMIT,
    LATTICE,
    SCALE_LIMIT,
    SYMBOL_LIMIT,
    TOTAL,
    WINDOW,
    Grid,
    Prior,
    Scan,
    input_limits,
)
from sdrt.container.npz import read_arrays
from sdrt.errors import ModelError
from sdrt.packs.regular_file import read_regular_file

Arrays = Mapping[str, NDArray[np.generic]]

MAX_BYTES = 8 * 2**20
"""Limit of the archive's size, and of all its arrays together."""
DTYPES = ("|u1", "|i1", "<u2", "<i2", "<i4", "<f4")
MAX_CHANNELS = 256
MAX_SCANS = 96
MAX_RADIUS = 255
MAX_EXTENTS = 32
_LARGEST_INVERSE = 8192
_SCAN_ARRAYS = {
    "grids": "i1", "taps": "i1", "weights": "i1", "own_weights": "i1", "global_weights": "<i4",
    "shift": "u1", "out_weights": "i1", "out_shift": "u1",
}  # fmt: skip
"""Arrays that hold the scans' parts one after the other, and their dtypes."""


def load_prior(source: str | Path | bytes, name: str | None = None) -> Prior:
    """Reads and validates a ``prior.npz``.

    Args:
        source: A path, or the bytes of the file.
        name: The name that error messages begin with. None: the path, or "prior.npz" for bytes.

    Returns:
        The prior. Its arrays are read-only.

    Raises:
        ModelError: The file cannot be read, has another format version, or violates a rule of docs/PRIOR.md.
    """
    if isinstance(source, bytes):
        data, name = source, name or "prior.npz"
    else:
        data, name = read_regular_file(Path(source), MAX_BYTES), name or str(source)
    if len(data) > MAX_BYTES:
        raise ModelError(f"{name}: has {len(data)} bytes, the limit is {MAX_BYTES}")
    try:
        arrays = read_arrays(data, max_bytes=MAX_BYTES, dtypes=DTYPES, max_dimensions=2)
    except ValueError as error:
        raise ModelError(f"{name}: not a prior: {error}") from None
    return build_prior(arrays, name)


def _take(arrays: Arrays, key: str, kind: str, name: str) -> NDArray[np.generic]:
    if key not in arrays:
        raise ModelError(f"{name}: no array {key!r}")
    array = arrays[key]
    if array.dtype != np.dtype(kind):
        raise ModelError(f"{name}: array {key!r} is {array.dtype.str}, expected {np.dtype(kind).str}")
    return array


class _Reader:
    """Splits a flat array into consecutive blocks. Raises ModelError if it is too short or too long."""

    def __init__(self, arrays: Arrays, key: str, kind: str, name: str) -> None:
        self._array, self._key, self._name, self._at = _take(arrays, key, kind, name).ravel(), key, name, 0

    def take(self, *shape: int) -> NDArray[np.int64]:
        count = int(np.prod(shape))
        piece = self._array[self._at : self._at + count]
        if len(piece) != count:
            raise ModelError(f"{self._name}: array {self._key!r} is too short")
        self._at += count
        return piece.astype(np.int64).reshape(shape)

    def end(self) -> None:
        if self._at != len(self._array):
            raise ModelError(f"{self._name}: array {self._key!r} is too long")


def _check(good: bool | np.bool, name: str, rule: str) -> None:
    if not good:
        raise ModelError(f"{name}: invalid prior, violates: {rule}")


def build_prior(arrays: Arrays, name: str = "prior") -> Prior:
    """Builds a prior from its arrays, and validates all of them.

    Args:
        arrays: Name -> array with the dtypes and shapes of docs/PRIOR.md; unknown names are ignored.
        name: The name that error messages begin with.

    Returns:
        The prior. Its arrays are read-only.

    Raises:
        ModelError: An array is missing, has the wrong dtype or length, or violates a rule.
    """
    version = _take(arrays, "format", "<u2", name)
    _check(version.shape == (), name, "format is one number")
    if version != FORMAT:
        raise ModelError(f"{name}: prior format {version}, this version reads {FORMAT}")
    steps = _take(arrays, "steps", "<f4", name).astype(np.float32)
    sensitivity = _take(arrays, "sensitivity", "<f4", name).astype(np.float32)
    order = _take(arrays, "order", "u1", name).astype(np.int64)
    channels = len(steps) if steps.ndim == 1 else 0
    _check(1 <= channels <= MAX_CHANNELS, name, f"1 to {MAX_CHANNELS} channels")
    _check(bool(np.isfinite(steps).all() and (steps > 0).all()), name, "steps are finite and positive")
    _check(sensitivity.shape == (channels,), name, "one sensitivity for each channel")
    _check(bool(np.isfinite(sensitivity).all() and (sensitivity > 0).all()), name, "sensitivity is finite and positive")
    bit_weight = _take(arrays, "decisions", "<f4", name).astype(np.float32)
    _check(bit_weight.shape == () and bool(0 <= bit_weight <= 100), name, "decisions are from 0 to 100")
    permutation = order.shape == (channels,) and np.array_equal(np.sort(order), np.arange(channels))
    _check(permutation, name, "order is a permutation of the channels")
    extents = _take(arrays, "extents", "<i2", name).astype(np.int64)
    _check(extents.ndim == 1 and len(extents) <= MAX_EXTENTS, name, f"at most {MAX_EXTENTS} extents")
    _check(bool((np.diff(extents, prepend=0) > 0).all()), name, "extents increase")
    _check(not len(extents) or extents[-1] == channels, name, "the last extent is all channels")
    shown = _take(arrays, "near", "<i2", name)
    coded = channels + (1 if len(extents) else 0)
    _check(shown.shape == () and 1 <= int(shown) <= coded, name, "near is from 1 to the coded channels")
    near = int(shown)
    scans = _build_scans(arrays, coded, tuple(extents.tolist()), near, name)
    thresholds = _take(arrays, "thresholds", "<u2", name).astype(np.int64)
    radius = _take(arrays, "radius", "u1", name).astype(np.int32)
    low_bits = _take(arrays, "low_bits", "u1", name).astype(np.int32)
    _check(thresholds.ndim == 1 and bool((np.diff(thresholds) > 0).all()), name, "thresholds increase")
    count = len(thresholds) + 1
    _check(count <= 256 and radius.shape == low_bits.shape == (count,), name, "one radius and low_bits for each class")
    _check(bool((low_bits <= 16).all()), name, "at most 16 low bits")
    frequency = _Reader(arrays, "frequencies", "<u2", name)
    frequencies = tuple(frequency.take(FRACTIONS, 2 * int(r) + 2) for r in radius)
    frequency.end()
    positive = all(bool((table > 0).all() and (table.sum(1) == TOTAL).all()) for table in frequencies)
    _check(positive, name, f"frequencies are positive, sum {TOTAL}")
    prior = Prior(
        steps=steps,
        order=order,
        extents=tuple(extents.tolist()),
        near=near,
        scans=scans,
        class_of=np.searchsorted(thresholds, np.arange(SCALE_LIMIT + 1), side="right").astype(np.uint8),
        radius=radius,
        low_bits=low_bits,
        frequencies=tuple(table.astype(np.uint16) for table in frequencies),
        sensitivity=sensitivity,
        bit_weight=float(bit_weight),
    )
    for array in (steps, sensitivity, order, prior.class_of, radius, low_bits):
        array.setflags(write=False)
    return prior


def _build_scans(arrays: Arrays, coded: int, extents: tuple[int, ...], near: int, name: str) -> tuple[Scan, ...]:
    """The scans, which together code every symbol once, the extents first."""
    table = _take(arrays, "scans", "<i2", name).astype(np.int64)
    _check(table.ndim == 2 and table.shape[1] == 6, name, "scans has six columns")
    _check(1 <= len(table) <= MAX_SCANS, name, f"1 to {MAX_SCANS} scans")
    read = {key: _Reader(arrays, key, kind, name) for key, kind in _SCAN_ARRAYS.items()}
    covered = np.zeros((coded, LATTICE, LATTICE), np.int64)
    # A latent channel is coded where the extent reaches it; the extents are coded everywhere, and first.
    reach = [0, *np.searchsorted(extents, np.arange(coded - 1), side="right") + 1] if extents else [0] * coded
    scans = []
    for start, stop, *counts in table.tolist():
        _check(0 <= start < stop <= coded, name, "a scan codes at least one channel")
        _check(reach[start] == reach[stop - 1], name, "the channels of a scan have one extent")
        _check(not extents or start == 0 or bool((covered[0] == 1).all()), name, "extents are coded first")
        wide = start >= near
        _check(wide or stop <= near, name, "a scan is on one side of the near channels")
        bands = (0, 0)
        if wide:
            whole = (start - near) % BAND == 0 and (stop == coded or (stop - near) % BAND == 0)
            _check(whole, name, "wide scans code whole bands")
            bands = ((start - near) // BAND, -(-(stop - near) // BAND))
        scan = _read_scan(
            read, counts, name, start=start, stop=stop, near=min(start, near), bands=bands, min_extent=int(reach[start])
        )
        for grid in scan.grids:
            covered[start:stop, grid.y :: grid.stride, grid.x :: grid.stride] += 1
        scans.append(scan)
    _check(bool((covered == 1).all()), name, "every symbol is coded exactly once")
    for reader in read.values():
        reader.end()
    return tuple(scans)


def _read_scan(
    read: Mapping[str, _Reader],
    counts: list[int],
    name: str,
    *,
    start: int,
    stop: int,
    near: int,
    bands: tuple[int, int],
    min_extent: int,
) -> Scan:
    """Takes the arrays of one scan. ``counts``: grids, taps, own taps and hidden units; the others as of ``Scan``."""
    grid_count, tap_count, own_count, hidden = counts
    _check(1 <= grid_count <= LATTICE**2 and 1 <= hidden <= 1024, name, "1 to 16 grids, 1 to 1024 hidden units")
    max_taps = (2 * WINDOW + 1) ** 2
    _check(all(0 <= n <= max_taps for n in (tap_count, own_count)), name, f"at most {max_taps} taps in a scan")
    grids, offsets = read["grids"].take(grid_count, 3), read["taps"].take(tap_count + own_count, 2)
    for y, x, stride in grids.tolist():
        _check(stride in (1, 2, 4) and 0 <= y < stride and 0 <= x < stride, name, "grids of stride 1, 2 or 4")
    _check(bool((np.abs(offsets) <= WINDOW).all()), name, f"taps reach {WINDOW} symbols at most")
    wide, size = bands != (0, 0), stop - start
    columns = hidden if wide else hidden + 2 * size
    own, shown = (0, near) if wide else (own_count * size, stop)
    limits = input_limits(tap_count * near, own, shown, bands)
    weights, mean_weights = read["weights"].take(len(limits), columns), read["weights"].take(shown, columns)
    own_weights = read["own_weights"].take(2, own_count if wide else 0, size)
    global_weights = read["global_weights"].take(2, hidden + 2 * size)
    shifts, out_shifts = read["shift"].take(hidden), read["out_shift"].take(2 * size)
    _check(bool((shifts < 24).all() and (out_shifts < 31).all()), name, "shifts are below 24, output shifts below 31")
    out_weights = read["out_weights"].take(hidden, 2 * size)
    bound = (np.abs(global_weights).T @ [1, _LARGEST_INVERSE] >> GLOBAL_BITS) + 2
    bound[:columns] += np.abs(weights).T @ limits + np.abs(mean_weights).sum(0) * SYMBOL_LIMIT
    bound[hidden:] += np.abs(own_weights).sum(1).ravel() * SYMBOL_LIMIT
    _check(bool((bound < EXACT).all()), name, "sums of the first layer stay below 2**24")
    bound = np.abs(out_weights).sum(0) * HIDDEN_LIMIT
    _check(bool((bound < EXACT).all()), name, "sums of the second layer stay below 2**24")
    pairs = tuple((int(y), int(x)) for y, x in offsets)
    return Scan(
        start=start,
        stop=stop,
        grids=tuple(Grid(*row) for row in grids.tolist()),
        min_extent=min_extent,
        wide=wide,
        near=near,
        bands=bands,
        taps=pairs[:tap_count],
        own_taps=pairs[tap_count:],
        weights=weights.astype(np.float32),
        own_weights=own_weights.astype(np.float32),
        mean_weights=mean_weights,
        global_weights=global_weights,
        shift=np.ldexp(np.float32(1), -shifts),
        out_weights=out_weights.astype(np.float32),
        out_shift=out_shifts.astype(np.int32),
    )


def write_prior(arrays: Arrays) -> bytes:
    """Serializes a prior.

    Args:
        arrays: As for ``build_prior``.

    Returns:
        The bytes of a ``prior.npz``, a deterministic function of the arrays: their SHA-256 identifies the prior.

    Raises:
        ModelError: The arrays are not a valid prior.
    """
    build_prior(arrays)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for key in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(arrays[key], order="C"), version=(1, 0), allow_pickle=False)
            archive.writestr(
                zipfile.ZipInfo(f"{key}.npy", (1980, 1, 1, 0, 0, 0)), member.getvalue(), zipfile.ZIP_DEFLATED
            )
    return buffer.getvalue()
