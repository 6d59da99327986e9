"""Standard input, output and error as a command line needs them: each failure becomes an SdrtError or one line."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import BinaryIO

from sdrt.container.sdl import MAX_FILE_BYTES
from sdrt.container.source import read_source
from sdrt.errors import ImageError, LimitError, OutputError, SdrtError

STDIO = "-"
TRACEBACK_VARIABLE = "SDRT_TRACEBACK"


def complain(error: Exception, source: str | None = None) -> int:
    """Print one line about ``error`` (of input ``source``) on stderr; returns its exit code.

    With the environment variable SDRT_TRACEBACK set the whole stack is printed before it, for developers.
    """
    if os.environ.get(TRACEBACK_VARIABLE):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, SdrtError):
        text, code = str(error), error.exit_code
    elif isinstance(error, MemoryError):
        text, code = "not enough memory for this picture", LimitError.exit_code
    else:
        text, code = (
            f"unexpected {type(error).__name__}: {error} (please report it; {TRACEBACK_VARIABLE}=1 shows more)",
            1,
        )
    name = "" if source is None or source in text else f"{'stdin' if source == STDIO else source}: "
    say("sdrt: " + " ".join((name + text).split()))
    return code


def say(line: str) -> None:
    """Print a line on stderr; where there is none, nobody reads it."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def read_input(source: str) -> bytes:
    """The bytes of the file ``source``, or of stdin for ``-``.

    Raises ImageError: no such file, unreadable, stdin closed or a terminal. LimitError: beyond an .sdl file's size.
    """
    if source != STDIO:
        return read_source(source)
    if sys.stdin is None:
        raise ImageError("stdin is closed")
    if sys.stdin.isatty():
        raise ImageError("stdin is a terminal: name a file, or send one through a pipe")
    try:
        data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ImageError(f"cannot read stdin: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise LimitError(f"stdin gives more than {MAX_FILE_BYTES} bytes")
    return data


def check_output(destination: str, *, overwrite: bool) -> None:
    """Say before the work is done what would be said after it. Raises OutputError: exists already, no such folder."""
    if destination == STDIO:
        if sys.stdout is None:
            raise OutputError("stdout is closed")
        if sys.stdout.isatty():
            raise OutputError("stdout is a terminal: choose a file with -o, or a pipe")
        return
    folder = os.path.dirname(destination) or "."  # noqa: PTH120 (pathlib would drop a trailing slash)
    if not os.path.isdir(folder):  # noqa: PTH112
        raise OutputError(f"cannot write {destination}: there is no folder {folder}")
    if os.path.isdir(destination):  # noqa: PTH112
        raise OutputError(f"cannot write {destination}: it is a folder")
    if os.path.isfile(destination) and not overwrite:  # noqa: PTH113
        raise OutputError(f"{destination} exists already: --force overwrites it")


def write_output(destination: str, data: bytes, *, overwrite: bool) -> None:
    """Write a whole file, or to stdout for ``-``. Raises OutputError: exists already, full disk, reader gone."""
    if destination != STDIO:
        from sdrt.atomic import write_atomic

        write_atomic(destination, data, overwrite=overwrite)
        return
    with standard_output() as stream:
        stream.write(data)


@contextlib.contextmanager
def standard_output() -> Iterator[BinaryIO]:
    """stdout as a stream of bytes, flushed at the end. Raises OutputError: full disk, reader gone."""
    with _stdout():
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()


def in_words(value: object) -> object:
    """Lists and mappings as people write them: ``w16, fp16`` and ``cpu w16, cuda fp16``; anything else as it is."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items()) or "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def tell(line: str) -> None:
    """Print a line of the answer on stdout. Raises OutputError: stdout closed, full disk, reader gone."""
    if sys.stdout is None:
        raise OutputError("stdout is closed")
    with _stdout():
        print(line)


def flush_stdout() -> None:
    """Write out what was told, here where an error can still be named. Raises OutputError."""
    if sys.stdout is not None:
        with _stdout():
            sys.stdout.flush()


@contextlib.contextmanager
def _stdout() -> Iterator[None]:
    """Turns a failed write to stdout into OutputError, and keeps its rest from failing once more at the very end."""
    try:
        yield
    except (OSError, OutputError) as error:
        with open(os.devnull, "w") as sink:  # noqa: PTH123 (a device, not a path)
            os.dup2(sink.fileno(), sys.stdout.fileno())
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write to stdout: {error.strerror or error}") from None


class Progress:
    """A percentage on stderr that overwrites itself; nothing at all where stderr is no terminal."""

    def __init__(self, name: str, *, wanted: bool) -> None:
        self._name = name
        self._shown = wanted and sys.stderr is not None and sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        """``done`` of ``total`` tiles; pictures of one tile are not worth a line."""
        if self._shown and total > 1:
            end = "\r\x1b[K" if done == total else ""
            print(f"\r{self._name}: {100 * done // total} %{end}", end="", file=sys.stderr, flush=True)
