"""Laws of the tiles' geometry: coverage, halo, fixed shapes, and painting by tiles as painting whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from sdrt.network import tile


def smear(grid: NDArray[np.float32], times: int) -> NDArray[np.float32]:
    """``times`` 3x3 means with zero padding: a graph of convolutions whose halo is ``times`` cells."""
    for _ in range(times):
        padded = np.pad(grid, ((1, 1), (1, 1), (0, 0)))
        rows, columns = grid.shape[:2]
        grid = sum(padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)) / np.float32(9)
    return grid


def paint_by_tiles(grid: NDArray[np.float32], plan: tile.Plan, halo: int, scale: int = 1) -> NDArray[np.float32]:
    def paint(row: tile.Span, column: tile.Span) -> NDArray[np.float32]:
        frame = grid[row.frame_start : row.frame_stop, column.frame_start : column.frame_stop]
        return smear(frame, halo).repeat(scale, 0).repeat(scale, 1)

    return np.concatenate([rows for _, rows in tile.strips(plan, scale, paint)])


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (37, 23), (64, 9)])
def test_tiles_with_enough_halo_paint_what_the_whole_picture_paints(shape: tuple[int, int]) -> None:
    """With a halo as wide as the graph sees, tiles and the whole picture agree to rounding."""
    grid = np.random.default_rng(1).normal(size=(*shape, 2)).astype(np.float32)
    for max_cells in (1, 81, 200, 10**6):
        plan = tile.plan(*shape, max_cells, halo=3)
        np.testing.assert_allclose(paint_by_tiles(grid, plan, 3), smear(grid, 3), atol=1e-5)


def test_too_small_a_halo_shows() -> None:
    """The comparison above can fail: two cells of halo for a graph that sees three differ visibly."""
    grid = np.random.default_rng(1).normal(size=(40, 40, 1)).astype(np.float32)
    plan = tile.plan(40, 40, 100, halo=2)
    assert plan.count > 1
    assert np.abs(paint_by_tiles(grid, plan, 3) - smear(grid, 3)).max() > 1e-3


def test_a_window_paints_its_cut_of_the_whole() -> None:
    """A window's tiles give the same cells as the whole picture and run no frame far outside it."""
    grid = np.random.default_rng(2).normal(size=(50, 60, 1)).astype(np.float32)
    whole = smear(grid, 3)
    for top, left, bottom, right in [(0, 0, 1, 1), (49, 59, 50, 60), (10, 20, 31, 24), (0, 7, 50, 9)]:
        plan = tile.plan(50, 60, 120, halo=3, window=(top, left, bottom, right))
        np.testing.assert_allclose(paint_by_tiles(grid, plan, 3), whole[top:bottom, left:right], atol=1e-5)
        assert all(top - 3 <= row.frame_start and row.frame_stop <= bottom + 3 for row in plan.rows)
        assert all(left - 3 <= column.frame_start and column.frame_stop <= right + 3 for column in plan.columns)


@pytest.mark.parametrize(("length", "frame", "halo"), [(100, 17, 4), (100, 9, 4), (5, 50, 9)])
def test_spans_cover_once_with_halo_and_one_shape(length: int, frame: int, halo: int) -> None:
    """Kept cells follow each other without gap or overlap; all frames are equally long; each kept cell has its halo."""
    found = tile.spans(length, frame, halo=halo)
    kept = [cell for span in found for cell in range(span.start, span.stop)]
    assert kept == list(range(length))
    assert len({span.frame_stop - span.frame_start for span in found}) == 1
    for span in found:
        assert span.frame_start == 0 or span.start - span.frame_start >= halo
        assert span.frame_stop == length or span.frame_stop - span.stop >= halo
        assert 0 <= span.frame_start <= span.start < span.stop <= span.frame_stop <= length


def test_faded_spans_overlap_by_the_fade() -> None:
    """Neighbors share exactly ``fade`` kept cells, and a window takes the tiles of the whole axis that touch it."""
    whole = tile.spans(100, 30, halo=2, fade=6)
    for before, after in itertools.pairwise(whole):
        assert before.stop - after.start == after.fade == 6
    assert whole[0].start == 0 and whole[-1].stop == 100
    part = tile.spans(100, 30, halo=2, fade=6, window=(40, 41))
    assert {(span.frame_start, span.frame_stop) for span in part} <= {(s.frame_start, s.frame_stop) for s in whole}
    assert part[0].start <= 40 and part[-1].stop >= 41


def test_blending_is_continuous_and_leaves_agreement_alone() -> None:
    """Blended tiles that agree give back what they agree on; where they differ no step exceeds the ramp's."""
    grid = np.full((60, 70, 1), 7, np.float32)
    plan = tile.plan(60, 70, 400, halo=1, fade=8)
    assert plan.count > 4
    np.testing.assert_allclose(paint_by_tiles(grid, plan, 0, scale=2), 7)

    numbered = np.concatenate(
        [
            rows
            for _, rows in tile.strips(
                plan,
                1,
                lambda row, column: np.full(
                    (row.frame_stop - row.frame_start, column.frame_stop - column.frame_start, 1),
                    (row.frame_start // 5 + column.frame_start // 3) % 2,
                    np.float32,
                ),
            )
        ]
    )
    assert numbered.shape == grid.shape
    assert np.abs(np.diff(numbered, axis=0)).max() <= 1 / 8 + 1e-6
    assert np.abs(np.diff(numbered, axis=1)).max() <= 1 / 8 + 1e-6


def test_strips_name_their_rows_and_keep_the_dtype() -> None:
    """Each strip says where it starts; strips join without gap; uint8 stays uint8."""
    plan = tile.plan(50, 20, 150, halo=2, fade=3)
    at = 0
    for first, rows in tile.strips(
        plan, 4, lambda row, column: np.full((4 * (row.frame_stop - row.frame_start), 80, 3), 9, np.uint8)
    ):
        assert first == at and rows.dtype == np.uint8 and rows.shape[1] == 80
        assert (rows == 9).all()
        at += len(rows)
    assert at == 200


@pytest.mark.parametrize(("rows", "columns"), [(1, 4000), (250, 250), (4000, 3), (625, 625), (33, 900)])
def test_frames_stay_within_their_cells(rows: int, columns: int) -> None:
    """A frame has at most max_cells cells when the halo leaves room, and small extents take one frame."""
    high, wide = tile.frame_shape(rows, columns, 96 * 96, halo=12)
    assert high * wide <= 96 * 96
    assert tile.frame_shape(96, 96, 96 * 96, halo=12) == (96, 96)
