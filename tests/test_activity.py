"""Adaptive quantization: which parts of a picture get finer steps, and which files have no map for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from sdrt.bitstream import FileWriter, LatentCoder
from sdrt.coding.activity import adapted
from sdrt.coding.prior import Prior
from sdrt.coding.prior_file import load_prior
from sdrt.container import sdl
from sdrt.options import EncodeOptions
from sdrt.packs.manifest import ModelPack
from sdrt.packs.search import read_prior

CELL = 8  # latents along a side of a cell, where a latent is 8 pixels wide


def half_busy(prior: Prior, rows: int = 4, columns: int = 6) -> NDArray[np.float32]:
    """Latents of so many cells: in the left half every symbol is 3 or -3, in the right one 0."""
    signs = np.random.default_rng(1).choice([-3.0, 3.0], (prior.channels, CELL * rows, CELL * columns))
    latents = np.asarray(signs * prior.steps[:, None, None], np.float32)
    latents[:, :, CELL * columns // 2 :] = 0
    return latents


def test_smooth_parts_get_finer_steps(testpack: ModelPack) -> None:
    """By at most five quarters of an octave, busy ones coarser by at most one quarter; cells that the grid cuts count
    by their share."""
    prior = load_prior(read_prior(testpack))
    whole = adapted(half_busy(prior), prior.steps, 8, 512)
    cut = adapted(half_busy(prior)[:, : 3 * CELL + 1, : 5 * CELL + 2], prior.steps, 8, 512)
    assert whole is not None and cut is not None and whole.shape == cut.shape == (4, 6)
    for offsets in (whole, cut):
        assert (offsets[:, :3] > 0).all() and (offsets[:, 3:] < 0).all()
        assert offsets.min() >= -5 and offsets.max() <= 1
        assert (offsets[0] == offsets).all()


def test_the_callers_map_is_added(testpack: ModelPack) -> None:
    """Within what a map can hold."""
    prior = load_prior(read_prior(testpack))
    alone = adapted(half_busy(prior), prior.steps, 8, 512)
    asked = np.zeros((4, 6), np.int8)
    asked[0, 0], asked[0, 5] = -3, -7
    both = adapted(half_busy(prior), prior.steps, 8, 512, asked)
    assert alone is not None and both is not None
    assert both[0, 0] == alone[0, 0] - 3 and both[0, 5] == -7
    assert (both[1:] == alone[1:]).all()


@pytest.mark.parametrize("busy", [False, True])
def test_pictures_of_one_kind_have_no_map(testpack: ModelPack, busy: bool) -> None:
    prior = load_prior(read_prior(testpack))
    latents = half_busy(prior, columns=12)
    latents = latents[:, :, : 6 * CELL] if busy else latents[:, :, 6 * CELL :]
    assert adapted(latents, prior.steps, 8, 512) is None


def test_a_map_never_costs_more_than_it_gives(testpack: ModelPack) -> None:
    """Where symbols are few, bytes of a map are many: the caller's map stays as it is."""
    prior = load_prior(read_prior(testpack))
    latents = half_busy(prior)
    latents[2:] = 0
    latents[:, :, 4:] = 0
    assert adapted(latents, prior.steps, 8, 512) is None
    asked = np.eye(4, 6, dtype=np.int8)
    assert adapted(latents, prior.steps, 8, 512, asked) is asked


@pytest.mark.parametrize(
    ("told", "options", "has_map"),
    [
        (True, {"quality": 50}, True),
        (True, {"target_bpp": 1.0}, True),
        (True, {"quality": 50, "tune": "psnr"}, False),
        (True, {"latent_error": 0.1}, False),
        (False, {"quality": 50}, False),
    ],
    ids=str,
)
def test_who_gets_a_map(
    make_pack: Callable[..., ModelPack], told: bool, options: dict[str, object], has_map: bool
) -> None:
    """Files for eyes, of packs whose decoder is told the step of each position; none else."""
    coder = LatentCoder(make_pack("pack", quality_input=told))
    latents = half_busy(coder.prior)
    writer = FileWriter(coder, 8 * latents.shape[2], 8 * latents.shape[1], (), EncodeOptions(**options))  # type: ignore[arg-type]
    file = writer.write(lambda *_: latents)[1]
    assert (file.chunk(sdl.STEP_MAP) is not None) == has_map
