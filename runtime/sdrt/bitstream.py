"""Latents <-> an .sdl file: where the quantizer, the entropy coder, rate control and the container meet.

Nothing above ``coding`` but this module calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from math import ceil

import numpy as np
from numpy.typing import NDArray

from sdrt.coding import payload, quantize, rate
from sdrt.coding.prior import load_prior
from sdrt.container import sdl
from sdrt.errors import ModelError
from sdrt.options import EncodeOptions
from sdrt.packs import search
from sdrt.packs.manifest import ModelPack

Latents = NDArray[np.float32]
"""float32 (C, h, w), ``(raw - shift) * scale`` in the units of the pack's latent space."""
Symbols = NDArray[np.int32]
"""int32 (C, h, w), the integers that a payload codes."""


class LatentCoder:
    """Codes latents of one pack's space with that pack's prior.

    Raises ModelError where the pack has no prior, or one that is altered, broken or of another number of channels.
    """

    def __init__(self, pack: ModelPack) -> None:
        self.pack = pack
        self.prior = load_prior(search.verify_file(pack, pack.prior_path.name))
        if self.prior.channels != pack.space.channels:
            raise ModelError(
                f"model pack {pack.name}: its prior has {self.prior.channels} channels, its space {pack.space.channels}"
            )

    def symbols(self, file: sdl.SdlFile) -> Symbols:
        """The integers of ``file``. Raises CorruptError where its payload holds none of its size."""
        cell = self.pack.space.downscale
        width_px, height_px = file.coded_px
        shape = (self.pack.space.channels, ceil(height_px / cell), ceil(width_px / cell))
        return payload.decode(file.payload, shape, self.prior, file.step_index)

    def latents(self, file: sdl.SdlFile) -> Latents:
        """The latents of ``file``'s integers. Raises as ``symbols``."""
        return quantize.dequantize(self.symbols(file), self.prior, file.step_index)


@dataclass(frozen=True)
class FileWriter:
    """Writes the file of one picture.

    Args:
        coder: Of the pack that encodes.
        width_px: Of the picture itself, whatever the resampling.
        height_px: The same.
        chunks: Alpha and metadata.
        options: What the caller asked for.
    """

    coder: LatentCoder
    width_px: int
    height_px: int
    chunks: tuple[sdl.Chunk, ...]
    options: EncodeOptions

    @cached_property
    def resamplings(self) -> tuple[int, ...]:
        """The fractions of the picture's sides at which ``write`` may want latents, in its order."""
        if self.options.resampling is not None:
            return (self.options.resampling,)
        if self._budget_bytes is None:
            return (1,)
        longest_px, cell = max(self.width_px, self.height_px), self.coder.pack.space.downscale
        return (1, *(factor for factor in sdl.RESAMPLINGS[1:] if longest_px > cell * factor // 2))

    def write(self, latents: Iterator[Latents]) -> tuple[bytes, sdl.SdlFile]:
        """The finest file that the options allow: its bytes, and what they say.

        Args:
            latents: Those of the picture at each of ``resamplings``. The next ones are taken only where a target is
                out of reach, at quality 0, of the ones before.

        Raises:
            UnsupportedError: The smallest file of the last latents is larger than the target; its size is named.
        """
        pack, budget_bytes = self.coder.pack, self._budget_bytes
        coarse, fine = pack.quality_range
        quality = self.options.quality
        guess = pack.default_step if quality is None else rate.step_for_quality(quality, pack.quality_range)
        written: dict[bytes, sdl.SdlFile] = {}

        def code(values: Latents, resampling: int, step_index: int, bit_weight: float = 1.0) -> bytes:
            file = self._file(values, resampling, step_index, bit_weight)
            data = sdl.pack(file)
            written[data] = file
            return data

        for resampling in self.resamplings:
            is_last = resampling == self.resamplings[-1]
            code_at: Callable[..., bytes] = partial(code, next(latents), resampling)
            if budget_bytes is None:
                data = code_at(guess)
            else:
                coarsest = sdl.MAX_STEP_INDEX if is_last else coarse
                try:
                    data = rate.finest_within(code_at, budget_bytes, guess=guess, finest=fine, coarsest=coarsest)
                except rate.TargetError:
                    if is_last:
                        raise
                    continue
            return data, written[data]
        raise AssertionError("the last resampling returns or raises")

    @cached_property
    def _budget_bytes(self) -> int | None:
        """The most bytes that the file may have; None where quality decides."""
        target_bytes, target_bpp = self.options.target_bytes, self.options.target_bpp
        if target_bpp is not None:
            target_bytes = rate.budget_of(target_bpp, self.width_px, self.height_px)
        return None if target_bytes is None else min(max(target_bytes, 1), sdl.MAX_FILE_BYTES)

    def _file(self, latents: Latents, resampling: int, step_index: int, bit_weight: float) -> sdl.SdlFile:
        """The file of ``latents`` at one step. ``bit_weight`` multiplies what a bit weighs against error, from 1 up."""
        pack, prior = self.coder.pack, self.coder.prior
        # Below quality 0 rate-distortion optimization drops detail more gracefully than rounding does.
        optimized = self.options.tune == "psnr" or step_index > pack.quality_range[0]
        strength = quantize.strength_for_psnr(prior) if optimized else prior.decisions
        # Additive, so that it saves bits also where the prior asks for plain rounding.
        symbols = quantize.quantize(latents, prior, step_index, rdo=strength + bit_weight - 1)
        return sdl.SdlFile(
            width_px=self.width_px,
            height_px=self.height_px,
            space_identity=pack.space.identity,
            prior_identity=pack.prior_identity,
            step_index=step_index,
            payload=payload.encode(symbols, prior, step_index),
            chunks=(*self.chunks, *sdl.resampling_chunks(resampling)),
        )
