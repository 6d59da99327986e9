"""Pictures: files, Pillow images and arrays -> upright 8-bit sRGB. ``save`` goes the way back."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from sdrt.errors import ArgumentError, ImageError, LimitError, MissingFileError
from sdrt.limits import DEFAULT_MAX_PIXELS, check_pixels
from sdrt.pixels.color import Conversion, plan_conversion
from sdrt.pixels.metadata import read_metadata
from sdrt.pixels.picture import Picture, Pixels
from sdrt.pixels.pillow_state import reading
from sdrt.pixels.save import one_line

Source = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | npt.NDArray[np.generic]

MAX_STREAM_BYTES = 2**31
_STRIP_ROWS = 64
_FLOAT_TOLERANCE = 1e-3


def load(source: Source, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Picture:
    """Read a picture of any kind into upright 8-bit sRGB.

    The EXIF orientation is applied, ICC profiles are converted to sRGB, of an animation the first frame is taken.

    Args:
        source: A path, the bytes of a file, a binary stream, a Pillow image, or an array of shape (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4) of uint8, uint16 (0 to 65535) or floats (0 to 1). An array of uint8 (H, W, 3) is not
            copied.
        max_pixels: Larger pictures are refused before they are decoded; None: no limit.

    Returns:
        The picture, with its metadata and with notes on what was left out or changed.

    Raises:
        MissingFileError: There is no such file.
        ImageError: It is no picture that can be read.
        LimitError: It has more than ``max_pixels`` pixels.
        ArgumentError: ``source`` is none of these.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        with _pillow("the image", max_pixels):
            return _from_pillow(source, max_pixels)
    if isinstance(source, (str, os.PathLike)):
        return _from_file(Path(source), str(source), max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_file(io.BytesIO(source), "the data", max_pixels)
    if hasattr(source, "read"):
        return _from_file(io.BytesIO(_read_stream(source)), "the stream", max_pixels)
    raise ArgumentError(
        f"cannot read a picture from a {type(source).__name__}: give a path, bytes, a Pillow image or array"
    )


def _read_stream(stream: BinaryIO) -> bytes:
    try:
        data = stream.read(MAX_STREAM_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read the stream: {error}") from error
    if not isinstance(data, bytes):
        raise ImageError("cannot read the stream: it gives text, not bytes")
    if len(data) > MAX_STREAM_BYTES:
        raise LimitError(f"the stream is longer than {MAX_STREAM_BYTES} bytes")
    return data


@contextlib.contextmanager
def _pillow(name: str, max_pixels: int | None) -> Iterator[None]:
    """Translates Pillow's warnings and exceptions: none of its kind passes, and its pixel limit is ``max_pixels``.

    Raises ImageError and LimitError, in one line that begins with ``name``.
    """
    with reading(max_pixels):
        try:
            yield
        except (ImageError, LimitError):
            raise
        except Image.DecompressionBombError as error:
            raise LimitError(f"{name}: {_one_line(error)}") from error
        except MemoryError as error:
            raise LimitError(f"{name}: not enough memory to decode the picture") from error
        except FileNotFoundError as error:
            raise MissingFileError(f"cannot read {name}: no such file") from error
        except Exception as error:  # Pillow's plugins raise nearly every kind on hostile files
            raise ImageError(f"cannot read {name}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return "not a picture of a known format" if isinstance(error, UnidentifiedImageError) else one_line(error)


def _from_file(file: Path | BinaryIO, name: str, max_pixels: int | None) -> Picture:
    with _pillow(name, max_pixels), Image.open(file) as image:
        if image.format == "EPS":
            raise ImageError(f"cannot read {name}: EPS needs Ghostscript, and sdrt runs no other program on a file")
        return _from_pillow(image, max_pixels)


def _from_pillow(image: Image.Image, max_pixels: int | None) -> Picture:
    check_pixels(image.width, image.height, max_pixels)
    tiles = getattr(image, "tile", None)
    raw_mode = tiles[0].args if tiles else ""
    if isinstance(raw_mode, tuple):
        raw_mode = raw_mode[0] if raw_mode else ""
    image.load()
    check_pixels(image.width, image.height, max_pixels)
    if image.width < 1 or image.height < 1:
        raise ImageError(f"the picture has no pixels: {image.width} x {image.height}")
    source = read_metadata(image)
    conversion = plan_conversion(image, raw_mode if isinstance(raw_mode, str) else "")
    rgb, alpha = _upright(image, conversion, source.orientation)
    notes = source.notes + conversion.notes
    if getattr(image, "is_animated", False):
        which = "first" if image.tell() == 0 else "current"
        notes = (f"several frames or pages: only the {which} one is taken", *notes)
    return Picture(rgb, alpha, source.metadata, notes)


def _upright(image: Image.Image, conversion: Conversion, orientation: int) -> tuple[Pixels, Pixels | None]:
    """Write the strips straight to where the turned picture has them, so that it is held once."""
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
        raise ImageError(f"an array of shape {array.shape} is no picture: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) is")
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
        raise ImageError(f"an array of {array.dtype} is no picture: uint8, uint16 or floats from 0 to 1 are")
    levels = np.empty(array.shape, np.uint8)
    for top in range(0, array.shape[0], _STRIP_ROWS):
        strip = array[top : top + _STRIP_ROWS].astype(np.float32)
        if is_float:
            low, high = float(strip.min()), float(strip.max())
            if not (low >= -_FLOAT_TOLERANCE and high <= 1 + _FLOAT_TOLERANCE):
                raise ImageError(f"float pixels must lie from 0 to 1, these reach from {low:g} to {high:g}")
        strip *= np.float32(255 if is_float else 255 / 65535)
        levels[top : top + _STRIP_ROWS] = np.clip(np.rint(strip), 0, 255)
    return levels
