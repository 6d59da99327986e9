"""Geometry of tiles: which cells a graph is run on, and which of its cells are kept.

All lengths here are in *cells*, the grid of the latents: one latent position, ``downscale`` pixels. A graph made of
convolutions only gives a cell exactly as in the whole picture when at least ``halo`` cells around it are in the same
run, or when the run ends where the whole picture ends (so that the graph's own zero padding acts at the same place).
For any other graph neighboring tiles overlap by ``fade`` cells and are blended linearly there.

Every span of one axis has the same frame length, so that engines see few shapes.
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
    """Spans that cover ``window`` (default: all) of an axis of ``length`` cells, with frames of ``frame`` cells.

    With ``fade`` 0, frames are laid around the window only; otherwise those of the whole axis that touch the window are
    taken, because a blended tile depends on where it lies. ``frame`` grows to ``2 * halo + fade + 1`` where it is
    smaller: less would never advance.
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
    """Rows and columns of a frame of at most about ``max_cells`` cells for an extent of ``rows`` x ``columns``.

    The whole extent where it fits; otherwise as square as the extent allows, and no longer than its share, so that
    the last frame of an axis does not repeat what the one before has done.
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
    """Tiles that give the cells of ``window`` (top, left, bottom, right; default: all) of a grid.

    ``max_cells`` bounds a frame (never below what ``halo`` needs). With ``fade`` the tiles may deliver more than the
    window; their ``start`` and ``stop`` say what.

    ``side`` replaces ``max_cells`` where it is given: a frame has at most so many cells each way, and exactly so many
    where there are more, so that all large pictures have frames of one shape.
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
    """Run ``paint`` on every tile and yield the result in strips from top to bottom: (first row, rows).

    ``paint(row, column)`` gives the tile's frame as an array (frame rows * scale, frame columns * scale, channels).
    A strip is an array (rows, kept columns * scale, channels) of the same dtype; the first row counts from the
    grid's row 0 in steps of 1 / scale cell. At any time one tile, one strip and its faded end are in memory.
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
