"""Geometry of tiles: the cells that a graph is run on, and those of its result that are kept.

All lengths are in *cells*: one latent position, ``downscale`` pixels. A graph of convolutions computes a cell exactly
as in the whole picture if the frame has at least ``halo`` cells on each side of it, or ends where the picture ends (so
that the graph's zero padding applies at the same place). For other graphs neighboring tiles overlap by ``fade`` cells
and are blended linearly.

All frames along one axis have the same length, so that engines see few shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, isqrt
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Span:
    """One tile along one axis, in cells; stops are exclusive.

    The graph is run on ``frame_start..frame_stop``, and ``start..stop`` of its result is kept. The first ``fade`` kept
    cells are also the last kept ones of the previous span.
    """

    start: int
    stop: int
    frame_start: int
    frame_stop: int
    fade: int = 0


@dataclass(frozen=True)
class Plan:
    """Tiles of a picture: every row span with every column span."""

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @property
    def count(self) -> int:
        """Number of tiles."""
        return len(self.rows) * len(self.columns)


def spans(
    length: int, frame: int, *, halo: int, fade: int = 0, window: tuple[int, int] | None = None
) -> tuple[Span, ...]:
    """The spans that cover a window of one axis.

    Args:
        length: Cells of the axis.
        frame: Cells of a frame; raised to ``2 * halo + fade + 1``, the least that advances.
        halo: Cells on each side of the kept ones that influence them.
        fade: Cells over which neighbors are blended. 0: frames are placed around the window only. Otherwise they are
            placed over the whole axis, because the result depends on the placement, and those that touch the window
            are returned.
        window: Start and stop (exclusive) of the window; None: the whole axis.
    """
    start, stop = (0, length) if window is None or fade else window
    low, high = max(0, start - halo), min(length, stop + halo)
    frame = min(max(frame, 2 * halo + fade + 1), high - low)
    found: list[Span] = []
    done = start
    for frame_start in _starts(low, high, frame, frame - 2 * halo - fade):
        frame_stop = frame_start + frame
        kept_from = done - fade if found else start
        kept_to = stop if frame_stop == high else frame_stop - halo
        found.append(Span(kept_from, kept_to, frame_start, frame_stop, fade if found else 0))
        done = kept_to
    if window is None or not fade:
        return tuple(found)
    touching = [span for span in found if span.start < window[1] and window[0] < span.stop]
    first = touching[0]
    touching[0] = Span(first.start, first.stop, first.frame_start, first.frame_stop)
    return tuple(touching)


def _starts(low: int, high: int, frame: int, stride: int) -> list[int]:
    starts = list(range(low, high - frame, max(stride, 1)))
    return [*starts, high - frame]


def frame_shape(rows: int, columns: int, max_cells: int, *, halo: int, fade: int = 0) -> tuple[int, int]:
    """Rows and columns of the frames for an extent of ``rows`` x ``columns`` cells.

    The whole extent if it has at most ``max_cells`` cells. Otherwise about that many, as square as the extent allows,
    and divided evenly, so that the last frame of an axis does not repeat the work of the one before.
    """
    if rows * columns <= max_cells:
        return rows, columns
    high = min(rows, isqrt(max_cells))
    wide = min(columns, max_cells // high)
    high = min(rows, max_cells // wide)
    return _even(rows, high, 2 * halo + fade), _even(columns, wide, 2 * halo + fade)


def _even(extent: int, frame: int, shared: int) -> int:
    if frame >= extent:
        return extent
    frame = max(frame, 2 * shared + 1)  # at most half of the work is halo, whatever max_cells says
    if frame >= extent:
        return extent
    count = ceil((extent - shared) / (frame - shared))
    return ceil((extent - shared) / count) + shared


def plan(
    rows: int,
    columns: int,
    max_cells: int,
    *,
    halo: int,
    fade: int = 0,
    window: tuple[int, int, int, int] | None = None,
    side: int | None = None,
) -> Plan:
    """The tiles that cover a window of a grid.

    Args:
        rows, columns: Cells of the grid.
        max_cells: Largest frame in cells, raised to what ``halo`` needs.
        halo, fade: As for ``spans``. With ``fade`` the tiles may cover more than the window: see their ``start`` and
            ``stop``.
        window: Top, left, bottom, right, the last two exclusive; None: the whole grid.
        side: Replaces ``max_cells``: a frame has exactly this many cells along an axis, or all where the axis is
            shorter, so that all large pictures have frames of one shape.
    """
    top, left, bottom, right = window or (0, 0, rows, columns)
    if fade:
        extent = rows, columns
    else:
        extent = (
            min(rows, bottom + halo) - max(0, top - halo),
            min(columns, right + halo) - max(0, left - halo),
        )
    if side is None:
        high, wide = frame_shape(*extent, max_cells, halo=halo, fade=fade)
    else:
        high, wide = min(extent[0], side), min(extent[1], side)
    return Plan(
        spans(rows, high, halo=halo, fade=fade, window=(top, bottom)),
        spans(columns, wide, halo=halo, fade=fade, window=(left, right)),
    )


def strips(plan: Plan, scale: int, paint: Callable[[Span, Span], NDArray[Any]]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Computes tiles row by row and joins them into strips.

    One tile, one strip and its blended end are in memory at a time.

    Args:
        plan: The tiles.
        scale: Output samples per cell along each axis.
        paint: Row span, column span -> the frame's result, (frame rows * scale, frame columns * scale, channels).

    Yields:
        From top to bottom: the number of the strip's first output row, counted from the grid's row 0, and the strip,
        (rows, kept columns * scale, channels), of the dtype that ``paint`` returns.
    """
    import numpy as np

    left = plan.columns[0].start
    width = (plan.columns[-1].stop - left) * scale
    carried: NDArray[Any] | None = None
    for index, row in enumerate(plan.rows):
        strip: NDArray[Any] | None = None
        for column in plan.columns:
            tile = paint(row, column)
            above, before = row.start - row.frame_start, column.start - column.frame_start
            kept = tile[
                above * scale : (above + row.stop - row.start) * scale,
                before * scale : (before + column.stop - column.start) * scale,
            ]
            if strip is None:
                strip = np.empty((kept.shape[0], width, kept.shape[2]), kept.dtype)
            at, faded = (column.start - left) * scale, column.fade * scale
            if faded:
                seam = strip[:, at : at + faded]
                seam[:] = _blend(seam, kept[:, :faded], _ramp(faded)[None, :, None])
            strip[:, at + faded : at + kept.shape[1]] = kept[:, faded:]
        assert strip is not None, "a plan has at least one column"
        faded = row.fade * scale
        if faded and carried is not None:
            strip[:faded] = _blend(carried, strip[:faded], _ramp(faded)[:, None, None])
        keep = plan.rows[index + 1].fade * scale if index + 1 < len(plan.rows) else 0
        carried = strip[len(strip) - keep :].copy() if keep else None
        yield row.start * scale, strip[: len(strip) - keep]


def _ramp(length: int) -> NDArray[Any]:
    import numpy as np

    return (np.arange(length, dtype=np.float32) + 0.5) / length


def _blend(old: NDArray[Any], new: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    mixed: NDArray[Any] = old * (1 - weight) + new * weight
    return np.rint(mixed).astype(old.dtype) if old.dtype.kind in "iu" else mixed.astype(old.dtype)
