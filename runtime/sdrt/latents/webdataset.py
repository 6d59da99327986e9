"""WebDataset tars: files that share a name up to its first dot are one sample, and lie one behind the other.

The convention is that of github.com/webdataset/webdataset: of ``folder/photo.flipped.sdl`` the key is ``folder/photo``
and the extension ``flipped.sdl``. Tars are read and written in one pass, without compression, and nothing in them is
ever used as a path.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from sdrt.errors import CorruptError, LimitError, OutputError, first_line
from sdrt.streams import Sink

MAX_SAMPLE_BYTES = 1 << 30
"""Of the files of a sample together, each with its header: they are held until the next sample begins."""

Members = Mapping[str, bytes]
"""Extension without its first dot -> contents."""


def split_key(name: str) -> tuple[str, str]:
    """``folder/photo.flipped.sdl`` -> ``folder/photo``, ``flipped.sdl``."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return folder + slash + stem, extension


def checked_key(key: str) -> str:
    """``key``, if it is a valid relative file name. Raises OutputError."""
    path = PurePosixPath(key)
    if not path.name or path.is_absolute() or ".." in path.parts or "\\" in key or not key.isprintable():
        raise OutputError(f"{key!r} is not a valid file name")
    return key


def checked_tar_key(key: str) -> str:
    """``key``, if readers of a tar take it back whole: they end it at the first dot. Raises OutputError."""
    if split_key(f"{key}.")[0] != key:
        raise OutputError(f"{key!r} cannot be a key in a tar: its readers would end it at the first dot; rename it")
    return key


def read_tar(stream: BinaryIO, name: str) -> Iterator[tuple[str, Members]]:
    """Key and members of each sample, in order; folders, links and devices are skipped.

    Args:
        stream: Read once, from its beginning to its end.
        name: What errors call it.

    Raises:
        CorruptError: No tar, one that is cut short or compressed, or a sample with two files of one name; samples
            before the damage are given.
        LimitError: A sample beyond MAX_SAMPLE_BYTES; samples before it are given.
    """
    key: str | None = None
    members: dict[str, bytes] = {}
    sample_bytes = 0
    watched = _Watched(stream)
    try:
        with tarfile.open(fileobj=cast(BinaryIO, watched), mode="r|") as tar:
            for entry in tar:
                if not entry.isfile():
                    continue
                if entry.issparse():  # of a few bytes it makes as many zeros as it likes
                    raise tarfile.ReadError(f"{entry.name!r} is a sparse file")
                of, extension = split_key(entry.name)
                if of != key:
                    if key is not None:
                        yield key, members
                    key, members, sample_bytes = of, {}, 0
                sample_bytes += tarfile.BLOCKSIZE + entry.size
                if sample_bytes > MAX_SAMPLE_BYTES:
                    raise LimitError(
                        f"{name}: with {entry.name!r} the sample {key!r} has {sample_bytes} bytes, the limit is "
                        f"{MAX_SAMPLE_BYTES}"
                    )
                if extension in members:
                    raise CorruptError(f"{name}: the sample {key!r} has two files {entry.name!r}")
                file = tar.extractfile(entry)
                members[extension] = b"" if file is None else file.read()
            if watched.block(tar.offset) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a broken header for the end
                raise tarfile.ReadError(f"it breaks off or is damaged at byte {tar.offset}")
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise CorruptError(f"{name}: not a complete tar file: {first_line(error)}") from None
    if key is not None:
        yield key, members


class _Watched:
    """A stream that keeps the blocks that were read last."""

    _KEPT_BYTES = 2 * tarfile.RECORDSIZE

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._end, self._tail = stream, 0, b""

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._end += len(data)
        self._tail = (self._tail + data)[-self._KEPT_BYTES :]
        return data

    def block(self, offset: int) -> bytes:
        """The block at ``offset``, if it is among the last ones."""
        start = offset - self._end + len(self._tail)
        return self._tail[start : start + tarfile.BLOCKSIZE] if start >= 0 else b""


class _Counted:
    """A sink that knows how many bytes it was given, which is all of a file that tarfile needs."""

    def __init__(self, sink: Sink) -> None:
        self._sink, self._bytes = sink, 0

    def write(self, data: bytes) -> None:
        self._sink.write(data)
        self._bytes += len(data)

    def tell(self) -> int:
        return self._bytes


class TarWriter:
    """Writes samples to ``sink``; ``close`` ends the tar. The same samples give the same bytes."""

    def __init__(self, sink: Sink) -> None:
        # Not "w|": a stream of tarfile's that nobody ends writes once more when it is forgotten, whatever went wrong.
        self._tar = tarfile.open(fileobj=cast(BinaryIO, _Counted(sink)), mode="w")  # noqa: SIM115 (`close` ends it)

    def write(self, key: str, members: Members) -> None:
        """Adds one sample; its key must be another than the one before. Raises as ``checked_tar_key``."""
        checked_tar_key(key)
        for extension, data in members.items():
            entry = tarfile.TarInfo(f"{key}.{extension}")
            entry.size, entry.mode = len(data), 0o644
            self._tar.addfile(entry, io.BytesIO(data))

    def close(self) -> None:
        """Writes the end."""
        self._tar.close()
