"""What a source holds, cut into units: each is read, done and written by one worker, and is done whole or not at all.

A unit is some picture files, one tar, or one row group of a Parquet file. Finding them reads names and, of Parquet
files, the footer; it runs in the process that was started.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from sdrt.errors import ImageError, MissingFileError, OutputError, UnsupportedError
from sdrt.latent_cache import FLIPPED

Kind = Literal["files", "tar", "parquet"]
SHARDS: dict[str, Kind] = {".tar": "tar", ".parquet": "parquet"}
_HIDDEN = (".", "_")
"""Prefixes of files and folders that are skipped."""
FILES_A_UNIT = 16
"""Pictures of a unit: enough to make scheduling cheap, few enough that all workers end together."""


@dataclass(frozen=True)
class Unit:
    """One piece of work.

    Attributes:
        name: Of its output where that is a shard, without a suffix; "/" parts folders. No two units share one.
        kind: Where its pictures are.
        paths: The files: one for each picture, or the shard.
        keys: Of each picture file the name of its output, without a suffix; empty for a shard, which has them inside.
        row_group: Of a Parquet file.
        rejected: Picture files that have no output, and why.
    """

    name: str
    kind: Kind
    paths: tuple[str, ...]
    keys: tuple[str, ...] = ()
    row_group: int = 0
    rejected: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Unit:
        fields = json.loads(text)
        for name in ("paths", "keys"):
            fields[name] = tuple(fields[name])
        fields["rejected"] = tuple((path, why) for path, why in fields["rejected"])
        return Unit(**fields)


def find_units(sources: Sequence[str], suffixes: Sequence[str], files_a_unit: int = FILES_A_UNIT) -> list[Unit]:
    """The units of folders, patterns and files, in an order that is the same each time.

    Args:
        sources: Folders are searched to their bottom; patterns are those of ``glob``, ``**`` included.
        suffixes: Of picture files in folders, in lower case, with the dot. Files that are named or match a pattern are
            taken whatever their suffix is.
        files_a_unit: Picture files in a unit.

    Raises:
        MissingFileError: A source that is not there, or none that holds a file.
        ImageError: A source, or a folder in it, that cannot be looked into.
        UnsupportedError: A Parquet file whose footer cannot be read.
        OutputError: Two shards that would be written to the same name.
    """
    named: dict[str, str] = {}
    for source in sources:
        try:
            found = list(_files(source, suffixes))
        except OSError as error:
            raise ImageError(f"cannot read {error.filename or source}: {error.strerror or error}") from None
        if not found:
            raise MissingFileError(f"{source}: there is nothing to read")
        named.update(found)
    pictures = [(path, key) for path, key in named.items() if Path(path).suffix.lower() not in SHARDS]
    units: dict[str, Unit] = {}
    shards = (unit for path, key in named.items() for unit in _shard_units(path, key))
    for unit in (*shards, *_file_units(pictures, files_a_unit)):
        owner = units.setdefault(unit.name, unit)
        if owner is not unit:
            raise OutputError(
                f"{owner.paths[0]} and {unit.paths[0]} would both be written to {unit.name}: give each a run of its own"
            )
    return list(units.values())


def _files(source: str, suffixes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Path and key of each file, sorted by path; nothing hidden."""
    folder = Path(source)
    paths = [folder]
    if folder.is_dir():
        wanted = (*suffixes, *SHARDS)
        paths = [path for path in _below(folder) if path.suffix.lower() in wanted]
    elif not folder.is_file():
        paths = [Path(path) for path in glob.glob(source, recursive=True)]  # noqa: PTH207 (pathlib's needs a folder)
    if not folder.is_dir():
        folder = root_of(source)
    for path in sorted(path for path in paths if path.is_file()):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(_HIDDEN) for part in inside.parts)
        if not hidden and not inside.name.endswith(f".{FLIPPED}"):  # that one is read with the file it belongs to
            yield str(path.absolute()), inside.with_suffix("").as_posix()


def _below(folder: Path) -> Iterator[Path]:
    """The files below ``folder``, to its bottom. Raises OSError for a folder that hides some: Path.rglob passes it."""

    def stop(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(_HIDDEN)]
        yield from (Path(parent, name) for name in names)


def root_of(pattern: str) -> Path:
    """The folder above the first wildcard of a pattern; output names are relative to it."""
    parts = Path(pattern).parts
    fixed = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:fixed])


def _shard_units(path: str, key: str) -> Iterator[Unit]:
    kind = SHARDS.get(Path(path).suffix.lower())
    if kind == "tar":
        yield Unit(key, "tar", (path,))
    elif kind == "parquet":
        from pyarrow import parquet

        try:
            groups = parquet.ParquetFile(path).num_row_groups
        except (OSError, ValueError) as error:  # pyarrow's own errors are kinds of ValueError
            raise UnsupportedError(f"{path}: not a Parquet file: {error}") from None
        for group in range(groups):
            yield Unit(f"{key}-{group:05d}", "parquet", (path,), row_group=group)


def _file_units(pictures: Sequence[tuple[str, str]], files_a_unit: int) -> Iterator[Unit]:
    owners: dict[str, str] = {}
    for start in range(0, len(pictures), files_a_unit):
        paths, keys, rejected = [], [], []
        for path, key in pictures[start : start + files_a_unit]:
            owner = owners.setdefault(key, path)
            if owner == path:
                paths.append(path)
                keys.append(key)
            else:
                rejected.append((path, f"{owner} is written to the same name"))
        yield Unit(f"part-{start // files_a_unit:06d}", "files", tuple(paths), tuple(keys), rejected=tuple(rejected))
