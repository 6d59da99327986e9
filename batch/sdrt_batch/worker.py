"""What runs in each worker: a codec that is kept, and units that are done with it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

import sdrt
from sdrt.errors import SdrtError, first_line
from sdrt.latent_cache import FLIPPED, OWN, SIZES, read_members, write_members
from sdrt.latents.webdataset import Members, checked_key, checked_tar_key
from sdrt_batch import results
from sdrt_batch.attempts import MAX_ENDS, Attempts
from sdrt_batch.items import Item, extensions, items_of
from sdrt_batch.settings import Settings
from sdrt_batch.units import Unit

Status = Literal["done", "skipped", "failed", "refused"]
"""The last is of a worker that can do nothing at all."""
Row = dict[str, str | int]
"""What became of one picture: ``source``, ``key``, ``status``, ``in_bytes``, ``out_bytes``, ``error``."""


class Worker:
    """One process's codec. Raises SdrtError where no picture could be done: no pack, no engine, no such device."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._codec = sdrt.Codec(
            settings.model,
            device=settings.device,
            precision=settings.precision,
            threads=settings.threads,
            max_pixels=settings.max_pixels,
        )
        if settings.job == "encode":
            self._codec.encode(np.zeros((16, 16, 3), np.uint8))  # what is missing is told before the first picture

    def do(self, unit: Unit) -> Iterator[Row]:
        """The rows of one unit; whatever is wrong with a picture becomes its row's error."""
        for path, why in unit.rejected:
            yield _row(path, "", "failed", error=why)
        do = self._files if self._settings.form == "files" else self._shard
        try:
            attempts = Attempts(self._settings.destination, unit.name)
            try:
                yield from do(unit, attempts)
            finally:
                attempts.finish()
        except Exception as error:  # of the unit as a whole: a tar cut short, a full disk
            yield _row(unit.paths[0], "", "failed", error=in_words(error))

    def _files(self, unit: Unit, attempts: Attempts) -> Iterator[Row]:
        kept = results.Files(self._settings)
        for item in items_of(unit, self._settings):
            key = item.key if unit.kind == "files" else f"{unit.name}/{item.key}"
            size = None if item.repeated else kept.bytes_of(key)
            if size is not None:
                yield _row(item.source, key, "skipped", out_bytes=size)
                continue
            try:
                in_bytes, made = self._make(item, key, attempts)
                kept.write(key, made)
                yield _row(item.source, key, "done", in_bytes, _bytes(made))
            except Exception as error:  # one bad picture stops no other
                yield _row(item.source, key, "failed", error=in_words(error))

    def _shard(self, unit: Unit, attempts: Attempts) -> Iterator[Row]:
        path = results.shard_path(self._settings, unit.name)
        rows = self._shard_that_is_there(unit)
        if rows is None:
            rows, failures, keys = [], {}, {}
            with results.shard(path, self._settings) as writer:
                for item in items_of(unit, self._settings):
                    try:
                        in_bytes, made = self._make(item, item.key, attempts)
                    except Exception as error:  # one bad picture stops no other
                        failures[item.key] = in_words(error)
                        rows.append(_row(item.source, item.key, "failed", error=failures[item.key]))
                        continue
                    others = _others(item, self._settings) if unit.kind == "tar" else {}
                    for name, members in made:
                        writer.write(name, {**members, **others})
                    keys[item.key] = [name for name, _ in made]
                    rows.append(_row(item.source, item.key, "done", in_bytes, _bytes(made)))
                results.write_failures(path, failures)
                results.write_keys(path, keys)
        yield from rows

    def _shard_that_is_there(self, unit: Unit) -> list[Row] | None:
        """The rows of a shard that an earlier run finished; None where it is to be made."""
        path = results.shard_path(self._settings, unit.name)
        try:
            made = results.read_shard(path, self._settings)
            failures, keys = results.read_failures(path), results.read_keys(path)
            sizes = {key: sum(made.pop(of) for of in keys[key]) for key in keys} | made
        except (OSError, ValueError, LookupError, SdrtError):
            return None
        if unit.kind == "files" and set(unit.keys) != {*sizes, *failures}:
            return None  # the folder has other pictures than it had
        return [
            *(_row(f"{path}:{key}", key, "skipped", out_bytes=size) for key, size in sizes.items()),
            *(_row(f"{path}:{key}", key, "failed", error=error) for key, error in failures.items()),
        ]

    def _make(self, item: Item, key: str, attempts: Attempts) -> tuple[int, list[tuple[str, Members]]]:
        """Bytes that were read, and the files of each result."""
        checked_key(item.key)
        if self._settings.form == "tar":
            checked_tar_key(item.key)
        if item.repeated:
            raise sdrt.ImageError("another picture before it has this key: choose a column of names with --key-column")
        if not attempts.begin(key):
            raise sdrt.ImageError(f"the worker's process ended {MAX_ENDS} times at this picture")
        if not item.main:
            raise sdrt.ImageError(f"it has none of {', '.join(_wanted(self._settings))}")
        members = item.read()
        data, settings = members[item.main], self._settings
        if settings.job == "encode":
            return len(data), [(key, {"sdl": self._codec.encode(data, settings.options)})]
        if settings.job == "decode":
            stream = io.BytesIO()
            strips = self._codec.decode_strips(data).for_file(strip=False)
            sdrt.save(strips, stream, suffix=f".{settings.picture_format}")
            return len(data), [(key, {settings.picture_format: stream.getvalue()})]
        own = {of: members[of] for of in members if of == item.main or of in (FLIPPED, SIZES)}
        samples = read_members(self._codec, key, own)
        form, options = settings.latent_form, settings.options
        return len(data), [(of.key, write_members(self._codec, of, form, options)) for of in samples]


class Actor:
    """A worker as Ray Data makes and calls it. It raises nothing: Ray would print its stack, and try for ever."""

    def __init__(self, settings: Settings) -> None:
        self._refusal = ""
        try:
            self._worker = Worker(settings)
        except SdrtError as error:
            self._refusal = in_words(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Units as JSON in, rows out: columns of numpy arrays."""
        if self._refusal:
            rows = [_row("", "", "refused", error=self._refusal)]
        else:
            rows = [row for text in batch["unit"] for row in self._worker.do(Unit.from_json(str(text)))]
        kinds = {name: object if isinstance(value, str) else np.int64 for name, value in _EMPTY.items()}
        return {name: np.array([row[name] for row in rows], kind) for name, kind in kinds.items()}


_EMPTY: Row = {"source": "", "key": "", "status": "", "in_bytes": 0, "out_bytes": 0, "error": ""}


def _row(source: str, key: str, status: Status, in_bytes: int = 0, out_bytes: int = 0, *, error: str = "") -> Row:
    sizes: Row = {"in_bytes": in_bytes, "out_bytes": out_bytes}
    return {"source": source, "key": key, "status": status, "error": error, **sizes}


def _bytes(made: list[tuple[str, Members]]) -> int:
    return sum(len(data) for _, members in made for data in members.values())


def _wanted(settings: Settings) -> tuple[str, ...]:
    return extensions(settings.job, settings.latent_form)


def _others(item: Item, settings: Settings) -> Members:
    """The files beside a picture in a tar that the job does not read: captions, labels."""
    taken = {item.main, *OWN, *settings.extensions}
    return {extension: data for extension, data in item.read().items() if extension not in taken}


def in_words(error: Exception) -> str:
    """One line for the table of errors."""
    if isinstance(error, SdrtError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return "not enough memory for this picture"
    if isinstance(error, OSError):
        return f"cannot be read or written: {error.strerror or error}"
    return f"unexpected {type(error).__name__}: {first_line(error)}"
