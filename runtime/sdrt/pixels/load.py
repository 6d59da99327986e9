"""Pictures: files, Pillow images and arrays -> upright 8-bit sRGB. ``save`` goes the way back."""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from sdrt.arguments import check_count
from sdrt.errors import ArgumentError, ImageError, LimitError, MissingFileError, SdrtError
from sdrt.limits import DEFAULT_MAX_PIXELS, beyond, check_pixels
from sdrt.pixels import boxes, tiff_tags, webp_chunks
from sdrt.pixels.boxes import is_boxes
from sdrt.pixels.color import Conversion, plan_conversion
from sdrt.pixels.colorimetry import ADOBE_RGB
from sdrt.pixels.declared import Declared, Excerpt
from sdrt.pixels.examine import encoding_in, examine
from sdrt.pixels.formats import PREFIX_BYTES, add_plugin, check_picture, check_prefix, seek_whole, unknown
from sdrt.pixels.image_metadata import read_metadata
from sdrt.pixels.jpeg_segments import SIGNATURE as JPEG_SIGNATURE
from sdrt.pixels.jpeg_segments import completed
from sdrt.pixels.libtiff import overheard
from sdrt.pixels.picture import Picture, Pixels
from sdrt.pixels.pillow_state import reading
from sdrt.pixels.save import one_line
from sdrt.streams import Readable, read_at_most

Source = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | npt.NDArray[np.generic]

MAX_STREAM_BYTES = 2**31
_STRIP_ROWS = 64
_FLOAT_TOLERANCE = 1e-3


def load(source: Source, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Picture:
    """Read a picture of any kind into upright 8-bit sRGB.

    The EXIF orientation is applied, colors become sRGB however the file declares them, and of an animation the first
    frame is taken. docs/PICTURES.md has the rest.

    Args:
        source: A path, the bytes of a file, a binary stream, a Pillow image, or an array of shape (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4) of uint8, uint16 (0 to 65535) or floats (0 to 1). An array of uint8 (H, W, 3) is not
            copied.
        max_pixels: Larger pictures are refused before they are decoded; None: no limit.

    Returns:
        The picture, with its metadata and with notes on what was dropped or converted.

    Raises:
        MissingFileError: There is no such file.
        ImageError: It is not a readable picture.
        LimitError: It has more than ``max_pixels`` pixels.
        ArgumentError: ``source`` is none of these, or ``max_pixels`` is out of range.
    """
    check_count("max_pixels", max_pixels)
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        with _pillow("the image", max_pixels):
            return _from_pillow(source, max_pixels, _declared_by(source))
    if isinstance(source, (str, os.PathLike)):
        return _from_path(Path(source), str(source), max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_file(io.BytesIO(source), "the data", max_pixels)
    if hasattr(source, "read"):
        return _from_file(io.BytesIO(_read_stream(source, "the stream")), "the stream", max_pixels)
    raise ArgumentError(
        f"cannot read a picture from a {type(source).__name__}: give a path, bytes, a Pillow image or array"
    )


def _read_stream(stream: Readable, name: str) -> bytes:
    try:
        data = read_at_most(stream, MAX_STREAM_BYTES + 1)
    except (OSError, ValueError, TypeError) as error:
        raise ImageError(f"cannot read {name}: {one_line(error)}") from error
    if len(data) > MAX_STREAM_BYTES:
        raise LimitError(f"{name} is longer than {MAX_STREAM_BYTES} bytes")
    return data


@contextlib.contextmanager
def _pillow(name: str, max_pixels: int | None) -> Iterator[None]:
    """Translates Pillow's exceptions to ours, silences its warnings, and sets its pixel limit to ``max_pixels``.

    Raises ImageError and LimitError, in one line that begins with ``name``.
    """
    with reading(max_pixels):
        try:
            yield
        except MissingFileError:
            raise
        except ImageError as error:
            raise ImageError(f"cannot read {name}: {error}") from error
        except LimitError as error:
            raise LimitError(f"{name}: {error}") from error
        except Image.DecompressionBombError as error:
            found = re.search(r"\d+ pixels", str(error))
            raise LimitError(f"{name}: {beyond(found[0] if found else 'too many pixels', max_pixels)}") from error
        except MemoryError as error:
            raise LimitError(f"{name}: not enough memory to decode the picture") from error
        except FileNotFoundError as error:
            raise MissingFileError(f"cannot read {name}: no such file") from error
        except (KeyError, IndexError, AttributeError) as error:  # whose words alone say nothing
            raise ImageError(f"cannot read {name}: its decoder failed ({type(error).__name__})") from error
        except Exception as error:  # Pillow's plugins raise nearly every kind on hostile files
            raise ImageError(f"cannot read {name}: {one_line(error)}") from error


def _from_path(path: Path, name: str, max_pixels: int | None) -> Picture:
    if not _is_pipe(path):
        return _from_file(path, name, max_pixels)
    try:
        with path.open("rb") as stream:  # Pillow goes back and forth, which a pipe does not allow
            data = _read_stream(stream, name)
    except OSError as error:
        raise ImageError(f"cannot read {name}: {one_line(error)}") from error
    return _from_file(io.BytesIO(data), name, max_pixels)


def _is_pipe(path: Path) -> bool:
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except (OSError, ValueError):  # opening it says why
        return False


def _from_file(file: Path | BinaryIO, name: str, max_pixels: int | None) -> Picture:
    with contextlib.ExitStack() as files, _pillow(name, max_pixels):
        stream = files.enter_context(file.open("rb")) if isinstance(file, Path) else file
        if not stream.seekable():
            file = stream = io.BytesIO(_read_stream(stream, name))
        prefix = stream.read(PREFIX_BYTES)
        check_prefix(prefix)
        declared = examine(stream)
        if declared.parts is not None:
            file = stream = io.BufferedReader(Excerpt(stream, declared.parts))
        stream.seek(0)
        try:
            return _opened(file, prefix, max_pixels, declared)
        except (SdrtError, Image.DecompressionBombError, MemoryError):
            raise
        except Exception as error:
            picture = _mended(prefix, stream, max_pixels, declared)
            if picture is not None:
                return picture
            if isinstance(error, UnidentifiedImageError):
                raise ImageError(unknown(prefix)) from error
            raise


def _mended(prefix: bytes, stream: BinaryIO, max_pixels: int | None, declared: Declared) -> Picture | None:
    """Retries a file that Pillow refuses without the part that it objects to, if that part is not the picture."""
    if prefix.startswith(JPEG_SIGNATURE):
        mend, note = completed, "its end marker is missing; all of its pixels are there"
    elif is_boxes(prefix):
        mend, note = boxes.without_metadata, "broken metadata: not kept"
    elif prefix[:4] in tiff_tags.SIGNATURES:
        mend, note = tiff_tags.without_metadata, "broken metadata: not kept"
    elif prefix.startswith(webp_chunks.SIGNATURE):
        mend, note = webp_chunks.without_metadata, "broken or incomplete metadata: not kept"
    else:
        return None
    try:
        stream.seek(0)
        data = stream.read()
        mended = mend(data)
        if mended is None or mended == data:
            return None
        return _opened(io.BytesIO(mended), prefix, max_pixels, replace(declared, notes=(note, *declared.notes)))
    except SdrtError:
        raise
    except Exception:  # Pillow's error for the original file is more informative
        return None


def _opened(file: Path | BinaryIO, prefix: bytes, max_pixels: int | None, declared: Declared) -> Picture:
    try:
        image: Image.Image = Image.open(file)
    except UnidentifiedImageError:
        if not add_plugin(prefix):
            raise
        image = Image.open(file)
    with image:
        if image.format == "EPS":
            raise ImageError("EPS needs Ghostscript, and sdrt runs no other program on a file")
        image.info.update(declared.info)
        notes = check_picture(image)
        seek_whole(image)
        return _from_pillow(image, max_pixels, replace(declared, notes=declared.notes + notes))


def _declared_by(image: Image.Image) -> Declared:
    """What the file of an image declares, if the image has not been loaded from it yet."""
    declared = Declared()
    with contextlib.suppress(AttributeError, OSError, ValueError):  # no file, a closed one, one that cannot seek
        declared = examine(getattr(image, "fp"))  # noqa: B009 (images in memory have none)
    return replace(declared, notes=declared.notes + check_picture(image))


def _from_pillow(image: Image.Image, max_pixels: int | None, declared: Declared) -> Picture:
    check_pixels(image.width, image.height, max_pixels)
    tiles = getattr(image, "tile", None)
    raw_mode = tiles[0].args if tiles else ""
    if isinstance(raw_mode, tuple):
        raw_mode = raw_mode[0] if raw_mode else ""
    with overheard() if image.format == "TIFF" else contextlib.nullcontext(()) as words:
        image.load()
    check_pixels(image.width, image.height, max_pixels)
    if image.width < 1 or image.height < 1:
        raise ImageError(f"the picture has no pixels: {image.width} x {image.height}")
    source = read_metadata(image)
    icc = declared.info.get("icc_profile", image.info.get("icc_profile"))
    notes = [*source.notes, *declared.notes, *(f"decoder warning: {text}" for text in words)]
    encoding = declared.encoding
    if encoding is None and not icc:
        encoding = encoding_in(image, notes) or (ADOBE_RGB if source.adobe_rgb else None)
    conversion = plan_conversion(image, raw_mode if isinstance(raw_mode, str) else "", icc, encoding)
    rgb, alpha = _upright(image, conversion, source.orientation)
    # Of a PSD that would parse its layers, which are no frames, and may be broken.
    if (image.format != "PSD" and getattr(image, "is_animated", False)) or declared.several:
        which = "first" if image.tell() == 0 else "current"
        notes.insert(0, f"several frames or pages: only the {which} one is taken")
    return Picture(rgb, alpha, source.metadata, (*notes, *conversion.notes))


def _upright(image: Image.Image, conversion: Conversion, orientation: int) -> tuple[Pixels, Pixels | None]:
    """Writes the strips directly to their place in the rotated picture, so that it is held once."""
    sides = (image.height, image.width) if orientation < 5 else (image.width, image.height)
    rgb = np.empty((*sides, 3), np.uint8)
    alpha = np.empty(sides, np.uint8) if conversion.has_alpha else None
    rgb_as_stored = _as_stored(rgb, orientation)
    alpha_as_stored = None if alpha is None else _as_stored(alpha, orientation)
    for top, rgb_strip, alpha_strip in conversion.strips():
        bottom = top + rgb_strip.shape[0]
        rgb_as_stored[top:bottom] = rgb_strip
        if alpha_as_stored is not None:
            assert alpha_strip is not None
            alpha_as_stored[top:bottom] = alpha_strip
    if alpha is not None and bool((alpha == 255).all()):
        alpha = None
    return rgb, alpha


def _as_stored(upright: Pixels, orientation: int) -> Pixels:
    """A view of an upright picture, (H, W, ...), whose rows and columns are those of the file, for EXIF's 1..8."""
    view = upright if orientation < 5 else upright.swapaxes(0, 1)
    if orientation in (3, 4, 6, 7):
        view = view[::-1]
    if orientation in (2, 3, 7, 8):
        view = view[:, ::-1]
    return view


def _from_array(array: npt.NDArray[np.generic], max_pixels: int | None) -> Picture:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in array.shape:
        expected = "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        raise ImageError(f"an array of shape {array.shape} is not a picture: expected {expected}")
    check_pixels(array.shape[1], array.shape[0], max_pixels)
    levels = _levels_of_array(array)
    if levels.ndim == 2:
        levels = levels[:, :, None]
    alpha: Pixels | None = None
    if levels.shape[2] == 4:
        alpha = None if bool((levels[:, :, 3] == 255).all()) else levels[:, :, 3].copy()
        levels = levels[:, :, :3]
    elif levels.shape[2] == 1:
        levels = np.repeat(levels, 3, axis=2)
    return Picture(np.ascontiguousarray(levels), alpha)


def _levels_of_array(array: npt.NDArray[np.generic]) -> Pixels:
    if array.dtype == np.uint8:
        return array.astype(np.uint8, copy=False)
    is_float = np.issubdtype(array.dtype, np.floating)
    if not is_float and array.dtype.newbyteorder("=") != np.uint16:
        raise ImageError(f"an array of {array.dtype} is not a picture: expected uint8, uint16 or floats from 0 to 1")
    levels = np.empty(array.shape, np.uint8)
    for top in range(0, array.shape[0], _STRIP_ROWS):
        strip = array[top : top + _STRIP_ROWS].astype(np.float32)
        if is_float:
            low, high = float(strip.min()), float(strip.max())
            if not (low >= -_FLOAT_TOLERANCE and high <= 1 + _FLOAT_TOLERANCE):
                raise ImageError(f"float pixels must be from 0 to 1, these are from {low:g} to {high:g}")
        strip *= np.float32(255 if is_float else 255 / 65535)
        levels[top : top + _STRIP_ROWS] = np.clip(np.rint(strip), 0, 255)
    return levels
