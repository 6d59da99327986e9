"""Pictures -> files and Pillow images.

PNG and PPM are written from strips as these arrive, so that memory does not grow with the picture. The libraries behind
all other formats want the whole picture: for these the strips are gathered first.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from sdrt.atomic import atomic_file
from sdrt.errors import OutputError
from sdrt.pixels.metadata import ITEMS, Metadata
from sdrt.pixels.picture import Picture, Strips, gather, scatter
from sdrt.pixels.png import write_png
from sdrt.streams import Sink, WholeWriter

SAVE_OPTIONS: dict[str, tuple[str, dict[str, int | bool | str]]] = {
    ".png": ("PNG", {}),
    ".webp": ("WEBP", {"lossless": True}),
    ".tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".bmp": ("BMP", {}),
    ".ppm": ("PPM", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".avif": ("AVIF", {"quality": 90}),
}
"""Suffix -> Pillow's format and options: lossless where the format can, otherwise close to it. No suffix means PNG."""

_WITHOUT_ALPHA = ("JPEG", "PPM", "BMP")
_JPEG_SEGMENT_BYTES = 65533


def to_pil(picture: Picture) -> Image.Image:
    """The picture as a Pillow image of mode RGB or RGBA, its metadata in ``info``, see ``Metadata``."""
    image = Image.fromarray(picture.rgb)
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    image.info.update(picture.metadata.for_pillow())
    return image


def format_of(suffix: str) -> tuple[str, dict[str, int | bool | str]]:
    """Pillow's name and options of the format of ``.webp`` and the like; PNG for "". Raises OutputError."""
    known = SAVE_OPTIONS.get((suffix or ".png").lower())
    if known is None:
        raise OutputError(f"cannot write {suffix} files: the known suffixes are {', '.join(SAVE_OPTIONS)}")
    return known


def save(
    picture: Picture | Strips,
    destination: str | os.PathLike[str] | Sink,
    *,
    suffix: str | None = None,
    overwrite: bool = True,
) -> None:
    """Write a picture to a file or a stream. PNG keeps all ``Metadata``, other formats what ``ITEMS`` says.

    Args:
        picture: A whole picture, or strips of one, which PNG and PPM write one by one.
        destination: A path, which is written atomically, or a binary stream. Nothing is written before the first rows
            are computed; if later ones fail, a stream has a part of the file.
        suffix: ".png", ".webp", ...: chooses the format. None: that of the path; PNG where it has none.
        overwrite: Replace an existing file.

    Raises:
        OutputError: An unknown suffix, a format that cannot hold the picture, a file that exists while ``overwrite`` is
            False, or whatever the system refuses.

    And what computing the rows raises.
    """
    stream = None if isinstance(destination, (str, os.PathLike)) else WholeWriter(destination)
    path = Path(destination) if isinstance(destination, (str, os.PathLike)) else None
    wanted = suffix if suffix is not None else path.suffix if path is not None else ""
    kind, options = format_of(wanted)
    if picture.alpha is not None and kind in _WITHOUT_ALPHA:
        raise OutputError(f"{kind} holds no transparency: write .png or .webp")
    name = stream.name if stream is not None else str(path)
    if kind in _STRIP_WRITERS:
        strips = _begun(picture if isinstance(picture, Strips) else scatter(picture))
        write: Callable[[Sink], object] = partial(_STRIP_WRITERS[kind], strips)
    else:
        if kind == "JPEG":
            _check_segments(picture.metadata, name)
        whole = picture if isinstance(picture, Picture) else gather(picture)
        coded = io.BytesIO()
        try:
            to_pil(whole).save(coded, kind, **options, **whole.metadata.for_saving(kind))
        except Exception as error:  # Pillow's encoders raise nearly every kind
            raise OutputError(f"cannot write {name}: {one_line(error)}") from error
        write = partial(_write_buffer, coded)
    if path is not None:
        with atomic_file(path, overwrite=overwrite) as file:
            write(file)
        return
    assert stream is not None
    try:
        write(stream)
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write {name}: {one_line(error)}") from error


def _check_segments(metadata: Metadata, name: str) -> None:
    """Raises OutputError for more metadata than a segment of JPEG holds."""
    for field, item in ITEMS.items():
        size_bytes, max_bytes = len(getattr(metadata, field) or b""), _JPEG_SEGMENT_BYTES - len(item.jpeg_prefix)
        if size_bytes > max_bytes and "JPEG" in item.formats:
            raise OutputError(
                f"cannot write {name}: {size_bytes} bytes of {field.upper()}, of which JPEG holds {max_bytes}: "
                "leave the metadata out (--strip), or write .png or .webp"
            )


def one_line(error: Exception) -> str:
    """The message of another library's exception, in one line of at most 200 characters."""
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
    return " ".join(text.split())[:200]


def _begun(strips: Strips) -> Strips:
    """The same with the first rows computed: an engine that fails at once must not leave half a file in a pipe."""
    return replace(strips, rows=itertools.chain([next(strips.rows)], strips.rows))


def _write_buffer(coded: io.BytesIO, stream: Sink) -> None:
    stream.write(coded.getvalue())


def _write_ppm(strips: Strips, stream: Sink) -> None:
    stream.write(b"P6\n%d %d\n255\n" % (strips.width_px, strips.height_px))
    for rows in strips.rows:
        stream.write(np.ascontiguousarray(rows).data)


_STRIP_WRITERS: dict[str, Callable[[Strips, Sink], None]] = {"PNG": write_png, "PPM": _write_ppm}
