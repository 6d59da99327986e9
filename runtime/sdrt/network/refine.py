"""Refines one picture's latents by gradient descent through the decoder, so that they decode closer to the photograph.

The encoder computes in one pass what is good for photographs in general; ``refine`` optimizes for this one.
The format does not change, and decoding is not slower. The descent is Adam (Kingma and Ba, ICLR 2015) on latents
counted in quantizer steps. The loss has no rate term: an anchor keeps the latents near the encoder's, which are
efficient to code, and the codec quantizes the result like any latents. The decoder sees them unrounded: with a
straight-through estimator they become tuned to each other's rounding, which the codec's rate-distortion optimization
then changes (docs/EFFORT.md).

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

from sdrt.container.step_map import StepIndices
from sdrt.errors import EngineError
from sdrt.network import tile
from sdrt.network.onnxruntime_session import NamedRunner
from sdrt.network.transform import GLOBAL_FADE_PX, GLOBAL_TRIM_PX, Progress, quality_level
from sdrt.network.viewer import Viewer
from sdrt.packs.manifest import ModelPack
from sdrt.pixels import tensors

Floats = NDArray[np.float32]

STEPS = (0, 2, 4, 7, 11, 16, 27, 40, 60, 90)
"""Gradient steps at each effort, 0 to 9."""

FRAME_PX = 640 * 640
"""Pixels of a frame. The gradient keeps all that the decoder computed: some 500 bytes for each with models/tiny."""
GLOBAL_FRAME_PX = 448 * 448
"""The same for graphs that look everywhere at once (attention, group norms)."""

INPUTS = ("latent_sample", "photo", "error_weight", "pull")
OUTPUTS = ("sample", "latent_sample.gradient")
"""Ends of the graph that ``packs.search.read_gradient`` gives, as ``sdrt_export.pack_gradient`` describes them."""

_MEAN_DECAY, _SQUARE_DECAY = 0.9, 0.95
_EPSILON = 1e-8
_LAST_RATE = 0.1


@dataclass(frozen=True)
class Recipe:
    """What is minimized, as a sum over latent positions, and how.

    Args:
        steps: of gradient descent, 1 or more.
        rate: length of the first steps, in quantizer steps; it falls to a tenth along half a cosine.
        error_weight: of the mean squared error of a position's pixels, as samples from 0 to 1.
        anchor: of the squared way from the encoder's latents, as a multiple of what the same way costs in squared error
            where rounding goes it. It stands in for the rate, and so needs no other figure for another pack or step.
        eyes_weight: of the perceptual networks' distance.
        share: of the picture that the networks see at each step, above 0.
    """

    steps: int
    rate: float
    error_weight: float
    anchor: float
    eyes_weight: float = 0.0
    share: float = 1.0

    def rate_at(self, step: int) -> float:
        """The length of a step, the first of which is 1."""
        along = (step - 1) / max(self.steps - 1, 1)
        return self.rate * (_LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * along)) / 2)


def recipe_of(effort: int, tune: str) -> Recipe:
    """What an effort from 1 to 9 means for a tuning, "psnr" or "eyes". docs/EFFORT.md has what was measured."""
    steps = STEPS[effort]
    if tune == "psnr":
        return Recipe(steps, rate=min(0.1, 0.05 * math.sqrt(30 / steps)), error_weight=60, anchor=2)
    return Recipe(steps, rate=0.018 * math.sqrt(30 / steps), error_weight=45, anchor=3, eyes_weight=1, share=0.25)


@dataclass(frozen=True)
class Refinement:
    """What is minimized, and by what.

    Args:
        recipe: what is minimized, and how.
        gradient: of the pack's decoder, with INPUTS and OUTPUTS.
        networks: for a recipe with ``eyes_weight``; see ``viewer``.
    """

    recipe: Recipe
    gradient: NamedRunner
    networks: NamedRunner | None


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
    """Refines the latents of ``rgb``.

    Args:
        latents: float32 (C, h, w), ``(raw - shift) * scale``, the encoder's. They are not changed.
        rgb: uint8 (H, W, 3), the picture that they are of.
        how: what is minimized, and by what.
        pack: whose decoder paints.
        step_sizes: float32 (C, h, w), the quantizer's.
        indices: int (h, w), the step indices, for packs with ``quality_input``.
        progress: called after each step with the steps done and their total over all tiles.
        tile_px: side of the frames; None: what suits the pack. Memory is that of one frame.

    Returns:
        float32 (C, h, w).

    Raises:
        EngineError: the engine fails, or the gradient is not finite.
    """
    cell = pack.space.downscale
    rows, columns = latents.shape[1:]
    plan = _plan(pack, rows, columns, tile_px)
    level = quality_level(pack, rows, columns, indices)
    recipe, networks = how.recipe, how.networks
    refined: Floats = latents.copy()
    done = 0

    def step_done() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, plan.count * recipe.steps)

    for row in plan.rows:
        for column in plan.columns:
            frame = np.s_[:, row.frame_start : row.frame_stop, column.frame_start : column.frame_stop]
            high, wide = row.frame_stop - row.frame_start, column.frame_stop - column.frame_start
            corner_px = row.frame_start * cell, column.frame_start * cell
            photo = tensors.sample_region(rgb, *corner_px, high * cell, wide * cell)
            area = _area(row, rows, rgb.shape[0], cell), _area(column, columns, rgb.shape[1], cell)
            viewer = None
            if networks is not None:
                weight, seed = recipe.eyes_weight / cell**2, corner_px[0] * rgb.shape[1] + corner_px[1]
                viewer = Viewer(networks, photo, area, weight=weight, share=recipe.share, seed=seed)
            refined[:, row.start : row.stop, column.start : column.stop] = _Frame(
                pack=pack,
                gradient=how.gradient,
                recipe=recipe,
                photo=photo,
                error_weight=_weights(photo, area, recipe.error_weight, cell),
                level=None if level is None else level[frame],
                step_sizes=step_sizes[frame],
                kept=(slice(None), _kept(row), _kept(column)),
                viewer=viewer,
            ).descend(refined[frame], step_done)
    return refined


def _plan(pack: ModelPack, rows: int, columns: int, tile_px: int | None) -> tile.Plan:
    cell, frame_px = pack.space.downscale, FRAME_PX
    if pack.halo is not None:
        halo = pack.halo["decoder_latents"]
    else:
        halo, frame_px = ceil((GLOBAL_TRIM_PX + GLOBAL_FADE_PX) / cell), GLOBAL_FRAME_PX
    frame_px = frame_px if tile_px is None else tile_px**2
    return tile.plan(rows, columns, frame_px // cell**2, halo=halo)


def _kept(span: tile.Span) -> slice:
    return slice(span.start - span.frame_start, span.stop - span.frame_start)


def _area(span: tile.Span, cells: int, length_px: int, cell: int) -> slice:
    """The pixels of a frame, along one axis, that count.

    None beyond the picture, and none in the outer half of a halo: those depend on latents outside the frame.
    """
    low = (span.start - span.frame_start) // 2 if span.frame_start > 0 else 0
    high = span.frame_stop - ((span.frame_stop - span.stop) // 2 if span.frame_stop < cells else 0)
    return slice(low * cell, min(high * cell, length_px) - span.frame_start * cell)


def _weights(photo: Floats, area: tuple[slice, slice], error_weight: float, cell: int) -> Floats:
    """What the difference of each pixel counts in the gradient, float32 (1, 1, H, W)."""
    weights = np.zeros((1, 1, *photo.shape[2:]), np.float32)
    # Samples span 2 where the recipe's error spans 1; a position's mean is over 3 * cell**2 of them.
    weights[:, :, area[0], area[1]] = error_weight * 2 / 4 / (3 * cell**2)
    return weights


@dataclass(frozen=True, eq=False, kw_only=True)
class _Frame:
    """The inputs of the descent on one frame; arrays have its size."""

    pack: ModelPack
    gradient: NamedRunner
    recipe: Recipe
    photo: Floats
    error_weight: Floats
    level: Floats | None
    step_sizes: Floats
    kept: tuple[slice, slice, slice]
    viewer: Viewer | None

    def descend(self, latents: Floats, step_done: Callable[[], None]) -> Floats:
        """The kept part of latents (C, h, w), refined; the rest of the frame is not changed."""
        recipe, kept = self.recipe, self.kept
        here = latents / self.step_sizes
        start = here[kept].copy()
        mean, square = np.zeros_like(start), np.zeros_like(start)
        pull = np.zeros((1, 1, 1, 1), np.float32)
        rounded = np.rint(here)
        painted, _ = self._run(rounded, pull)
        if self.viewer is not None:
            pull = self.viewer(painted)
        anchor = 0.0
        for step in range(1, recipe.steps + 1):
            before, (painted, slope) = painted, self._run(here, pull)
            if step == 1:
                anchor = recipe.anchor * self._price_of_rounding(here, rounded, painted, before) / len(here)
            if self.viewer is not None and step < recipe.steps:
                # For the picture of the step before: this saves a decoder pass, and a step is short.
                pull = self.viewer(painted)
            slope = slope[kept] + 2 * anchor * (here[kept] - start)
            mean += (1 - _MEAN_DECAY) * (slope - mean)
            square += (1 - _SQUARE_DECAY) * (slope * slope - square)
            unbiased = mean / (1 - _MEAN_DECAY**step), np.sqrt(square / (1 - _SQUARE_DECAY**step))
            here[kept] -= recipe.rate_at(step) * unbiased[0] / (unbiased[1] + _EPSILON)
            step_done()
        refined: Floats = here[kept] * self.step_sizes[kept]
        return refined

    def _price_of_rounding(self, here: Floats, rounded: Floats, exact: Floats, painted: Floats) -> float:
        """The cost, in the recipe's squared error per latent position, of a mean squared change of 1 step."""
        way = float(np.square(rounded - here).mean())
        pixels = np.count_nonzero(self.error_weight)
        cost = float((self.error_weight * np.square(painted - exact)).sum()) / 2
        return cost * self.pack.space.downscale**2 / (pixels * way) if way else 0.0

    def _run(self, counted: Floats, pull: Floats) -> tuple[Floats, Floats]:
        """The painted frame (1, 3, H, W) of latents counted in steps, and the gradient in these (C, h, w)."""
        raw_steps = self.step_sizes / np.float32(self.pack.space.scale)
        raw = counted * raw_steps + np.float32(self.pack.space.shift)
        if self.level is not None:
            raw = np.concatenate([raw, self.level])
        ends = self.gradient(dict(zip(INPUTS, (raw[None], self.photo, self.error_weight, pull), strict=True)))
        painted, slope = (ends[name] for name in OUTPUTS)
        if not np.isfinite(slope).all():
            raise EngineError(f"model pack {self.pack.name}: the gradient of its decoder is not finite")
        return painted, slope[0, : len(counted)] * raw_steps
