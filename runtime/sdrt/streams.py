"""Reads and writes streams that sdrt did not open: standard input and output, pipes, those of a caller.

One ``write`` may take a part of what it is given, one ``read`` may give a part of what will come, and on a descriptor
in non-blocking mode both may do nothing at all. Here is what goes on until all of it is written or read.
"""

from __future__ import annotations

import io
import os
import re
import time
from pathlib import Path
from typing import Protocol

_BLOCK_BYTES = 1 << 20
_PAUSE_S = 0.01
_MAX_LINKS = 40
"""The number of symbolic links that Linux follows."""


class Sink(Protocol):
    """A binary stream to write to. ``write`` may take fewer bytes than it is given: see ``WholeWriter``."""

    def write(self, data: bytes | memoryview, /) -> object: ...


class Readable(Protocol):
    """A binary stream to read from. ``read`` may return fewer bytes than requested, b"" at the end, None if there are
    none yet."""

    def read(self, size: int, /) -> bytes | None: ...


class WholeWriter:
    """Writes all bytes to ``stream``, and waits where it does not take them at once."""

    def __init__(self, stream: Sink) -> None:
        self._stream = stream
        self.name = str(getattr(stream, "name", "the stream")).strip("<>")
        """A name for messages: stdout, a path, or the number of a descriptor."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Returns the number of bytes, which is that of ``data``. Raises OSError, and what the stream raises."""
        octets, done = memoryview(data).cast("B"), 0
        while done < len(octets):
            try:
                written = self._stream.write(octets[done:] if done else data)
            except BlockingIOError as error:
                done += getattr(error, "characters_written", 0)
                _wait(self._stream, to_write=True)
                continue
            if written is None and isinstance(self._stream, io.RawIOBase):
                _wait(self._stream, to_write=True)
                continue
            if not isinstance(written, int):  # streams that people write themselves often say nothing: it took all
                break
            if not 0 < written <= len(octets) - done:
                raise OSError(f"the stream reports {written} of {len(octets) - done} bytes written")
            done += written
        return len(octets)

    def flush(self) -> None:
        """Raises OSError, and what the stream raises."""
        flush_whole(self._stream)


def flush_whole(stream: object) -> None:
    """Flush a stream of bytes or text, if it has such a method. Raises OSError, and what the stream raises."""
    flush = getattr(stream, "flush", None)
    while flush is not None:
        try:
            flush()
        except BlockingIOError:
            _wait(stream, to_write=True)
        else:
            return


def read_at_most(stream: Readable, limit_bytes: int) -> bytes:
    """The next ``limit_bytes`` bytes of ``stream``, or fewer at its end.

    Memory follows what the stream gives, never the limit: that may be a number out of a file.

    Raises TypeError if it gives no bytes, OSError, and what the stream raises.
    """
    whole = io.BytesIO()
    while whole.tell() < limit_bytes:
        try:
            block = stream.read(min(_BLOCK_BYTES, limit_bytes - whole.tell()))
        except BlockingIOError:
            block = None
        if block is None and isinstance(stream, io.IOBase):
            _wait(stream, to_write=False)
            continue
        if not isinstance(block, (bytes, bytearray, memoryview)):
            raise TypeError(f"it gives {'text' if isinstance(block, str) else type(block).__name__}, not bytes")
        if not block:
            break
        whole.write(block)
    return whole.getvalue()


def own_descriptor(path: Path) -> int | None:
    """The descriptor of this process that ``path`` stands for, as /dev/stdout and /dev/fd/1 do, or None.

    Raises OSError as ``link_hops``.
    """
    for hop in link_hops(path):
        if hop.name.isdecimal() and hop.is_absolute():
            folder, own = os.path.realpath(hop.parent), os.path.realpath("/proc/self")
            if folder == "/dev/fd" or re.fullmatch(rf"{own}(/task/[0-9]+)?/fd", folder):  # a thread's are the same
                return int(hop.name)
    return None


def link_hops(path: Path) -> list[Path]:
    """``path`` and the chain of symbolic links that it starts; the last one is not a link.

    Relative paths stay relative, so that the working folder need not exist. Raises OSError: a circle of links.
    """
    hops = [path]
    while len(hops) <= _MAX_LINKS:
        try:
            hops.append(hops[-1].parent / hops[-1].readlink())
        except (OSError, ValueError):  # no link, or nothing is there
            return hops
    raise OSError(f"more than {_MAX_LINKS} symbolic links")


def _wait(stream: object, *, to_write: bool) -> None:
    """Waits until the stream's descriptor may be ready again; a moment if it has none."""
    try:
        descriptor = stream.fileno()  # type: ignore[attr-defined] # asked for, as everywhere in io
    except (AttributeError, OSError):
        descriptor = None
    import select  # only here: most streams never make anyone wait

    if descriptor is None or not hasattr(select, "poll"):
        time.sleep(_PAUSE_S)
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT if to_write else select.POLLIN)
    poll.poll()
