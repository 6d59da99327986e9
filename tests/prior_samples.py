"""Priors and symbols for tests: networks that are random and as heavy as the rules allow, dense and wide."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdrt.coding.prior import EXACT, HIDDEN_LIMIT, MAX_SYMBOL, SYMBOL_LIMIT, Grid, Int32, Prior, input_limits
from sdrt.coding.prior_file import build_prior
from sdrt.coding.symbols import with_extents
from sdrt_export.prior_plan import Arrays, Plan, ScanPlan, channel_arrays, layout_arrays, zero_network
from sdrt_export.prior_tables import shape_arrays

_REACH = [(y, x) for y in range(-2, 3) for x in range(-2, 3)]
_ODD = tuple(tap for tap in _REACH if sum(tap) % 2)
_PHASES = (((Grid(0, 0, 2), Grid(1, 1, 2)), ()), ((Grid(0, 1, 2), Grid(1, 0, 2)), _ODD))


def plan(channels: int, near: int, extents: tuple[int, ...], edges: tuple[int, ...], hidden: int = 12) -> Plan:
    """Channels between two edges go together, on a checkerboard."""
    scans = [
        ScanPlan(start, stop, grids, own, hidden + start) for start, stop in pairwise(edges) for grids, own in _PHASES
    ]
    return Plan(channels, near, extents, tuple(scans))


DENSE = plan(8, 8, (), (0, 4, 8))
WIDE = plan(21, 6, (2, 5, 13, 21), (0, 1, 3, 6, 14, 22))
"""Extents in front, six near channels with them, and bands of eight behind: the last scan's are two, the second cut."""


def heavy_arrays(of: Plan, seed: int = 3) -> Arrays:
    """A prior of this plan whose sums come near to what float32 holds."""
    random = np.random.default_rng(seed)
    steps = np.ones(of.channels)
    order = random.permutation(of.channels)
    arrays: Arrays = {**channel_arrays(steps, steps, order), **zero_network(of), **shape_arrays()}
    parts: dict[str, list[NDArray[Any]]] = {key: [] for key in ("weights", "own_weights", "out_weights")}
    for scan in build_prior(arrays).scans:
        n, columns = scan.size, scan.weights.shape[1]
        own_inputs = 0 if scan.wide else len(scan.own_taps) * n
        shown = scan.mean_weights.shape[0]
        limits = input_limits(len(scan.taps) * scan.near, own_inputs, shown, scan.bands)
        limits = np.concatenate([limits, np.full(shown, SYMBOL_LIMIT)])
        weights = random.integers(-127, 128, (len(limits), columns))
        over = np.abs(weights).T @ limits / (0.6 * EXACT)
        parts["weights"].append(np.trunc(weights / np.maximum(over, 1)).astype(np.int8))
        parts["own_weights"].append(random.integers(-127, 128, scan.own_weights.shape).astype(np.int8))
        out = random.integers(-127, 128, (scan.hidden, 2 * n))
        out_over = np.abs(out).sum(0) * HIDDEN_LIMIT / (EXACT - 1)
        parts["out_weights"].append(np.trunc(out / np.maximum(out_over, 1)).astype(np.int8))
    arrays.update({key: np.concatenate([p.ravel() for p in pieces]) for key, pieces in parts.items()})
    arrays["global_weights"] = random.integers(-60_000, 60_000, arrays["global_weights"].shape).astype("<i4")
    arrays["shift"] = random.integers(0, 12, arrays["shift"].shape).astype(np.uint8)
    arrays["out_shift"] = random.integers(4, 16, arrays["out_shift"].shape).astype(np.uint8)
    assert layout_arrays(of).keys() <= arrays.keys()
    return arrays


def laplace(size: tuple[int, int], prior: Prior, spread: float, seed: int = 0) -> Int32:
    """Coded symbols (h, w, coded channels) of a spread; where there are extents, later channels say less and less."""
    random = np.random.default_rng(seed)
    values = random.laplace(0, spread, (*size, prior.channels)) if spread else np.zeros((*size, prior.channels))
    if prior.extents:
        values *= np.arange(prior.channels) < random.integers(0, prior.channels + 1, (*size, 1))
    return with_extents(np.clip(np.rint(values), -MAX_SYMBOL, MAX_SYMBOL).astype(np.int32), prior)
