"""Refines one picture's latents by gradient descent through the decoder, so that they decode closer to the photograph.

The encoder computes in one pass what is good for photographs in general; ``refine`` optimizes for this one. The format
does not change, and decoding is not slower.

For latents y the codec chooses symbols x that make ``|y - x|**2 + lambda * bits(x)`` small. This is the Lagrangian that
is wanted if ``|y - x|**2`` stands for the distortion of the decoded picture, in units of what a squared step costs.
Near symbols q with the gradient g it does for ``y = q - g / 2``. So each step paints the symbols that the codec picks,
and moves the latents towards this point: majorization and minimization, the iterative thresholding of sparse codes
(Daubechies, Defrise and De Mol, 2004), with the codec as the threshold. The latents then say what other symbols would
cost, so rate control goes on with them as with the encoder's (docs/EFFORT.md).

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

Choose = Callable[[Floats, StepIndices], tuple[Floats, Floats, Floats]]
"""What ``coding.quantize.choose`` does: normalized latents (C, h, w) and their step indices (h, w) -> symbols, their
bits, the bits that the upper of the two nearest integers takes more, each float32 (C, h, w)."""

LAMBDA = math.log(2) / 6
"""Squared steps that a bit is worth: at high rates D = step**2 / 12, and a bit halves the step."""
_RATE = np.float32(0.5)
"""The part of the way to their aim that latents go in a first step, unless their channel's reach is shorter."""
_LAST = 0.1
_EPSILON = 1e-12
_STEERS_BY = 0.25, 0.7
"""How the extra price of a bit, in squared steps, follows their excess, as a share, and the change of this excess."""
_LEVELS = 127.5
"""8-bit levels of a sample's unit."""
_NO_PULL = np.zeros((1, 1, 1, 1), np.float32)


@dataclass(frozen=True)
class Recipe:
    """What is minimized besides bits, and how.

    With s, the root mean square of what a change of one step in one latent changes in the picture, in 8-bit levels,
    the distortion of a pixel, in squared steps, is ``error_weight * e / s**2 + eyes_weight * d / s``: e its squared
    error, summed over the channels, and d the distance of the perceptual networks.

    Args:
        steps: of the descent, 1 or more.
        reach: the largest root mean square change of a channel in a first step, in quantizer steps. It keeps the
            descent steady where networks ask for much, or where some channels matter a hundred times more than others,
            as in decoders that were not trained for a codec. Steps fall to a tenth along half a cosine.
        error_weight: of the squared error. 1: the codec's own.
        eyes_weight: of the perceptual networks' distance, in levels.
        share: of the picture that the networks see at each step, above 0.
    """

    steps: int
    reach: float
    error_weight: float = 1.0
    eyes_weight: float = 0.0
    share: float = 1.0

    def slowness_at(self, step: int) -> float:
        """What changes are multiplied by at a step, the first of which is 1."""
        along = (step - 1) / max(self.steps - 1, 1)
        return _LAST + (1 - _LAST) * (1 + math.cos(math.pi * along)) / 2


def recipe_of(effort: int, tune: str) -> Recipe:
    """What an effort from 1 to 9 means for a tuning, "psnr" or "eyes". docs/EFFORT.md has what was measured."""
    steps = STEPS[effort]
    if tune == "psnr":
        return Recipe(steps, reach=min(0.1, 0.26 / math.sqrt(steps)))
    return Recipe(steps, reach=min(0.03, 0.1 / math.sqrt(steps)), eyes_weight=1.1, share=0.25)


@dataclass(frozen=True, eq=False)
class Quantizer:
    """How the codec will quantize what is refined.

    Args:
        indices: int (h, w), the step index at each position.
        step_sizes: float32 (C, h, w), its steps.
        choose: chooses symbols.
    """

    indices: StepIndices
    step_sizes: Floats
    choose: Choose


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
    quantizer: Quantizer,
    progress: Progress | None = None,
    tile_px: int | None = None,
) -> Floats:
    """Refines the latents of ``rgb``.

    Args:
        latents: float32 (C, h, w), ``(raw - shift) * scale``, the encoder's. They are not changed.
        rgb: uint8 (H, W, 3), the picture that they are of.
        how: what is minimized, and by what.
        pack: whose decoder paints.
        quantizer: of all latents.
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
    level = quality_level(pack, rows, columns, quantizer.indices)
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
            here = slice(row.frame_start, row.frame_stop), slice(column.frame_start, column.frame_stop)
            frame = slice(None), *here
            high, wide = row.frame_stop - row.frame_start, column.frame_stop - column.frame_start
            corner_px = row.frame_start * cell, column.frame_start * cell
            photo = tensors.sample_region(rgb, *corner_px, high * cell, wide * cell)
            area = _area(row, rows, rgb.shape[0], cell), _area(column, columns, rgb.shape[1], cell)
            viewer = None
            if networks is not None:
                seed = corner_px[0] * rgb.shape[1] + corner_px[1]
                viewer = Viewer(networks, photo, area, share=recipe.share, seed=seed)
            refined[:, row.start : row.stop, column.start : column.stop] = _Frame(
                pack=pack,
                gradient=how.gradient,
                recipe=recipe,
                photo=photo,
                area=(slice(None), slice(None), *area),
                level=None if level is None else level[frame],
                quantizer=Quantizer(quantizer.indices[here], quantizer.step_sizes[frame], quantizer.choose),
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


@dataclass(frozen=True, eq=False, kw_only=True)
class _Frame:
    """The inputs of the descent on one frame; arrays have its size."""

    pack: ModelPack
    gradient: NamedRunner
    recipe: Recipe
    photo: Floats
    area: tuple[slice, slice, slice, slice]
    level: Floats | None
    quantizer: Quantizer
    kept: tuple[slice, slice, slice]
    viewer: Viewer | None

    def descend(self, latents: Floats, step_done: Callable[[], None]) -> Floats:
        """The kept part of latents (C, h, w), refined; the rest of the frame is not changed."""
        recipe, kept, sizes = self.recipe, self.kept, self.quantizer.step_sizes
        here = latents / sizes
        symbols, bits, gaps = self._choose(here)
        budget, over, price = _total(bits[kept]), 0.0, 0.0
        painted, cost = self._cost_of_a_step(here, symbols)
        error_weight = self._counted(recipe.error_weight / cost)
        eyes_weight = np.float32(recipe.eyes_weight / (2 * math.sqrt(cost) * _LEVELS))
        longest = np.full((len(here), 1, 1), _EPSILON, np.float32)
        best, least = here[kept].copy(), math.inf

        def judge() -> None:
            nonlocal best, least
            error = float(np.square(painted - self.photo, dtype=np.float64)[self.area].sum()) / cost
            if (loss := recipe.error_weight * error + LAMBDA * _total(bits[kept])) < least:
                best, least = here[kept].copy(), loss

        for step in range(1, recipe.steps + 1):
            pull = _NO_PULL if self.viewer is None else eyes_weight * self.viewer(painted)
            painted, half_slope = self._run(symbols, error_weight, pull)
            judge()
            way = symbols[kept] - half_slope[kept] - np.float32(price / 2) * gaps[kept] - here[kept]
            longest = np.maximum(longest, np.sqrt(np.square(way).mean((1, 2), keepdims=True)))
            here[kept] += np.float32(recipe.slowness_at(step)) * np.minimum(_RATE, recipe.reach / longest) * way
            symbols, bits, gaps = self._choose(here)
            over, before = (_total(bits[kept]) / budget - 1 if budget else 0.0), over
            price += _STEERS_BY[0] * over + _STEERS_BY[1] * (over - before)
            step_done()
        if self.viewer is None:  # whose networks have not seen all of any one picture
            painted, _ = self._run(symbols, error_weight, _NO_PULL)
            judge()
            here[kept] = best
        refined: Floats = here[kept] * sizes[kept]
        return refined

    def _choose(self, here: Floats) -> tuple[Floats, Floats, Floats]:
        return self.quantizer.choose(here * self.quantizer.step_sizes, self.quantizer.indices)

    def _counted(self, weight: float) -> Floats:
        """``weight`` for each pixel that counts, float32 (1, 1, H, W)."""
        weights = np.zeros((1, 1, *self.photo.shape[2:]), np.float32)
        weights[self.area] = weight
        return weights

    def _cost_of_a_step(self, here: Floats, symbols: Floats) -> tuple[Floats, float]:
        """The picture of the symbols, and what a squared step in one latent costs there: in samples, squared, summed.

        Of a decoder that shows no difference, or latents that are whole numbers: as if a step were a level.
        """
        nothing = np.zeros((1, 1, 1, 1), np.float32)
        exact, _ = self._run(here, nothing, _NO_PULL)
        painted, _ = self._run(symbols, nothing, _NO_PULL)
        difference = (painted - exact)[self.area]
        way = float(np.square(symbols - here, dtype=np.float64).sum()) * difference.size / exact.size
        error = float(np.square(difference, dtype=np.float64).sum())
        return painted, error / way if way and error else _LEVELS**-2

    def _run(self, counted: Floats, error_weight: Floats, pull: Floats) -> tuple[Floats, Floats]:
        """The painted frame (1, 3, H, W) of latents counted in steps, and the gradient in these (C, h, w)."""
        raw_steps = self.quantizer.step_sizes / np.float32(self.pack.space.scale)
        raw = counted * raw_steps + np.float32(self.pack.space.shift)
        if self.level is not None:
            raw = np.concatenate([raw, self.level])
        ends = self.gradient(dict(zip(INPUTS, (raw[None], self.photo, error_weight, pull), strict=True)))
        painted, slope = (ends[name] for name in OUTPUTS)
        if not np.isfinite(slope).all():
            raise EngineError(f"model pack {self.pack.name}: the gradient of its decoder is not finite")
        return painted, slope[0, : len(counted)] * raw_steps


def _total(bits: Floats) -> float:
    return float(bits.sum(dtype=np.float64))
