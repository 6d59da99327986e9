"""Where the bytes of an .sdl file come from: memory or a path."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from sdrt.container.sdl import MAX_FILE_BYTES
from sdrt.errors import ImageError, LimitError


def read_source(source: bytes | bytearray | memoryview | str | PathLike[str]) -> bytes:
    """The bytes themselves, or those of the file of that path.

    Raises ImageError if the file cannot be read, LimitError if it is larger than an .sdl file can be.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    path = Path(source)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ImageError(f"cannot read {str(path)!r}: {error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise LimitError(f"{path} has more than {MAX_FILE_BYTES} bytes, an .sdl file has at most so many")
    return data
