"""File -> picture, in strips of rows; file -> thumbnail, of large pictures from a few decoded pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sdrt.container import sdl
from sdrt.container.alpha import alpha_of
from sdrt.metadata_chunks import from_chunks
from sdrt.model_cache import ModelCache
from sdrt.network.engine import Engine
from sdrt.network.preview import preview, preview_box, subdivision
from sdrt.network.transform import Progress, pixel_strips
from sdrt.packs.manifest import ModelPack
from sdrt.patching import overlay_of
from sdrt.pixels.picture import Crop, Picture, Pixels, Strips, checked_crop
from sdrt.pixels.scaling import enlarge, window_of
from sdrt.pixels.thumbnail import reduce_preview, reduce_strips, thumbnail_sides

OpenDecoder = Callable[[ModelPack], Engine]
"""Opens the session of a pack's decoder graph, where one is needed."""


def decode_strips(
    file: sdl.SdlFile,
    crop: Crop | None,
    models: ModelCache,
    open_decoder: OpenDecoder,
    *,
    tile_px: int | None,
    progress: Progress | None,
) -> Strips:
    """The picture of ``file``, see ``Codec.decode_strips``.

    Args:
        file: The parsed file.
        crop: The part to decode, x, y, width, height in pixels; None: all of it.
        models: Finds the pack and the prior.
        open_decoder: Opens the decoder's session; not called where patches cover the whole picture.
        tile_px: Side of the tiles; None: what suits the pack.
        progress: Called after each tile.
    """
    crop = left, top, width_px, height_px = checked_crop(crop, file.width_px, file.height_px)
    overlay = overlay_of(file)
    painted = overlay is None or not overlay.hides_all  # otherwise no network is needed
    pack = models.decoding_pack(file, to_paint=painted)
    decoder = open_decoder(pack) if painted else None
    latents = models.coder_of(file).latents(file)
    alpha = alpha_of(file)
    metadata = from_chunks(file.chunks)
    if (width_px, height_px) != (file.width_px, file.height_px):
        metadata = metadata.upright(1, width_px, height_px)
    rows: Iterator[Pixels] = iter(())
    if decoder is not None:
        window = window_of(crop, file.resampling, *file.coded_px)
        rows = pixel_strips(latents, pack, decoder, window, progress, tile_px=tile_px, indices=latents.indices)
        rows = enlarge(rows, window, file.resampling, crop)
    if overlay is not None:
        rows = overlay.over(rows, crop)
    return Strips(
        width_px=width_px,
        height_px=height_px,
        rows=rows,
        alpha=None if alpha is None else alpha[top : top + height_px, left : left + width_px],
        metadata=metadata,
        synthetic=painted,
    )


def decode_thumbnail(
    file: sdl.SdlFile, side_px: int, models: ModelCache, open_decoder: OpenDecoder, *, tile_px: int | None
) -> Picture:
    """A picture of ``file`` with no side longer than ``side_px``, see ``Codec.thumbnail``. Arguments as above."""
    pack = parts = None
    if file.chunk(sdl.PATCHES) is None:  # latents say nothing of patches
        pack = models.decoding_pack(file)
        parts = subdivision(pack, *file.coded_px, side_px)
    if pack is None or parts is None:
        strips = decode_strips(file, None, models, open_decoder, tile_px=tile_px, progress=None)
        return reduce_strips(strips, side_px)
    latents = models.coder_of(file).latents(file)
    colors = preview(latents[:, :, :], pack, open_decoder(pack), parts, indices=latents.indices)
    sides = thumbnail_sides(file.width_px, file.height_px, side_px)
    return reduce_preview(colors, preview_box(pack, *file.coded_px, parts), alpha_of(file), sides)
