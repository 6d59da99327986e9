"""Decodes the patches of a file into an overlay for the painted picture."""

from __future__ import annotations

from sdrt.container import sdl
from sdrt.container.patches import CELL_PX, Patches, decode_patches, kept_lines
from sdrt.pixels.atlas import decode_atlas
from sdrt.pixels.overlay import Overlay


def overlay_of(file: sdl.SdlFile) -> Overlay | None:
    """The patches of ``file``, decoded; None where it has none.

    Raises CorruptError for patches that are none of this picture, UnsupportedError where this Pillow lacks their codec.
    """
    chunk = file.chunk(sdl.PATCHES)
    if chunk is None:
        return None
    return decoded(decode_patches(chunk, file.height_px, file.width_px), file.height_px, file.width_px)


def decoded(patches: Patches, height_px: int, width_px: int) -> Overlay:
    """The overlay of ``patches`` for a picture of this size. Raises as ``overlay_of``."""
    rows, columns = kept_lines(patches.mask, height_px, width_px)
    atlas = decode_atlas(patches.coding, patches.stream, len(rows), len(columns), halved=patches.halved)
    return Overlay(patches.mask, CELL_PX, patches.feather_px, atlas, rows, columns, height_px, width_px)
