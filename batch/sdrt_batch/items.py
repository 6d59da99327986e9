"""Iterates over the pictures of a unit, each with the files beside it; holds one picture, or a few rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sdrt.atomic import file_identity
from sdrt.errors import CorruptError
from sdrt.latent_cache import FLIPPED, READERS, SDL, SIZES
from sdrt.latents.webdataset import read_tar
from sdrt.options import LatentForm
from sdrt_batch.settings import Job, Settings
from sdrt_batch.units import Unit

PICTURES = (
    "jpg",
    "jpeg",
    "png",
    "webp",
    "avif",
    "tif",
    "tiff",
    "bmp",
    "gif",
    "ppm",
    "pgm",
    "heic",
    "heif",
    "jxl",
    "jp2",
)
"""Extensions that are pictures in a tar, and suffixes that are looked for in a folder."""
LATENTS = (SDL, *READERS)
_ROWS_AT_ONCE = 16
_PICTURE_COLUMNS = ("image", "bytes", "jpg", "png", "webp")
_KEY_COLUMNS = ("key", "__key__", "id", "name", "file_name", "filename")


@dataclass(frozen=True)
class Item:
    """One picture.

    Attributes:
        key: Name of its output, without a suffix.
        source: What errors call it.
        main: The extension of the file that is read.
        read: Gives its files, extension -> contents. Raises OSError.
        repeated: Whether an earlier item of the unit has this key: its result would take the place of that one's.
    """

    key: str
    source: str
    main: str
    read: Callable[[], Mapping[str, bytes]]
    repeated: bool = False


def extensions(job: Job, latent_form: LatentForm) -> tuple[str, ...]:
    """Of the files that a job reads, the first ones first where a sample has several. Latents change their form."""
    if job == "latents":
        return tuple(extension for extension in LATENTS if extension != latent_form.partition("-")[0])
    return PICTURES if job == "encode" else (SDL,)


def items_of(unit: Unit, settings: Settings) -> Iterator[Item]:
    """The pictures of ``unit``. Raises CorruptError, OSError or ValueError where a shard cannot be read to its end."""
    seen: set[str] = set()
    for item in _items_of(unit, settings):
        yield replace(item, repeated=True) if item.key in seen else item
        seen.add(item.key)


def _items_of(unit: Unit, settings: Settings) -> Iterator[Item]:
    if unit.kind == "tar":
        yield from _of_tar(unit.paths[0], extensions(settings.job, settings.latent_form))
    elif unit.kind == "parquet":
        yield from _of_parquet(unit, settings)
    else:
        for path, key in zip(unit.paths, unit.keys, strict=True):
            yield Item(key, path, Path(path).suffix.lower().lstrip("."), _reader(Path(path)))


def _reader(path: Path) -> Callable[[], Mapping[str, bytes]]:
    def read() -> dict[str, bytes]:
        members = {path.suffix.lower().lstrip("."): path.read_bytes()}
        if path.suffix.lower() == f".{SDL}":
            beside = {extension: path.with_name(f"{path.stem}.{extension}") for extension in (FLIPPED, SIZES)}
            members |= {extension: file.read_bytes() for extension, file in beside.items() if file_identity(file)}
        return members

    return read


def _of_tar(path: str, wanted: Sequence[str]) -> Iterator[Item]:
    with Path(path).open("rb") as stream:
        for key, members in read_tar(stream, path):
            main = next((extension for extension in wanted if extension in members), None)
            if main is None:
                main = next((extension for extension in members if extension.lower() in wanted), "")
            yield Item(key, f"{path}:{key}", main, members.copy if isinstance(members, dict) else dict)


def _of_parquet(unit: Unit, settings: Settings) -> Iterator[Item]:
    from pyarrow import parquet

    path = unit.paths[0]
    file = parquet.ParquetFile(path)
    names = file.schema_arrow.names
    known = _PICTURE_COLUMNS if settings.job == "encode" else extensions(settings.job, settings.latent_form)
    picture = settings.picture_column or _one_of(names, known, path)
    key_column = settings.key_column or next((name for name in _KEY_COLUMNS if name in names), None)
    for name in (picture, key_column):
        if name is not None and name not in names:
            raise CorruptError(f"{path} has no column {name}, only {', '.join(names)}"[:300])
    main = picture if picture in known else known[0]
    number = 0
    wanted = [name for name in (picture, key_column) if name is not None]
    for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[unit.row_group], columns=wanted):
        for row in batch.to_pylist():
            key = f"{number:08d}" if key_column is None else str(row[key_column])
            yield Item(key, f"{path}:{key}", main, _cell(row[picture], main))
            number += 1


def _cell(value: Any, main: str) -> Callable[[], Mapping[str, bytes]]:
    """A row's picture: bytes, or as the datasets library keeps it, a struct with ``bytes`` in it."""

    def read() -> dict[str, bytes]:
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise ValueError("the row holds no bytes")
        return {main: data}

    return read


def _one_of(names: list[str], wanted: tuple[str, ...], path: str) -> str:
    for name in wanted:
        if name in names:
            return name
    raise CorruptError(f"{path} has columns {', '.join(names)[:200]}: name the one to read with --picture-column")
