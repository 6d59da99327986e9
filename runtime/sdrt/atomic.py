"""Writing a file so that its name holds either the whole new content or what was there before."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sdrt.errors import OutputError


def write_atomic(destination: str | os.PathLike[str], data: bytes | memoryview, *, overwrite: bool = True) -> None:
    """Write ``data`` to ``destination``: all of it or nothing.

    Raises OutputError as ``atomic_file`` does.
    """
    with atomic_file(destination, overwrite=overwrite) as file:
        file.write(data)


@contextlib.contextmanager
def atomic_file(destination: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[BinaryIO]:
    """A file to write to, which takes the name ``destination`` when the block ends without an exception.

    Until then it is a temporary file in the same folder, removed on any exception. A symbolic link keeps pointing where
    it did and its target is replaced; a device or a pipe (/dev/stdout) is written to directly. An existing file keeps
    its permissions.

    Raises OutputError where ``destination`` exists and ``overwrite`` is False, and for every OSError: missing folder,
    permission, full disk.
    """
    named = Path(destination)
    if "\0" in str(named):
        raise OutputError(f"cannot write {str(named)!r}: a name cannot hold a null byte")
    try:
        path = Path(os.path.realpath(named))
        status = path.stat() if path.exists() else None
        if status is not None and stat.S_ISDIR(status.st_mode):
            raise OutputError(f"cannot write {named}: it is a folder")
        if status is not None and not stat.S_ISREG(status.st_mode):
            with path.open("wb") as file:
                yield file
            return
        if status is not None and not overwrite:
            raise OutputError(f"{named} exists already")
        if not path.parent.is_dir():
            raise OutputError(f"cannot write {named}: there is no folder {named.parent}")
        temporary = path.parent / f".sdrt-{secrets.token_hex(8)}.tmp"
        try:
            with temporary.open("xb") as file:
                yield file
            if status is not None:
                temporary.chmod(stat.S_IMODE(status.st_mode))
            _publish(temporary, path, overwrite=overwrite)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError as error:
        raise OutputError(f"{named} exists already") from error
    except OSError as error:
        raise OutputError(f"cannot write {named}: {error.strerror or error}") from error


def _publish(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Give the finished file its name. Without ``overwrite`` a file that appeared meanwhile stays: FileExistsError."""
    if overwrite:
        temporary.replace(path)
        return
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):
        # Some file systems have no hard links: a look and a rename are the best that is left.
        if path.exists():
            raise FileExistsError(path) from None
        temporary.replace(path)
