"""A pack in a zip file, read in place: the manifest and the files that it lists, at the top or in one folder.

A zip may be hostile where a folder cannot: names that lead elsewhere, links, a directory of millions of entries, a
kilobyte that unpacks to gigabytes. All of it is checked in the zip's directory, before anything is unpacked.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from sdrt.errors import ModelError, first_line
from sdrt.packs.regular_file import open_regular_file, read_regular_file

if TYPE_CHECKING:
    from zipfile import ZipFile, ZipInfo

SUFFIX = ".zip"
MAX_ENTRIES = 64
MAX_RATIO = 100
"""Largest accepted compression ratio. Graphs and priors are mostly fp16 or int8 numbers: theirs is below 2."""

_SPARED_BYTES = 1 << 20
"""Smaller files may have any compression ratio."""
_MAX_DIRECTORY_BYTES = 1 << 16
_END_BYTES, _MAX_COMMENT_BYTES, _LOCATOR_BYTES = 22, 65535, 20
_ENCRYPTED = 1
_METHODS = (0, 8)  # stored and deflated: what takes little memory to unpack


def is_archive(place: Path) -> bool:
    """Whether ``place`` is a zip file, not a folder. Raises OSError if it cannot be examined."""
    return place.suffix.lower() == SUFFIX and not place.is_dir()


def read_pack_file(place: Path, name: str, limit_bytes: int) -> bytes:
    """The contents of one file of the pack at ``place``, a folder or a zip file.

    Raises ModelError: it does not exist, cannot be read, is not a regular file, or has more than ``limit_bytes``.
    """
    if not is_archive(place):
        return read_regular_file(place / name, limit_bytes)
    with _opened(place) as (archive, entries):
        if name not in entries:
            raise ModelError(f"{place} has no {name}")
        if entries[name].file_size > limit_bytes:
            raise ModelError(f"{place / name} is larger than {limit_bytes} bytes")
        with archive.open(entries[name]) as stream:
            data = stream.read(limit_bytes + 1)
        if len(data) != entries[name].file_size:
            raise ModelError(f"{place / name} has {len(data)} bytes, the zip says {entries[name].file_size}")
        return data


def archived_bytes(place: Path) -> dict[str, int]:
    """Name -> size of each file in a zip, without the name of the folder around them.

    Raises ModelError: not a zip, damaged, or with entries that a pack does not have.
    """
    with _opened(place) as (_, entries):
        return {name: entry.file_size for name, entry in entries.items()}


@contextlib.contextmanager
def _opened(place: Path) -> Iterator[tuple[ZipFile, dict[str, ZipInfo]]]:
    import zipfile  # a folder, the usual pack, needs none

    with open_regular_file(place) as stream:
        try:
            _check_directory_size(stream, place)
            with zipfile.ZipFile(stream) as archive:
                yield archive, _checked(archive.infolist(), place)
        except (ModelError, MemoryError):
            raise
        except Exception as error:  # zipfile and zlib raise a dozen kinds
            raise ModelError(f"{place} is not a zip file, or is damaged: {first_line(error)}") from None


def _check_directory_size(stream: BinaryIO, place: Path) -> None:
    """zipfile reads the whole directory into memory, so its size is checked first. ZIP64 is refused: two records
    would state where the directory is."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - _END_BYTES - _MAX_COMMENT_BYTES - _LOCATOR_BYTES))
    tail = stream.read()
    at = len(tail) - _END_BYTES
    if tail[max(0, at) :][:4] != b"PK\5\6" or tail[-2:] != b"\0\0":  # as zipfile looks: first without a comment
        at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + _END_BYTES:
        raise ModelError(f"{place} is not a zip file, or is truncated")
    count, directory_bytes = (
        int.from_bytes(tail[at + first : at + last], "little") for first, last in ((10, 12), (12, 16))
    )
    zip64 = tail[max(0, at - _LOCATOR_BYTES) :].startswith(b"PK\6\7")
    if zip64 or count > MAX_ENTRIES or directory_bytes > _MAX_DIRECTORY_BYTES:
        raise ModelError(f"{place} is not a model pack: it is a ZIP64 archive or has more than {MAX_ENTRIES} entries")


def _checked(infos: list[ZipInfo], place: Path) -> dict[str, ZipInfo]:
    """The zip's files by their names in the pack. Raises ModelError for entries that no pack has."""
    entries: dict[str, ZipInfo] = {}
    folders = set()
    for info in infos:
        folder, _, name = info.filename.rpartition("/")
        kind = stat.S_IFMT(info.external_attr >> 16)
        expected = stat.S_IFREG if name else stat.S_IFDIR
        if "/" in folder or "\\" in info.filename or folder in (".", "..") or (not folder and "/" in info.filename):
            raise ModelError(
                f"{place} is not a model pack: {info.filename[:100]!r} would be extracted outside its folder"
            )
        if kind not in (0, expected):
            raise ModelError(f"{place} is not a model pack: {info.filename[:100]!r} is not a regular file")
        folders.add(folder)
        if not name:
            continue
        if name in entries:
            raise ModelError(f"{place} has {name[:100]!r} twice")
        if info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS:
            raise ModelError(f"{place}: {name[:100]!r} is encrypted, or neither stored nor deflated")
        if info.file_size > max(_SPARED_BYTES, MAX_RATIO * info.compress_size):
            raise ModelError(
                f"{place}: {name[:100]!r} unpacks to more than {MAX_RATIO} times its size, which no graph does"
            )
        entries[name] = info
    if len(folders) > 1:
        raise ModelError(f"{place} is not a model pack: its files are in {len(folders)} folders, not one")
    return entries
