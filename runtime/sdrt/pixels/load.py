"""Pictures: files, Pillow images and arrays -> upright 8-bit sRGB. ``save`` goes the way back."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from sdrt import streams
from sdrt.errors import ImageError, LimitError
from sdrt.limits import DEFAULT_MAX_PIXELS, check_pixels
from sdrt.pixels.color import Conversion, plan_conversion
from sdrt.pixels.metadata import read_metadata
from sdrt.pixels.picture import Picture, Pixels
from sdrt.pixels.save import one_line

Source = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | npt.NDArray[np.generic]

MAX_STREAM_BYTES = 2**31
_STRIP_ROWS = 64
_FLOAT_TOLERANCE = 1e-3
_PILLOW_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):
    # A child that is forked while another thread reads would find the lock taken for ever, and Pillow's limit changed.
    os.register_at_fork(
        before=_PILLOW_LOCK.acquire,
        after_in_parent=_PILLOW_LOCK.release,
        after_in_child=_PILLOW_LOCK.release,
    )


def load(source: Source, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Picture:
    """Read a picture of any kind into upright 8-bit sRGB.

    ``source``: a path, the bytes of a file, a binary stream, a Pillow image, or an array of shape (H, W), (H, W, 1),
    (H, W, 3) or (H, W, 4) of uint8, uint16 (0..65535) or floats (0..1). An array of uint8 (H, W, 3) is not copied.
    The EXIF orientation is applied, ICC profiles are converted to sRGB, of an animation the first frame is taken.
    Files are read one at a time in a process, because Pillow's warnings and its own pixel limit belong to the process.

    Raises ImageError for what is no readable picture, LimitError for more than ``max_pixels`` pixels (None: no limit)
    before they are decoded.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        with _pillow("the image", max_pixels):
            return _from_pillow(source, max_pixels)
    if isinstance(source, (str, os.PathLike)):
        return _from_path(Path(source), str(source), max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_file(io.BytesIO(source), "the data", max_pixels)
    if hasattr(source, "read"):
        return _from_file(io.BytesIO(_read_stream(source, "the stream")), "the stream", max_pixels)
    raise ImageError(
        f"cannot read a picture from a {type(source).__name__}: give a path, bytes, a Pillow image or array"
    )


def _read_stream(stream: streams.Source, name: str) -> bytes:
    try:
        data = streams.read_whole(stream, MAX_STREAM_BYTES)
    except (OSError, ValueError, TypeError) as error:
        raise ImageError(f"cannot read {name}: {one_line(error)}") from error
    if len(data) > MAX_STREAM_BYTES:
        raise LimitError(f"{name} is longer than {MAX_STREAM_BYTES} bytes")
    return data


@contextlib.contextmanager
def _pillow(name: str, max_pixels: int | None) -> Iterator[None]:
    """Pillow's border: no warning and no exception of its kind passes, and its pixel limit gives way to ``max_pixels``.

    Raises ImageError and LimitError, in one line that begins with ``name``.
    """
    with _PILLOW_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = Image.MAX_IMAGE_PIXELS
        if max_pixels is None or (theirs is not None and max_pixels > 2 * theirs):
            Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        except (ImageError, LimitError):
            raise
        except Image.DecompressionBombError as error:
            raise LimitError(f"{name}: {_one_line(error)}") from error
        except MemoryError as error:
            raise LimitError(f"{name}: not enough memory to decode the picture") from error
        except FileNotFoundError as error:
            raise ImageError(f"cannot read {name}: no such file") from error
        except Exception as error:  # Pillow's plugins raise nearly every kind on hostile files
            raise ImageError(f"cannot read {name}: {_one_line(error)}") from error
        finally:
            Image.MAX_IMAGE_PIXELS = theirs


def _one_line(error: Exception) -> str:
    return "not a picture of a known format" if isinstance(error, UnidentifiedImageError) else one_line(error)


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
    metadata = read_metadata(image)
    conversion = plan_conversion(image, raw_mode if isinstance(raw_mode, str) else "")
    rgb, alpha = _upright(image, conversion, metadata.orientation)
    notes = metadata.notes + conversion.notes
    if getattr(image, "is_animated", False):
        which = "first" if image.tell() == 0 else "current"
        notes = (f"several frames or pages: only the {which} one is taken", *notes)
    return Picture(rgb, alpha, metadata.exif, metadata.xmp, notes)


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
