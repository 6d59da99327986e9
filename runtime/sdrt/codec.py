"""Picture to .sdl file and back: connects the other rooms.

Encoding: picture -> encoder graph, tile by tile -> latents -> bitstream. The graph runs once; only the coding of its
latents repeats while a target size is sought. Decoding is the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from math import ceil
from os import PathLike
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdrt.arguments import check_count
from sdrt.atomic import write_atomic
from sdrt.bitstream import FileWriter, IndicesOf, Latents, Refine, Symbols, Written
from sdrt.container import sdl, truth_map
from sdrt.container.alpha import DEFAULT_MAX_ERROR, decode_alpha, encode_alpha
from sdrt.container.source import SdlSource, read_source
from sdrt.errors import ArgumentError
from sdrt.file_info import Info, describe, info
from sdrt.latents.units import to_normalized, to_raw
from sdrt.limits import DEFAULT_MAX_PIXELS, check_pixels
from sdrt.metadata_chunks import from_chunks, to_chunks
from sdrt.model_cache import ModelCache
from sdrt.network.devices import Device, Precision, devices_to_try
from sdrt.network.engine import Engine
from sdrt.network.preview import preview, preview_box, subdivision
from sdrt.network.refine import Refinement, recipe_of, refine
from sdrt.network.transform import Progress, StepIndices, pixel_strips, to_latents
from sdrt.options import EncodeOptions, Note, updated
from sdrt.packs.manifest import LatentSpace, ModelPack
from sdrt.parallel import InOrder
from sdrt.patching import overlay_of
from sdrt.pixels.load import Source, load
from sdrt.pixels.metadata import Metadata
from sdrt.pixels.picture import Crop, Picture, Strips, checked_crop, gather
from sdrt.pixels.save import save, to_pil
from sdrt.pixels.scaling import enlarge, reduce, window_of
from sdrt.pixels.thumbnail import reduce_preview, reduce_strips, thumbnail_sides
from sdrt.protection import cells_to_protect, write_protected
from sdrt.revision import write_with_truth
from sdrt.steering import offsets_of, regions_of, revised

if TYPE_CHECKING:
    from PIL import Image
    from typing_extensions import Unpack

    from sdrt.options import EncodeKeywords


class Codec:
    """Encodes and decodes pictures; reuses its model and inference sessions from picture to picture.

    Safe for calls from several threads: models and sessions are loaded once, under a lock, and pictures are coded side
    by side; from asyncio, call ``asyncio.to_thread(codec.decode, data)``. It can be pickled, and used in a forked
    process; its sessions are opened anew there.

    Args:
        model: Name, folder or zip of a pack. None: ``tiny`` to encode, and to decode the pack that the file names.
        device: "auto" takes the best that works; any other is used or refused.
        precision: Of the graphs, as far as the pack has it, or "bf16" (OpenVINO only). None: what suits the device.
        threads: Of the inference engine, 1 or more. None: every core that the process may use.
        max_pixels: Larger pictures and files are refused. None: no limit.
        tile_px: Side of the tiles that large pictures are cut into, raised to what their overlap needs. Smaller tiles
            take less memory and more time. None: what suits the pack.

    Raises:
        ArgumentError: An argument is unknown, out of range or of the wrong type.

    Examples:
        >>> with sdrt.Codec(device="cpu") as codec:
        ...     codec.encode_file("photo.jpg", "photo.sdl", target_bytes=5000)
        ...     codec.decode_file("photo.sdl", "back.png")
        ...     pictures = [codec.decode(path) for path in sorted(folder.glob("*.sdl"))]
    """

    used_device: str | None = None
    """The device that the last graph ran on; None before the first run. Patches that hide all need none."""
    used_precision: str | None = None
    """The precision of the last graph; "bf16" where OpenVINO computed in it."""

    def __init__(
        self,
        model: str | PathLike[str] | None = None,
        *,
        device: Device = "auto",
        precision: Precision | None = None,
        threads: int | None = None,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        tile_px: int | None = None,
    ) -> None:
        if not isinstance(model, str | PathLike | None):
            raise ArgumentError(f"model is {model!r}, it must be the name or the folder of a model pack")
        devices_to_try(device, precision)
        for name, value in (("threads", threads), ("max_pixels", max_pixels), ("tile_px", tile_px)):
            check_count(name, value)
        self._max_pixels = max_pixels
        self._tile_px = tile_px
        self._models = ModelCache(model, device=device, precision=precision, threads=threads)
        self._again = partial(
            Codec,
            model,
            device=device,
            precision=precision,
            threads=threads,
            max_pixels=max_pixels,
            tile_px=tile_px,
        )

    def __reduce__(self) -> tuple[Callable[[], Codec], tuple[()]]:
        return self._again, ()

    def __enter__(self) -> Codec:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the model and the sessions. A codec that is used again loads them again."""
        self._models.clear()

    def encode(
        self,
        picture: Source | Picture,
        options: EncodeOptions | None = None,
        *,
        progress: Progress | None = None,
        note: Note | None = None,
        **keywords: Unpack[EncodeKeywords],
    ) -> bytes:
        """Encode a picture.

        Args:
            picture: A ``Picture``, or what ``load`` reads: a path, the bytes of a file, a binary stream, a Pillow
                image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16 or floats from 0 to 1.
            options: Rate, metadata, alpha and tuning. None: the defaults.
            progress: Called after each tile.
            note: Called with each thing that reading the picture left out or changed.
            **keywords: Fields of ``EncodeOptions``, in place of those of ``options``.

        Returns:
            The bytes of an .sdl file.

        Raises:
            ArgumentError: An option of the wrong type or out of range, two that exclude each other, or a region
                outside of the picture.
            UnsupportedError: The target is below the smallest file of this picture, whose size is named.
            MissingFileError, ImageError: The picture cannot be read.
            LimitError: It has more than ``max_pixels`` pixels.
            ModelError: The pack is missing, altered, or has no encoder.
            EngineError: The engine or the device is unavailable or fails.
        """
        return self.encode_with_info(picture, options, progress=progress, note=note, **keywords)[0]

    def encode_with_info(
        self,
        picture: Source | Picture,
        options: EncodeOptions | None = None,
        *,
        progress: Progress | None = None,
        note: Note | None = None,
        **keywords: Unpack[EncodeKeywords],
    ) -> tuple[bytes, Info]:
        """As ``encode``, with what the file says about itself, which need not be parsed for it."""
        options = updated(options, **keywords)
        pack = self._models.encoding_pack()
        coder = self._models.coder(pack)
        encoder = self._engine(pack, "encoder")
        refinement = None
        if options.effort:
            refinement = self._models.refinement(pack, recipe_of(options.effort, options.tune))
        if not isinstance(picture, Picture):
            picture = load(picture, max_pixels=self._max_pixels)
        if note is not None:
            for text in picture.notes:
                note(text)
        height_px, width_px = picture.rgb.shape[:2]
        offsets = offsets_of(regions_of(picture.rgb, options, pack), height_px, width_px, pack.space.downscale)
        chunks = _chunks_of(picture.alpha, picture.metadata, options)
        writer = FileWriter(coder, width_px, height_px, chunks, options, offsets)
        analysis = _Analysis(
            picture.rgb, pack, encoder, refinement=refinement, progress=progress, tile_px=self._tile_px
        )
        improve = analysis.refined if options.effort else None
        as_it_comes = options.latent_error is not None  # latents for training are kept whole
        marked = cells_to_protect(picture.rgb) if options.protect in ("auto", "text") and not as_it_comes else None
        # Where graphs are not told the quality finer steps buy too little truth: docs/TRUTH.md has what was measured.
        steered = options.protect == "auto" and pack.quality_input and not as_it_comes

        def write(writer: FileWriter, improve: Refine | None = improve) -> Written:
            if marked is not None:
                found = write_protected(picture.rgb, marked, writer, analysis.kept_latents, self._painted)
                if improve is None or found[1].chunk(sdl.PATCHES) is not None:  # beside these latents stay as they are
                    return found
            return writer.write(analysis.kept_latents, improve)

        written: Written | None = None
        if marked is None and not steered and not options.truth:
            del picture  # the analysis alone holds the pixels now, and lets them go when they have served
            written = writer.write(analysis.latents, improve)
        if steered:
            writer, looked_at = revised(writer, partial(write, improve=None), picture.rgb, self._painted)
            written = looked_at if improve is None else None
        if options.truth:
            written = write_with_truth(writer, write, picture, self._painted)
        data, file = write(writer) if written is None else written
        return data, describe(file, len(data), pack)

    def encode_file(
        self,
        source: Source | Picture,
        destination: str | PathLike[str],
        options: EncodeOptions | None = None,
        *,
        overwrite: bool = True,
        progress: Progress | None = None,
        note: Note | None = None,
        **keywords: Unpack[EncodeKeywords],
    ) -> Info:
        """Encode a picture to a file, which gets its name when it is complete.

        Args:
            source: As ``picture`` of ``encode``.
            destination: Path of the .sdl file.
            overwrite: Replace a file that exists.

        The other arguments are those of ``encode``.

        Returns:
            What the file says about itself.

        Raises:
            OutputError: The file exists and ``overwrite`` is False, or it cannot be written.

        And what ``encode`` raises.
        """
        data, about = self.encode_with_info(source, options, progress=progress, note=note, **keywords)
        write_atomic(destination, data, overwrite=overwrite)
        return about

    def encode_many(
        self,
        pictures: Iterable[Source | Picture],
        options: EncodeOptions | None = None,
        *,
        workers: int | None = None,
        **keywords: Unpack[EncodeKeywords],
    ) -> Iterator[bytes]:
        """Encode many pictures on several threads, in order.

        Args:
            pictures: Each as ``picture`` of ``encode``. Taken as results are: at most two for each worker are ahead.
            options: For all of them.
            workers: Number of threads, 1 or more. None: one for each core that the process may use.

        Returns:
            An iterator over the bytes of each file. What ``encode`` raises for a picture is raised in its place; the
            files after it can still be taken.

        Raises:
            ArgumentError: As ``encode``, at once; or ``workers`` is no such number.
        """
        return InOrder(partial(self.encode, options=updated(options, **keywords)), pictures, workers)

    def decode(self, data: SdlSource, *, crop: Crop | None = None, progress: Progress | None = None) -> Image.Image:
        """Decode a file to a Pillow image.

        Args:
            data: The bytes of an .sdl file, its path, or a binary stream.
            crop: x, y, width and height in pixels: decode this part only. It must lie in the picture.
            progress: Called after each tile.

        Returns:
            An image of mode RGB, or RGBA where the file has alpha, with "exif" and "xmp" in its ``info`` where the file
            has them.

        Raises:
            NotSdlError: This is no .sdl file.
            UnsupportedError: A newer version of the format.
            CorruptError: The file is truncated or altered.
            LimitError: It has more than ``max_pixels`` pixels.
            MissingFileError, ImageError: The file cannot be read.
            ModelError: The pack that the file names is missing or altered.
            EngineError: The engine or the device is unavailable or fails.
            ArgumentError: The crop is not four integers, or lies outside of the picture.
        """
        return to_pil(self.decode_picture(data, crop=crop, progress=progress))

    def decode_picture(self, data: SdlSource, *, crop: Crop | None = None, progress: Progress | None = None) -> Picture:
        """As ``decode``, to arrays."""
        return gather(self.decode_strips(data, crop=crop, progress=progress))

    def decode_strips(self, data: SdlSource, *, crop: Crop | None = None, progress: Progress | None = None) -> Strips:
        """As ``decode``, in strips of rows that are computed when they are asked for.

        It takes the memory of the latents, one row of tiles, and the alpha plane where there is one. EngineError, and
        ModelError for what the graph returns, may come with any strip; all other errors come before the first.
        """
        file = self._read(data)
        crop = left, top, width_px, height_px = checked_crop(crop, file.width_px, file.height_px)
        overlay = overlay_of(file)
        bare = overlay is not None and overlay.hides_all  # then no network is needed
        pack = self._models.decoding_pack(file, to_paint=not bare)
        decoder = None if bare else self._engine(pack, "decoder")
        latents, indices = self._models.coder_of(file).latents(file)
        coded_alpha = file.chunk(sdl.ALPHA)
        alpha = None if coded_alpha is None else decode_alpha(coded_alpha, file.height_px, file.width_px)
        metadata = from_chunks(file.chunks)
        if (width_px, height_px) != (file.width_px, file.height_px):
            metadata = metadata.of_part(width_px, height_px)
        window = window_of(crop, file.resampling, *file.coded_px)
        if decoder is not None:
            rows = pixel_strips(latents, pack, decoder, window, progress, tile_px=self._tile_px, indices=indices)
            rows = enlarge(rows, window, file.resampling, crop)
        else:
            rows = iter(())
        if overlay is not None:
            rows = overlay.over(rows, crop)
        return Strips(
            width_px=width_px,
            height_px=height_px,
            rows=rows,
            alpha=None if alpha is None else alpha[top : top + height_px, left : left + width_px],
            metadata=metadata,
            synthetic=not bare,
        )

    def decode_file(
        self,
        source: SdlSource,
        destination: str | PathLike[str],
        *,
        crop: Crop | None = None,
        strip: bool = False,
        overwrite: bool = True,
        progress: Progress | None = None,
    ) -> None:
        """Decode a file to a picture file, which gets its name when it is complete.

        PNG and PPM are written in strips as they are decoded, so that memory does not grow with the picture.

        Args:
            source: As ``data`` of ``decode``.
            destination: Path of the picture file. Its suffix chooses the format, see ``save``; PNG where it has none.
            crop: As of ``decode``.
            strip: Leave out the metadata that the file holds, and the word in XMP that parts are synthetic (IPTC's
                DigitalSourceType), which PNG, JPEG, WebP and AVIF files get otherwise.
            overwrite: Replace a file that exists.
            progress: Called after each tile.

        Raises:
            OutputError: An unknown suffix, a format that cannot hold the picture, a file that exists while
                ``overwrite`` is False, or one that cannot be written.

        And what ``decode`` raises.
        """
        strips = self.decode_strips(source, crop=crop, progress=progress)
        save(strips.for_file(strip=strip), destination, overwrite=overwrite)

    def thumbnail(self, data: SdlSource, side_px: int) -> Picture:
        """A small picture of a file, as fast as it can be had.

        Up to a megapixel, and where the thumbnail is nearly as large as the picture, it is the decoded picture,
        reduced. Of larger ones the decoder paints six pieces, and the thumbnail is estimated from the latents after
        their example: colors may be a few levels off.

        Args:
            data: As of ``decode``.
            side_px: No side is longer, 1 or more. Smaller pictures keep their size.

        Returns:
            A picture without metadata.

        Raises:
            ArgumentError: ``side_px`` is no such number.

        And what ``decode`` raises.
        """
        check_count("side_px", side_px)
        file = self._read(data)
        if file.chunk(sdl.PATCHES) is not None:  # of which latents say nothing
            return reduce_strips(self.decode_strips(data), side_px)
        pack = self._models.decoding_pack(file)
        parts = subdivision(pack, *file.coded_px, side_px)
        if parts is None:
            return reduce_strips(self.decode_strips(data), side_px)
        latents, indices = self._models.coder_of(file).latents(file)
        colors = preview(latents, pack, self._engine(pack, "decoder"), parts, indices=indices)
        coded_alpha = file.chunk(sdl.ALPHA)
        alpha = None if coded_alpha is None else decode_alpha(coded_alpha, file.height_px, file.width_px)
        sides = thumbnail_sides(file.width_px, file.height_px, side_px)
        return reduce_preview(colors, preview_box(pack, *file.coded_px, parts), alpha, sides)

    def decode_many(self, files: Iterable[SdlSource], *, workers: int | None = None) -> Iterator[Image.Image]:
        """Decode many files on several threads, in order.

        Args:
            files: Each as ``data`` of ``decode``. Taken as results are: at most two for each worker are ahead.
            workers: Number of threads, 1 or more. None: one for each core that the process may use.

        Returns:
            An iterator over the images. What ``decode`` raises for a file is raised in its place; the images after it
            can still be taken.

        Raises:
            ArgumentError: ``workers`` is no such number.
        """
        return InOrder(self.decode, files, workers)

    def symbols(self, data: SdlSource) -> Symbols:
        """The quantized latents of a file, int32 (channels, rows, columns). Needs no engine. Raises as ``decode``."""
        file = self._read(data)
        return self._models.coder_of(file).symbols(file)

    def latents(self, data: SdlSource, *, scaled: bool = False) -> Latents:
        """The latents of a file, without a network: about as fast as entropy decoding is.

        Args:
            data: The bytes of an .sdl file, its path, or a binary stream.
            scaled: False: raw, as the VAE's encoder gave them and its decoder takes them. True:
                ``(raw - shift) * scale`` with the numbers of the latent space, what a diffusion model is trained on.

        Returns:
            float32 (C, h, w): of the picture as it is coded, which is smaller where ``info`` says a resampling.

        Raises as ``decode``, but for EngineError: no engine is needed.
        """
        file = self._read(data)
        coder = self._models.coder_of(file)
        normalized = coder.latents(file)[0]
        return normalized if scaled else to_raw(normalized, coder.pack.space)

    def latents_many(
        self, files: Iterable[SdlSource], *, scaled: bool = False, workers: int | None = None
    ) -> Iterator[Latents]:
        """The latents of many files on several threads, in order: ``latents`` as ``decode_many`` is to ``decode``."""
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
        **keywords: Unpack[EncodeKeywords],
    ) -> bytes:
        """Encode latents that a VAE of the pack's space made, without running a network.

        A pack that is told the quality level (``quality_input``) tells its decoder the step of the file: give the
        quality that the latents were made for.

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
            **keywords: Fields of ``EncodeOptions``, in place of those of ``options``.

        Returns:
            The bytes of an .sdl file.

        Raises:
            ArgumentError: Latents or alpha of another shape, or not finite; or as ``encode``.
            LimitError: More than ``max_pixels`` pixels.
            UnsupportedError, ModelError: As ``encode``.
        """
        options = updated(options, **keywords)
        for name, value in (("width_px", width_px), ("height_px", height_px)):
            check_count(name, value)
        check_pixels(width_px, height_px, self._max_pixels)
        if options.truth:
            raise ArgumentError("truth compares with the picture, of which latents are all that is here")
        if alpha is not None and (alpha.dtype != np.uint8 or alpha.shape != (height_px, width_px)):
            raise ArgumentError(f"alpha must be uint8 {(height_px, width_px)}, it is {alpha.dtype} {alpha.shape}")
        pack = self._models.encoding_pack()
        factor = options.resampling or 1
        coded_px = -(-width_px // factor), -(-height_px // factor)
        normalized = to_normalized(latents, pack.space, *coded_px, scaled=scaled)
        chunks = _chunks_of(alpha, metadata or Metadata(), options)
        options = updated(options, resampling=options.resampling or 1)
        offsets = offsets_of(options.regions, height_px, width_px, pack.space.downscale)
        writer = FileWriter(self._models.coder(pack), width_px, height_px, chunks, options, offsets)
        return writer.write(lambda _resampling, _indices, _final: normalized)[0]

    def encoding_space(self) -> LatentSpace:
        """What the numbers mean that this codec encodes: channels, downscale factor, scale and shift of its pack.

        Raises ModelError where the pack is missing or altered.
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

        The other arguments, what is returned and what is raised are those of ``encode_latents`` and ``encode_many``.
        """
        options = updated(options, **keywords)

        def encode(picture: tuple[ArrayLike, int, int]) -> bytes:
            return self.encode_latents(*picture, options, scaled=scaled)

        return InOrder(encode, pictures, workers)

    def truth_map(self, data: SdlSource) -> NDArray[np.uint8] | None:
        """How far each 32x32 cell of the decoded picture is from the original, where the file says so.

        Args:
            data: The bytes of an .sdl file, its path, or a binary stream.

        Returns:
            uint8 (ceil(height / 32), ceil(width / 32)), each a ``Truth``; None where the file has no map.

        Raises:
            CorruptError: The map is broken, or the file.

        And what else reading a file raises. Needs neither a model nor an engine.
        """
        file = self._read(data)
        coded = file.chunk(sdl.TRUTH)
        if coded is None:
            return None
        return np.array(truth_map.decode_truth_map(coded, file.height_px, file.width_px), np.uint8)

    def info(self, data: SdlSource) -> Info:
        """As ``sdrt.info``, with this codec's ``max_pixels``."""
        return info(data, max_pixels=self._max_pixels)

    def _painted(self, data: bytes) -> NDArray[np.uint8]:
        """The pixels of a file that is being made."""
        return self.decode_picture(data).rgb

    def _read(self, data: SdlSource) -> sdl.SdlFile:
        return sdl.unpack(read_source(data), max_pixels=self._max_pixels)

    def _engine(self, pack: ModelPack, half: Literal["encoder", "decoder"]) -> Engine:
        engine = self._models.engine(pack, half)
        self.used_device, self.used_precision = engine.device, engine.precision
        return engine


class _Analysis:
    """A picture's way to latents, as often as rate control asks."""

    def __init__(
        self,
        rgb: NDArray[np.uint8],
        pack: ModelPack,
        encoder: Engine,
        *,
        refinement: Refinement | None,
        progress: Progress | None,
        tile_px: int | None,
    ) -> None:
        self._rgb: NDArray[np.uint8] | None = rgb
        self._told = pack.quality_input
        self._kept: dict[tuple[int, bytes], Latents] = {}
        self._run = partial(to_latents, pack=pack, encoder=encoder, progress=progress, tile_px=tile_px)
        self._refinement = refinement
        self._refine = partial(refine, pack=pack, progress=progress, tile_px=tile_px)
        self._coded: NDArray[np.uint8] | None = None
        """The picture that the last latents are of, where these will be refined."""

    def latents(self, resampling: int, indices: IndicesOf, final: bool) -> Latents:
        """The latents of the picture at a fraction of its sides; pixels are let go after the ``final`` call."""
        assert self._rgb is not None, "the call before was the final one"
        reduced = reduce(self._rgb, resampling)
        if final:
            self._rgb = None
        if self._refinement is not None:
            self._coded = reduced
        return self._run(reduced, indices=indices(*reduced.shape[:2]))

    def kept_latents(self, resampling: int, indices: IndicesOf, _final: bool) -> Latents:
        """As ``latents``, for a search that comes back to the same ones: pixels and latents are kept."""
        assert self._rgb is not None, "latents() was called for the last time"
        sides = (ceil(side / resampling) for side in self._rgb.shape[:2])
        told = indices(*sides).tobytes() if self._told else b""
        if (resampling, told) not in self._kept:
            self._kept[resampling, told] = self.latents(resampling, indices, False)
        elif self._refinement is not None:
            self._coded = reduce(self._rgb, resampling)
        return self._kept[resampling, told]

    def refined(self, latents: Latents, indices: StepIndices, step_sizes: NDArray[np.float32]) -> Latents:
        """The last latents after gradient descent; the same where none was asked for."""
        if self._refinement is None or self._coded is None:
            return latents
        return self._refine(latents, self._coded, self._refinement, step_sizes=step_sizes, indices=indices)


def _chunks_of(alpha: NDArray[np.uint8] | None, metadata: Metadata, options: EncodeOptions) -> tuple[sdl.Chunk, ...]:
    """What a file holds of a picture besides its colors."""
    chunks = to_chunks(metadata) if options.keep_metadata else ()
    if alpha is None:
        return chunks
    max_error = 0 if options.exact_alpha else DEFAULT_MAX_ERROR
    return (sdl.Chunk(sdl.ALPHA, encode_alpha(alpha, max_error=max_error)), *chunks)
