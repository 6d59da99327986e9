"""Paths of results, and whether they are complete. A file gets its final name only when it is complete."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import sdrt
from sdrt.atomic import atomic_file, make_folder, write_atomic
from sdrt.container import sdl
from sdrt.errors import CorruptError, OutputError, SdrtError
from sdrt.latent_cache import FLIPPED, READERS, SDL
from sdrt.latents.webdataset import Members, TarWriter, checked_key, read_tar
from sdrt.pixels.save import SAVE_OPTIONS
from sdrt_batch.settings import Settings
from sdrt_batch.units import Kind

_ROWS_AT_ONCE = 64

FAILURES = "errors.json"
"""Behind a shard's name: the pictures that it lacks, key -> error. It is there before the shard is."""


def check_whole(extension: str, data: bytes) -> None:
    """Raises SdrtError where a file of this kind is cut short or altered, as far as it can be seen."""
    if extension in (SDL, FLIPPED):
        sdl.unpack(data, max_pixels=None)
    elif extension in READERS:
        READERS[extension](data, "the file")
    elif not data:
        raise CorruptError("the file is empty")
    elif f".{extension}" in SAVE_OPTIONS:
        sdrt.load(data, max_pixels=None)


class Files:
    """A file, or a few, for each picture, in folders as the source has them."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._folder = settings, Path(settings.destination)

    def bytes_of(self, key: str) -> int | None:
        """Size of the result that is there and whole; None: it is to be made."""
        try:
            path = self._folder / f"{checked_key(key)}.{self._settings.extension}"
            check_new(path, self._settings)
            data = path.read_bytes()
            check_whole(self._settings.extension, data)
        except (OSError, SdrtError):
            return None
        return len(data)

    def write(self, key: str, members: Members) -> None:
        """Raises OutputError. The first member is written last: where it is, all are."""
        target = self._folder / checked_key(key)
        make_folder(target.parent)
        for extension in reversed(list(members)):
            write_atomic(target.with_name(f"{target.name}.{extension}"), members[extension])


class ShardWriter(Protocol):
    def write(self, key: str, members: Members) -> None: ...
    def close(self) -> None: ...


class _ParquetWriter:
    """Rows of ``key`` and a column of bytes for each extension."""

    def __init__(self, stream: BinaryIO, extensions: Sequence[str]) -> None:
        import pyarrow
        from pyarrow import parquet

        columns = [("key", pyarrow.string()), *((name, pyarrow.binary()) for name in extensions)]
        self._schema = pyarrow.schema(columns)
        # What it holds is compressed already.
        self._file = parquet.ParquetWriter(pyarrow.PythonFile(stream, "w"), self._schema, compression="none")
        self._rows: list[dict[str, object]] = []

    def write(self, key: str, members: Members) -> None:
        self._rows.append({"key": key, **members})
        if len(self._rows) >= _ROWS_AT_ONCE:
            self._write_rows()

    def close(self) -> None:
        self._write_rows()
        self._file.close()

    def _write_rows(self) -> None:
        import pyarrow

        self._file.write_table(pyarrow.Table.from_pylist(self._rows, self._schema))
        self._rows = []


def shard_path(settings: Settings, name: str) -> Path:
    return Path(settings.destination) / f"{checked_key(name)}.{settings.form}"


@contextlib.contextmanager
def shard(path: Path, settings: Settings) -> Iterator[ShardWriter]:
    """Writes a shard, which takes its name when the block ends without an exception. Raises OutputError."""
    make_folder(path.parent)
    with atomic_file(path) as file:
        writer: ShardWriter
        if settings.form == "tar":
            writer = TarWriter(file)
        else:
            writer = _ParquetWriter(cast(BinaryIO, file), settings.extensions)
        try:
            yield writer
        finally:  # also of what will be thrown away: pyarrow's writer must end before its file does
            writer.close()


def read_shard(path: Path, settings: Settings) -> dict[str, int]:
    """Key -> bytes of each result in a shard that is there, whole and of these settings.

    Raises SdrtError, OSError or ValueError.
    """
    check_new(path, settings)
    found: dict[str, int] = {}
    for key, members in _samples(path, settings.form):
        data = members.get(settings.extension)
        if data is not None:
            check_whole(settings.extension, data)
            found[key] = len(data)
    return found


def check_new(path: Path, settings: Settings) -> None:
    """Raises OutputError for a file of an earlier run with other settings, OSError for one that is not there."""
    if path.stat().st_mtime_ns < settings.since_ns:
        raise OutputError(f"{path} was written with other settings")


def _samples(path: Path, kind: Kind) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    if kind == "tar":
        with path.open("rb") as stream:
            yield from read_tar(stream, str(path))
        return
    from pyarrow import parquet

    for batch in parquet.ParquetFile(path).iter_batches(_ROWS_AT_ONCE):
        for row in batch.to_pylist():
            yield row.pop("key"), {name: data for name, data in row.items() if isinstance(data, bytes)}


def write_failures(path: Path, failures: Mapping[str, str]) -> None:
    """Leaves word of what a shard lacks, or takes an earlier word away."""
    beside = path.with_name(f"{path.name}.{FAILURES}")
    if failures:
        write_atomic(beside, json.dumps(failures).encode("ascii"))
    else:
        beside.unlink(missing_ok=True)


def read_failures(path: Path) -> dict[str, str]:
    """What ``write_failures`` left. Raises OSError or ValueError."""
    beside = path.with_name(f"{path.name}.{FAILURES}")
    return (
        {str(key): str(error) for key, error in json.loads(beside.read_text("utf-8")).items()}
        if beside.exists()
        else {}
    )
