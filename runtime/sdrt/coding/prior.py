"""The prior: how integer latents become probabilities, in integers alone.

A prior is a pack's ``prior.npz``: a coding order, a small integer network for each pass of that order,
and integer frequency tables. docs/PRIOR.md is the normative description. In short:

Symbols (C, h, w) are coded in passes. A pass codes a range of channels (counted in the prior's own order)
on some grids of positions; it sees every symbol of earlier passes. From a window
of those symbols, the sums of their magnitudes and three kinds of global features the network predicts, for
each symbol, a mean in eighths and a scale in 1/256; scale and the mean's fraction choose a frequency table.

Exactness. Matrix products run through float32 BLAS, but they are integer arithmetic carried in float
registers: every operand is an integer, and loading checks for each column that
``sum(|weight| * largest |input|) < 2**24``, so that every partial sum, in any order, fused or not, is an
integer that float32 holds exactly. Everything else is int32 or int64. No float ever decides a table.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdrt.coding.npz import MAX_BYTES, read_arrays
from sdrt.errors import ModelError
from sdrt.packs.regular_file import read_regular_file

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

FORMAT = 1
MAX_SYMBOL = 2**20  # the largest magnitude that a payload may say
WINDOW = 2  # the largest reach of a tap, in symbols
SYMBOL_LIMIT = 1023  # inputs of the network are clipped to +-this
ENERGY_LIMIT = 9 * SYMBOL_LIMIT  # the largest sum of magnitudes in a 3x3 window
LATTICE = 4  # grids repeat after this many symbols
HIDDEN_LIMIT = 4095
GLOBAL_BITS = 8  # weights of one and of the inverse step have this many more fractional bits
SIZE_BITS = 4  # mean magnitudes are in sixteenths of a symbol
HIDDEN_BITS = 4  # hidden activations are in sixteenths of a symbol
MEAN_BITS = 3  # means are in eighths of a symbol
FRACTIONS = 5  # 0, 1/8 .. 4/8: the tables of negative fractions are mirrored
SCALE_BITS = 8  # scales are in 1/256 of a symbol
SCALE_LIMIT = 65535
EXACT = 2**24  # float32 holds every integer below
TOTAL = 65536  # a frequency table sums to this
MAX_CHANNELS = 256
MAX_PASSES = 64
MAX_RADIUS = 255


@dataclass(frozen=True)
class Grid:
    """Positions ``(y + stride * i, x + stride * j)``; stride is 1, 2 or 4."""

    y: int
    x: int
    stride: int


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass of the coding order, with its network. It codes channels [start, stop) on ``grids``, in their order.

    ``taps``, ``own_taps``: offsets (dy, dx) within +-WINDOW at which it sees channels [0, start) and [start, stop).
    ``weights`` float32 (inputs, H + 2 * size), integers: rows are taps x channels, own taps x channels, energies of
    [0, stop); columns are H hidden units, then the direct parts of ``size`` means and ``size`` scales.
    ``mean_weights`` int64 (stop, H + 2 * size): rows are mean magnitudes of [0, stop).
    ``global_weights`` int64 (2, H + 2 * size): rows are one and the inverse step.
    ``shift`` float32 (H,): hidden activations are ``floor(sum * 2**-shift)`` clipped, stored as 2**-shift.
    ``out_weights`` float32 (H, 2 * size), integers; ``out_shift`` int32 (2 * size,).
    """

    start: int
    stop: int
    grids: tuple[Grid, ...]
    taps: tuple[tuple[int, int], ...]
    own_taps: tuple[tuple[int, int], ...]
    weights: Float32
    mean_weights: NDArray[np.int64]
    global_weights: NDArray[np.int64]
    shift: Float32
    out_weights: Float32
    out_shift: Int32


@dataclass(frozen=True, eq=False)
class Prior:
    """A loaded prior; every array is validated and read-only.

    ``steps`` float32 (C,): base step of each channel, in (raw - shift) * scale units of the latent space.
    ``order`` int64 (C,): position in coding order -> channel.
    ``class_of`` uint8 (SCALE_LIMIT + 1,): scale -> class. ``radius``, ``low_bits`` int32 (K,).
    ``frequencies``: for each class uint16 (FRACTIONS, 2 * radius + 2), rows sum to 65536, the last is the escape.
    ``centres``: for each class int8 (FRACTIONS, 2 * radius + 2): where in its unit cell a symbol is rebuilt, in 1/256
    of a step from the symbol, for each table entry (mirrored with it).
    ``sensitivity`` float32 (C,): pixel error per squared step error, relative, and ``decisions``, how much bits weigh
    against it (0: plain rounding), are for the encoder only.
    """

    steps: Float32
    order: NDArray[np.int64]
    passes: tuple[Pass, ...]
    class_of: NDArray[np.uint8]
    radius: Int32
    low_bits: Int32
    frequencies: tuple[NDArray[np.uint16], ...]
    centres: tuple[NDArray[np.int8], ...]
    sensitivity: Float32
    decisions: float

    @property
    def channels(self) -> int:
        return len(self.steps)

    @cached_property
    def row_offsets(self) -> NDArray[np.int64]:
        """Where the row of each table = class * FRACTIONS + fraction begins in the flat arrays below."""
        widths = np.repeat(2 * self.radius.astype(np.int64) + 2, FRACTIONS)
        return np.cumsum(widths) - widths

    @cached_property
    def costs(self) -> Float32:
        """Bits of every table entry, flat; for estimates only."""
        flat = np.concatenate([table.ravel() for table in self.frequencies])
        return np.asarray(np.log2(np.float32(TOTAL) / flat.astype(np.float32)), dtype=np.float32)

    @cached_property
    def centre_offsets(self) -> Float32:
        """``centres``, flat, in steps."""
        flat = np.concatenate([table.ravel() for table in self.centres])
        return np.asarray(flat.astype(np.float32) / np.float32(256))


def load_prior(source: str | Path | bytes, name: str | None = None) -> Prior:
    """Read and validate a ``prior.npz``, from a path or its bytes; ``name`` is what errors call it.

    Raises ModelError when it cannot be read, is of a newer format, or breaks any rule of docs/PRIOR.md.
    """
    if isinstance(source, bytes):
        data, name = source, name or "prior.npz"
    else:
        data, name = read_regular_file(Path(source), MAX_BYTES), name or str(source)
    return build_prior(read_arrays(data, name), name)


def _take(arrays: Mapping[str, NDArray[np.generic]], key: str, kind: str, name: str) -> NDArray[np.generic]:
    if key not in arrays:
        raise ModelError(f"{name}: no array {key!r}")
    array = arrays[key]
    if array.dtype != np.dtype(kind):
        raise ModelError(f"{name}: array {key!r} is {array.dtype.str}, expected {np.dtype(kind).str}")
    return array


class _Reader:
    """Cuts a flat array into pieces and notices when it is too short or too long."""

    def __init__(self, arrays: Mapping[str, NDArray[np.generic]], key: str, kind: str, name: str) -> None:
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
        raise ModelError(f"{name}: breaks a rule of priors: {rule}")


def build_prior(arrays: Mapping[str, NDArray[np.generic]], name: str = "prior") -> Prior:
    """Validate the arrays of a ``prior.npz`` (docs/PRIOR.md lists them). Raises ModelError, beginning with ``name``."""
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
    decisions = (
        _take(arrays, "decisions", "<f4", name).astype(np.float32) if "decisions" in arrays else np.ones((), np.float32)
    )
    _check(decisions.shape == () and bool(0 <= decisions <= 100), name, "decisions are from 0 to 100")
    permutation = order.shape == (channels,) and np.array_equal(np.sort(order), np.arange(channels))
    _check(permutation, name, "order is a permutation of the channels")
    passes = _build_passes(arrays, channels, name)
    thresholds = _take(arrays, "thresholds", "<u2", name).astype(np.int64)
    radius = _take(arrays, "radius", "u1", name).astype(np.int32)
    low_bits = _take(arrays, "low_bits", "u1", name).astype(np.int32)
    _check(thresholds.ndim == 1 and bool((np.diff(thresholds) > 0).all()), name, "thresholds increase")
    count = len(thresholds) + 1
    _check(count <= 256 and radius.shape == low_bits.shape == (count,), name, "one radius and low_bits for each class")
    _check(bool((low_bits <= 16).all()), name, "at most 16 low bits")
    frequency, centre = _Reader(arrays, "frequencies", "<u2", name), _Reader(arrays, "centres", "i1", name)
    frequencies = tuple(frequency.take(FRACTIONS, 2 * int(r) + 2) for r in radius)
    centres = tuple(centre.take(FRACTIONS, 2 * int(r) + 2).astype(np.int8) for r in radius)
    frequency.end()
    centre.end()
    for table in frequencies:
        _check(
            bool((table > 0).all() and (table.sum(1) == TOTAL).all()), name, f"frequencies are positive, sum {TOTAL}"
        )
    prior = Prior(
        steps=steps,
        order=order,
        passes=passes,
        class_of=np.searchsorted(thresholds, np.arange(SCALE_LIMIT + 1), side="right").astype(np.uint8),
        radius=radius,
        low_bits=low_bits,
        frequencies=tuple(table.astype(np.uint16) for table in frequencies),
        centres=centres,
        sensitivity=sensitivity,
        decisions=float(decisions),
    )
    for array in (steps, sensitivity, order, prior.class_of, radius, low_bits):
        array.setflags(write=False)
    return prior


def _build_passes(arrays: Mapping[str, NDArray[np.generic]], channels: int, name: str) -> tuple[Pass, ...]:
    table = _take(arrays, "passes", "<i2", name).astype(np.int64)
    _check(table.ndim == 2 and table.shape[1] == 6, name, "passes has six columns")
    _check(1 <= len(table) <= MAX_PASSES, name, f"1 to {MAX_PASSES} passes")
    grid, tap, weight = (
        _Reader(arrays, "grids", "i1", name),
        _Reader(arrays, "taps", "i1", name),
        _Reader(arrays, "weights", "i1", name),
    )
    global_weight, shift = _Reader(arrays, "global_weights", "<i4", name), _Reader(arrays, "shift", "u1", name)
    out_weight, out_shift = _Reader(arrays, "out_weights", "i1", name), _Reader(arrays, "out_shift", "u1", name)
    covered = np.zeros((channels, LATTICE, LATTICE), np.int64)
    passes = []
    for start, stop, grid_count, tap_count, own_count, hidden in table.tolist():
        _check(0 <= start < stop <= channels, name, "a pass codes channels")
        _check(1 <= grid_count <= LATTICE**2 and 1 <= hidden <= 1024, name, "sizes of a pass")
        _check(
            0 <= min(tap_count, own_count) <= max(tap_count, own_count) <= (2 * WINDOW + 1) ** 2, name, "taps of a pass"
        )
        size = stop - start
        columns, locals_ = hidden + 2 * size, tap_count * start + own_count * size + stop
        grids, offsets = grid.take(grid_count, 3), tap.take(tap_count + own_count, 2)
        _check(bool((np.abs(offsets) <= WINDOW).all()), name, f"taps reach {WINDOW} symbols at most")
        for y, x, stride in grids.tolist():
            _check(stride in (1, 2, 4) and 0 <= y < stride and 0 <= x < stride, name, "grids of stride 1, 2 or 4")
            covered[start:stop, y::stride, x::stride] += 1
        weights, mean_weights = weight.take(locals_, columns), weight.take(stop, columns)
        global_weights = global_weight.take(2, columns)
        shifts, out_shifts = shift.take(hidden), out_shift.take(2 * size)
        out_weights = out_weight.take(hidden, 2 * size)
        largest = np.repeat([SYMBOL_LIMIT, ENERGY_LIMIT], [locals_ - stop, stop])
        bound = np.abs(weights).T @ largest + np.abs(mean_weights).sum(0) * SYMBOL_LIMIT
        bound += (np.abs(global_weights).T @ [1, 8192] >> GLOBAL_BITS) + 2
        _check(bool((bound < EXACT).all()), name, "sums of the first layer stay below 2**24")
        out_bound = np.abs(out_weights).sum(0) * HIDDEN_LIMIT
        _check(bool((out_bound < EXACT).all()), name, "sums of the second layer stay below 2**24")
        _check(bool((shifts < 24).all() and (out_shifts < 31).all()), name, "shifts are small")
        pairs = tuple((int(y), int(x)) for y, x in offsets)
        passes.append(
            Pass(
                start=start,
                stop=stop,
                grids=tuple(Grid(*row) for row in grids.tolist()),
                taps=pairs[:tap_count],
                own_taps=pairs[tap_count:],
                weights=weights.astype(np.float32),
                mean_weights=mean_weights,
                global_weights=global_weights,
                shift=np.ldexp(np.float32(1), -shifts),
                out_weights=out_weights.astype(np.float32),
                out_shift=out_shifts.astype(np.int32),
            )
        )
    _check(bool((covered == 1).all()), name, "every symbol is coded exactly once")
    for reader in (grid, tap, weight, global_weight, shift, out_weight, out_shift):
        reader.end()
    return tuple(passes)


def write_prior(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """The bytes of a ``prior.npz``: the same arrays give the same bytes, so that the hash is stable.

    Raises ModelError when the arrays are no valid prior.
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
