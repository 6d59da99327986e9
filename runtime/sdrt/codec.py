"""Where the parts meet: a picture becomes the bytes of an .sdl file, and the bytes become a picture.

Encoding: picture -> encoder graph, tile by tile -> latents ``(raw - shift) * scale`` -> integers -> payload -> file.
The graph runs once; only the coding of its latents repeats while a target size is sought. Where a target is too small
for all pixels, a smaller picture is encoded instead. Decoding is the way back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from math import ceil
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sdrt.coding import payload, quantize, rate
from sdrt.coding.prior import Prior, load_prior
from sdrt.container import sdl
from sdrt.container.alpha import decode_alpha
from sdrt.container.source import read_source
from sdrt.errors import ModelError, UnsupportedError
from sdrt.file_info import Info, info
from sdrt.file_writer import TUNES, FileWriter, chunks_of
from sdrt.limits import DEFAULT_MAX_PIXELS
from sdrt.network.devices import graph_precision
from sdrt.network.engine import Engine
from sdrt.network.transform import Progress, gpu_sides, pixel_strips, to_latents
from sdrt.packs import search
from sdrt.packs.manifest import PRIOR, ModelPack
from sdrt.pixels.load import Source, load
from sdrt.pixels.picture import Crop, Picture, Strips, gather
from sdrt.pixels.save import to_pil
from sdrt.pixels.scaling import enlarge, reduce, window_of

if TYPE_CHECKING:
    from PIL import Image

DEFAULT_MODEL = "tiny"

Data = bytes | bytearray | memoryview | str | PathLike[str]
"""The contents of an .sdl file, or its path."""


class Codec:
    """Encodes and decodes with sessions that are kept for the next picture.

    ``model``: name or folder of a pack; None: ``tiny`` to encode, and to decode whichever pack the file names.
    ``device``: auto, cpu, cuda, tensorrt or openvino. ``precision``: w16, fp32, fp16, int8 as far as the pack has it,
    or bf16 (openvino only); None: what suits the device. ``threads``: 1 or more; None leaves it to the engine.
    ``max_pixels``: larger pictures and files are refused with LimitError; None: no limit. ``tile_px``: the side of the
    tiles that large pictures are cut into, raised to what their overlap needs; None: what
    suits the pack. Smaller tiles need less memory and more time.

    Not safe for calls from several threads at once: give each thread its own. In a forked child it works on; pickled
    and copied it goes without its sessions, which are opened again.
    """

    def __init__(
        self,
        model: str | PathLike[str] | None = None,
        *,
        device: str = "auto",
        precision: str | None = None,
        threads: int | None = None,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        tile_px: int | None = None,
    ) -> None:
        self._model = model
        self._device = device
        self._precision = precision
        self._threads = threads
        if tile_px is not None and tile_px < 1:
            raise UnsupportedError(f"tile_px is {tile_px}, it must be at least 1")
        self._max_pixels = max_pixels
        self._tile_px = tile_px
        self._packs: dict[object, ModelPack] = {}
        self._priors: dict[bytes, Prior] = {}
        self._engines: dict[str, Engine] = {}
        self.used_device: str | None = None
        """The device that the last graph ran on; None before the first run."""
        self.used_precision: str | None = None
        """The precision of the last graph; bf16 where OpenVINO computed in it."""

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_engines": {}, "used_device": None, "used_precision": None}

    def encode(
        self,
        picture: Source | Picture,
        *,
        quality: float | None = None,
        target_bytes: int | None = None,
        target_bpp: float | None = None,
        keep_metadata: bool = False,
        exact_alpha: bool = False,
        tune: str = "eyes",
        resampling: int | None = None,
        progress: Progress | None = None,
        note: Callable[[str], None] | None = None,
    ) -> bytes:
        """The bytes of an .sdl file of ``picture``: whatever ``pixels.load`` reads, or what it gives.

        At most one of: ``quality`` 0..100 (None: the pack's default), ``target_bytes`` for the whole file and
        ``target_bpp`` in bits of the whole file a pixel. A target is never exceeded; the file stays more than 2 %
        below it only where quality 100 needs no more or the picture has few pixels. ``keep_metadata`` keeps EXIF and
        XMP, which count towards the target. Alpha is kept within 8 levels between 1 and 254, 0 and 255 exactly; with
        ``exact_alpha`` all of it is exact. ``tune`` is "eyes" (what the pack's decoder serves best) or "psnr" (fewer
        bits at equal squared error, at the cost of sharpness). ``resampling`` 2, 4 or 8 encodes the picture at that
        fraction of its sides, and it is enlarged when it is decoded; None does so where a target needs less than
        quality 0. ``note`` is told what reading the picture left out or changed.

        Raises ImageError, LimitError (too many pixels), UnsupportedError (two wishes, a quality out of range, an
        unknown tune or resampling, a target below the smallest file, which is named), ModelError, EngineError.
        """
        if sum(wish is not None for wish in (quality, target_bytes, target_bpp)) > 1:
            raise UnsupportedError("give one of quality, target_bytes and target_bpp, not several")
        if tune not in TUNES:
            raise UnsupportedError(f"tune is {tune!r}, it must be one of {', '.join(TUNES)}")
        if resampling not in (None, *sdl.RESAMPLINGS):
            raise UnsupportedError(f"resampling is {resampling}, it must be one of {sdl.RESAMPLINGS}")
        pack = self._pack(DEFAULT_MODEL if self._model is None else self._model)
        step_index = pack.default_step if quality is None else rate.step_for_quality(quality, pack.quality_range)
        prior = self._prior(pack)
        encoder = self._engine(pack, "encoder")
        if not isinstance(picture, Picture):
            picture = load(picture, max_pixels=self._max_pixels)
        if note is not None:
            for text in picture.notes:
                note(text)
        rgb = picture.rgb
        height_px, width_px = rgb.shape[:2]
        if target_bpp is not None:
            target_bytes = rate.budget_of(target_bpp, width_px, height_px)
        chunks = chunks_of(picture, keep_metadata=keep_metadata, exact_alpha=exact_alpha)
        del picture
        writer = FileWriter(pack, prior, width_px, height_px, chunks, tune)
        coarse, fine = pack.quality_range
        factors = [resampling or 1]
        if resampling is None and target_bytes is not None:
            factors += [f for f in sdl.RESAMPLINGS[1:] if max(height_px, width_px) > pack.space.downscale * f // 2]

        def coder(pixels: NDArray[np.uint8], factor: int) -> Callable[..., bytes]:
            latents = to_latents(reduce(pixels, factor), pack, encoder, progress, tile_px=self._tile_px)
            return partial(writer.file, latents, factor)

        for factor in factors[:-1]:
            assert target_bytes is not None, "only a target makes several factors"
            code = coder(rgb, factor)
            with contextlib.suppress(rate.TargetError):
                return rate.finest_within(code, target_bytes, guess=step_index, finest=fine, coarsest=coarse)
        code = coder(rgb, factors[-1])
        del rgb  # the largest thing here, and coding needs room of its own
        if target_bytes is None:
            return code(step_index)
        return rate.finest_within(code, target_bytes, guess=step_index, finest=fine)

    def decode(self, data: Data, *, crop: Crop | None = None, progress: Progress | None = None) -> Image.Image:
        """The picture of an .sdl file as a Pillow image of mode RGB, or RGBA where it has alpha.

        EXIF and XMP that the file holds are in the image's ``info``. Otherwise as ``decode_picture``.
        """
        return to_pil(self.decode_picture(data, crop=crop, progress=progress))

    def decode_picture(self, data: Data, *, crop: Crop | None = None, progress: Progress | None = None) -> Picture:
        """The picture of an .sdl file as arrays. Otherwise as ``decode_strips``."""
        return gather(self.decode_strips(data, crop=crop, progress=progress))

    def decode_strips(self, data: Data, *, crop: Crop | None = None, progress: Progress | None = None) -> Strips:
        """The picture of an .sdl file in strips that are painted when they are asked for.

        The memory needed is that of the latents, one strip, and the alpha plane where there is one. ``crop`` (x, y,
        width, height) decodes only the tiles that this part needs; it must lie in the picture.

        Raises what ``sdl.unpack`` raises, CorruptError (payload, alpha), ModelError, UnsupportedError (a crop outside
        the picture), all before the first strip; EngineError, and ModelError for what the decoder gives, also later.
        """
        file = sdl.unpack(read_source(data), max_pixels=self._max_pixels)
        crop = left, top, width_px, height_px = _checked_crop(crop, file)
        pack = self._painting_pack(file)
        decoder = self._engine(pack, "decoder")
        symbols, prior = self._symbols(file, pack)
        coded_alpha = file.chunk(sdl.ALPHA)
        alpha = None if coded_alpha is None else decode_alpha(coded_alpha, file.height_px, file.width_px)
        latents = quantize.dequantize(symbols, prior, file.step_index)
        window = window_of(crop, file.resampling, *file.coded_px)
        rows = pixel_strips(latents, pack, decoder, window, progress, tile_px=self._tile_px)
        return Strips(
            width_px=width_px,
            height_px=height_px,
            rows=enlarge(rows, window, file.resampling, crop),
            alpha=None if alpha is None else alpha[top : top + height_px, left : left + width_px],
            exif=file.chunk(sdl.EXIF),
            xmp=file.chunk(sdl.XMP),
        )

    def symbols(self, data: Data) -> NDArray[np.int32]:
        """The integers (channels, rows, columns) of an .sdl file. Needs no inference engine. Raises as ``decode``."""
        file = sdl.unpack(read_source(data), max_pixels=self._max_pixels)
        return self._symbols(file, self._painting_pack(file))[0]

    def info(self, data: Data) -> Info:
        """What the file says about itself. Needs no inference engine. Raises as ``sdl.unpack``."""
        return info(data, max_pixels=self._max_pixels)

    def _symbols(self, file: sdl.SdlFile, pack: ModelPack) -> tuple[NDArray[np.int32], Prior]:
        prior = self._prior(self._prior_pack(file, pack))
        cell = pack.space.downscale
        width_px, height_px = file.coded_px
        shape = (pack.space.channels, ceil(height_px / cell), ceil(width_px / cell))
        return payload.decode(file.payload, shape, prior, file.step_index), prior

    def _pack(self, model: str | PathLike[str]) -> ModelPack:
        if model not in self._packs:
            self._packs[model] = search.load_pack(model if isinstance(model, str) else Path(model))
        return self._packs[model]

    def _pack_of(self, space_identity: bytes, prior_identity: bytes) -> ModelPack:
        key = (space_identity, prior_identity)
        if key not in self._packs:
            self._packs[key] = search.find_pack(space_identity, prior_identity)
        return self._packs[key]

    def _painting_pack(self, file: sdl.SdlFile) -> ModelPack:
        """The pack whose decoder paints: the one asked for, if it speaks the file's space, else the file's own."""
        if self._model is None:
            return self._pack_of(file.space_identity, file.prior_identity)
        pack = self._pack(self._model)
        if pack.space.identity != file.space_identity:
            raise ModelError(
                f"the file wants latent space {file.space_identity.hex()}, "
                f"model {pack.name} speaks {pack.space.identity.hex()} ({pack.space.id})"
            )
        return pack

    def _prior_pack(self, file: sdl.SdlFile, painter: ModelPack) -> ModelPack:
        """The pack that has the prior of ``file``: the painter itself, or another one of the same space."""
        if PRIOR in painter.files and painter.prior_identity == file.prior_identity:
            return painter
        return self._pack_of(file.space_identity, file.prior_identity)

    def _prior(self, pack: ModelPack) -> Prior:
        if pack.prior_identity not in self._priors:
            prior = load_prior(search.verify_file(pack, pack.prior_path.name))
            if prior.channels != pack.space.channels:
                raise ModelError(
                    f"model pack {pack.name}: its prior has {prior.channels} channels, its space {pack.space.channels}"
                )
            self._priors[pack.prior_identity] = prior
        return self._priors[pack.prior_identity]

    def _engine(self, pack: ModelPack, half: str) -> Engine:
        def graph(device: str) -> Path:
            precision = graph_precision(device, self._precision, pack.graph_precisions(half))
            path = pack.encoder_path(precision) if half == "encoder" else pack.decoder_path(precision)
            return search.verify_file(pack, path.name)

        key = str(pack.folder / half)
        if key not in self._engines:
            self._engines[key] = Engine(
                graph,
                device=self._device,
                precision=self._precision,
                threads=self._threads,
                sides=gpu_sides(pack, half),
            )
        engine = self._engines[key]
        self.used_device, self.used_precision = engine.device, engine.precision
        return engine


def encode(
    picture: Source,
    *,
    quality: float | None = None,
    target_bytes: int | None = None,
    target_bpp: float | None = None,
    model: str | PathLike[str] | None = None,
    device: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
    keep_metadata: bool = False,
    exact_alpha: bool = False,
    tune: str = "eyes",
    resampling: int | None = None,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    tile_px: int | None = None,
) -> bytes:
    """``Codec(model, ...).encode(picture, ...)`` for a single picture."""
    codec = Codec(model, device=device, precision=precision, threads=threads, max_pixels=max_pixels, tile_px=tile_px)
    return codec.encode(
        picture,
        quality=quality,
        target_bytes=target_bytes,
        target_bpp=target_bpp,
        keep_metadata=keep_metadata,
        exact_alpha=exact_alpha,
        tune=tune,
        resampling=resampling,
    )


def decode(
    data: Data,
    *,
    model: str | PathLike[str] | None = None,
    device: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
    crop: Crop | None = None,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    tile_px: int | None = None,
) -> Image.Image:
    """``Codec(model, ...).decode(data, ...)`` for a single file."""
    codec = Codec(model, device=device, precision=precision, threads=threads, max_pixels=max_pixels, tile_px=tile_px)
    return codec.decode(data, crop=crop)


def _checked_crop(crop: Crop | None, file: sdl.SdlFile) -> Crop:
    if crop is None:
        return 0, 0, file.width_px, file.height_px
    x, y, width_px, height_px = crop
    if min(x, y) < 0 or min(width_px, height_px) < 1 or x + width_px > file.width_px or y + height_px > file.height_px:
        raise UnsupportedError(
            f"the crop {width_px}x{height_px} at {x},{y} does not lie in the picture of "
            f"{file.width_px}x{file.height_px} pixels"
        )
    return x, y, width_px, height_px
