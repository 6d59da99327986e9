"""Latents <-> .sdl files: combines the quantizer, the entropy coder, rate control and the container.

The only module that calls ``sdrt.coding``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np
from numpy.typing import NDArray

from sdrt.coding import activity, payload, quantize, rate
from sdrt.coding.prior import Prior
from sdrt.coding.prior_file import load_prior
from sdrt.coding.symbols import Coded, to_channels
from sdrt.container import patches, sdl, step_map
from sdrt.container.step_map import Offsets, StepIndices
from sdrt.errors import ModelError
from sdrt.limits import MAX_STEP_INDEX
from sdrt.network.refine import Quantizer
from sdrt.options import EncodeOptions
from sdrt.packs import search
from sdrt.packs.manifest import ModelPack
from sdrt.pixels.picture import Strips

Latents = NDArray[np.float32]
"""float32 (C, h, w), ``(raw - shift) * scale`` in the units of the pack's latent space."""
Symbols = NDArray[np.int32]
"""int32 (C, h, w), the integers that a payload codes."""
LatentsOf = Callable[[int, bool], Latents]
"""Resampling factor, whether this is the last call -> the latents of the reduced picture."""
Refine = Callable[[Latents, Quantizer], Latents]
"""The last latents of a ``LatentsOf``, and how they will be quantized -> improved latents."""
Written = tuple[bytes, sdl.SdlFile]
"""A file: its bytes, and its parsed content."""
Paint = Callable[[bytes], Strips]
"""An .sdl file -> its picture."""

_SEEN_AROUND = 1
"""Latents that are kept under the rim of a patch, on each side of a visible pixel: the pixel depends on them most."""


@dataclass(frozen=True, eq=False)
class CodedLatents:
    """The latents of a file, dequantized window by window: as symbols they take a quarter of the room.

    Args:
        coded: (h, w, coded channels), see ``sdrt.coding.symbols``.
        prior: The prior that they were coded under.
        indices: The step index of each position.
    """

    coded: Coded
    prior: Prior
    indices: StepIndices

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns."""
        return self.prior.channels, *self.indices.shape

    def __getitem__(self, window: tuple[slice, slice, slice]) -> Latents:
        """Latents of all channels, for the first slice is ``:``, in some rows and columns. ``[:, :, :]`` is all."""
        rows_and_columns = window[1:]
        with np.errstate(over="ignore"):  # a step beyond float32: `pixel_strips` refuses what comes of it
            return quantize.dequantize(self.coded[rows_and_columns], self.prior, self.indices[rows_and_columns])


class LatentCoder:
    """Decodes latents with one prior of a pack, and holds both for encoding.

    Args:
        pack: The pack; its space gives the unit of the latents.
        identity: SHA-256 prefix of the prior, as files state it. None: the prior that encodes.

    Raises:
        ModelError: The pack has no such prior, or it is altered, invalid or has another number of channels.
    """

    def __init__(self, pack: ModelPack, identity: bytes | None = None) -> None:
        self.pack = pack
        name = search.prior_name(pack, identity)
        self.prior = load_prior(search.read_verified(pack, name), str(pack.folder / name))
        if self.prior.channels != pack.space.channels:
            raise ModelError(
                f"model pack {pack.name}: its prior has {self.prior.channels} channels, its space {pack.space.channels}"
            )

    def symbols(self, file: sdl.SdlFile) -> Symbols:
        """The quantized latents, int32 (C, h, w). Raises CorruptError for an invalid payload or step map."""
        return to_channels(payload.decode(file.payload, self.prior, self.step_indices(file)), self.prior)

    def latents(self, file: sdl.SdlFile) -> CodedLatents:
        """The latents of ``file``. Raises as ``symbols``."""
        indices = self.step_indices(file)
        return CodedLatents(payload.decode(file.payload, self.prior, indices), self.prior, indices)

    def step_indices(self, file: sdl.SdlFile) -> StepIndices:
        """The step index at each latent position of ``file``. Raises CorruptError for an invalid step map."""
        cell = self.pack.space.downscale
        width_px, height_px = file.coded_px
        rows, columns = ceil(height_px / cell), ceil(width_px / cell)
        chunk = file.chunk(sdl.STEP_MAP)
        offsets = None
        if chunk is not None:
            offsets = step_map.decode_step_map(chunk, step_map.cells(rows, columns, cell)[:2])
        return step_map.spread(offsets, file.step_index, rows, columns, cell)


@dataclass(frozen=True, eq=False)
class FileWriter:
    """Writes the file of one picture: quantizes, searches the rate, and packs.

    Args:
        coder: The pack and prior that encode.
        width_px: Width of the picture itself, whatever the resampling.
        height_px: Its height.
        chunks: Chunks besides the latents: alpha, metadata, patches.
        options: The options of the caller.
        offsets: int8 (rows, columns), the caller's step map at full resolution, see ``sdrt.container.step_map``, to
            which the picture's activity adds (``sdrt.coding.activity``). None: a flat one. With resampling cells are
            merged; each merged cell takes the finest step of its parts.
        mask: bool (rows, columns), the cells that patches in ``chunks`` cover, see ``sdrt.container.patches``. Latents
            that only hidden pixels depend on become 0. None: no patches.
        guess: The step index at which the search for a target size begins. None: where the latents say.
    """

    coder: LatentCoder
    width_px: int
    height_px: int
    chunks: tuple[sdl.Chunk, ...]
    options: EncodeOptions
    offsets: Offsets | None = None
    mask: patches.Mask | None = None
    guess: int | None = None

    def write_bare(self) -> tuple[bytes, sdl.SdlFile]:
        """The smallest file, for patches over the whole picture: all symbols 0, at the cheapest resampling."""
        cell, channels = self.coder.pack.space.downscale, self.coder.pack.space.channels
        files = []
        for resampling in sdl.RESAMPLINGS:
            side_px = cell * resampling
            shape = channels, ceil(self.height_px / side_px), ceil(self.width_px / side_px)
            files.append(self._file(np.zeros(shape, np.float32), resampling, None, MAX_STEP_INDEX, 1.0))
        return min(((sdl.pack(file), file) for file in files), key=lambda written: len(written[0]))

    @cached_property
    def resamplings(self) -> tuple[int, ...]:
        """The resampling factors that ``write`` tries, in order."""
        if self.options.resampling is not None:
            return (self.options.resampling,)
        if self.budget_bytes is None:
            return (1,)
        longest_px, cell = max(self.width_px, self.height_px), self.coder.pack.space.downscale
        return (1, *(factor for factor in sdl.RESAMPLINGS[1:] if longest_px > cell * factor // 2))

    def write(self, latents: LatentsOf, refine: Refine | None = None) -> Written:
        """Writes the finest file that the options allow.

        Args:
            latents: Returns the latents of the picture for a resampling factor.
            refine: Improves latents for the step that the search found; the search then runs once more. None: no
                refinement.

        Returns:
            The bytes of the file, and its parsed content.

        Raises:
            UnsupportedError: Even the smallest file exceeds the target; the message states its size.
        """
        pack, budget_bytes = self.coder.pack, self.budget_bytes
        coarse = pack.quality_range[0]
        quality = self.options.quality
        guess = pack.default_step if quality is None else rate.step_for_quality(quality, pack.quality_range)
        for resampling in self.resamplings:
            is_last = resampling == self.resamplings[-1]
            coarsest = MAX_STEP_INDEX if is_last else coarse
            try:
                values = latents(resampling, is_last)
                if self.guess is not None and budget_bytes is not None:
                    guess = self.guess
                elif budget_bytes is not None:
                    guess = activity.likely_step(values, self.coder.prior.steps, budget_bytes)
                offsets = self._offsets(values, resampling, guess)
                data, file = self._search(values, resampling, offsets, guess, coarsest)
                if refine is not None:
                    values = refine(values, self._quantizer(values, offsets, file.step_index))
                    with suppress(rate.TargetError):
                        data, file = self._search(values, resampling, offsets, file.step_index, coarsest)
            except rate.TargetError as error:
                if is_last:
                    raise rate.TargetError(f"{error}{self._of_them_chunks}") from None
                continue
            return data, file
        raise AssertionError("the last resampling returns or raises")

    def _search(
        self, latents: Latents, resampling: int, offsets: Offsets | None, guess: int, coarsest: int
    ) -> tuple[bytes, sdl.SdlFile]:
        """The finest file of ``latents`` within the budget; without a budget, the file at ``guess``."""
        written: dict[bytes, sdl.SdlFile] = {}

        def code(step_index: int, bit_weight: float = 1.0) -> bytes:
            file = self._file(latents, resampling, offsets, step_index, bit_weight)
            data = sdl.pack(file)
            written[data] = file
            return data

        if self.options.latent_error is not None:
            data = code(self._step_within(self.options.latent_error, latents, offsets))
        elif self.budget_bytes is None:
            data = code(guess)
        else:
            finest = self.coder.pack.quality_range[1]
            data = rate.finest_within(code, self.budget_bytes, guess=guess, finest=finest, coarsest=coarsest)
        return data, written[data]

    def _step_within(self, max_error: float, latents: Latents, offsets: Offsets | None) -> int:
        """The coarsest step index with at most this error. Raises UnsupportedError if there is none."""
        pack = self.coder.pack
        # A decoder with quality_input was not trained beyond its finest level.
        finest = pack.quality_range[1] if pack.quality_input else 0

        def steps(index: int) -> StepIndices:
            return self._steps(latents, index, offsets)

        return quantize.coarsest_within(latents, self.coder.prior, max_error, finest=finest, steps=steps)

    def _quantizer(self, latents: Latents, offsets: Offsets | None, step_index: int) -> Quantizer:
        """How ``_file`` quantizes ``latents`` at one step."""
        prior, indices = self.coder.prior, self._steps(latents, step_index, offsets)
        weight = self._bit_weight(step_index)

        def choose(values: Latents, indices: StepIndices) -> tuple[Latents, Latents, Latents]:
            return quantize.choose(values, prior, indices, weight=weight)

        return Quantizer(indices, quantize.step_sizes(prior.steps, indices), choose)

    def _bit_weight(self, step_index: int) -> float:
        """The weight of bits in quantization that the options ask for."""
        if self.options.latent_error is not None:
            return 0.0
        prior = self.coder.prior
        # Below quality 0 rate-distortion optimization drops detail more gracefully than rounding does.
        optimized = self.options.tune == "psnr" or step_index > self.coder.pack.quality_range[0]
        return quantize.bit_weight_for_psnr(prior) if optimized else prior.bit_weight

    def _offsets(self, latents: Latents, resampling: int, guess: int) -> Offsets | None:
        """The step map of the coded picture, which will have about the step index ``guess``; None: a flat one."""
        pack = self.coder.pack
        offsets = None if self.offsets is None else step_map.reduced(self.offsets, resampling)
        if self.options.tune == "psnr" or self.options.latent_error is not None or not pack.quality_input:
            return offsets
        return activity.adapted(latents, self.coder.prior.steps, pack.space.downscale, guess, offsets)

    def _steps(self, latents: Latents, step_index: int, offsets: Offsets | None) -> StepIndices:
        """The step index at each position of ``latents``, int64 (h, w)."""
        rows, columns = latents.shape[1:]
        return step_map.spread(offsets, step_index, rows, columns, self.coder.pack.space.downscale)

    @cached_property
    def budget_bytes(self) -> int | None:
        """The largest size of the file in bytes; None without a target size."""
        target_bytes, target_bpp = self.options.target_bytes, self.options.target_bpp
        if target_bpp is not None:
            target_bytes = rate.budget_of(target_bpp, self.width_px, self.height_px)
        return None if target_bytes is None else min(target_bytes, sdl.MAX_FILE_BYTES)

    @property
    def _of_them_chunks(self) -> str:
        """The end of the message on a size that cannot be reached: what each chunk takes of it; empty without any."""
        return "".join(f", {len(chunk.data)} of them in chunk {chunk.kind.decode('ascii')}" for chunk in self.chunks)

    def _file(
        self, latents: Latents, resampling: int, offsets: Offsets | None, step_index: int, bit_weight: float
    ) -> sdl.SdlFile:
        """The file of ``latents`` at one step. ``bit_weight`` above 1 raises the weight of bits by what exceeds 1."""
        pack, prior = self.coder.pack, self.coder.prior
        weight = self._bit_weight(step_index)
        indices = self._steps(latents, step_index, offsets)
        if self.mask is not None:
            side_px = pack.space.downscale * resampling
            latents = np.where(patches.hidden(self.mask, latents.shape[1:], side_px, _SEEN_AROUND), 0, latents)
        # Additive, so that it saves bits also where the prior asks for plain rounding.
        with np.errstate(over="ignore"):  # what exceeds float32 in steps becomes the largest symbol
            coded = quantize.quantize(latents, prior, indices, weight=weight + bit_weight - 1)
        chunks = [*self.chunks, *sdl.resampling_chunks(resampling)]
        if offsets is not None and offsets.any():
            chunks.append(sdl.Chunk(sdl.STEP_MAP, step_map.encode_step_map(offsets)))
        return sdl.SdlFile(
            width_px=self.width_px,
            height_px=self.height_px,
            space_identity=pack.space.identity,
            prior_identity=pack.prior_identity,
            step_index=step_index,
            payload=payload.encode(coded, prior, indices),
            chunks=tuple(chunks),
        )


Write = Callable[[FileWriter], Written]
"""Writes the file of a writer, perhaps in several attempts."""
