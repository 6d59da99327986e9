"""Frequency tables of a prior: parametric shapes, then counts on top of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from sdrt.coding.context import replay, table_entries
from sdrt.coding.prior import FRACTIONS, MEAN_BITS, SCALE_BITS, TOTAL, Int32, Prior

Arrays = dict[str, NDArray[np.generic]]
Float64 = NDArray[np.float64]

CLASS_RATIO = 2.0**0.25
_SMALLEST_SCALE = 10 / 256
_LARGEST_TABLE_SCALE = 8.0
_WIDTHS = 2.0 ** np.linspace(-2.0, 1.0, 13)  # of the shape, against the class's scale
_SHAPE_WEIGHT = 100.0  # symbols that the shape is worth against counts
SPREAD = 0.55
"""Of the logistic that a scale of 1 stands for: classes and their tables are laid out for it."""
TAIL = 2.2
"""How many times as wide the second logistic is."""
_NARROW = 0.85


def class_layout() -> tuple[NDArray[np.int64], Float64, NDArray[np.int64], NDArray[np.int64]]:
    """(thresholds, scale of each class in symbols, radius, low bits)."""
    count = int(np.floor(np.log(256 / _SMALLEST_SCALE) / np.log(CLASS_RATIO)))
    edges = _SMALLEST_SCALE * CLASS_RATIO ** np.arange(count)
    thresholds = np.unique(np.round(edges * 2**SCALE_BITS).astype(np.int64))
    scales = np.concatenate([[_SMALLEST_SCALE / 2], thresholds * CLASS_RATIO**0.5 / 2**SCALE_BITS])
    low_bits = np.maximum(0, np.ceil(np.log2(scales / _LARGEST_TABLE_SCALE))).astype(np.int64)
    radius = np.clip(np.ceil(10 * scales / 2.0**low_bits), 2, 80).astype(np.int64)
    radius[0] = 0
    return thresholds, scales, radius, low_bits


def _edges(radius: int, low_bits: int) -> Float64:
    """(FRACTIONS, 2 * radius + 2): the limits of the entries' cells, from the exact mean."""
    cells = np.arange(-radius, radius + 2) * 2.0**low_bits - 0.5
    return np.asarray(cells[None] - np.arange(FRACTIONS)[:, None] / 2**MEAN_BITS)


def _cdf(edges: Float64, spread: float) -> Float64:
    """A logistic with a second, wider one for the tail."""
    narrow, wide = (1 / (1 + np.exp(-np.clip(edges / (spread * k), -60, 60))) for k in (1.0, TAIL))
    return np.asarray(_NARROW * narrow + (1 - _NARROW) * wide)


def shape_probabilities(spread: float, radius: int, low_bits: int) -> Float64:
    """(FRACTIONS, 2 * radius + 2): the shape's share of each entry, the escape last."""
    inside = np.diff(_cdf(_edges(radius, low_bits), spread), axis=1)
    return np.concatenate([inside, np.maximum(1 - inside.sum(1, keepdims=True), 1e-9)], 1)


def to_frequencies(probabilities: Float64) -> NDArray[np.int64]:
    """Rows of positive integers that sum to 65536, nearest to the rows of ``probabilities``."""
    rows = probabilities / probabilities.sum(1, keepdims=True)
    counts = np.maximum(1, np.round(rows * TOTAL).astype(np.int64))
    counts[np.arange(len(rows)), rows.argmax(1)] += TOTAL - counts.sum(1)
    return np.asarray(counts)


def shape_arrays() -> Arrays:
    """The table arrays of a prior whose tables nobody counted."""
    thresholds, scales, radius, low_bits = class_layout()
    layout = list(zip(scales * SPREAD, radius.tolist(), low_bits.tolist(), strict=True))
    return {
        "thresholds": thresholds.astype("<u2"),
        "radius": radius.astype(np.uint8),
        "low_bits": low_bits.astype(np.uint8),
        "frequencies": np.concatenate([to_frequencies(shape_probabilities(*e)).ravel() for e in layout]).astype("<u2"),
    }


def count_tables(prior: Prior, samples: Iterable[tuple[Int32, NDArray[np.integer]]]) -> Arrays:
    """Frequencies counted under ``prior``'s networks; where a table was seen little, its class's best shape fills in.

    Args:
        prior: whose networks choose the tables.
        samples: coded symbols (h, w, coded channels), and the step index (h, w) of each position.
    """
    flat = int(prior.row_offsets[-1]) + 2 * int(prior.radius[-1]) + 2
    counts = np.zeros(flat)
    for coded, step_indices in samples:
        for _scan, symbols, prediction in replay(prior, coded, step_indices):
            entry, _low, _high = table_entries(prior, prediction, symbols.ravel())
            counts += np.bincount(prior.row_offsets[prediction.table] + entry, minlength=flat)
    _thresholds, scales, radius, low_bits = class_layout()
    frequencies, first = [], 0
    for scale, r, b in zip(scales, radius.tolist(), low_bits.tolist(), strict=True):
        shape = (FRACTIONS, 2 * r + 2)
        here = counts[first : first + shape[0] * shape[1]].reshape(shape)
        first += shape[0] * shape[1]
        spreads = scale * SPREAD * _WIDTHS if here.sum() > 20 else [scale * SPREAD]
        spread = max(spreads, key=lambda s: float((here * np.log(shape_probabilities(s, r, b).clip(1e-12))).sum()))
        frequencies.append(to_frequencies(here + _SHAPE_WEIGHT * shape_probabilities(spread, r, b)))
    return {"frequencies": np.concatenate([f.ravel() for f in frequencies]).astype("<u2")}
