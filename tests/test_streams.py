"""Laws of streams that others opened: what is written arrives whole, what is read is read to its end."""

from __future__ import annotations

import io
import os
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sdrt.container.source import read_source
from sdrt.errors import ImageError, NotSdlError, OutputError
from sdrt.file_info import info
from sdrt.pixels.load import load
from sdrt.pixels.picture import Picture
from sdrt.pixels.save import save
from sdrt.streams import WholeWriter, read_at_most

PICTURE = Picture(np.random.default_rng(6).integers(0, 256, (300, 300, 3), np.uint8))
DATA = np.random.default_rng(7).bytes(300_000)


class Sips(io.RawIOBase):
    """A raw stream that takes or gives 1,000 bytes at most, and every other time none."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.calls = 0

    def write(self, data: object) -> int | None:
        self.calls += 1
        if self.calls % 2:
            return None
        part = bytes(data)[:1000]  # type: ignore[call-overload]
        self.data += part
        return len(part)

    def read(self, size: int = -1) -> bytes | None:
        self.calls += 1
        if self.calls % 2:
            return None
        part = bytes(self.data[: min(size, 1000)])
        del self.data[: len(part)]
        return part


class Silent:
    """A stream as people write them: ``write`` takes all and returns nothing."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes | memoryview) -> None:
        self.data += data


def nonblocking_pipe(end: int) -> tuple[int, int]:
    """The reading and the writing descriptor of a pipe whose ``end`` (0 or 1) does not block."""
    ends = os.pipe()
    os.set_blocking(ends[end], False)
    return ends


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdrt.streams._PAUSE_S", 0)


@pytest.mark.parametrize("suffix", [".png", ".ppm", ".bmp"])
def test_a_stream_that_takes_little_at_once_gets_all(suffix: str) -> None:
    """A picture arrives whole where a write takes a part, or nothing for now, or does not say what it took."""
    whole, sips, silent = io.BytesIO(), Sips(), Silent()
    for stream in (whole, sips, silent):
        save(PICTURE, stream, suffix=suffix)
    assert bytes(sips.data) == whole.getvalue() == silent.data


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX pipes")
@pytest.mark.parametrize("buffering", [0, 4096])
def test_a_pipe_that_does_not_wait_is_waited_for(buffering: int) -> None:
    """A picture arrives whole in a non-blocking pipe with a slow reader, buffered by Python or not."""
    reading, writing = nonblocking_pipe(1)
    got: list[bytes] = []

    def read() -> None:
        with os.fdopen(reading, "rb") as stream:
            got.append(stream.read())

    reader = threading.Thread(target=read)
    with os.fdopen(writing, "wb", buffering=buffering) as stream:
        threading.Timer(0.2, reader.start).start()
        writer = WholeWriter(stream)
        save(PICTURE, stream, suffix=".png")
        writer.flush()
    reader.join(10)
    expected = io.BytesIO()
    save(PICTURE, expected, suffix=".png")
    assert got == [expected.getvalue()]


@pytest.mark.parametrize("written", [0, -1, 10**9])
def test_a_stream_that_counts_wrongly_is_refused(written: int) -> None:
    """A write that took nothing, or more than there was, is no reason to go on for ever."""

    class Liar(io.RawIOBase):
        def write(self, _data: object) -> int:
            return written

    with pytest.raises(OutputError, match="the stream reports"):
        save(PICTURE, Liar(), suffix=".png")


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX pipes")
@pytest.mark.parametrize("buffering", [0, 4096])
def test_a_source_that_does_not_wait_is_read_to_its_end(buffering: int) -> None:
    """A non-blocking pipe that is empty for now is not at its end."""
    reading, writing = nonblocking_pipe(0)

    def write() -> None:
        with os.fdopen(writing, "wb") as stream:
            stream.write(DATA)

    threading.Timer(0.2, write).start()
    with os.fdopen(reading, "rb", buffering=buffering) as stream:
        assert read_at_most(stream, 2**30) == DATA
    assert read_at_most(Sips(DATA), 2**30) == DATA


def test_text_and_nothing_are_no_bytes() -> None:
    """A stream of text, and one whose ``read`` returns None for no reason, are refused in a line."""
    for stream in (io.StringIO("text"), type("Nothing", (), {"read": lambda *_: None})()):
        with pytest.raises(ImageError, match=r"cannot read the stream: it gives .*, not bytes"):
            load(stream)


def test_no_more_is_read_than_may_be_there() -> None:
    """One byte above the limit is enough to know; memory is taken for what came, never for what might have come."""
    stream = io.BytesIO(DATA)
    assert read_at_most(stream, 1001) == DATA[:1001] and stream.tell() == 1001
    tracemalloc.start()
    try:
        read_at_most(io.BytesIO(DATA), 2**31)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(DATA)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("how", [lambda path: path, lambda path: path.read_bytes()])
def test_what_is_no_sdl_file_is_not_read_to_its_end(how: Callable[[Path], Path | bytes], tmp_path: Path) -> None:
    """A gigabyte that does not begin like an .sdl file is refused for that, in the memory of its first block."""
    path = tmp_path / "film.mp4"
    with path.open("wb") as file:
        file.write(b"SD")
        file.truncate(10**6)
    with pytest.raises(NotSdlError):
        info(how(path))
    with path.open("r+b") as file:
        file.truncate(2**33)
    assert len(read_source(path)) <= 2**16
    with pytest.raises(NotSdlError):
        info(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pictures_come_through_pipes(tmp_path: Path) -> None:
    """The path of a pipe is as good as that of a file: /dev/fd/N of a shell's <( ), or a named one."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    save(PICTURE, tmp_path / "photo.png")
    data = (tmp_path / "photo.png").read_bytes()
    threading.Thread(target=fifo.write_bytes, args=(data,)).start()
    assert (load(fifo).rgb == PICTURE.rgb).all()
