"""Reads the bytes of an .sdl file from memory, a path, or a binary stream."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from sdrt.container.sdl import MAGIC, MAX_FILE_BYTES
from sdrt.errors import ArgumentError, ImageError, LimitError, MissingFileError
from sdrt.streams import Readable, read_at_most

SdlSource = bytes | bytearray | memoryview | str | PathLike[str] | Readable
"""The contents of an .sdl file, its path, or a binary stream that ends with the file."""


def read_source(source: SdlSource, stream_name: str = "the stream") -> bytes:
    """The bytes of an .sdl file. Of other data only the first bytes are read, which ``sdl.unpack`` then refuses.

    Memory grows with the bytes that arrive, up to the largest .sdl file.

    Args:
        source: The bytes themselves, a path, or a binary stream, which is read to its end.
        stream_name: The name of a stream in error messages.

    Raises:
        MissingFileError: There is no such file.
        ImageError: The file or the stream cannot be read.
        LimitError: It is larger than an .sdl file can be.
        ArgumentError: ``source`` is none of these.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, (str, PathLike)):
        path = Path(source)
        try:
            with path.open("rb") as stream:
                return _read(stream, str(path))
        except FileNotFoundError:
            raise MissingFileError(f"cannot read {path}: no such file") from None
        except OSError as error:
            raise ImageError(f"cannot read {path}: {error.strerror or error}") from None
        except ValueError as error:
            raise ImageError(f"cannot read {str(path)!r}: {error}") from None
    if not hasattr(source, "read"):
        raise ArgumentError(
            f"cannot read an .sdl file from a {type(source).__name__}: give bytes, a path or a binary stream"
        )
    try:
        return _read(source, stream_name)
    except OSError as error:
        raise ImageError(f"cannot read {stream_name}: {error.strerror or error}") from None
    except (ValueError, TypeError) as error:
        raise ImageError(f"cannot read {stream_name}: {error}") from None


def _read(stream: Readable, name: str) -> bytes:
    data = read_at_most(stream, len(MAGIC))
    if data == MAGIC:
        data += read_at_most(stream, MAX_FILE_BYTES + 1 - len(MAGIC))
    if len(data) > MAX_FILE_BYTES:
        raise LimitError(f"{name} has more than {MAX_FILE_BYTES} bytes, the limit of an .sdl file")
    return data
