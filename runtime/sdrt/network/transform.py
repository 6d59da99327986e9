"""Pixels <-> latents: runs a pack's graphs over a picture of any size, in tiles of bounded memory.

With a halo in the manifest (convolutions only) tiles give exactly the result of the whole picture. Graphs without one
see the whole picture at once: they run whole up to GLOBAL_FRAME_PX, and in overlapping, blended tiles beyond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sdrt.container.step_map import StepIndices, octaves
from sdrt.errors import ModelError
from sdrt.network import tile
from sdrt.network.devices import Sides
from sdrt.network.engine import Engine
from sdrt.packs.manifest import ModelPack
from sdrt.pixels import tensors
from sdrt.pixels.picture import Crop, Strips, gather

FRAME_PX = 1536 * 1536
"""Largest frame, in pixels, for one run of a graph: about 150 bytes of memory per pixel with models/tiny."""
GLOBAL_FRAME_PX = 768 * 768
"""The same for graphs with global operators (attention, group norms), which need twenty times the memory."""
GLOBAL_FADE_PX = 96
"""Overlap over which the tiles of such graphs are blended: a step between neighboring pixels grows by at most a 96th
of what the two tiles differ by. docs/TILES.md has what was measured."""
GLOBAL_TRIM_PX = 32
"""Rim of such tiles that is discarded: it depends on the zero padding around the tile. Twice as much did not measure
better."""

GPU_SIDES_PX = (512, 1024)
"""On a GPU: the side that kernels are tuned for, and the longest one. Larger pictures are cut into tiles of exactly the
latter: memory is that of one tile, and no new shape makes the device select or compile kernels again."""


class Frames(Protocol):
    """Normalized latents, float32 (C, h, w), of which frames are cut: an array, or what computes them when asked."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, window: tuple[slice, slice, slice], /) -> NDArray[np.float32]: ...


Progress = Callable[[int, int], None]
"""Called after each tile with the number of tiles done and their total."""


def to_latents(
    rgb: NDArray[np.uint8],
    pack: ModelPack,
    encoder: Engine,
    progress: Progress | None = None,
    *,
    tile_px: int | None = None,
) -> NDArray[np.float32]:
    """Runs the encoder graph on a picture.

    Args:
        rgb: uint8 (H, W, 3). It is padded to whole cells on the right and below by repeating its edge.
        pack: The pack of the encoder.
        encoder: The session of its graph.
        progress: Called after each tile.
        tile_px: Side of the tiles in pixels. Smaller tiles take less memory and more time. None: the pack's default.

    Returns:
        Normalized latents ``(raw - shift) * scale``, float32 (C, h, w), h = ceil(H / downscale), w likewise.

    Raises:
        EngineError: The engine fails.
        ModelError: The output has another shape than the manifest states, or is not finite.
    """
    cell, channels = pack.space.downscale, pack.space.channels
    rows, columns = (ceil(side / cell) for side in rgb.shape[:2])
    halo_px = None if pack.halo is None else pack.halo["encoder_px"]
    halo = None if halo_px is None else ceil(halo_px / cell)
    side = None if encoder.longest_side is None else encoder.longest_side // cell
    plan = plan_tiles(pack, rows, columns, halo, window=(0, 0, rows, columns), side=side, tile_px=tile_px)
    done = 0

    def run(row: tile.Span, column: tile.Span) -> NDArray[np.float32]:
        nonlocal done
        high, wide = row.frame_stop - row.frame_start, column.frame_stop - column.frame_start
        sample = tensors.sample_region(rgb, row.frame_start * cell, column.frame_start * cell, high * cell, wide * cell)
        raw = encoder.run(sample)
        _check_shape(pack, "encoder", raw, (1, channels * (2 if pack.latent_distribution else 1), high, wide))
        done += 1
        if progress is not None:
            progress(done, plan.count)
        kept: NDArray[np.float32] = raw[0, :channels].transpose(1, 2, 0)
        return kept

    latents = np.empty((channels, rows, columns), np.float32)
    for first, strip in tile.strips(plan, 1, run):
        latents[:, first : first + len(strip)] = strip.transpose(2, 0, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        latents -= np.float32(pack.space.shift)
        latents *= np.float32(pack.space.scale)
    if not np.isfinite(latents).all():
        raise ModelError(f"model pack {pack.name}: the encoder returns values that are not finite")
    return latents


def to_pixels(
    latents: NDArray[np.float32],
    pack: ModelPack,
    decoder: Engine,
    crop: Crop,
    progress: Progress | None = None,
    *,
    indices: StepIndices | None = None,
) -> NDArray[np.uint8]:
    """As ``pixel_strips``, in one array, uint8 (height, width, 3)."""
    rows = pixel_strips(latents, pack, decoder, crop, progress, indices=indices)
    return gather(Strips(width_px=crop[2], height_px=crop[3], rows=rows)).rgb


def pixel_strips(
    latents: Frames,
    pack: ModelPack,
    decoder: Engine,
    crop: Crop,
    progress: Progress | None = None,
    *,
    tile_px: int | None = None,
    indices: StepIndices | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Runs the decoder graph on latents, one row of tiles at a time, when its strip is requested.

    Args:
        latents: Normalized latents, float32 (C, h, w).
        pack: The pack of the decoder.
        decoder: The session of its graph.
        crop: x, y, width, height in pixels, within w * downscale by h * downscale. Only tiles that touch it are run.
        progress: Called after each tile.
        tile_px: As for ``to_latents``.
        indices: int64 (h, w), the step index that each latent was quantized with, for packs with ``quality_input``.
            None: the pack's default step everywhere.

    Yields:
        The pixels of ``crop`` from top to bottom, uint8 (n, width, 3).

    Raises:
        EngineError: The engine fails.
        ModelError: The output has another shape than the manifest states, or a latent is not finite.
    """
    cell = pack.space.downscale
    left, top, width_px, height_px = crop
    halo = None if pack.halo is None else pack.halo["decoder_latents"]
    window = (top // cell, left // cell, ceil((top + height_px) / cell), ceil((left + width_px) / cell))
    rows, columns = latents.shape[1:]
    plan = plan_tiles(pack, rows, columns, halo, window=window, side=decoder.longest_side, tile_px=tile_px)
    scale, shift = np.float32(pack.space.scale), np.float32(pack.space.shift)
    level = quality_level(pack, rows, columns, indices)
    done = 0
    last: tuple[NDArray[np.float32], NDArray[np.uint8]] | None = None

    def run(row: tile.Span, column: tile.Span) -> NDArray[np.uint8]:
        nonlocal done, last
        with np.errstate(over="ignore", invalid="ignore"):
            frame = _frame(latents, row, column) / scale + shift
        if not np.isfinite(frame).all():
            raise ModelError(f"model pack {pack.name}: latents are not finite with its prior and scale")
        if level is not None:
            frame = np.concatenate([frame, _frame(level, row, column)])
        # Empty regions give identical tiles: a hostile file of 22 bytes must not keep a network busy.
        if last is None or not np.array_equal(frame, last[0]):
            last = frame, _painted(frame, pack, decoder)
        done += 1
        if progress is not None:
            progress(done, plan.count)
        return last[1]

    before = left - plan.columns[0].start * cell
    for first, strip in tile.strips(plan, cell, run):
        start, stop = max(first, top), min(first + len(strip), top + height_px)
        if start < stop:
            yield strip[start - first : stop - first, before : before + width_px]
        del strip  # before the next is made


def _painted(frame: NDArray[np.float32], pack: ModelPack, decoder: Engine) -> NDArray[np.uint8]:
    """The pixels of a tile, uint8 (high, wide, 3)."""
    high, wide = frame.shape[1] * pack.space.downscale, frame.shape[2] * pack.space.downscale
    painted = decoder.run(frame[None])
    done_already = painted.dtype == np.uint8
    _check_shape(pack, "decoder", painted, (1, high, wide, 3) if done_already else (1, 3, high, wide))
    pixels: NDArray[np.uint8] = painted[0] if done_already else tensors.from_sample(painted, high, wide)
    return pixels


def quality_level(pack: ModelPack, rows: int, columns: int, indices: StepIndices | None) -> NDArray[np.float32] | None:
    """The quality input of the pack's decoder: log2 of the quantizer step, see ``octaves``.

    Args:
        pack: The pack of the decoder.
        rows, columns: Size of the latents.
        indices: int64 (rows, columns), 0..1023. None: the pack's default step.

    Returns:
        float32 (1, rows, columns); None for packs without ``quality_input``.
    """
    if not pack.quality_input:
        return None
    if indices is None:
        indices = np.full((rows, columns), pack.default_step)
    return octaves(indices[None]).astype(np.float32)


def accelerator_sides(pack: ModelPack, half: str) -> Sides:
    """The input sizes to prepare a GPU or an NPU for. ``half``: "encoder", in pixels, or "decoder", in latents."""
    cell = pack.space.downscale
    opt_px, max_px = GPU_SIDES_PX
    if half == "encoder":
        return Sides(cell, opt_px // cell * cell, max_px // cell * cell)
    return Sides(1, opt_px // cell, max_px // cell)


def plan_tiles(
    pack: ModelPack,
    rows: int,
    columns: int,
    halo: int | None,
    *,
    window: tuple[int, int, int, int],
    side: int | None,
    tile_px: int | None,
) -> tile.Plan:
    """The tiles to run for a part of the picture. All lengths are in cells (latents) unless they are named ``_px``.

    Args:
        pack: The pack of the graph.
        rows, columns: Size of the whole picture.
        halo: The halo of the graph; None: a graph with global operators.
        window: Top, left, bottom, right of the part; the last two exclusive.
        side: The longest side that the engine takes; None: any.
        tile_px: Side of the tiles; None: the default.
    """
    cell, fade, frame_px = pack.space.downscale, 0, FRAME_PX
    if halo is None:
        halo, fade, frame_px = ceil(GLOBAL_TRIM_PX / cell), ceil(GLOBAL_FADE_PX / cell), GLOBAL_FRAME_PX
    if tile_px is not None:
        frame_px = tile_px**2
        side = None if side is None else min(side, max(1, tile_px // cell))
    return tile.plan(rows, columns, max(1, frame_px // cell**2), halo=halo, fade=fade, window=window, side=side)


def _frame(array: Frames, row: tile.Span, column: tile.Span) -> NDArray[np.float32]:
    """The input of a tile, cut out of (channels, rows, columns)."""
    return array[:, row.frame_start : row.frame_stop, column.frame_start : column.frame_stop]


def _check_shape(pack: ModelPack, half: str, array: NDArray[Any], wanted: tuple[int, ...]) -> None:
    if array.shape != wanted:
        raise ModelError(f"model pack {pack.name}: the {half} returns shape {array.shape}, expected {wanted}")
