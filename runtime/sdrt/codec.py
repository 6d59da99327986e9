"""``Codec``, the public class: pictures to .sdl files and back.

The work is done by ``encoding``, ``decoding`` and ``latent_codec``; here are the arguments and their documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Literal

from sdrt.arguments import check_count, check_integer
from sdrt.atomic import write_atomic
from sdrt.container.source import SdlSource
from sdrt.decoding import decode_strips, decode_thumbnail
from sdrt.encoding import encode_picture
from sdrt.errors import ArgumentError
from sdrt.file_info import Info, describe
from sdrt.latent_codec import LatentCodec
from sdrt.limits import DEFAULT_MAX_PIXELS
from sdrt.model_cache import ModelCache
from sdrt.network.devices import Device, Precision, check_threads, devices_to_try
from sdrt.network.engine import Engine
from sdrt.network.refine import recipe_of
from sdrt.network.transform import Progress
from sdrt.options import EncodeOptions, Note, updated
from sdrt.packs.manifest import ModelPack
from sdrt.parallel import InOrder
from sdrt.pixels.load import Source
from sdrt.pixels.picture import Crop, Picture, Strips, gather
from sdrt.pixels.save import save, to_pil

if TYPE_CHECKING:
    from PIL import Image
    from typing_extensions import Unpack

    from sdrt.options import EncodeKeywords


class Codec(LatentCodec):
    """Encodes and decodes pictures; reuses its model and inference sessions from picture to picture.

    Safe for calls from several threads: models and sessions are loaded once, under a lock, and pictures are coded side
    by side; from asyncio, call ``asyncio.to_thread(codec.decode, data)``. It can be pickled, and used in a forked
    process; its sessions are reopened there.

    Args:
        model: Name, folder or zip of a pack. None: ``tiny`` to encode, and to decode the pack that the file names.
        device: "auto" takes the best that works. Any other is used, or an EngineError if it is unavailable.
        precision: Of the graphs, one that the pack has, or "bf16" (OpenVINO only). None: the best for the device.
        threads: Of the inference engine, 1 or more. None: one for each core that the process may use.
        max_pixels: Larger pictures and files are refused. None: no limit.
        tile_px: Side of the tiles that large pictures are cut into, raised to what their overlap needs. Smaller tiles
            take less memory and more time. None: the pack's default.

    Raises:
        ArgumentError: An argument is unknown, out of range or of the wrong type.

    Examples:
        >>> with sdrt.Codec(device="cpu") as codec:
        ...     codec.encode_file("photo.jpg", "photo.sdl", target_bytes=5000)
        ...     codec.decode_file("photo.sdl", "back.png")
        ...     pictures = [codec.decode(path) for path in sorted(folder.glob("*.sdl"))]
    """

    used_device: str | None = None
    """The device of the last graph; None before the first one. Patches over the whole picture need none."""
    used_precision: str | None = None
    """The precision of the last graph; "bf16" if OpenVINO computed in it."""

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
        check_threads(threads)
        for name, value in (("max_pixels", max_pixels), ("tile_px", tile_px)):
            check_count(name, value)
        super().__init__(ModelCache(model, device=device, precision=precision, threads=threads), max_pixels)
        self._tile_px = tile_px
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
            note: Called with a line about each thing that reading the picture dropped or converted.
            **keywords: Fields of ``EncodeOptions``, in place of those of ``options``.

        Returns:
            The bytes of an .sdl file.

        Raises:
            ArgumentError: An option of the wrong type or out of range, two that exclude each other, or a region
                outside of the picture.
            UnsupportedError: The target is below the smallest file of this picture; the message states its size.
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
        """As ``encode``; also returns what ``info`` would return for the file, without parsing it again."""
        options = updated(options, **keywords)
        pack = self._models.encoding_pack()
        coder, encoder = self._models.coder(pack), self._engine(pack, "encoder")
        refinement = None
        if options.effort:
            refinement = self._models.refinement(pack, recipe_of(options.effort, options.tune))
        data, file = encode_picture(
            picture,
            options,
            coder=coder,
            encoder=encoder,
            refinement=refinement,
            paint=self.decode_strips,
            max_pixels=self._max_pixels,
            tile_px=self._tile_px,
            progress=progress,
            note=note,
        )
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
        """Encode a picture to a file, written atomically.

        Args:
            source: As ``picture`` of ``encode``.
            destination: Path of the .sdl file.
            overwrite: Replace an existing file.

        The other arguments are those of ``encode``.

        Returns:
            What ``info`` returns for the file.

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
            pictures: Each as ``picture`` of ``encode``. Taken lazily, at most two per worker ahead of the results.
            options: For all of them.
            workers: Number of threads, 1 or more. None: one for each core that the process may use.

        Returns:
            An iterator over the bytes of each file. What ``encode`` raises for a picture is raised in its place; the
            files after it can still be taken.

        Raises:
            ArgumentError: As ``encode``, at once; or ``workers`` is not such a number, or ``pictures`` one name.
        """
        return InOrder(partial(self.encode, options=updated(options, **keywords)), pictures, workers)

    def decode(self, data: SdlSource, *, crop: Crop | None = None, progress: Progress | None = None) -> Image.Image:
        """Decode a file to a Pillow image.

        Args:
            data: The bytes of an .sdl file, its path, or a binary stream.
            crop: x, y, width and height in pixels: decode this part only. It must lie in the picture.
            progress: Called after each tile.

        Returns:
            An image of mode RGB, or RGBA where the file has alpha. Its ``info`` has the metadata that the file has, see
            ``Metadata``.

        Raises:
            NotSdlError: This is not an .sdl file.
            UnsupportedError: The file needs a newer version of sdrt.
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
        """As ``decode``, in strips of rows that are computed when they are requested.

        Takes memory for the latents, one row of tiles, and the alpha plane if there is one. EngineError, and ModelError
        for the output of the graph, may be raised with any strip; all other errors are raised before the first.
        """
        file, open_decoder = self._read(data), partial(self._engine, half="decoder")
        return decode_strips(file, crop, self._models, open_decoder, tile_px=self._tile_px, progress=progress)

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
        """Decode a file to a picture file, written atomically.

        PNG and PPM are written in strips as they are decoded, so that memory does not grow with the picture.

        Args:
            source: As ``data`` of ``decode``.
            destination: Path of the picture file. Its suffix chooses the format, see ``save``; PNG where it has none.
            crop: As of ``decode``.
            strip: Write no metadata: neither that of the file, nor the mark in XMP that parts are synthetic (IPTC's
                DigitalSourceType), which PNG, JPEG, WebP and AVIF files get otherwise.
            overwrite: Replace an existing file.
            progress: Called after each tile.

        Raises:
            OutputError: An unknown suffix, a format that cannot hold the picture, a file that exists while
                ``overwrite`` is False, or one that cannot be written.

        And what ``decode`` raises.
        """
        strips = self.decode_strips(source, crop=crop, progress=progress)
        save(strips.for_file(strip=strip), destination, overwrite=overwrite)

    def thumbnail(self, data: SdlSource, side_px: int) -> Picture:
        """A small picture of a file, without decoding all of a large one.

        Pictures of up to a megapixel, and thumbnails nearly as large as the picture, are decoded and reduced. For
        others only six pieces are decoded; the thumbnail is predicted from the latents by a linear fit to these pieces.
        Its colors may be a few levels off.

        Args:
            data: As of ``decode``.
            side_px: No side is longer, 1 or more. Smaller pictures keep their size.

        Returns:
            A picture without metadata.

        Raises:
            ArgumentError: ``side_px`` is not such a number.

        And what ``decode`` raises.
        """
        check_integer("side_px", side_px, 1)
        file, open_decoder = self._read(data), partial(self._engine, half="decoder")
        return decode_thumbnail(file, side_px, self._models, open_decoder, tile_px=self._tile_px)

    def decode_many(self, files: Iterable[SdlSource], *, workers: int | None = None) -> Iterator[Image.Image]:
        """Decode many files on several threads, in order.

        Args:
            files: Each as ``data`` of ``decode``. Taken lazily, at most two per worker ahead of the results.
            workers: Number of threads, 1 or more. None: one for each core that the process may use.

        Returns:
            An iterator over the images. What ``decode`` raises for a file is raised in its place; the images after it
            can still be taken.

        Raises:
            ArgumentError: ``workers`` is not such a number, or ``files`` is one name or one file's bytes.
        """
        return InOrder(self.decode, files, workers)

    def _engine(self, pack: ModelPack, half: Literal["encoder", "decoder"]) -> Engine:
        engine = self._models.engine(pack, half)
        self.used_device, self.used_precision = engine.device, engine.precision
        return engine
