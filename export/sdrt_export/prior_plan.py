"""The coding order of a prior that is going to be fitted: scans, what each sees, and a network of zeros for each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdrt.coding.prior import BAND, FORMAT, GLOBAL_BITS, HIDDEN_BITS, MEAN_BITS, WINDOW, Grid, Prior
from sdrt.coding.prior_file import build_prior
from sdrt_export.prior_tables import shape_arrays

Arrays = dict[str, NDArray[np.generic]]
Taps = tuple[tuple[int, int], ...]

TAPS: Taps = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1))
_REACH: Taps = tuple((y, x) for y in range(-WINDOW, WINDOW + 1) for x in range(-WINDOW, WINDOW + 1))
_QUINCUNX = (
    (Grid(0, 0, 4),),
    (Grid(2, 2, 4),),
    (Grid(0, 2, 4), Grid(2, 0, 4)),
    (Grid(1, 1, 2),),
    (Grid(0, 1, 2),),
    (Grid(1, 0, 2),),
)
"""Coarse to fine: all but the first sixteenth of the positions see neighbors on both sides."""
_CHECKERBOARD = ((Grid(0, 0, 2), Grid(1, 1, 2)), (Grid(0, 1, 2), Grid(1, 0, 2)))
MAX_NEAR = 48
"""Latent channels up to which a later scan sees all earlier ones one by one."""
_NEAR = 16  # of wider latent spaces
_WIDE_GROUP = 32


@dataclass(frozen=True)
class ScanPlan:
    """Channels [start, stop), of those that the prior codes, on ``grids``, with ``hidden`` units; ``own_taps`` are
    those at which some position of the grids knows its own channels already."""

    start: int
    stop: int
    grids: tuple[Grid, ...]
    own_taps: Taps
    hidden: int

    @property
    def size(self) -> int:
        """Channels that it codes."""
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """The coding order for a number of latent channels."""

    channels: int
    near: int
    extents: tuple[int, ...]
    scans: tuple[ScanPlan, ...]


def channel_groups(channels: int) -> list[int]:
    """Sizes of the groups: each as many channels as all before it; single channels where there are four or fewer.

    Channels of a group do not see each other at their own position, and those with most to say come first and are
    alike most: so these go one by one.
    """
    if channels <= 4:
        return [1] * channels
    sizes: list[int] = []
    while sum(sizes) < channels:
        sizes.append(min(max(1, sum(sizes)), channels - sum(sizes)))
    return sizes


def plan_scans(channels: int, hidden: int = 44, sparse_hidden: int = 20) -> Plan:
    """Every group of channels in all its scans, before the next group; in wide latent spaces the extents first.

    Args:
        channels: latent channels.
        hidden: units of most scans.
        sparse_hidden: units of scans that code an eighth of the positions or less, and of the extents'.
    """
    wide = channels > MAX_NEAR
    groups = channel_groups(_NEAR if wide else channels)
    while sum(groups) < channels:
        groups.append(min(_NEAR if len(groups) == len(channel_groups(_NEAR)) else _WIDE_GROUP, channels - sum(groups)))
    ends = np.cumsum(groups)
    # The first few channels are worth coding everywhere: shared by one extent, they cost no decision.
    extents = tuple(int(end) for end in ends if end >= 4) if wide else ()
    scans: list[ScanPlan] = []
    if wide:
        groups = [1, *groups]
    near = _NEAR + 1 if wide else channels
    start = 0
    for size in groups:
        known: tuple[Grid, ...] = ()
        for grids in _QUINCUNX if start < near else _CHECKERBOARD:
            own_taps = tuple((dy, dx) for dy, dx in _REACH if any(_sees(g, dy, dx, known) for g in grids))
            few = grids[0].stride == 4 or (wide and start == 0)
            scans.append(ScanPlan(start, start + size, grids, own_taps, sparse_hidden if few else hidden))
            known += grids
        start += size
    return Plan(channels, near, extents, tuple(scans))


def _sees(grid: Grid, dy: int, dx: int, known: tuple[Grid, ...]) -> bool:
    return any((grid.y + dy - k.y) % k.stride == 0 and (grid.x + dx - k.x) % k.stride == 0 for k in known)


def zero_network(plan: Plan) -> Arrays:
    """The network arrays of ``plan`` with every weight zero; to be filled in."""
    weights = own = wide_columns = hidden = outputs = square = 0
    for scan in plan.scans:
        wide, seen = scan.start >= plan.near, min(scan.start, plan.near)
        shown = seen if wide else scan.stop
        columns = scan.hidden if wide else scan.hidden + 2 * scan.size
        inputs = len(TAPS) * seen + shown
        if wide:
            inputs += (scan.start - plan.near) // BAND - (plan.near - scan.stop) // BAND
            own += 2 * len(scan.own_taps) * scan.size
        else:
            inputs += len(scan.own_taps) * scan.size
        weights += (inputs + shown) * columns
        wide_columns += 2 * (scan.hidden + 2 * scan.size)
        hidden, outputs = hidden + scan.hidden, outputs + 2 * scan.size
        square += scan.hidden * 2 * scan.size
    return {
        **layout_arrays(plan),
        "weights": np.zeros(weights, np.int8),
        "own_weights": np.zeros(own, np.int8),
        "global_weights": np.zeros(wide_columns, "<i4"),
        "shift": np.zeros(hidden, np.uint8),
        "out_weights": np.zeros(square, np.int8),
        "out_shift": np.zeros(outputs, np.uint8),
    }


def layout_arrays(plan: Plan) -> Arrays:
    """The arrays that state the coding order."""
    rows = [[s.start, s.stop, len(s.grids), len(TAPS), len(s.own_taps), s.hidden] for s in plan.scans]
    return {
        "extents": np.array(plan.extents, "<i2"),
        "near": np.array(plan.near, "<i2"),
        "scans": np.array(rows, "<i2"),
        "grids": np.array([(g.y, g.x, g.stride) for scan in plan.scans for g in scan.grids], np.int8),
        "taps": np.array([tap for scan in plan.scans for tap in (*TAPS, *scan.own_taps)], np.int8),
    }


def channel_arrays(
    steps: NDArray[np.floating], sensitivity: NDArray[np.floating], order: NDArray[np.integer], decisions: float = 1.0
) -> Arrays:
    """The arrays of single channels, and the encoder's weight of bits."""
    return {
        "format": np.array(FORMAT, "<u2"),
        "steps": steps.astype("<f4"),
        "sensitivity": sensitivity.astype("<f4"),
        "decisions": np.array(decisions, "<f4"),
        "order": order.astype(np.uint8),
    }


def unfitted_prior(plan: Plan) -> Prior:
    """A valid prior of the plan's coding order whose networks say nothing."""
    ones = np.ones(plan.channels)
    channels = channel_arrays(ones, ones, np.arange(plan.channels))
    return build_prior({**channels, **zero_network(plan), **shape_arrays()})


def generic_arrays(channels: int) -> Arrays:
    """A valid prior that nobody fitted: neighbors' average as the mean, neighbors' magnitude as the scale."""
    taps = [(0, -1), (0, 1), (-1, 0), (1, 0)]
    weights, global_weights = [], []
    for own_taps in (0, len(taps)):
        table = np.zeros((own_taps + 2, channels, 1 + 2 * channels), np.int8)
        wide = np.zeros((2, 1 + 2 * channels), np.int32)
        for c in range(channels):
            table[:own_taps, c, 1 + c] = 2**MEAN_BITS // 4
            table[own_taps, c, 1 + channels + c] = 16
            table[own_taps + 1, c, 1 + channels + c] = 96
        wide[0, 1 + channels :] = (48 if own_taps else 128) << GLOBAL_BITS
        weights.append(table.ravel())
        global_weights.append(wide.ravel())
    ones = np.ones(channels)
    return {
        **channel_arrays(ones, ones, np.arange(channels)),
        "extents": np.zeros(0, "<i2"),
        "near": np.array(channels, "<i2"),
        "scans": np.array([[0, channels, 2, 0, 0, 1], [0, channels, 2, 0, len(taps), 1]], "<i2"),
        "grids": np.array([(0, 0, 2), (1, 1, 2), (0, 1, 2), (1, 0, 2)], np.int8),
        "taps": np.array(taps, np.int8),
        "weights": np.concatenate(weights),
        "own_weights": np.zeros(0, np.int8),
        "global_weights": np.concatenate(global_weights).astype("<i4"),
        "shift": np.zeros(2, np.uint8),
        "out_weights": np.zeros(4 * channels, np.int8),
        "out_shift": np.full(4 * channels, HIDDEN_BITS, np.uint8),
        **shape_arrays(),
    }


def generic_prior(channels: int) -> Prior:
    """A valid prior for any number of ``channels`` in milliseconds: for tests, and for packs before they are fitted."""
    return build_prior(generic_arrays(channels))
