"""Standard input, output and error of the command line: each failure becomes an SdrtError or one line."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from sdrt.command.process import TRACEBACK_VARIABLE
from sdrt.container.source import read_source
from sdrt.errors import ImageError, LimitError, MissingFileError, OutputError, SdrtError
from sdrt.streams import WholeWriter, flush_whole, own_descriptor

STDIO = "-"
USAGE = 2
"""The exit code of wrong usage, as argparse has it."""


def report_error(error: Exception, source: str | None = None, *, program: str = "sdrt") -> int:
    """Print one line about ``error`` (of input ``source``) on stderr, as ``program``; returns its exit code.

    With the environment variable SDRT_TRACEBACK set the whole stack is printed before it, for developers.
    """
    if os.environ.get(TRACEBACK_VARIABLE):
        import traceback

        for line in "".join(traceback.format_exception(error)).splitlines():
            print_stderr(line)
    if isinstance(error, SdrtError):
        text, code = str(error), error.exit_code
    elif isinstance(error, MemoryError):
        text, code = "not enough memory for this picture", LimitError.exit_code
    else:
        text, code = (
            f"unexpected {type(error).__name__}: {' '.join(str(error).split())} "
            f"(please report it; {TRACEBACK_VARIABLE}=1 shows more)",
            1,
        )
    name = "" if source is None or source in text else f"{'stdin' if source == STDIO else source}: "
    print_stderr(f"{program}: {name}{text}")  # as it is: names may hold any spaces
    return code


def printable(text: str) -> str:
    """``text`` as a line for people: control and invisible characters are written as backslash escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def print_stderr(line: str) -> None:
    """Print a line on stderr; does nothing if it is closed."""
    write_stderr(printable(line) + "\n")


def write_stderr(text: str) -> None:
    """Write text of our own, of any number of lines. What cannot be written is lost, and no failure of the command."""
    if sys.stderr is None:
        return
    try:
        _write(text, sys.stderr)
        flush_whole(sys.stderr)
    except OSError:
        _drop_rest(sys.stderr)
    except ValueError:  # it is closed
        pass


def _drop_rest(stream: TextIO) -> None:
    """What the stream still holds, and all that will come, goes nowhere: else Python fails on it at the very end."""
    with contextlib.suppress(OSError), open(os.devnull, "w") as sink:  # noqa: PTH123 (a device, not a path)
        os.dup2(sink.fileno(), stream.fileno())


def _write(text: str, stream: TextIO) -> None:
    """Writes all of ``text``, however little the stream takes at once; escapes what its encoding lacks."""
    octets = getattr(stream, "buffer", None)
    if octets is None:
        stream.write(text)
        return
    flush_whole(stream)
    WholeWriter(octets).write(text.encode(stream.encoding, "backslashreplace"))


def standard_input() -> BinaryIO:
    """stdin as a stream of bytes. Raises ImageError: closed, or a terminal."""
    if sys.stdin is None:
        raise ImageError("stdin is closed")
    if sys.stdin.isatty():
        raise ImageError("stdin is a terminal: name a file, or pipe one in")
    return sys.stdin.buffer


def read_input(source: str) -> bytes:
    """The bytes of the .sdl file ``source``, or of stdin for ``-``, as ``container.source`` gives them.

    Raises ImageError: no such file, unreadable, stdin closed or a terminal. LimitError: beyond an .sdl file's size.
    """
    if source != STDIO:
        return read_source(source)
    return read_source(standard_input(), "stdin")


def check_input(source: str) -> None:
    """Fail before the output is looked at if there is no such file. Raises MissingFileError."""
    if source == STDIO:
        return
    try:
        Path(source).stat()
    except FileNotFoundError:
        raise MissingFileError(f"cannot read {source}: no such file") from None
    except (OSError, ValueError):  # whoever reads it says what is wrong
        return


def check_output(destination: str, *, overwrite: bool) -> None:
    """Fail before the work if the output cannot be written. Raises OutputError: already exists, a terminal, closed."""
    if destination == STDIO:
        if sys.stdout is None:
            raise OutputError("stdout is closed")
        if sys.stdout.isatty():
            raise OutputError("stdout is a terminal: choose a file with -o, or a pipe")
        return
    from sdrt.atomic import replaces

    if replaces(destination) and not overwrite:
        raise OutputError(f"{destination} already exists: --force overwrites it")
    descriptor = own_descriptor(Path(destination))
    if descriptor is not None and os.isatty(descriptor):
        raise OutputError(f"{destination} is a terminal: choose a file, or a pipe")


def write_output(destination: str, data: bytes, *, overwrite: bool) -> None:
    """Write a whole file, or to stdout for ``-``. Raises OutputError: already exists, full disk, reader gone."""
    if destination != STDIO:
        from sdrt.atomic import write_atomic

        write_atomic(destination, data, overwrite=overwrite)
        return
    with standard_output() as stream:
        stream.write(data)


@contextlib.contextmanager
def standard_output() -> Iterator[WholeWriter]:
    """stdout as a stream of bytes, flushed at the end. Raises OutputError: full disk, reader gone."""
    with _stdout():
        stream = WholeWriter(sys.stdout.buffer)
        yield stream
        stream.flush()


def in_words(value: object) -> object:
    """Lists and mappings as people write them: ``w16, fp16`` and ``cpu w16, cuda fp16``; anything else as it is."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items()) or "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def print_stdout(line: str) -> None:
    """Print a line of the answer on stdout. Raises OutputError: stdout closed, full disk, reader gone."""
    write_stdout(printable(line) + "\n")


def write_stdout(text: str) -> None:
    """Write text of any number of lines to stdout. Raises as ``print_stdout``."""
    if sys.stdout is None:
        raise OutputError("stdout is closed")
    with _stdout():
        _write(text, sys.stdout)


def flush_stdout() -> None:
    """Flush stdout, while an error can still be reported. Raises OutputError."""
    if sys.stdout is not None:
        with _stdout():
            flush_whole(sys.stdout)


@contextlib.contextmanager
def _stdout() -> Iterator[None]:
    """Turns a failed write to stdout into OutputError, and keeps the interpreter's final flush from failing again."""
    try:
        yield
    except (OSError, OutputError) as error:
        _drop_rest(sys.stdout)
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write to stdout: {error.strerror or error}") from None


class Progress:
    """A percentage on stderr that overwrites itself; nothing if stderr is not a terminal."""

    def __init__(self, name: str, *, wanted: bool) -> None:
        self._name = name
        self._shown = wanted and sys.stderr is not None and sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        """``done`` of ``total`` tiles; pictures of one tile are not worth a line."""
        if self._shown and total > 1:
            end = "\r\x1b[K" if done == total else ""
            write_stderr(f"\r{printable(self._name)}: {100 * done // total} %{end}")
