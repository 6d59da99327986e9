"""One call for one job: each function makes a ``Codec``, uses it once and lets it go.

Keywords are the arguments of ``Codec`` (``CodecKeywords``) and, to encode, the fields of ``EncodeOptions``. To work on
several pictures one after another, keep a ``Codec``: it loads its model once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from os import PathLike
from typing import TYPE_CHECKING, cast

from sdrt.codec import Codec
from sdrt.container.source import SdlSource
from sdrt.file_info import Info
from sdrt.options import CodecKeywords, EncodeCall, EncodeKeywords, EncodeOptions, updated
from sdrt.pixels.load import Source
from sdrt.pixels.picture import Crop, Picture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from typing_extensions import Unpack


def encode(picture: Source | Picture, options: EncodeOptions | None = None, **keywords: Unpack[EncodeCall]) -> bytes:
    """Encode one picture. See ``Codec`` and ``Codec.encode``.

    Examples:
        >>> data = sdrt.encode("photo.jpg", target_bytes=5000)
    """
    codec, options = _parted(options, keywords)
    return codec.encode(picture, options)


def encode_file(
    source: Source | Picture,
    destination: str | PathLike[str],
    options: EncodeOptions | None = None,
    *,
    overwrite: bool = True,
    **keywords: Unpack[EncodeCall],
) -> Info:
    """Encode one picture to a file. See ``Codec`` and ``Codec.encode_file``.

    Examples:
        >>> sdrt.encode_file("photo.jpg", "photo.sdl", quality=60).file_bytes
        9384
    """
    codec, options = _parted(options, keywords)
    return codec.encode_file(source, destination, options, overwrite=overwrite)


def encode_many(
    pictures: Iterable[Source | Picture],
    options: EncodeOptions | None = None,
    *,
    workers: int | None = None,
    **keywords: Unpack[EncodeCall],
) -> Iterator[bytes]:
    """Encode many pictures on several threads, in order. See ``Codec`` and ``Codec.encode_many``.

    Examples:
        >>> for path, data in zip(paths, sdrt.encode_many(paths, target_bytes=5000)):
        ...     path.with_suffix(".sdl").write_bytes(data)
    """
    codec, options = _parted(options, keywords)
    return codec.encode_many(pictures, options, workers=workers)


def decode(data: SdlSource, *, crop: Crop | None = None, **keywords: Unpack[CodecKeywords]) -> Image.Image:
    """Decode one file to a Pillow image. See ``Codec`` and ``Codec.decode``.

    Examples:
        >>> sdrt.decode("photo.sdl").size
        (768, 512)
    """
    return Codec(**keywords).decode(data, crop=crop)


def decode_file(
    source: SdlSource,
    destination: str | PathLike[str],
    *,
    crop: Crop | None = None,
    strip: bool = False,
    overwrite: bool = True,
    **keywords: Unpack[CodecKeywords],
) -> None:
    """Decode one file to a picture file. See ``Codec`` and ``Codec.decode_file``.

    Examples:
        >>> sdrt.decode_file("photo.sdl", "photo.png")
    """
    Codec(**keywords).decode_file(source, destination, crop=crop, strip=strip, overwrite=overwrite)


def decode_many(
    files: Iterable[SdlSource], *, workers: int | None = None, **keywords: Unpack[CodecKeywords]
) -> Iterator[Image.Image]:
    """Decode many files on several threads, in order. See ``Codec`` and ``Codec.decode_many``.

    Examples:
        >>> for path, image in zip(paths, sdrt.decode_many(paths)):
        ...     image.save(path.with_suffix(".png"))
    """
    return Codec(**keywords).decode_many(files, workers=workers)


def truth_map(data: SdlSource, **keywords: Unpack[CodecKeywords]) -> NDArray[np.uint8] | None:
    """How far each 32x32 cell of the decoded picture is from the original, by the file. See ``Codec.truth_map``.

    Example:
        >>> (sdrt.truth_map("photo.sdl") == sdrt.Truth.KEPT).mean()
        0.61
    """
    return Codec(**keywords).truth_map(data)


def _parted(options: EncodeOptions | None, keywords: EncodeCall) -> tuple[Codec, EncodeOptions]:
    """The codec and the options that the keywords of one call ask for. Raises as both do."""
    of_codec = {name: value for name, value in keywords.items() if name in CodecKeywords.__annotations__}
    of_options = {name: value for name, value in keywords.items() if name not in of_codec}
    wanted = updated(options, **cast(EncodeKeywords, of_options))
    return Codec(**cast(CodecKeywords, of_codec)), wanted
