"""Fit a pack's prior: ``python -m sdrt_export prior PACK --images FOLDER``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdrt.prior import FRACTIONS, GLOBAL_BITS, HIDDEN_BITS, MEAN_BITS, SCALE_BITS, TOTAL, Prior, build_prior

Arrays = dict[str, NDArray[np.generic]]

CLASS_RATIO = 2.0**0.25
_SMALLEST_SCALE = 10 / 256
_LARGEST_TABLE_SCALE = 8.0


def class_layout() -> tuple[NDArray[np.uint16], NDArray[np.float64], NDArray[np.uint8], NDArray[np.uint8]]:
    """(thresholds, scale of each class in symbols, radius, low bits)."""
    edges, edge = [], float(_SMALLEST_SCALE)
    while edge < 2**16 / 256:
        edges.append(edge)
        edge *= CLASS_RATIO
    thresholds = np.unique(np.round(np.array(edges) * 2**SCALE_BITS).astype(np.int64))
    scales = np.concatenate([[edges[0] / 2], thresholds * CLASS_RATIO**0.5 / 2**SCALE_BITS])
    low_bits = np.maximum(0, np.ceil(np.log2(scales / _LARGEST_TABLE_SCALE))).astype(np.uint8)
    radius = np.clip(np.ceil(10 * scales / 2.0**low_bits), 0, 80).astype(np.uint8)
    radius[scales > 0.03] = np.maximum(radius[scales > 0.03], 2)
    radius[0] = 0
    return thresholds.astype(np.uint16), scales, radius, low_bits


def _logistic_cdf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(x, -60, 60)))


def shape_probabilities(scale: float, radius: int, low_bits: int) -> NDArray[np.float64]:
    """(FRACTIONS, 2 * radius + 2): a heavy-tailed mixture of logistics over a table's entries and its escape."""
    span = 2.0**low_bits
    edges = (np.arange(-radius, radius + 2) * span - 0.5)[None] - np.arange(FRACTIONS)[:, None] / 2**MEAN_BITS
    cdf = 0.8 * _logistic_cdf(edges / (0.55 * scale)) + 0.2 * _logistic_cdf(edges / (1.1 * scale))
    inside = np.diff(cdf, axis=1)
    return np.concatenate([inside, np.maximum(1 - inside.sum(1, keepdims=True), 1e-9)], 1)


def to_frequencies(probabilities: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Rows of positive integers that sum to 65536."""
    rows = probabilities / probabilities.sum(1, keepdims=True)
    counts = np.maximum(1, np.floor(rows * (TOTAL - rows.shape[1])).astype(np.int64))
    counts[np.arange(len(rows)), rows.argmax(1)] += TOTAL - counts.sum(1)
    return counts.astype(np.uint16)


def generic_arrays(channels: int) -> Arrays:
    """A valid prior that nobody fitted: neighbours' average as the mean, neighbours' magnitude as the scale."""
    thresholds, scales, radius, low_bits = class_layout()
    frequencies = [
        to_frequencies(shape_probabilities(s, int(r), int(b))) for s, r, b in zip(scales, radius, low_bits, strict=True)
    ]
    taps = [(0, -1), (0, 1), (-1, 0), (1, 0)]
    weights, global_weights, passes = [], [], []
    for mask, known in ((0b1001, False), (0b0110, True)):
        table = np.zeros(((len(taps) + 1) * channels, 1 + 2 * channels), np.int8)
        wide = np.zeros((2 + channels, 1 + 2 * channels), np.int32)
        for c in range(channels):
            if known:
                table[[t * channels + c for t in range(len(taps))], 1 + c] = 2**MEAN_BITS // 4
                table[len(taps) * channels + c, 1 + channels + c] = 16
            wide[0, 1 + channels + c] = (48 if known else 128) << GLOBAL_BITS
            wide[2 + c, 1 + channels + c] = 6 << GLOBAL_BITS
        weights.append(table.ravel())
        global_weights.append(wide.ravel())
        passes.append([0, channels, mask, 1, len(taps)])
    out_shift = np.repeat([HIDDEN_BITS, HIDDEN_BITS], channels)
    count = len(passes)
    return {
        "format": np.array(1, "<u2"),
        "steps": np.ones(channels, "<f4"),
        "sensitivity": np.ones(channels, "<f4"),
        "order": np.arange(channels).astype(np.uint8),
        "passes": np.array(passes, "<i2"),
        "taps": np.array(taps * count, np.int8),
        "weights": np.concatenate(weights),
        "global_weights": np.concatenate(global_weights).astype("<i4"),
        "shift": np.zeros(count, np.uint8),
        "out_weights": np.zeros(count * 2 * channels, np.int8),
        "out_shift": np.tile(out_shift, count).astype(np.uint8),
        "thresholds": thresholds.astype("<u2"),
        "radius": radius,
        "low_bits": low_bits,
        "frequencies": np.concatenate([f.ravel() for f in frequencies]).astype("<u2"),
        "centres": np.concatenate([np.zeros(f.size, np.int8) for f in frequencies]),
    }


def generic_prior(channels: int) -> Prior:
    """A valid prior for any ``channels`` in a millisecond: for tests, and for packs before they are fitted."""
    return build_prior(generic_arrays(channels))
