"""Reads a pack's file, if it is a regular file: a fifo might block, and a device might never end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from sdrt.errors import ModelError

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def read_regular_file(path: Path, limit_bytes: int) -> bytes:
    """The contents of the regular file at ``path``, links followed.

    Raises ModelError: it cannot be read, is not a regular file, or has more than ``limit_bytes``.
    """
    try:
        with open_regular_file(path) as stream:
            size_bytes = os.fstat(stream.fileno()).st_size
            data = stream.read(limit_bytes + 1) if size_bytes <= limit_bytes else None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
    if data is None or len(data) > limit_bytes:
        raise ModelError(f"{path} is larger than {limit_bytes} bytes")
    return data


def open_regular_file(path: Path) -> BinaryIO:
    """The regular file at ``path``, links followed. Raises ModelError: not a regular file, or it cannot be opened."""
    try:
        # Non-blocking, because opening a fifo waits for a writer; regular files do not care.
        stream = open(os.open(path, _FLAGS), "rb")  # noqa: PTH123, SIM115 (Path.open takes no flags; the caller's)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        check_regular(path, os.fstat(stream.fileno()))
    except BaseException:
        stream.close()
        raise
    return stream


def check_regular(path: Path, status: os.stat_result) -> None:
    """Raises ModelError if ``status``, that of ``path``, is of anything but a regular file."""
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{path} is not a regular file")
