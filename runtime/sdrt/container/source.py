"""Where the bytes of an .sdl file come from: memory, a path or a stream."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from sdrt import streams
from sdrt.container.sdl import MAGIC, MAX_FILE_BYTES
from sdrt.errors import ImageError, LimitError


def read_source(source: bytes | bytearray | memoryview | str | PathLike[str]) -> bytes:
    """The bytes themselves, or those of the file of that path, as ``read_stream`` gives them.

    Raises ImageError if the file cannot be read, LimitError if it is larger than an .sdl file can be.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    path = Path(source)
    try:
        with path.open("rb") as stream:
            return read_stream(stream, str(path))
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ImageError(f"cannot read {str(path)!r}: {error}") from None


def read_stream(stream: streams.Source, name: str) -> bytes:
    """The bytes of an .sdl file; of anything else only the beginning, which ``sdl.unpack`` refuses.

    Memory grows with what comes, not with what might.

    Raises LimitError if there are more than an .sdl file can have; OSError.
    """
    data = streams.read_whole(stream, MAX_FILE_BYTES, begins=MAGIC)
    if len(data) > MAX_FILE_BYTES:
        raise LimitError(f"{name} has more than {MAX_FILE_BYTES} bytes, an .sdl file has at most so many")
    return data
