"""Coded symbols <-> payload bytes: a range coder driven by the prior's tables.

The payload is one range-coder stream (constriction's: 32-bit words, 64-bit state, 24-bit models), most significant byte
first: every word that the coder puts out, and the shortest tail that still decodes, whose absent bytes read as zero.
Within a scan, symbols are coded table by table, stable by position; then the low bits of wide classes, then the
escapes. docs/PRIOR.md has every detail.

The bytes of given symbols are unique: a decoder encodes what it reads again and refuses a payload that differs. It does
so after every scan, so that a few bytes that claim many symbols cost the work of a scan.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from sdrt.coding.context import Canvas, Prediction, predict, replay, table_entries
from sdrt.coding.prior import FRACTIONS, MAX_SYMBOL, TOTAL, Int32, Prior
from sdrt.coding.symbols import Coded
from sdrt.errors import CorruptError

StepIndices = NDArray[np.integer]

_ESCAPE_BITS = 24  # excess magnitudes below 2**24: residuals reach beyond MAX_SYMBOL where the mean is wrong
_STATE = 2**64


@lru_cache(maxsize=1)
def _stream() -> Any:
    """constriction's module, imported when first needed: ``sdrt info`` does not need it."""
    import constriction

    return constriction.stream


class _Models:
    """The coder's models of a prior's frequency tables, created on first use."""

    def __init__(self, frequencies: tuple[NDArray[np.uint16], ...]) -> None:
        self._frequencies = frequencies
        self._made: dict[int, Any] = {}

    def __getitem__(self, table: int) -> Any:
        model = self._made.get(table)
        if model is None:
            row = self._frequencies[table // FRACTIONS][table % FRACTIONS]
            # Multiples of 1/65536 are exact in float32, so the coder's own rounding is the same everywhere.
            model = _stream().model.Categorical(row.astype(np.float32) / np.float32(TOTAL), perfect=False)
            self._made[table] = model
        return model


_MODELS: WeakKeyDictionary[Prior, _Models] = WeakKeyDictionary()
"""The models of each prior for as long as somebody holds the prior: they must not hold it themselves."""


def _models_of(prior: Prior) -> _Models:
    models = _MODELS.get(prior)
    return _MODELS.setdefault(prior, _Models(prior.frequencies)) if models is None else models


def _runs(tables: NDArray[np.int16]) -> tuple[NDArray[np.int64], Iterator[tuple[int, int, int]]]:
    """The coding order of a scan: symbols sorted by table, and the runs (table, first, end) of equal tables."""
    order = np.argsort(tables.astype(np.uint16), kind="stable")
    counts = np.bincount(tables)
    present = np.flatnonzero(counts)
    ends = np.cumsum(counts[present])
    firsts = ends - counts[present]
    return order, zip(present.tolist(), firsts.tolist(), ends.tolist(), strict=True)


class _Encoder:
    """Encodes one payload, scan by scan."""

    def __init__(self, prior: Prior) -> None:
        self._prior, self._models = prior, _models_of(prior)
        self._coder, self._uniform = _stream().queue.RangeEncoder(), _stream().model.Uniform()

    def scan(self, prediction: Prediction, symbols: Int32) -> None:
        """Appends the symbols (n,) of a scan."""
        prior, coder = self._prior, self._coder
        entry, low, high = table_entries(prior, prediction, symbols)
        order, runs = _runs(prediction.table)
        ordered = entry[order]
        for table, first, end in runs:
            coder.encode(ordered[first:end], self._models[table])
        classes = prediction.table // FRACTIONS
        bits = prior.low_bits[classes]
        wide = np.flatnonzero(bits)
        if len(wide):
            coder.encode(low[wide], self._uniform, (1 << bits[wide]).astype(np.int32))
        radius = prior.radius[classes]
        escaped = np.flatnonzero(entry > 2 * radius)
        if len(escaped):
            self._escapes(high[escaped], radius[escaped])

    def _escapes(self, high: Int32, radius: Int32) -> None:
        """Sign, then the length of the excess magnitude, then its bits below the leading one."""
        coder, uniform = self._coder, self._uniform
        excess = np.abs(high) - radius  # at least 1
        lengths = np.frexp(excess.astype(np.float64))[1].astype(np.int32) - 1
        coder.encode((high < 0).astype(np.int32), uniform, np.full(len(high), 2, np.int32))
        coder.encode(lengths, uniform, np.full(len(high), _ESCAPE_BITS, np.int32))
        longer = np.flatnonzero(lengths)
        if len(longer):
            spans = (1 << lengths[longer]).astype(np.int32)
            coder.encode((excess[longer] - spans).astype(np.int32), uniform, spans)

    @property
    def written_bytes(self) -> int:
        """How many bytes have left the coder: what is still to come makes the payload no shorter."""
        return 4 * int(self._coder.pos()[0])

    def seal(self) -> bytes:
        """The bytes written, and the shortest tail that decodes to the symbols, of these the smallest number.

        A decoder reads bytes past the end as zero.
        """
        words, (position, (lower, span)) = self._coder.get_compressed(), self._coder.pos()
        sealed = words.astype(">u4").tobytes()
        head, tail = sealed[: 4 * position], sealed[4 * position :]
        for kept in range(9):
            unit = 1 << 64 - 8 * kept
            best = -(-lower // unit) * unit
            if best < lower + span:
                break
        # The final interval may run past 2**64 and hold zero behind that carry, with which the coder may have sealed.
        carried = int.from_bytes(tail.ljust(8, b"\0"), "big") < lower
        if best == _STATE and not carried:
            head = (int.from_bytes(head, "big") + 1).to_bytes(len(head), "big")
        whole: bytes = head + (best % _STATE).to_bytes(8, "big")[:kept]
        return whole


class _Decoder:
    """Decodes one payload, scan by scan."""

    def __init__(self, payload: bytes, prior: Prior) -> None:
        self._prior, self._models = prior, _models_of(prior)
        words = np.frombuffer(payload + bytes(-len(payload) % 4 + 8), ">u4").astype(np.uint32)
        self._coder, self._uniform = _stream().queue.RangeDecoder(words), _stream().model.Uniform()

    def scan(self, prediction: Prediction) -> Int32:
        """The next symbols (n,). Raises CorruptError if the data are invalid or a symbol is out of range."""
        prior = self._prior
        try:
            high, low = self._entries(prediction)
        except AssertionError as error:  # constriction raises this for invalid data
            raise CorruptError(f"payload cannot be decoded: {error}") from None
        residual = (high << prior.low_bits[prediction.table // FRACTIONS]) + low
        symbols = prediction.mean + prediction.sign * residual
        if symbols.size and np.abs(symbols).max() > MAX_SYMBOL:
            raise CorruptError(f"payload holds a symbol beyond {MAX_SYMBOL}")
        return symbols.astype(np.int32)

    def _entries(self, prediction: Prediction) -> tuple[NDArray[np.int64], Int32]:
        """Residuals above their low bits, and the low bits, each (n,)."""
        prior, coder, uniform = self._prior, self._coder, self._uniform
        order, runs = _runs(prediction.table)
        ordered = np.empty(len(order), np.int32)
        for table, first, end in runs:
            ordered[first:end] = coder.decode(self._models[table], end - first)
        entry = np.empty_like(ordered)
        entry[order] = ordered
        classes = prediction.table // FRACTIONS
        bits = prior.low_bits[classes]
        low = np.zeros(len(order), np.int32)
        wide = np.flatnonzero(bits)
        if len(wide):
            low[wide] = coder.decode(uniform, (1 << bits[wide]).astype(np.int32))
        radius = prior.radius[classes]
        high = (entry - radius).astype(np.int64)
        escaped = np.flatnonzero(entry > 2 * radius)
        if len(escaped):
            high[escaped] = self._escapes(radius[escaped])
        return high, low

    def _escapes(self, radius: Int32) -> Int32:
        coder, uniform = self._coder, self._uniform
        negative = coder.decode(uniform, np.full(len(radius), 2, np.int32))
        lengths = coder.decode(uniform, np.full(len(radius), _ESCAPE_BITS, np.int32))
        excess = (1 << lengths).astype(np.int32)
        longer = np.flatnonzero(lengths)
        if len(longer):
            excess[longer] += coder.decode(uniform, excess[longer].copy())
        magnitude = excess + radius
        return np.asarray(np.where(negative == 1, -magnitude, magnitude), np.int32)


def encode(coded: Coded, prior: Prior, step_indices: StepIndices) -> bytes:
    """Entropy codes symbols.

    Args:
        coded: (h, w, coded channels) within +-MAX_SYMBOL, as `sdrt.coding.symbols.with_extents` returns them.
        prior: The prior to code them under.
        step_indices: int (h, w), 0..1023: the step index at each position.

    Returns:
        The payload, which is unique for these arguments and does not end in a zero byte.

    Raises:
        ValueError: The shape does not match the prior, a symbol is out of range or beyond the extent of its position.
    """
    _check(coded, prior)
    encoder = _Encoder(prior)
    for _scan, values, prediction in replay(prior, coded, step_indices):
        encoder.scan(prediction, values.ravel())
    return encoder.seal()


def decode(payload: bytes, prior: Prior, step_indices: StepIndices) -> Coded:
    """Entropy decodes a payload.

    Args:
        payload: What ``encode`` returned.
        prior: The prior that it was coded under.
        step_indices: int (h, w), 0..1023, the same as for ``encode``. h and w are those of the latents.

    Returns:
        (h, w, coded channels).

    Raises:
        CorruptError: The payload is not the unique coding of any symbols of this shape under this prior.
    """
    decoder, again = _Decoder(payload, prior), _Encoder(prior)
    canvas = Canvas(prior, step_indices)
    for scan in prior.scans:
        places = canvas.positions(scan)
        prediction = predict(canvas, scan, places)
        symbols = decoder.scan(prediction)
        if scan.start < prior.offset and symbols.size:
            low, high = int(symbols.min()), int(symbols.max())
            if low < 0 or high > len(prior.extents):
                raise CorruptError(f"payload holds an extent that is not in 0..{len(prior.extents)}")
        again.scan(prediction, symbols)
        if again.written_bytes > len(payload):
            raise CorruptError(f"payload of {len(payload)} bytes is too short for the symbols that it stands for")
        canvas.store(scan, places, symbols.reshape(-1, scan.size))
    if again.seal() != payload:
        raise CorruptError("payload is not what its symbols are coded as: bytes are left over or altered")
    return canvas.coded


def _check(coded: Coded, prior: Prior) -> None:
    if coded.ndim != 3 or coded.shape[2] != prior.coded_channels or min(coded.shape) < 1:
        raise ValueError(f"symbols of shape {coded.shape} do not fit a prior of {prior.coded_channels} coded channels")
    if coded.dtype.kind != "i":
        raise ValueError(f"symbols are {coded.dtype}, expected signed integers")
    if coded.min() < -MAX_SYMBOL or coded.max() > MAX_SYMBOL:
        raise ValueError(f"a symbol is beyond {MAX_SYMBOL}")
    if prior.extents:
        extent = coded[:, :, 0]
        reached = np.array((0, *prior.extents))[np.clip(extent, 0, len(prior.extents))]
        beyond = np.arange(prior.channels) >= reached[:, :, None]
        if extent.min() < 0 or extent.max() > len(prior.extents) or np.any(coded[:, :, 1:], where=beyond):
            raise ValueError("a symbol lies beyond its position's extent")


def bits(coded: Coded, prior: Prior, step_indices: StepIndices) -> float:
    """Bits that `encode` will spend on symbols, to about 0.1 %, without coding. Raises as it does."""
    _check(coded, prior)
    total = 0.0
    for _scan, values, prediction in replay(prior, coded, step_indices):
        entry, _low, high = table_entries(prior, prediction, values.ravel())
        classes = prediction.table // FRACTIONS
        total += float(prior.costs[prior.row_offsets[prediction.table] + entry].sum(dtype=np.float64))
        total += float(prior.low_bits[classes].sum())
        radius = prior.radius[classes]
        escaped = entry > 2 * radius
        if escaped.any():
            excess = np.abs(high[escaped]) - radius[escaped]
            total += float((np.frexp(excess.astype(np.float64))[1] - 1 + 1 + np.log2(_ESCAPE_BITS)).sum())
    return total
