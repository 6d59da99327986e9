"""Latents -> the bytes of a file: the quantiser, the entropy coder and the container, as often as rate control asks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdrt.coding import payload, quantize
from sdrt.coding.prior import Prior
from sdrt.container import sdl
from sdrt.container.alpha import DEFAULT_MAX_ERROR, encode_alpha
from sdrt.packs.manifest import ModelPack
from sdrt.pixels.picture import Picture

TUNES = ("eyes", "psnr")


@dataclass(frozen=True)
class FileWriter:
    """All that the files of one picture share. ``chunks``: alpha and metadata. ``tune``: one of TUNES."""

    pack: ModelPack
    prior: Prior
    width_px: int
    height_px: int
    chunks: tuple[sdl.Chunk, ...]
    tune: str

    def file(self, latents: NDArray[np.float32], resampling: int, step_index: int, thrift: float = 1.0) -> bytes:
        """The file of ``latents``, which are those of the picture at a ``resampling``-th of its sides.

        ``thrift`` is how much more than usual a bit weighs against error, 1 or more.
        """
        # Coarser than quality 0 whole regions go missing, and decisions choose better ones than rounding does.
        thrifty = self.tune == "psnr" or step_index > self.pack.quality_range[0]
        strength = quantize.strength_for_psnr(self.prior) if thrifty else self.prior.decisions
        # Thrift adds to the decisions: where none are taken it must still be able to save.
        with np.errstate(over="ignore"):  # what exceeds float32 in steps exceeds the largest symbol, and becomes that
            symbols = quantize.quantize(latents, self.prior, step_index, rdo=strength + thrift - 1)
        return sdl.pack(
            sdl.SdlFile(
                width_px=self.width_px,
                height_px=self.height_px,
                space_identity=self.pack.space.identity,
                prior_identity=self.pack.prior_identity,
                step_index=step_index,
                payload=payload.encode(symbols, self.prior, step_index),
                chunks=(*self.chunks, *sdl.resampling_chunks(resampling)),
            )
        )


def chunks_of(picture: Picture, *, keep_metadata: bool, exact_alpha: bool) -> tuple[sdl.Chunk, ...]:
    """What a file holds of ``picture`` besides its colours."""
    chunks: list[sdl.Chunk] = []
    if picture.alpha is not None:
        max_error = 0 if exact_alpha else DEFAULT_MAX_ERROR
        chunks.append(sdl.Chunk(sdl.ALPHA, encode_alpha(picture.alpha, max_error=max_error)))
    if keep_metadata and picture.exif is not None:
        chunks.append(sdl.Chunk(sdl.EXIF, picture.exif))
    if keep_metadata and picture.xmp is not None:
        chunks.append(sdl.Chunk(sdl.XMP, picture.xmp))
    return tuple(chunks)
