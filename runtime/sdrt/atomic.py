"""Writes files atomically: the name has either the whole new content or the old one.

An incomplete file has no name where the system supports that (O_TMPFILE on Linux): however the process ends, nothing is
left. Elsewhere it has a temporary name beside the final one, which is removed after an exception and before a signal
ends the process. Only SIGKILL leaves it; a later write to the same folder removes it after a day.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import stat
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import BinaryIO

from sdrt.errors import OutputError
from sdrt.streams import Sink, WholeWriter, link_hops, own_descriptor

_DEADLY = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_O_TMPFILE: int | None = getattr(os, "O_TMPFILE", None)
_NOT_BESIDE = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors that mean that no second file can be created beside a writable one."""

_TEMPORARY = re.compile(r"\.sdrt-[0-9a-f]{16}\.tmp")
_STALE_S = 86400.0
"""Age, since the last write, from which a temporary file counts as abandoned."""

_scratch: dict[str, int] = {}
"""Paths to remove before this process ends -> the process that made them: a forked child removes nothing."""


def write_atomic(destination: str | os.PathLike[str], data: bytes | memoryview, *, overwrite: bool = True) -> None:
    """Write all of ``data`` to ``destination``, or nothing.

    Raises OutputError as ``atomic_file`` does.
    """
    with atomic_file(destination, overwrite=overwrite) as file:
        file.write(data)


def replaces(destination: str | os.PathLike[str]) -> bool:
    """Whether ``atomic_file`` would replace a file. Raises OutputError where it could not write in any case."""
    name = os.fspath(destination)
    path = _find(Path(destination), name)
    if path is None or path.exists():
        return path is not None
    if not os.access(path.parent, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise OutputError(f"cannot write {name}: {os.strerror(errno.EACCES)}")
    return False


@contextlib.contextmanager
def atomic_file(destination: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[Sink]:
    """A file to write to, which takes the name ``destination`` when the block ends without an exception.

    Its ``write`` takes all that it is given. The content is on the disk before it gets its name. A symbolic link keeps
    pointing where it did and its target is replaced; an existing file keeps its permissions and, where that is allowed,
    its owner. A name of an open descriptor (/dev/stdout), a device or a pipe is written to directly. So is, once the
    content is whole, an existing file that cannot be replaced: one that is mounted by itself or whose folder takes no
    new files.

    Raises OutputError where ``destination`` exists and ``overwrite`` is False, and for every OSError: missing folder,
    permission, full disk.
    """
    name = os.fspath(destination)
    path = _find(Path(destination), name)
    try:
        if path is None:
            with _open_stream(Path(destination)) as stream:
                yield WholeWriter(stream)
            return
        with contextlib.ExitStack() as stack:
            old = path.stat() if path.exists() else None
            if old is not None and not overwrite:
                raise FileExistsError(path)
            temporary = path.parent / f".sdrt-{os.urandom(8).hex()}.tmp"
            file, kind = _open_unfinished(path, old, temporary, stack)
            with file:
                yield file
                file.flush()
                if kind == "elsewhere":
                    _copy(file, path)
                    return
                if old is not None:
                    _keep_owner_and_mode(file, old)
                os.fsync(file.fileno())
                if kind == "nameless":
                    stack.enter_context(scratch(temporary))
                    _give_name(file, temporary)
            _publish(temporary, path, overwrite=overwrite)
    except FileExistsError as error:
        raise OutputError(f"{name} already exists") from error
    except OSError as error:
        raise OutputError(f"cannot write {name}: {error.strerror or error}") from error


def make_folder(folder: str | os.PathLike[str], mode: int = 0o777) -> None:
    """Create ``folder`` and its missing parents. ``mode``: of the last one, if it is created.

    Raises OutputError.
    """
    try:
        Path(folder).mkdir(mode, parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot make the folder {os.fspath(folder)}: {reason}") from None


def file_identity(place: str | os.PathLike[str] | int) -> tuple[int, int] | None:
    """Device and inode of the regular file behind a path or a descriptor; None if there is none that can be examined.

    Names are not enough: links, ``..``, case-insensitive folders and bind mounts give one file several names.
    """
    try:
        status = os.stat(place)  # noqa: PTH116 (of a descriptor too)
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


@contextlib.contextmanager
def scratch(path: Path) -> Iterator[None]:
    """Removes ``path``, a file or a folder, when the block ends, also after an exception, and before a signal without
    another handler ends the process."""
    key = str(path)
    with _signals_wait_for_us():
        _scratch[key] = os.getpid()
        try:
            yield
        finally:
            try:
                _remove(key)
            finally:
                del _scratch[key]


def _find(destination: Path, name: str) -> Path | None:
    """The file that is to be made or replaced, behind all links; None for what is written to directly."""
    if "\0" in name:
        raise OutputError(f"cannot write {name!r}: a name cannot hold a null byte")
    try:
        descriptor = own_descriptor(destination)
        if descriptor is not None:
            os.fstat(descriptor)
            return None
        path = link_hops(destination)[-1]
        mode = path.stat().st_mode if path.exists() else None
        if mode is not None and stat.S_ISDIR(mode):
            raise OutputError(f"cannot write {name}: it is a folder")
        # pathlib drops a slash at the end, which says that a folder is meant.
        folder = path if name.endswith((os.sep, os.altsep or os.sep)) else path.parent
        if not folder.is_dir():
            raise OutputError(f"cannot write {name}: there is no folder {folder}")
    except OSError as error:
        raise OutputError(f"cannot write {name}: {error.strerror or error}") from error
    return path if mode is None or stat.S_ISREG(mode) else None


def _open_stream(path: Path) -> BinaryIO:
    descriptor = own_descriptor(path)
    if descriptor is None:
        return path.open("wb", buffering=0)
    return os.fdopen(os.dup(descriptor), "wb", buffering=0)


def _open_unfinished(
    path: Path, old: os.stat_result | None, temporary: Path, stack: contextlib.ExitStack
) -> tuple[BinaryIO, str]:
    """A file for the content, and its kind: "nameless", "named" ``temporary``, or "elsewhere", not beside ``path``.

    If it replaces a file, only the owner can read it until it has that file's permissions.
    """
    mode = 0o666 if old is None else 0o600
    if _O_TMPFILE is not None:
        with contextlib.suppress(OSError):  # the way with a name says what is wrong
            descriptor = os.open(path.parent, _O_TMPFILE | os.O_RDWR, mode)
            if Path(_proc_name(descriptor)).exists():
                return os.fdopen(descriptor, "w+b"), "nameless"
            os.close(descriptor)
    try:
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0), mode)
    except OSError as error:
        if old is None or error.errno not in _NOT_BESIDE or not os.access(path, os.W_OK):
            raise
        import tempfile  # a twentieth of a decoding process's start

        return tempfile.TemporaryFile(), "elsewhere"
    stack.enter_context(scratch(temporary))
    _sweep(path.parent)
    return os.fdopen(descriptor, "w+b"), "named"


@cache
def _sweep(folder: Path) -> None:
    """Remove temporary files that killed processes left in ``folder``; once, as it may hold a million files."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            ours = _TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
            if ours and time.time() - entry.stat(follow_symlinks=False).st_mtime > _STALE_S:
                Path(entry.path).unlink()


def _proc_name(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _give_name(file: BinaryIO, temporary: Path) -> None:
    status = os.fstat(file.fileno())
    try:
        # Only with a folder's descriptor, here without effect, does Python follow the link to the file.
        os.link(_proc_name(file.fileno()), temporary, src_dir_fd=file.fileno())
    except OSError:  # Android forbids it
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as copy:
            _keep_owner_and_mode(copy, status)
        _copy(file, temporary)


def _keep_owner_and_mode(file: BinaryIO, old: os.stat_result) -> None:
    """Give ``file`` the permissions of ``old``, and its owner where that is allowed."""
    new = os.fstat(file.fileno())
    if hasattr(os, "fchown") and (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        with contextlib.suppress(PermissionError):
            os.fchown(file.fileno(), old.st_uid, old.st_gid)
    if hasattr(os, "fchmod") and stat.S_IMODE(new.st_mode) != stat.S_IMODE(old.st_mode):
        os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))


def _publish(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Give the finished file its name. Without ``overwrite`` raises FileExistsError if the name is taken."""
    if overwrite:
        try:
            temporary.replace(path)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            with temporary.open("rb") as file:
                _copy(file, path)
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


def _copy(file: BinaryIO, path: Path) -> None:
    """Copy the content of ``file`` into the existing file ``path``, which cannot be replaced."""
    file.seek(0)
    with path.open("r+b") as target:
        while block := file.read(1 << 20):
            target.write(block)
        target.truncate()
        target.flush()
        os.fsync(target.fileno())


def _remove(name: str) -> None:
    path = Path(name)
    if path.is_dir() and not path.is_symlink():
        import shutil

        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


@contextlib.contextmanager
def _signals_wait_for_us() -> Iterator[None]:
    """Makes signals that end the process remove scratch files first."""
    if threading.current_thread() is not threading.main_thread():  # only the main one may change what signals do
        yield
        return
    changed = [number for number in _DEADLY if signal.getsignal(number) == signal.SIG_DFL]
    for number in changed:
        signal.signal(number, _clean_up_and_die)
    try:
        yield
    finally:
        for number in changed:
            if signal.getsignal(number) == _clean_up_and_die:
                signal.signal(number, signal.SIG_DFL)


def _clean_up_and_die(number: int, _frame: object) -> None:
    for name, process in list(_scratch.items()):
        if process == os.getpid():
            with contextlib.suppress(OSError):
                _remove(name)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
