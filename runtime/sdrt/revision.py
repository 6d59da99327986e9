"""Truth maps: decodes a file, compares it with the original, and writes it again with the result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sdrt.bitstream import FileWriter, Paint, Write, Written
from sdrt.container import sdl, truth_map
from sdrt.pixels import structure
from sdrt.pixels.picture import Picture, Pixels, gather

_ROOM_TO_GROW_BYTES = 2
"""Allowance for the growth of the map between two writings, whose steps differ slightly."""
_SPARE = 0.005
"""Largest share of a file that a small map may leave unused; beyond it the file is written again."""


def write_with_truth(writer: FileWriter, write: Write, original: Picture, paint: Paint) -> Written:
    """The file of ``writer`` with a truth map of its own picture.

    The map describes the file that holds it, and takes bytes from it. With a target size the file is written with room
    for a typical map, and again with room for its own if that was too little or too much. A map that exceeds
    its room is coded in larger blocks, which promises less.

    Raises what ``write`` and ``paint`` raise.
    """
    rows, columns = truth_map.cells(*original.rgb.shape[:2])
    largest, smallest = truth_map.max_bytes(rows * columns), _size(np.full((rows, columns), truth_map.Truth.INVENTED))
    room = max(smallest, rows * columns // 10)
    for last in (False, True):
        with_room = replace(writer, chunks=(*writer.chunks, sdl.Chunk(sdl.TRUTH, bytes(room))))
        data, file = write(with_room)
        classes = compared(original, gather(paint(data)).rgb)
        if writer.budget_bytes is None:
            room = largest
        elif not last and not 0 <= room - min(_size(classes), largest) <= _SPARE * len(data):
            room = min(max(_size(classes) + _ROOM_TO_GROW_BYTES, smallest), largest)
            writer = replace(writer, guess=file.step_index)
            continue
        coded = sdl.Chunk(sdl.TRUTH, _fitting(classes, min(room, largest)))
        file = replace(file, chunks=tuple(coded if chunk.kind == sdl.TRUTH else chunk for chunk in file.chunks))
        return sdl.pack(file), file
    raise AssertionError("the last writing returns")


def compared(original: Picture, painted: Pixels) -> NDArray[np.uint8]:
    """The class of each cell, uint8 (rows, columns). Colors where alpha is 0 do not count."""
    if original.alpha is not None:
        painted = np.where(original.alpha[:, :, None] == 0, original.rgb, painted)
    return structure.classes(structure.compare(original.rgb, painted, truth_map.CELL_PX))


def _size(classes: NDArray[np.integer]) -> int:
    return len(truth_map.encode_truth_map(classes.tolist()))


def _fitting(classes: NDArray[np.uint8], room_bytes: int) -> bytes:
    """The coded map: each block has its worst class, in the smallest blocks that fit.

    Where none fit, all of it is ``INVENTED``.
    """
    block, coarse = 1, classes
    while _size(coarse) > room_bytes and block < max(classes.shape):
        block *= 2
        rows, columns = (np.arange(0, side, block) for side in classes.shape)
        worst = np.maximum.reduceat(np.maximum.reduceat(classes, rows, 0), columns, 1)
        coarse = worst.repeat(block, 0).repeat(block, 1)[: classes.shape[0], : classes.shape[1]]
    if _size(coarse) > room_bytes:
        coarse = np.full_like(classes, truth_map.Truth.INVENTED)
    return truth_map.encode_truth_map(coarse.tolist())
