"""Files and their latents: what a codec does without a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdrt.arguments import check_integer
from sdrt.bitstream import Latents, Symbols
from sdrt.container import sdl, truth_map
from sdrt.container.source import SdlSource, read_source
from sdrt.encoding import writer_of
from sdrt.errors import ArgumentError
from sdrt.file_info import Info, info
from sdrt.latents.units import to_normalized, to_raw
from sdrt.limits import check_pixels
from sdrt.model_cache import ModelCache
from sdrt.options import EncodeOptions, Note, updated
from sdrt.packs.manifest import LatentSpace
from sdrt.parallel import InOrder
from sdrt.pixels.metadata import Metadata

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from sdrt.options import EncodeKeywords


class LatentCodec:
    """The part of ``Codec`` that needs neither an engine nor a device.

    Args:
        models: Packs and priors, loaded once.
        max_pixels: Larger files are refused. None: no limit.
    """

    def __init__(self, models: ModelCache, max_pixels: int | None) -> None:
        self._models = models
        self._max_pixels = max_pixels

    def symbols(self, data: SdlSource) -> Symbols:
        """The quantized latents of a file, int32 (channels, rows, columns). Needs no engine. Raises as ``decode``."""
        file = self._read(data)
        return self._models.coder_of(file).symbols(file)

    def latents(self, data: SdlSource, *, scaled: bool = False) -> Latents:
        """The latents of a file, by entropy decoding alone: no network runs.

        Args:
            data: The bytes of an .sdl file, its path, or a binary stream.
            scaled: False: raw, as the VAE's encoder returns and its decoder takes them. True: ``(raw - shift) * scale``
                with scale and shift of the latent space, as diffusion models are trained on.

        Returns:
            float32 (C, h, w): of the picture as it is coded, which is smaller for files with ``resampling``.

        Raises as ``decode``, except EngineError.
        """
        file = self._read(data)
        coder = self._models.coder_of(file)
        normalized = coder.latents(file)[:, :, :]
        return normalized if scaled else to_raw(normalized, coder.pack.space)

    def latents_many(
        self, files: Iterable[SdlSource], *, scaled: bool = False, workers: int | None = None
    ) -> Iterator[Latents]:
        """The latents of many files on several threads, in order: as ``latents`` and ``decode_many``."""
        return InOrder(partial(self.latents, scaled=scaled), files, workers)

    def encode_latents(
        self,
        latents: ArrayLike,
        width_px: int,
        height_px: int,
        options: EncodeOptions | None = None,
        *,
        scaled: bool = False,
        alpha: NDArray[np.uint8] | None = None,
        metadata: Metadata | None = None,
        note: Note | None = None,
        **keywords: Unpack[EncodeKeywords],
    ) -> bytes:
        """Encode latents of a VAE with the pack's space, without running a network.

        Args:
            latents: Floats (C, h, w) or (1, C, h, w), h and w those of the picture over the space's downscale factor,
                rounded up.
            width_px: Of the picture, at least 1.
            height_px: The same.
            options: As of ``encode``. With a ``resampling`` the latents are those of the smaller picture; None is 1.
                ``latent_error`` makes a cache.
            scaled: As of ``latents``.
            alpha: uint8 (height_px, width_px), 255 is opaque.
            metadata: Kept where ``options.keep_metadata`` says so.
            note: Called with a line about each item of it that a file cannot hold, and that is left out.
            **keywords: Fields of ``EncodeOptions``, in place of those of ``options``.

        Returns:
            The bytes of an .sdl file.

        Raises:
            ArgumentError: Latents or alpha of another shape, or not finite; an option that needs the picture (truth,
                effort, protect "text" or "faces"); or as ``encode``.
            LimitError: More than ``max_pixels`` pixels.
            UnsupportedError, ModelError: As ``encode``.
        """
        options = updated(options, **keywords)
        for name, value in (("width_px", width_px), ("height_px", height_px)):
            check_integer(name, value, 1)
        check_pixels(width_px, height_px, self._max_pixels)
        for name, asked in (
            ("truth", options.truth),
            ("effort", options.effort > 0),
            (f"protect {options.protect!r}", options.protect in ("text", "faces")),
        ):
            if asked:
                raise ArgumentError(f"{name} needs the original picture, and there are only latents")
        if alpha is not None and (alpha.dtype != np.uint8 or alpha.shape != (height_px, width_px)):
            raise ArgumentError(f"alpha must be uint8 {(height_px, width_px)}, it is {alpha.dtype} {alpha.shape}")
        pack = self._models.encoding_pack()
        factor = options.resampling or 1
        options = updated(options, resampling=factor)
        coded_px = ceil(width_px / factor), ceil(height_px / factor)
        normalized = to_normalized(latents, pack.space, *coded_px, scaled=scaled)
        coder, kept = self._models.coder(pack), metadata or Metadata()
        writer = writer_of(coder, width_px, height_px, options, options.regions, alpha=alpha, metadata=kept, note=note)
        return writer.write(lambda _resampling, _final: normalized)[0]

    def encoding_space(self) -> LatentSpace:
        """The latent space of the pack that encodes: channels, downscale factor, scale and shift.

        Raises ModelError if the pack is missing or altered.
        """
        return self._models.encoding_pack().space

    def encode_latents_many(
        self,
        pictures: Iterable[tuple[ArrayLike, int, int]],
        options: EncodeOptions | None = None,
        *,
        scaled: bool = False,
        workers: int | None = None,
        **keywords: Unpack[EncodeKeywords],
    ) -> Iterator[bytes]:
        """Encode the latents of many pictures on several threads, in order.

        Args:
            pictures: Latents, width and height in pixels of each.

        The other arguments, the results and the errors are those of ``encode_latents`` and ``encode_many``.
        """
        options = updated(options, **keywords)

        def encode(picture: tuple[ArrayLike, int, int]) -> bytes:
            return self.encode_latents(*picture, options, scaled=scaled)

        return InOrder(encode, pictures, workers)

    def truth_map(self, data: SdlSource) -> NDArray[np.uint8] | None:
        """How far each 32x32 cell of the decoded picture is from the original, by the file's truth map.

        Args:
            data: The bytes of an .sdl file, its path, or a binary stream.

        Returns:
            uint8 (ceil(height / 32), ceil(width / 32)), each a ``Truth``; None where the file has no map.

        Raises:
            CorruptError: The map is broken, or the file.

        And what reading a file raises otherwise. Needs neither a model nor an engine.
        """
        file = self._read(data)
        coded = file.chunk(sdl.TRUTH)
        if coded is None:
            return None
        return np.array(truth_map.decode_truth_map(coded, file.height_px, file.width_px), np.uint8)

    def info(self, data: SdlSource) -> Info:
        """As ``sdrt.info``, with this codec's ``max_pixels``."""
        return info(data, max_pixels=self._max_pixels)

    def _read(self, data: SdlSource) -> sdl.SdlFile:
        return sdl.unpack(read_source(data), max_pixels=self._max_pixels)
