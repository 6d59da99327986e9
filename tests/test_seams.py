"""Laws of tiles for graphs that look everywhere at once: a real AutoencoderKL, with attention and group norms.

Its tiles differ from the whole picture, because its normalizations see only the tile. What can be promised for every
such graph is how little the change from one tile to the next adds to the step between two neighboring pixels, and that
the result is never further from the whole picture than the tiles it is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sdrt.codec import Codec
from sdrt.coding.prior_file import write_prior
from sdrt.network import tile, transform
from sdrt.network.engine import Engine
from sdrt.packs.manifest import ModelPack
from sdrt_export.autoencoders import describe_space, halves
from sdrt_export.graph import export_modules
from sdrt_export.pack_writer import write_pack
from sdrt_export.prior_plan import generic_arrays

Pixels = NDArray[np.uint8]
CELL = 4
FADE_PX, TRIM_PX, TILE_PX = 32, 16, 144

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def kl_pack(tmp_path_factory: pytest.TempPathFactory) -> ModelPack:
    """The pack of a small AutoencoderKL with random weights: 4 channels at a quarter of the size."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(1)
    from tests.small_autoencoders import KL_THREE_BLOCKS  # which imports diffusers

    vae = diffusers.AutoencoderKL(**KL_THREE_BLOCKS)
    space = describe_space(vae, None, None)
    folder = tmp_path_factory.mktemp("packs") / "kl"
    exported = export_modules(*halves(vae.eval(), space, space), folder, space=space, latent_distribution=True)
    assert exported.halo is None
    prior = write_prior(generic_arrays(space.channels))
    return write_pack(folder, name="kl", space=space, files={"prior.npz": prior}, latent_distribution=True)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Overlaps in proportion to TILE_PX, so that small pictures have many tiles."""
    monkeypatch.setattr(transform, "GLOBAL_FADE_PX", FADE_PX)
    monkeypatch.setattr(transform, "GLOBAL_TRIM_PX", TRIM_PX)


@pytest.fixture
def painted(
    kl_pack: ModelPack, small_tiles: None, make_photo: Callable[[int, int], Pixels]
) -> tuple[Pixels, list[tuple[tile.Span, tile.Span, Pixels]], Pixels]:
    """A picture in tiles, every tile alone as (row, column, its kept pixels), and the picture as one frame."""
    encoder, decoder = Engine(kl_pack.encoder_path(), device="cpu"), Engine(kl_pack.decoder_path(), device="cpu")
    latents = transform.to_latents(make_photo(212, 270), kl_pack, encoder)
    crop = (0, 0, latents.shape[2] * CELL, latents.shape[1] * CELL)
    frames: list[NDArray[np.float32]] = []

    class Watched(Engine):
        def run(self, array: Any) -> Any:
            frames.append(super().run(array))
            return frames[-1]

    watched = Watched(kl_pack.decoder_path(), device="cpu")
    strips = transform.pixel_strips(latents, kl_pack, watched, crop, tile_px=TILE_PX)
    tiled = np.concatenate(list(strips))
    rows, columns = latents.shape[1:]
    plan = tile.plan(rows, columns, (TILE_PX // CELL) ** 2, halo=TRIM_PX // CELL, fade=FADE_PX // CELL)
    assert len(plan.rows) >= 2 and len(plan.columns) >= 3 and len(frames) == plan.count
    alone = []
    for (row, column), frame in zip([(r, c) for r in plan.rows for c in plan.columns], frames, strict=True):
        above, before = (row.start - row.frame_start) * CELL, (column.start - column.frame_start) * CELL
        high, wide = (row.stop - row.start) * CELL, (column.stop - column.start) * CELL
        levels = np.clip(np.rint(frame[0] * 127.5 + 127.5), 0, 255).astype(np.uint8).transpose(1, 2, 0)
        alone.append((row, column, levels[above : above + high, before : before + wide]))
    return tiled, alone, transform.to_pixels(latents, kl_pack, decoder, crop)


def excess(tiled: Pixels, alone: list[tuple[tile.Span, tile.Span, Pixels]]) -> tuple[float, float]:
    """(how far the picture leaves the range of its tiles, how much its steps leave the range of theirs beyond
    1 / FADE_PX of their difference), both as the largest over all pixels, in levels."""
    low, high = np.full(tiled.shape, 255.0), np.zeros(tiled.shape)
    step_low, step_high = np.full(tiled.shape, 255.0), np.full(tiled.shape, -255.0)
    for row, column, pixels in alone:
        where = np.s_[row.start * CELL : row.stop * CELL, column.start * CELL : column.stop * CELL]
        low[where], high[where] = np.minimum(low[where], pixels), np.maximum(high[where], pixels)
        steps = np.diff(pixels.astype(float), axis=1, append=pixels[:, -1:])
        inner = np.s_[row.start * CELL : row.stop * CELL, column.start * CELL : column.stop * CELL - 1]
        step_low[inner] = np.minimum(step_low[inner], steps[:, :-1])
        step_high[inner] = np.maximum(step_high[inner], steps[:, :-1])
    outside = max(float((low - tiled).max()), float((tiled - high).max()))
    steps = np.diff(tiled.astype(float), axis=1)
    spread = (high - low)[:, :-1] / FADE_PX
    beyond = np.maximum(step_low[:, :-1] - steps, steps - step_high[:, :-1]) - spread
    return outside, float(beyond.max())


def test_a_seam_adds_a_fraction_of_what_the_tiles_differ_by(
    painted: tuple[Pixels, list[tuple[tile.Span, tile.Span, Pixels]], Pixels],
) -> None:
    """Every pixel lies between its tiles, and a step right or down leaves the range of the tiles' own steps by at most
    1 / fade of their difference: a 96th, as shipped. Rounding may add two levels."""
    tiled, alone, whole = painted
    assert any((pixels != 0).any() for _, _, pixels in alone) and whole.std() > 5
    turned = [(column, row, pixels.swapaxes(0, 1)) for row, column, pixels in alone]
    for outside, beyond in (excess(tiled, alone), excess(tiled.swapaxes(0, 1), turned)):
        assert outside <= 1 and beyond <= 2


def test_a_hard_cut_would_show(
    painted: tuple[Pixels, list[tuple[tile.Span, tile.Span, Pixels]], Pixels],
) -> None:
    """The comparison above can fail: tiles laid over each other without blending step far more at their ends."""
    tiled, alone, _ = painted
    pasted = np.zeros_like(tiled)
    for row, column, pixels in alone:
        pasted[row.start * CELL : row.stop * CELL, column.start * CELL : column.stop * CELL] = pixels
    assert excess(pasted, alone)[1] > 8


def test_tiles_are_no_further_from_the_whole_than_apart(
    painted: tuple[Pixels, list[tuple[tile.Span, tile.Span, Pixels]], Pixels],
) -> None:
    """Nowhere is the blended picture further from the one painted whole than the furthest of its tiles there."""
    tiled, alone, whole = painted
    furthest = np.zeros(tiled.shape)
    for row, column, pixels in alone:
        where = np.s_[row.start * CELL : row.stop * CELL, column.start * CELL : column.stop * CELL]
        furthest[where] = np.maximum(furthest[where], np.abs(pixels.astype(float) - whole[where]))
    assert (np.abs(tiled.astype(float) - whole) <= furthest + 1).all()
    assert furthest.max() > 1, "tiles of such a graph differ from the whole"


def test_a_crop_is_exactly_that_part(
    kl_pack: ModelPack, small_tiles: None, make_photo: Callable[[int, int], Pixels]
) -> None:
    """A crop runs only the tiles of the whole picture that touch it, and gives exactly its pixels."""
    codec = Codec(kl_pack.folder, tile_px=TILE_PX)
    data = codec.encode(make_photo(212, 270), quality=100)
    totals: list[int] = []
    whole = codec.decode_picture(data, progress=lambda _done, total: totals.append(total)).rgb
    for x, y, width, height in [(0, 0, 1, 1), (269, 211, 1, 1), (90, 80, 40, 60), (3, 30, 260, 2)]:
        part = codec.decode_picture(
            data, crop=(x, y, width, height), progress=lambda _done, total: totals.append(total)
        ).rgb
        np.testing.assert_array_equal(part, whole[y : y + height, x : x + width])
    assert totals[-1] < totals[0] and min(totals) == 1


def test_every_tile_has_one_shape(
    kl_pack: ModelPack, small_tiles: None, make_photo: Callable[[int, int], Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All frames of a large picture are alike in both directions, so that no device prepares for another shape."""
    shapes: set[tuple[int, ...]] = set()
    original = Engine.run

    def noted(self: Engine, array: NDArray[np.float32]) -> Any:
        shapes.add(array.shape[1:])
        return original(self, array)

    monkeypatch.setattr(Engine, "run", noted)
    codec = Codec(kl_pack.folder, tile_px=TILE_PX)
    codec.decode(codec.encode(make_photo(212, 270)))
    assert len(shapes) == 2, "one of the encoder, one of the decoder"


def test_the_memory_of_tiles_is_bounded(kl_pack: ModelPack, tmp_path: Path) -> None:
    """Frames of such graphs never exceed the side asked for, nor by default GLOBAL_FRAME_PX pixels, on any picture."""
    for rows, columns in [(250, 250), (10, 2500), (2500, 2500), (129, 127)]:
        for tile_px in (None, 528, 768):
            plan = transform.plan_tiles(
                kl_pack, rows, columns, None, window=(0, 0, rows, columns), side=None, tile_px=tile_px
            )
            row, column = plan.rows[0], plan.columns[0]
            frame_px = (row.frame_stop - row.frame_start) * (column.frame_stop - column.frame_start) * CELL**2
            assert frame_px <= (transform.GLOBAL_FRAME_PX if tile_px is None else tile_px**2)
