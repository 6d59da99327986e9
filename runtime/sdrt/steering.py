"""Step maps: finer steps for the caller's regions, for faces, and for structure that comes out wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, lcm, log2

import numpy as np

from sdrt.bitstream import FileWriter, Paint, Write, Written
from sdrt.container import step_map, truth_map
from sdrt.container.step_map import MAX_OFFSET, OCTAVE, UNIT, Offsets
from sdrt.errors import ArgumentError, UnsupportedError
from sdrt.options import EncodeOptions, Region
from sdrt.packs.manifest import ModelPack
from sdrt.pixels import structure
from sdrt.pixels.faces import find_faces
from sdrt.pixels.picture import Pixels, Scroll

_OCTAVE = OCTAVE // UNIT
"""Offsets that double the step."""
_FINER = _OCTAVE // 4
"""Offsets by which wrong structure gets finer steps: half an octave took more from the rest than it gave."""
_LINED = 0.45
"""Share of a cell's error along lines from which it is wrong structure: texture has about .3, contours above .5."""
_FEW = 0.15
"""Largest share of cells to protect: beyond it there is nothing to take the bytes from."""


def regions_of(rgb: Pixels, options: EncodeOptions, pack: ModelPack) -> list[Region]:
    """The caller's regions and, where ``options.protect`` wants them, faces. Caches of latents have no faces.

    Raises UnsupportedError if faces are requested and OpenCV is not installed.
    """
    wanted = options.protect == "faces" or (options.protect == "auto" and pack.quality_input)
    if not wanted or options.latent_error is not None:
        return list(options.regions)
    try:
        return [*options.regions, *(Region(*box) for box in find_faces(rgb))]
    except UnsupportedError:
        if options.protect == "faces":
            raise
        return list(options.regions)


def offsets_of(regions: Sequence[Region], height_px: int, width_px: int, downscale: int) -> Offsets | None:
    """The step map of a picture of this size in a latent space with ``downscale``; None: no offsets.

    Raises ArgumentError for a region that does not lie in the picture.
    """
    rows, columns, side = step_map.cells(ceil(height_px / downscale), ceil(width_px / downscale), downscale)
    cell_px = side * downscale
    coarsest = MAX_OFFSET + 1
    offsets = np.full((rows, columns), coarsest, np.int8)
    for region in regions:
        right, bottom = region.x + region.width, region.y + region.height
        if right > width_px or bottom > height_px:
            raise ArgumentError(
                f"the region {region.width}x{region.height} at {region.x},{region.y} does not lie in the picture of "
                f"{width_px}x{height_px} pixels"
            )
        part = offsets[region.y // cell_px : ceil(bottom / cell_px), region.x // cell_px : ceil(right / cell_px)]
        np.minimum(part, -round(_OCTAVE * log2(region.weight)), out=part)
    offsets[offsets == coarsest] = 0
    return offsets if offsets.any() else None


def revised(writer: FileWriter, write: Write, rgb: Pixels, paint: Paint) -> tuple[FileWriter, Written]:
    """Writes a file, and writes it again with finer steps where its structure comes out wrong.

    Decodes both. The second is kept if it has less wrong structure in all: at a target size the rest has paid for it.
    Cells that the writer's own map sets keep their step.

    Args:
        writer: Of the first file.
        write: Writes the file of a writer.
        rgb: The original, uint8 (H, W, 3).
        paint: Decodes a file.

    Returns:
        The writer of the file that is kept, and that file.
    """
    written = write(writer)
    downscale = writer.coder.pack.space.downscale
    _, _, side = step_map.cells(1, 1, downscale)
    offsets, wrongness = wrong_offsets(rgb, Scroll(paint(written[0])), side * downscale)
    if offsets is None:
        return writer, written
    if writer.offsets is not None:
        offsets = np.where(writer.offsets == 0, offsets, writer.offsets)
    finer = replace(writer, offsets=offsets, guess=written[1].step_index)
    again = write(finer)
    if _wrongness(structure.compare(rgb, Scroll(paint(again[0])), truth_map.CELL_PX)) < wrongness:
        return finer, again
    return writer, written


def _wrongness(compared: structure.Structure) -> int:
    """The sum of the classes of a truth map's cells: 0 where all structure is kept."""
    return int(structure.classes(compared, margin=0).sum(dtype=np.int64))


def wrong_offsets(original: Pixels, painted: Pixels | Scroll, cell_px: int) -> tuple[Offsets | None, int]:
    """Offsets of a quarter of an octave for the cells with wrong structure; None if there are none, or too many.

    A cell is wrong if it is not kept (docs/TRUTH.md) and its error is concentrated along lines.

    Returns:
        The offsets, and how much structure is wrong in all.
    """
    parts, wrongness = [], 0
    for band in structure.bands(original, painted, lcm(cell_px, truth_map.CELL_PX)):
        wrong = structure.classes(band.structure(cell_px), margin=0) > 0
        if wrong.any():
            wrong &= band.lined(cell_px) > _LINED
        parts.append(wrong)
        wrongness += _wrongness(band.structure(truth_map.CELL_PX))
    wrong = np.concatenate(parts)
    if not 0 < wrong.mean() <= _FEW:
        return None, wrongness
    return np.asarray(np.where(wrong, np.int8(-_FINER), np.int8(0))), wrongness
