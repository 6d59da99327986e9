"""Latents that paint closer to the photograph: gradient descent on one picture's latents, through the decoder.

The encoder gives in one pass what is good for photographs in general; ``refine`` looks for what is best for this one.
Nothing of the format changes and decoding costs nothing more. The descent is Adam (Kingma and Ba, ICLR 2015) on latents
counted in quantizer steps. There is no rate in the loss: an anchor holds the latents near the encoder's, whose bits
are known to be well spent, and the codec codes the result as it codes any latents.

A large picture is refined tile by tile: each tile's latents descend with their neighbors' held still, as these were
left by the tiles before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from sdrt.errors import EngineError
from sdrt.network import tile
from sdrt.network.onnxruntime_session import NamedRunner
from sdrt.network.transform import GLOBAL_FADE_PX, GLOBAL_TRIM_PX, Progress, StepIndices, quality_level
from sdrt.packs.manifest import ModelPack
from sdrt.pixels import tensors

Floats = NDArray[np.float32]

STEPS = (0, 3, 5, 8, 12, 16, 24, 32, 48, 80)
"""Gradient steps at each effort, 0 to 9."""

FRAME_PX = 640 * 640
"""Pixels of a frame, for which the gradient keeps all that the decoder computed: some 500 bytes each with models/tiny."""
GLOBAL_FRAME_PX = 448 * 448
"""The same for graphs that look everywhere at once (attention, group norms)."""

INPUTS = ("latent_sample", "photo", "error_weight", "pull")
OUTPUTS = ("sample", "latent_sample.gradient")
"""Ends of the graph that ``packs.search.read_gradient`` gives, as ``sdrt_export.pack_gradient`` describes them."""

_MEAN_DECAY, _SQUARE_DECAY = 0.9, 0.95
_SMALLEST_SLOPE = 1e-8
_LAST_RATE = 0.1

Pull = Callable[[Floats], Floats]
"""A painted frame, (1, 3, H, W) in [-1, 1] -> the gradient in it of what is minimized besides the squared error."""


@dataclass(frozen=True)
class Recipe:
    """What is minimized, for each latent position: ``error_weight`` times the mean squared error of its pixels, of
    samples from 0 to 1; ``anchor`` times the mean squared way of its channels from the encoder's, in quantizer steps;
    and what ``pull_of`` measures.

    Args:
        steps: of gradient descent, 1 or more.
        error_weight: of the squared error.
        anchor: of the way from the encoder's latents.
        rate: the first steps' length, in quantizer steps; it falls to a tenth along half a cosine.
    """

    steps: int
    error_weight: float = 60.0
    anchor: float = 0.05
    rate: float = 0.05

    def rate_at(self, step: int) -> float:
        """The length of a step, the first of which is 1."""
        along = (step - 1) / max(self.steps - 1, 1)
        return self.rate * (_LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * along)) / 2)


def recipe_of(effort: int, tune: str) -> Recipe:
    """What an effort from 1 to 9 means for a tuning."""
    steps = STEPS[effort]
    return Recipe(steps, rate=0.05 * math.sqrt(30 / steps))


@dataclass(frozen=True)
class Refinement:
    """``gradient``: of the pack's decoder, with INPUTS and OUTPUTS. ``recipe``: what is minimized, and for how long."""

    gradient: NamedRunner
    recipe: Recipe


def refine(
    latents: Floats,
    rgb: NDArray[np.uint8],
    how: Refinement,
    *,
    pack: ModelPack,
    step_sizes: Floats,
    indices: StepIndices,
    progress: Progress | None = None,
    tile_px: int | None = None,
) -> Floats:
    """Latents of ``rgb`` that the decoder paints closer to it.

    Args:
        latents: float32 (C, h, w), ``(raw - shift) * scale``, the encoder's. They are not changed.
        rgb: uint8 (H, W, 3), the picture that they are of.
        how: what is minimized, and by what.
        pack: whose decoder paints.
        step_sizes: float32 (C, h, w), the quantizer's.
        indices: int (h, w), the step indices, for packs that are told the quality level.
        progress: called after each step with the steps done and their total over all tiles.
        tile_px: side of the frames; None: what suits the pack. Memory is that of one frame.

    Returns:
        float32 (C, h, w).

    Raises:
        EngineError: the engine fails, or the gradient is not finite.
    """
    rows, columns = latents.shape[1:]
    plan = _plan(pack, rows, columns, tile_px)
    level = quality_level(pack, rows, columns, indices)
    refined = latents.copy()
    recipe = how.recipe
    total = plan.count * recipe.steps
    done = 0

    def step_done() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    for row in plan.rows:
        for column in plan.columns:
            frame = np.s_[:, row.frame_start : row.frame_stop, column.frame_start : column.frame_stop]
            kept = np.s_[
                :,
                row.start - row.frame_start : row.stop - row.frame_start,
                column.start - column.frame_start : column.stop - column.frame_start,
            ]
            here = _Frame(
                pack,
                how.gradient,
                photo=_photo(rgb, row, column, pack.space.downscale),
                error_weight=_weights(rgb, row, column, rows, columns, pack.space.downscale, recipe),
                level=None if level is None else level[frame],
                step_sizes=step_sizes[frame],
            )
            refined[:, row.start : row.stop, column.start : column.stop] = here.descend(
                refined[frame], kept, recipe, None, step_done
            )
    return refined


def _plan(pack: ModelPack, rows: int, columns: int, tile_px: int | None) -> tile.Plan:
    cell, frame_px = pack.space.downscale, FRAME_PX
    if pack.halo is not None:
        halo = pack.halo["decoder_latents"]
    else:
        halo, frame_px = ceil((GLOBAL_TRIM_PX + GLOBAL_FADE_PX) / cell), GLOBAL_FRAME_PX
    frame_px = frame_px if tile_px is None else tile_px**2
    return tile.plan(rows, columns, frame_px // cell**2, halo=halo)


def _photo(rgb: NDArray[np.uint8], row: tile.Span, column: tile.Span, cell: int) -> Floats:
    high, wide = row.frame_stop - row.frame_start, column.frame_stop - column.frame_start
    return tensors.sample_region(rgb, row.frame_start * cell, column.frame_start * cell, high * cell, wide * cell)


def _weights(
    rgb: NDArray[np.uint8], row: tile.Span, column: tile.Span, rows: int, columns: int, cell: int, recipe: Recipe
) -> Floats:
    """The weight of each pixel's error in the gradient, float32 (1, 1, H, W).

    0 beyond the picture, and in the outer half of a halo: those pixels depend on latents outside the frame.
    """
    sides = []
    for span, cells, length in ((row, rows, rgb.shape[0]), (column, columns, rgb.shape[1])):
        place = np.arange(span.frame_start * cell, span.frame_stop * cell)
        low = (span.frame_start + span.start) // 2 * cell if span.frame_start > 0 else 0
        high = ceil((span.frame_stop + span.stop) / 2) * cell if span.frame_stop < cells else length
        sides.append((place >= low) & (place < min(high, length)))
    # Samples span 2 where the recipe's error spans 1; each position's mean is over 3 * cell**2 of them.
    factor = recipe.error_weight * 2 / 4 / (3 * cell**2)
    return np.asarray((sides[0][:, None] & sides[1]) * np.float32(factor), np.float32)[None, None]


@dataclass(frozen=True)
class _Frame:
    """What the descent of one frame stands on; arrays are of the frame."""

    pack: ModelPack
    gradient: NamedRunner
    photo: Floats
    error_weight: Floats
    level: Floats | None
    step_sizes: Floats

    def descend(
        self,
        latents: Floats,
        kept: tuple[slice, ...],
        recipe: Recipe,
        pull_of: Pull | None,
        step_done: Callable[[], None],
    ) -> Floats:
        """The ``kept`` part of latents (C, h, w), refined; the rest of the frame stands still."""
        start = latents[kept] / self.step_sizes[kept]
        here, mean, square = start.copy(), np.zeros_like(start), np.zeros_like(start)
        moved = latents.copy()
        pull = np.zeros((1, 1, 1, 1), np.float32)
        if pull_of is not None:
            pull = pull_of(self._run(moved, pull)[0])
        for step in range(1, recipe.steps + 1):
            painted, slope = self._run(moved, pull)
            if pull_of is not None and step < recipe.steps:
                pull = pull_of(painted)
            slope = slope[kept] * self.step_sizes[kept] + (2 * recipe.anchor / len(start)) * (here - start)
            mean += (1 - _MEAN_DECAY) * (slope - mean)
            square += (1 - _SQUARE_DECAY) * (slope * slope - square)
            unbiased = mean / (1 - _MEAN_DECAY**step), np.sqrt(square / (1 - _SQUARE_DECAY**step))
            here -= recipe.rate_at(step) * unbiased[0] / (unbiased[1] + _SMALLEST_SLOPE)
            moved[kept] = here * self.step_sizes[kept]
            step_done()
        return moved[kept]

    def _run(self, latents: Floats, pull: Floats) -> tuple[Floats, Floats]:
        """The painted frame (1, 3, H, W), and the gradient in the latents (C, h, w)."""
        scale, shift = np.float32(self.pack.space.scale), np.float32(self.pack.space.shift)
        raw = latents / scale + shift
        if self.level is not None:
            raw = np.concatenate([raw, self.level])
        ends = self.gradient(dict(zip(INPUTS, (raw[None], self.photo, self.error_weight, pull), strict=True)))
        painted, slope = (ends[name] for name in OUTPUTS)
        if not np.isfinite(slope).all():
            raise EngineError(f"model pack {self.pack.name}: the gradient of its decoder is not finite")
        return painted, slope[0, : len(latents)] / scale
