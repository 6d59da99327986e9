"""Paths of results, and whether they are complete. A file gets its final name only when it is complete."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

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
KEYS = "keys.json"
"""Behind the name of a file or shard, where a picture gave results of other keys, as latents of several grids do: the
picture's key -> those of its results. It is there before they are."""


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
        """Size of the results of a picture that are there and whole; None: they are to be made."""
        try:
            target = self._folder / checked_key(key)
            keys = read_keys(target).get(key, [key]) if self._settings.job == "latents" else [key]
            return sum(self._whole_bytes(of) for of in keys)
        except (OSError, ValueError, SdrtError):
            return None

    def _whole_bytes(self, key: str) -> int:
        path = self._folder / f"{checked_key(key)}.{self._settings.extension}"
        check_new(path, self._settings)
        data = path.read_bytes()
        check_whole(self._settings.extension, data)
        return len(data)

    def write(self, key: str, made: Sequence[tuple[str, Members]]) -> None:
        """The results of one picture. Raises OutputError or OSError."""
        target = self._folder / checked_key(key)
        make_folder(target.parent)
        if self._settings.job == "latents":
            write_keys(target, {key: [of for of, _ in made]})
        for of, members in made:
            self._write_result(of, members)

    def _write_result(self, key: str, members: Members) -> None:
        """The first member is written last: where it is, all are."""
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
    _write_word(path, FAILURES, failures)


def read_failures(path: Path) -> dict[str, str]:
    """What ``write_failures`` left. Raises OSError or ValueError."""
    return {key: str(error) for key, error in _read_word(path, FAILURES).items()}


def write_keys(path: Path, made: Mapping[str, list[str]]) -> None:
    """Leaves word of pictures whose results have other keys than they, or takes an earlier word away."""
    _write_word(path, KEYS, {key: keys for key, keys in made.items() if keys != [key]})


def read_keys(path: Path) -> dict[str, list[str]]:
    """What ``write_keys`` left. Raises OSError or ValueError."""
    words = _read_word(path, KEYS)
    if not all(isinstance(keys, list) and keys for keys in words.values()):
        raise ValueError(f"{path} has no lists of keys beside it")
    return {key: [str(of) for of in keys] for key, keys in words.items()}


def _write_word(path: Path, extension: str, words: Mapping[str, object]) -> None:
    beside = path.with_name(f"{path.name}.{extension}")
    if words:
        write_atomic(beside, json.dumps(words).encode("ascii"))
    else:
        beside.unlink(missing_ok=True)


def _read_word(path: Path, extension: str) -> dict[str, Any]:
    beside = path.with_name(f"{path.name}.{extension}")
    if not beside.exists():
        return {}
    words = json.loads(beside.read_text("utf-8"))
    if not isinstance(words, dict):
        raise ValueError(f"{beside} is no table")
    return words
