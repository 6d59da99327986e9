"""Integer latents <-> payload bytes: a range coder driven by the prior's tables.

The payload is one range-coder stream (constriction's: 32-bit words, 64-bit state, 24-bit models), most
significant byte first, ended by the shortest tail that still decodes; absent bytes read as zero. Within
a pass, symbols are coded table by table, stable by position; then the low bits of wide classes, then the
escapes. docs/PRIOR.md has every detail.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdrt.coding.context import Canvas, Prediction, place, predict, replay, table_entries
from sdrt.coding.prior import FRACTIONS, MAX_SYMBOL, TOTAL, Int32, Prior
from sdrt.errors import CorruptError

_ESCAPE_BITS = 24  # excess magnitudes below 2**24: residuals reach beyond MAX_SYMBOL where the mean is wrong
_STATE = 2**64


@lru_cache(maxsize=1)
def _stream() -> Any:
    """constriction's module, imported when first needed: ``sdrt info`` has no use for it."""
    import constriction

    return constriction.stream


@lru_cache(maxsize=8)
class _Models:
    """The coder's models of a prior, made when first used."""

    def __init__(self, prior: Prior) -> None:
        self._prior = prior
        self._made: dict[int, Any] = {}

    def __getitem__(self, table: int) -> Any:
        model = self._made.get(table)
        if model is None:
            row = self._prior.frequencies[table // FRACTIONS][table % FRACTIONS]
            # Multiples of 1/65536 are exact in float32, so the coder's own rounding is the same everywhere.
            model = _stream().model.Categorical(row.astype(np.float32) / np.float32(TOTAL), perfect=False)
            self._made[table] = model
        return model


def _runs(tables: Int32) -> tuple[NDArray[np.int64], Iterator[tuple[int, int, int]]]:
    """The coding order of a pass and its runs (table, first, end)."""
    order = np.argsort(tables.astype(np.uint16), kind="stable")
    counts = np.bincount(tables)
    present = np.flatnonzero(counts)
    ends = np.cumsum(counts[present])
    firsts = ends - counts[present]
    return order, zip(present.tolist(), firsts.tolist(), ends.tolist(), strict=True)


def encode(symbols: Int32, prior: Prior, step_index: int) -> bytes:
    """The payload of ``symbols``, int32 (C, h, w) within +-MAX_SYMBOL.

    Raises ValueError when the shape is not the prior's or a symbol is out of range.
    """
    coded = _coding_order(symbols, prior)
    stream, models = _stream(), _Models(prior)
    coder, uniform = stream.queue.RangeEncoder(), stream.model.Uniform()
    for _step, values, prediction in replay(prior, coded, step_index):
        entry, low, high = table_entries(prior, prediction, values.ravel())
        order, runs = _runs(prediction.table)
        ordered = entry[order]
        for table, first, end in runs:
            coder.encode(ordered[first:end], models[table])
        classes = prediction.table // FRACTIONS
        bits = prior.low_bits[classes]
        wide = np.flatnonzero(bits)
        if len(wide):
            coder.encode(low[wide], uniform, (1 << bits[wide]).astype(np.int32))
        radius = prior.radius[classes]
        escaped = np.flatnonzero(entry > 2 * radius)
        if len(escaped):
            _encode_escapes(coder, uniform, high[escaped], radius[escaped])
    return _seal(coder)


def _encode_escapes(coder: Any, uniform: Any, high: Int32, radius: Int32) -> None:
    """Sign, then the length of the excess magnitude, then its bits below the leading one."""
    excess = np.abs(high) - radius  # at least 1
    lengths = np.frexp(excess.astype(np.float64))[1].astype(np.int32) - 1
    same = np.full(len(high), 2, np.int32)
    coder.encode((high < 0).astype(np.int32), uniform, same)
    coder.encode(lengths, uniform, np.full(len(high), _ESCAPE_BITS, np.int32))
    longer = np.flatnonzero(lengths)
    if len(longer):
        spans = (1 << lengths[longer]).astype(np.int32)
        coder.encode((excess[longer] - spans).astype(np.int32), uniform, spans)


def _decode_escapes(coder: Any, uniform: Any, radius: Int32) -> Int32:
    negative = coder.decode(uniform, np.full(len(radius), 2, np.int32))
    lengths = coder.decode(uniform, np.full(len(radius), _ESCAPE_BITS, np.int32))
    excess = (1 << lengths).astype(np.int32)
    longer = np.flatnonzero(lengths)
    if len(longer):
        excess[longer] += coder.decode(uniform, excess[longer].copy())
    magnitude = excess + radius
    return np.asarray(np.where(negative == 1, -magnitude, magnitude), np.int32)


def _seal(coder: Any) -> bytes:
    """The shortest bytes that decode to what was encoded, given that absent bytes read as zero."""
    words, (position, (lower, span)) = coder.get_compressed(), coder.pos()
    sealed = words.astype(">u4").tobytes()
    head, tail = sealed[: 4 * position], sealed[4 * position :]
    point = int.from_bytes(tail.ljust(8, b"\0"), "big")
    # The final interval may run past 2**64; where the coder sealed behind that carry, zero lies inside.
    best = 0
    if point >= lower:
        for kept in range(9):
            unit = 1 << 64 - 8 * kept
            best = -(-lower // unit) * unit
            if best < min(lower + span, _STATE):
                break
    whole: bytes = head + best.to_bytes(8, "big")
    return whole.rstrip(b"\0")


def decode(payload: bytes, shape: tuple[int, int, int], prior: Prior, step_index: int) -> Int32:
    """The symbols, int32 ``shape`` = (C, h, w), of a payload. Memory and time depend on ``shape`` alone.

    Raises CorruptError when no symbols of that shape have this payload under this prior, ValueError when
    ``shape`` is not the prior's.
    """
    if shape[0] != prior.channels or min(shape) < 1:
        raise ValueError(f"shape {shape} does not fit a prior of {prior.channels} channels")
    stream, models = _stream(), _Models(prior)
    words = np.frombuffer(payload + bytes(-len(payload) % 4 + 8), ">u4").astype(np.uint32)
    coder, uniform = stream.queue.RangeDecoder(words), stream.model.Uniform()
    canvas = Canvas(*shape)
    coded = np.empty((shape[1], shape[2], shape[0]), np.int32)
    for step in prior.passes:
        prediction = predict(prior, step, canvas, step_index)
        try:
            high, low = _decode_pass(coder, uniform, models, prior, prediction)
        except AssertionError as error:  # constriction's way to say that data is invalid
            raise CorruptError(f"payload cannot be decoded: {error}") from None
        residual = (high << prior.low_bits[prediction.table // FRACTIONS]) + low
        symbols = prediction.mean + prediction.sign * residual
        if symbols.size and np.abs(symbols).max() > MAX_SYMBOL:
            raise CorruptError(f"payload holds a symbol beyond {MAX_SYMBOL}")
        values = symbols.reshape(-1, step.stop - step.start).astype(np.int32)
        place(step, values, coded)
        canvas.store(step, values)
    symbols = np.empty(shape, np.int32)
    symbols[prior.order] = coded.transpose(2, 0, 1)
    return symbols


def _decode_pass(
    coder: Any, uniform: Any, models: _Models, prior: Prior, prediction: Prediction
) -> tuple[NDArray[np.int64], Int32]:
    """Residuals above their low bits, and the low bits, each (n,)."""
    order, runs = _runs(prediction.table)
    ordered = np.empty(len(order), np.int32)
    for table, first, end in runs:
        ordered[first:end] = coder.decode(models[table], end - first)
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
        high[escaped] = _decode_escapes(coder, uniform, radius[escaped])
    return high, low


def _coding_order(symbols: Int32, prior: Prior) -> Int32:
    """(C, h, w) -> (h, w, C) in the prior's channel order; ValueError when it is not what a payload can say."""
    if symbols.ndim != 3 or symbols.shape[0] != prior.channels or min(symbols.shape) < 1:
        raise ValueError(f"symbols of shape {symbols.shape} do not fit a prior of {prior.channels} channels")
    if symbols.dtype != np.int32:
        raise ValueError(f"symbols are {symbols.dtype}, expected int32")
    if symbols.min() < -MAX_SYMBOL or symbols.max() > MAX_SYMBOL:
        raise ValueError(f"a symbol is beyond {MAX_SYMBOL}")
    return np.ascontiguousarray(symbols[prior.order].transpose(1, 2, 0))


def bits(symbols: Int32, prior: Prior, step_index: int) -> float:
    """Bits that :func:`encode` will spend on ``symbols``, to about 0.1 %, without coding. Raises as it does."""
    total = 0.0
    for _step, values, prediction in replay(prior, _coding_order(symbols, prior), step_index):
        entry, _low, high = table_entries(prior, prediction, values.ravel())
        classes = prediction.table // FRACTIONS
        total += float(prior.costs[prior.row_offsets[prediction.table] + entry].sum(dtype=np.float64)) + float(
            prior.low_bits[classes].sum()
        )
        radius = prior.radius[classes]
        escaped = entry > 2 * radius
        if escaped.any():
            excess = np.abs(high[escaped]) - radius[escaped]
            total += float((np.frexp(excess.astype(np.float64))[1] - 1 + 1 + np.log2(_ESCAPE_BITS)).sum())
    return total
