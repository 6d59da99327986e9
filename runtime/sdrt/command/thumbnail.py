"""``sdrt thumbnail``: the small picture that a file manager shows, as freedesktop.org has it.

Source: https://specifications.freedesktop.org/thumbnail-spec/latest/
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sdrt.command.console import STDIO, check_output, report_error, write_output
from sdrt.errors import ImageError, OutputError, SdrtError
from sdrt.streams import WholeWriter
from sdrt.user_folders import CACHE, user_folder

FOLDERS = {128: "normal", 256: "large", 512: "x-large", 1024: "xx-large"}
"""Longest side -> the folder of the thumbnail cache for that size."""

_LOOK_BYTES = 1 << 14  # in which a thumbnail says what it shows: before its pixels


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds the parser of this command."""
    parser = commands.add_parser("thumbnail", help="a small PNG of an .sdl file, for file managers")
    parser.add_argument("input", metavar="FILE", help="an .sdl file")
    parser.add_argument(
        "output", metavar="PNG", nargs="?", help="default: its place in the cache of file managers; - is stdout"
    )
    parser.add_argument("size", metavar="PX", nargs="?", type=_size, default=256, help="longest side (default: 256)")
    parser.set_defaults(run=_run)


def _size(text: str) -> int:
    if not text.isdecimal() or len(text) > 4 or not 1 <= int(text) <= max(FOLDERS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of pixels from 1 to {max(FOLDERS)}")
    return int(text)


def _run(arguments: argparse.Namespace) -> int:
    source, output = Path(arguments.input), arguments.output
    try:
        if output == STDIO:
            check_output(STDIO, overwrite=False)
            write_output(STDIO, make_thumbnail(source, arguments.size), overwrite=False)
        else:
            write_thumbnail(source, None if output is None else Path(output), arguments.size)
    except SdrtError as error:
        return report_error(error, arguments.input)
    return 0


def cache_place(source: Path, size_px: int) -> Path:
    """Where file managers look for the thumbnail of an absolute path, in the smallest folder that takes the size.

    Raises OutputError if this user's cache folder is unknown.
    """
    import hashlib

    try:
        cache = Path(user_folder(*CACHE)).expanduser()
    except RuntimeError:
        raise OutputError("this user's cache folder is unknown: set XDG_CACHE_HOME or name the output") from None
    folder = FOLDERS[min(side for side in FOLDERS if side >= size_px)]
    return cache / "thumbnails" / folder / f"{hashlib.md5(source.as_uri().encode()).hexdigest()}.png"


def make_thumbnail(source: Path, size_px: int) -> bytes:
    """The thumbnail of an .sdl file, a PNG with what a file manager needs to know whether it is of that file still.

    Raises what ``Codec.thumbnail`` raises.
    """
    import io

    from sdrt.codec import Codec
    from sdrt.container import sdl
    from sdrt.container.source import read_source
    from sdrt.pixels.picture import scatter
    from sdrt.pixels.png import write_png

    data = read_source(source)
    try:
        path, status = source.absolute(), source.stat()
    except OSError as error:  # it went away, or the folder in which we stand did
        raise ImageError(f"cannot read {source}: {error.strerror or error}") from None
    header = sdl.unpack(data)
    picture = Codec(device="cpu").thumbnail(data, size_px)  # a GPU's start takes longer than all of this
    texts = {
        "Software": "sdrt",
        "Thumb::Image::Height": str(header.height_px),
        "Thumb::Image::Width": str(header.width_px),
        "Thumb::MTime": str(int(status.st_mtime)),
        "Thumb::Mimetype": sdl.MEDIA_TYPE,
        "Thumb::Size": str(status.st_size),
        "Thumb::URI": path.as_uri(),
    }
    png = io.BytesIO()
    write_png(scatter(picture), png, texts)
    return png.getvalue()


def write_thumbnail(source: Path, destination: Path | None, size_px: int) -> None:
    """Write the thumbnail of an .sdl file. ``destination``: None is its place in the cache.

    Raises what ``Codec.thumbnail`` raises, and OutputError, also for a file that exists and is no thumbnail: who names
    two files may mean two inputs.
    """
    from sdrt.atomic import file_identity, make_folder, write_atomic

    if destination is not None and file_identity(source) == file_identity(destination) is not None:
        raise OutputError(f"{destination} is the input and would be overwritten")
    old = None if destination is None else _first_bytes(destination)
    if old and not _is_thumbnail(old):
        raise OutputError(f"{destination} exists already and is no thumbnail")
    png = make_thumbnail(source, size_px)
    if destination is None:
        destination = cache_place(source.absolute(), size_px)
        make_folder(destination.parent, 0o700)
    elif old == b"":  # Xfce's tumbler makes such a file, and reads it through a handle that it keeps open
        _fill(destination, png)
        return
    write_atomic(destination, png)


def _is_thumbnail(data: bytes) -> bool:
    """Whether a file that begins so is a PNG with the name of what it shows, as file managers' thumbnails have it."""
    from sdrt.pixels.png_chunks import SIGNATURE

    return data.startswith(SIGNATURE) and b"Thumb::URI" in data


def _first_bytes(destination: Path) -> bytes | None:
    """Some kilobytes of a file that is there; None where there is none. Raises OutputError."""
    from sdrt.atomic import file_identity

    if file_identity(destination) is None:
        return None
    try:
        if not destination.stat().st_size:
            return b""  # which may be for writing only
        with destination.open("rb") as file:
            return file.read(_LOOK_BYTES)
    except OSError as error:
        raise OutputError(f"{destination} exists already and cannot be read: {error.strerror or error}") from None


def _fill(placeholder: Path, data: bytes) -> None:
    """Write into an empty file, which stays the same file, and is empty again where that fails. Raises OutputError."""
    try:
        with placeholder.open("wb", buffering=0) as file:
            try:
                WholeWriter(file).write(data)
            except OSError:
                file.truncate(0)
                raise
    except OSError as error:
        raise OutputError(f"cannot write {placeholder}: {error.strerror or error}") from None
