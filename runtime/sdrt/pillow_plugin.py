"""Pillow opens and saves .sdl files once this module is imported.

``Image.open`` reads the header alone: size, mode and metadata, without numpy, a model or an engine. The pixels are
decoded when they are first wanted, in ``Image.load``. ``Image.save`` takes the fields of ``EncodeOptions`` as keywords;
as in Pillow's other formats, metadata are kept where they are given: ``exif=image.getexif()``, ``xmp=...``.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, cast

from PIL import Image, ImageFile

from sdrt.container import sdl
from sdrt.container.source import read_source
from sdrt.errors import SdrtError
from sdrt.limits import DEFAULT_MAX_SIDE_PX
from sdrt.metadata_chunks import from_chunks
from sdrt.options import CodecKeywords, EncodeKeywords
from sdrt.pixels.metadata import ITEMS
from sdrt.streams import WholeWriter

if TYPE_CHECKING:
    from PIL._imaging import PixelAccess
    from typing_extensions import Unpack

    from sdrt.codec import Codec

FORMAT = "SDL"
_PIXEL_INFO = ("icc_profile", "transparency", "gamma", "chromaticity", "srgb")
"""Items of ``Image.info`` that describe the color encoding."""

_codecs: dict[str, Codec] = {}
"""The codec that all images share, under one key: absent until it is needed. ``setdefault`` sets it once, whichever
thread comes first."""


def register_opener(**keywords: Unpack[CodecKeywords]) -> None:
    """Let Pillow open and save .sdl files. Importing ``sdrt.pillow_plugin`` does the same with the defaults.

    ``Image.open`` keeps to Pillow's own limit of pixels, ``Image.MAX_IMAGE_PIXELS``, and where there is one, no side is
    longer than 65,535 (DecompressionBombError); a ``max_pixels`` that is given here holds in ``Image.load`` besides.

    Args:
        **keywords: Arguments of ``Codec``, for all images from now on.

    Raises:
        ArgumentError: As ``Codec``.

    Examples:
        >>> sdrt.register_opener(device="cpu")
        >>> with Image.open("photo.sdl") as image:
        ...     image.thumbnail((256, 256))
    """
    _codecs.clear()
    if keywords:
        _shared_codec(keywords)
    Image.register_open(FORMAT, SdlImageFile, _accept)
    Image.register_save(FORMAT, _save)
    Image.register_extension(FORMAT, sdl.SUFFIX)
    Image.register_mime(FORMAT, sdl.MEDIA_TYPE)


def _shared_codec(keywords: CodecKeywords) -> Codec:
    """The codec of ``register_opener``; made of ``keywords`` where there is none."""
    codec = _codecs.get(FORMAT)
    if codec is None:
        from sdrt.codec import Codec

        keywords.setdefault("max_pixels", None)
        codec = _codecs.setdefault(FORMAT, Codec(**keywords))
    return codec


def _accept(prefix: bytes) -> bool | str:
    """Whether a file with these first bytes is an .sdl file; a message if it is, but of an unsupported version."""
    if not prefix.startswith(sdl.MAGIC):
        return False
    try:
        sdl.check_version(prefix[len(sdl.MAGIC) : len(sdl.MAGIC) + 1])
    except SdrtError as error:
        return str(error)
    return True


class SdlImageFile(ImageFile.ImageFile):
    """An .sdl file: opened by its header, decoded when it is loaded.

    Opening raises SyntaxError for what is no .sdl file or has a broken header, so that Pillow tries its other formats.
    Loading and verifying raise OSError for a file that is truncated or altered, or whose model or engine is missing.
    """

    format = FORMAT
    format_description = "sdrt image"

    def _open(self) -> None:
        assert self.fp is not None
        try:
            header = sdl.read_header(self.fp, max_pixels=None)
        except SdrtError as error:
            raise SyntaxError(str(error)) from None
        if Image.MAX_IMAGE_PIXELS is not None and max(header.width_px, header.height_px) > DEFAULT_MAX_SIDE_PX:
            raise Image.DecompressionBombError(
                f"the picture has {header.width_px} x {header.height_px} pixels, the limit of a side is "
                f"{DEFAULT_MAX_SIDE_PX}: set Image.MAX_IMAGE_PIXELS to None if you trust its source"
            )
        self._size = header.width_px, header.height_px
        self._mode = "RGB" if header.chunk(sdl.ALPHA) is None else "RGBA"
        self.info.update(from_chunks(header.chunks).for_pillow())
        self.tile = [ImageFile._Tile(FORMAT, (0, 0, *self.size))]  # as long as there is one, the pixels are to come

    def load(self) -> PixelAccess | None:
        """Decode the pixels, if not done yet. Raises OSError."""
        if self.tile:
            data = self._read()
            try:
                image = _shared_codec({}).decode(data)
            except SdrtError as error:
                raise OSError(str(error)) from error
            self.im, self.tile, self.readonly = image.im, [], 0
            self._finish()
        return Image.Image.load(self)

    def load_seek(self, pos: int) -> None:
        """Its presence makes ``ImageFile.Parser`` wait for the whole file."""

    def verify(self) -> None:
        """Check the container and its checksum without decoding. Raises OSError."""
        try:
            sdl.unpack(self._read(), max_pixels=None)
        except SdrtError as error:
            raise OSError(str(error)) from error
        self._finish()

    def _read(self) -> bytes:
        if self.fp is None:
            raise ValueError("Operation on closed image")  # Pillow's own words
        self.fp.seek(0)
        try:
            return read_source(self.fp)
        except SdrtError as error:
            raise OSError(str(error)) from error

    def _finish(self) -> None:
        if self._exclusive_fp and self.fp is not None:
            self.fp.close()
        self.fp = None


def _save(image: Image.Image, stream: IO[bytes], filename: str | bytes) -> None:
    """Encode ``image`` as it is in memory: EXIF turns it only where EXIF is kept with it.

    Raises ValueError for options that are wrong, and any other SdrtError as it is.
    """
    given = {name: value for name, value in image.encoderinfo.items() if name in EncodeKeywords.__annotations__}
    if given.get("keep_metadata"):
        image.load()  # a file's late chunks, and a TIFF's tags, which no copy has
        source, info = image, image.info
    else:
        source = image.copy()
        info = {name: value for name, value in image.info.items() if name in _PIXEL_INFO}
    items = {name: data for name in ITEMS if (data := image.encoderinfo.get(name))}
    before, source.info = source.info, dict(info)
    for name, data in items.items():
        source.info[name] = data.tobytes() if isinstance(data, Image.Exif) else data
    options = cast(EncodeKeywords, {**given, "keep_metadata": True})
    try:
        coded = _shared_codec({}).encode(source, **options)
    finally:
        source.info = before
    WholeWriter(stream).write(coded)


register_opener()
