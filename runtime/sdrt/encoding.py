"""Picture -> file: the steps of an encode, from top to bottom.

1. Load the picture.
2. Steps: finer ones for regions and faces (``steering``).
3. Latents, at the fractions of the sides that rate control asks for, with finer steps where they are smooth
   (``analysis``, ``bitstream``, ``coding.activity``).
4. Patches, where the network gets drawn content wrong (``protection``).
5. Steps again, finer where the decoded draft has wrong structure (``steering``).
6. Gradient descent on the latents (``network.refine``).
7. Truth map, of the decoded file (``revision``).

All but 1 and 3 are optional, see ``EncodeOptions``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sdrt.analysis import Analysis
from sdrt.bitstream import FileWriter, LatentCoder, Paint, Written
from sdrt.container import sdl
from sdrt.container.alpha import DEFAULT_MAX_ERROR, encode_alpha
from sdrt.metadata_chunks import to_chunks
from sdrt.network.engine import Engine
from sdrt.network.refine import Refinement
from sdrt.network.transform import Progress
from sdrt.options import EncodeOptions, Note, Region
from sdrt.pixels.load import Source, load
from sdrt.pixels.metadata import Metadata
from sdrt.pixels.picture import Picture
from sdrt.protection import cells_to_protect, write_protected
from sdrt.revision import write_with_truth
from sdrt.steering import offsets_of, regions_of, revised


def encode_picture(
    source: Source | Picture,
    options: EncodeOptions,
    *,
    coder: LatentCoder,
    encoder: Engine,
    refinement: Refinement | None,
    paint: Paint,
    max_pixels: int | None,
    tile_px: int | None,
    progress: Progress | None,
    note: Note | None,
) -> Written:
    """Encodes one picture.

    Args:
        source: What to encode, see ``Codec.encode``.
        options: The options of the caller.
        coder: The pack and prior that encode.
        encoder: The session of its encoder graph.
        refinement: The graphs for ``options.effort``; None if it is 0.
        paint: Decodes a file, for the steps that compare it with the picture.
        max_pixels, tile_px: As of ``Codec``.
        progress, note: As of ``Codec.encode``.

    Returns:
        The bytes of the file, and its parsed content.

    Raises as ``Codec.encode``.
    """
    picture = source if isinstance(source, Picture) else load(source, max_pixels=max_pixels)
    if note is not None:
        for text in picture.notes:
            note(text)
    rgb, pack = picture.rgb, coder.pack
    height_px, width_px = rgb.shape[:2]
    regions = regions_of(rgb, options, pack)
    writer = writer_of(
        coder, width_px, height_px, options, regions, alpha=picture.alpha, metadata=picture.metadata, note=note
    )

    is_cache = options.latent_error is not None  # latents for training are kept whole
    marked = cells_to_protect(rgb) if options.protect in ("auto", "text") and not is_cache else None
    # Without quality_input finer steps gain too little: docs/TRUTH.md has what was measured.
    steered = options.protect == "auto" and pack.quality_input and not is_cache
    searched = marked is not None or steered or options.truth
    analysis = Analysis(rgb, pack, encoder, refinement, keep=searched, progress=progress, tile_px=tile_px)
    if not searched:
        del picture, rgb  # only the analysis holds the pixels now, and releases them after their last use
        return writer.write(analysis.latents, analysis.refine)

    def draft(writer: FileWriter) -> Written:
        """With patches where they are worth it, and the encoder's latents."""
        if marked is None:
            return writer.write(analysis.latents)
        return write_protected(rgb, marked, writer, analysis.latents, paint)

    def refined(writer: FileWriter) -> Written:
        """With refined latents; beside patches latents are not refined."""
        if marked is not None:
            written = draft(writer)
            if written[1].chunk(sdl.PATCHES) is not None:
                return written
        return writer.write(analysis.latents, analysis.refine)

    write = draft if refinement is None else refined
    written: Written | None = None
    if steered:
        writer, written = revised(writer, draft, rgb, paint)
    if options.truth:
        return write_with_truth(writer, write, picture, paint)
    if written is None or refinement is not None:
        written = write(writer)
    return written


def writer_of(
    coder: LatentCoder,
    width_px: int,
    height_px: int,
    options: EncodeOptions,
    regions: Sequence[Region],
    *,
    alpha: NDArray[np.uint8] | None,
    metadata: Metadata,
    note: Note | None,
) -> FileWriter:
    """The writer of a picture's file, with all that the file holds besides latents.

    Args:
        coder: The pack and prior that encode.
        width_px, height_px: Of the picture, whatever the resampling.
        options: The options of the caller.
        regions: Parts with finer or coarser steps.
        alpha: uint8 (height_px, width_px); None: opaque.
        metadata: Kept where ``options.keep_metadata`` says so.
        note: Called with a line about each item of it that a file cannot hold.

    Raises:
        ArgumentError: A region does not lie in the picture.
    """
    offsets = offsets_of(regions, height_px, width_px, coder.pack.space.downscale)
    chunks, left_out = to_chunks(metadata) if options.keep_metadata else ((), ())
    if note is not None:
        for text in left_out:
            note(text)
    if alpha is not None:
        max_error = 0 if options.exact_alpha else DEFAULT_MAX_ERROR
        chunks = (sdl.Chunk(sdl.ALPHA, encode_alpha(alpha, max_error=max_error)), *chunks)
    return FileWriter(coder, width_px, height_px, chunks, options, offsets)
