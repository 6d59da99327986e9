"""``sdrt latents``: converts .sdl files to latent caches of other programs, and back."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from sdrt.atomic import atomic_file, file_identity, make_folder
from sdrt.codec import Codec
from sdrt.command.console import USAGE, check_output, print_stderr, report_error, write_output
from sdrt.container.source import read_source
from sdrt.errors import ImageError, LimitError, MissingFileError, OutputError, UnsupportedError
from sdrt.latent_cache import FLIPPED, OWN, READERS, SDL, SIZES, read_members, write_members
from sdrt.latents.webdataset import MAX_SAMPLE_BYTES, Members, TarWriter, checked_key, read_tar
from sdrt.options import NEAR_LOSSLESS, EncodeOptions, LatentForm
from sdrt.streams import read_at_most

TAR = ".tar"


class _Sink(Protocol):
    def write(self, key: str, members: Members, source: Path) -> None: ...


class _StoppedError(OSError):
    """A tar that could not be written to: what came behind would stand where no reader looks for it."""


class _Tar:
    """All samples go into one tar."""

    def __init__(self, writer: TarWriter) -> None:
        self._writer = writer
        self.sources: dict[str, Path] = {}
        """The key of each sample -> the file that it was made from."""

    def write(self, key: str, members: Members, source: Path) -> None:
        """Raises OutputError: a sample of this key is there; whoever reads the tar would take both for one."""
        if key in self.sources:
            raise OutputError(f"{key} was just written from {self.sources[key]}")
        try:
            self._writer.write(key, members)
        except OSError as error:
            raise _StoppedError(error.errno, error.strerror) from None
        self.sources[key] = source


class _Folder:
    """Writes files beside their source, or in ``folder``. The main file of a sample is written last."""

    def __init__(self, folder: Path | None, sources: Sequence[Path], *, overwrite: bool) -> None:
        self._folder, self._overwrite = folder, overwrite
        self._sources = {file_identity(source) for source in sources} - {None}
        self._written: dict[tuple[int, int] | None, Path] = {}

    def write(self, key: str, members: Members, source: Path) -> None:
        """Raises OutputError: a file exists, is an input or another's result, or cannot be written; a tar's key leads
        out of the folder."""
        if source.suffix.lower() == TAR:
            checked_key(key)
        folder = source.parent if self._folder is None else self._folder
        paths = {extension: folder / f"{key}.{extension}" for extension in members}
        for path in paths.values():
            make_folder(path.parent)
            check_output(str(path), overwrite=self._overwrite)
            file = file_identity(path)
            if file is None:  # nothing is there, or no regular file
                continue
            if file in self._sources:
                raise OutputError(f"{path} is an input and would be overwritten")
            if file in self._written:
                raise OutputError(f"{path} was just written from {self._written[file]}")
        for extension in reversed(list(members)):
            write_output(str(paths[extension]), members[extension], overwrite=self._overwrite)
            self._written[file_identity(paths[extension])] = source


def convert(arguments: argparse.Namespace) -> int:
    """``sdrt latents``; returns the exit code: 0, or that of the first error."""
    codec = Codec(arguments.model, max_pixels=arguments.max_pixels)
    error = NEAR_LOSSLESS if arguments.quality is None and arguments.latent_error is None else arguments.latent_error
    options = EncodeOptions(quality=arguments.quality, latent_error=error)
    sources = [Path(source) for source in arguments.inputs]
    output = None if arguments.output is None else Path(arguments.output)
    if output is not None and output.suffix.lower() != TAR:
        print_stderr(f"sdrt: error: -o {output} is not a .tar, which holds all inputs; use --out-dir for files")
        return USAGE
    if output is not None and file_identity(output) in {file_identity(source) for source in sources} - {None}:
        print_stderr(f"sdrt: error: {output} is an input and would be overwritten")
        return USAGE
    if output is None:
        folder = None if arguments.out_dir is None else Path(arguments.out_dir)
        beside = _Folder(folder, sources, overwrite=arguments.force)
        return _convert_all(_Work(codec, beside, options, arguments.to, arguments.verbose), sources)
    check_output(str(output), overwrite=arguments.force)
    try:
        with atomic_file(output, overwrite=arguments.force) as file:
            writer = TarWriter(file)
            tar = _Tar(writer)
            code = _convert_all(_Work(codec, tar, options, arguments.to, arguments.verbose), sources)
            if code and not tar.sources:
                raise _NothingError
            writer.close()
    except _NothingError:
        pass
    return code


class _NothingError(Exception):
    """No sample could be made: a tar of none must not replace what is there."""


@dataclass(frozen=True, eq=False)
class _Work:
    """The settings for all inputs."""

    codec: Codec
    sink: _Sink
    options: EncodeOptions
    to: LatentForm | None
    verbose: bool


def _convert_all(work: _Work, sources: Sequence[Path]) -> int:
    """Converts all inputs; returns the exit code."""
    code = 0
    named = set(sources)
    for source in sources:
        if source.name.endswith(f".{FLIPPED}") and _of_flipped(source) in named:
            continue  # read with the file that it belongs to
        try:
            holds_latents = False
            for key, members in _members_of(source):
                holds_latents = holds_latents or not members.keys().isdisjoint((SDL, *READERS))
                failure = _convert_one(work, source, key, members)
                code = code or failure
            if not holds_latents:
                raise UnsupportedError(f"{source} holds no latents, which are read from .{', .'.join((SDL, *READERS))}")
        except _StoppedError:
            raise
        except Exception as failed:  # one bad input must not stop the others
            failure = report_error(failed, str(source))
            code = code or failure
    return code


def _convert_one(work: _Work, source: Path, key: str, members: Members) -> int:
    """Converts the sample of one key; returns the exit code. Members that are not latents are copied."""
    form: LatentForm = work.to or ("npz" if SDL in members else "sdl")
    try:
        if form == SDL and SDL in members:
            raise UnsupportedError(f"{source} already holds .sdl files: choose another form with --to")
        others = {extension: data for extension, data in members.items() if extension not in (*OWN, *READERS)}
        for sample in read_members(work.codec, key, members):
            written = write_members(work.codec, sample, form, work.options)
            work.sink.write(sample.key, {**written, **others}, source)
            if work.verbose:
                print_stderr(f"{source} -> {sample.key}.{next(iter(written))}: {sum(map(len, written.values()))} bytes")
    except _StoppedError:
        raise
    except Exception as failed:  # nor must one bad sample stop those behind it
        return report_error(failed, str(source))
    return 0


def _members_of(source: Path) -> Iterator[tuple[str, Members]]:
    """The files of each key of a tar; of any other file itself, and what belongs to it beside it."""
    if source.suffix.lower() == TAR:
        with _opened(source) as stream:
            yield from read_tar(stream, str(source))
        return
    kind = source.suffix.lower().lstrip(".")
    if kind != SDL and kind not in READERS:
        raise UnsupportedError(f"{source}: latents are read from .{SDL}, .{', .'.join(READERS)} and {TAR} files")
    members = {kind: read_source(source) if kind == SDL else _read(source)}
    key = source.name[: -len(source.suffix)]
    if kind == SDL:
        for extension in (FLIPPED, SIZES):
            beside = source.with_name(f"{key}.{extension}")
            if file_identity(beside) is not None:
                members[extension] = _read(beside)
    yield key, members


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as stream:
            yield stream
    except FileNotFoundError:
        raise MissingFileError(f"cannot read {path}: no such file") from None
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from None


def _read(path: Path) -> bytes:
    with _opened(path) as stream:
        data = read_at_most(stream, MAX_SAMPLE_BYTES + 1)
    if len(data) > MAX_SAMPLE_BYTES:
        raise LimitError(f"{path} has more than {MAX_SAMPLE_BYTES} bytes")
    return data


def _of_flipped(path: Path) -> Path:
    return path.with_name(f"{path.name.removesuffix(FLIPPED)}{SDL}")
