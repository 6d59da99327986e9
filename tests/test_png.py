"""Laws of PNG files from strips: Pillow reads back what went in, however it was cut, and memory stays a band's."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.make_container_golden import EMPTY_EXIF

from sdrt.errors import EngineError, OutputError
from sdrt.pixels import png
from sdrt.pixels.metadata import Metadata
from sdrt.pixels.picture import Picture, Strips, gather, scatter
from sdrt.pixels.save import save

Pixels = NDArray[np.uint8]


def cut(picture: Picture, heights: list[int]) -> Strips:
    """``picture`` in strips of these heights; the last takes the rest."""
    height_px, width_px = picture.rgb.shape[:2]
    stops = [*np.cumsum(heights).tolist(), height_px]
    rows = (picture.rgb[start:stop] for start, stop in zip([0, *stops[:-1]], stops, strict=True) if start < stop)
    return Strips(width_px, height_px, rows, picture.alpha, picture.metadata)


def written(strips: Strips) -> bytes:
    stream = io.BytesIO()
    png.write_png(strips, stream)
    return stream.getvalue()


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (70, 1), (97, 161)])
@pytest.mark.parametrize("transparent", [False, True])
def test_pillow_reads_what_was_written(
    size: tuple[int, int], transparent: bool, make_photo: Callable[[int, int], Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every pixel comes back, with and without alpha, and the file is the same however strips and bands cut it."""
    rgb = make_photo(*size)
    rgb[::7, ::5] = np.random.default_rng(1).integers(0, 256, rgb[::7, ::5].shape)
    picture = Picture(rgb, rgb[:, :, 1].copy() if transparent else None)
    expected = rgb if picture.alpha is None else np.dstack([rgb, picture.alpha])
    for band_px in (1, 200, 2**18):
        monkeypatch.setattr(png, "_BAND_PX", band_px)
        for strips in (scatter(picture), cut(picture, [1, 30, 2])):
            with Image.open(io.BytesIO(written(strips))) as back:
                assert back.format == "PNG" and back.mode == ("RGBA" if transparent else "RGB")
                back.load()
                np.testing.assert_array_equal(np.asarray(back), expected)


def test_chunks_are_as_the_standard_wants_them(photo: Pixels) -> None:
    """Every length and CRC holds, IHDR comes first, EXIF and XMP before the pixels, IEND last, and nothing after it."""
    data = written(cut(Picture(photo, None, Metadata(EMPTY_EXIF, b"<x:xmpmeta/>")), [10]))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    kinds, at = [], 8
    while at < len(data):
        (length,), kind = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        (crc,) = struct.unpack_from(">I", data, at + 8 + length)
        assert crc == zlib.crc32(data[at + 4 : at + 8 + length])
        kinds.append(kind)
        at += 12 + length
    assert kinds[:3] == [b"IHDR", b"eXIf", b"iTXt"] and kinds[-1] == b"IEND" and set(kinds[3:-1]) == {b"IDAT"}
    with Image.open(io.BytesIO(data)) as back:
        assert back.info["xmp"] == b"<x:xmpmeta/>"
        assert back.info["exif"].endswith(EMPTY_EXIF)


def test_files_are_about_as_small_as_pillows(make_photo: Callable[[int, int], Pixels]) -> None:
    """One filter for all rows costs little: at most 3 % more bytes than Pillow's choice among all of them."""
    rgb = make_photo(300, 400)
    theirs = io.BytesIO()
    Image.fromarray(rgb).save(theirs, "PNG")
    assert len(written(scatter(Picture(rgb)))) < 1.03 * len(theirs.getvalue())


@pytest.mark.parametrize("suffix", [".png", ".ppm"])
def test_memory_is_that_of_a_strip(suffix: str) -> None:
    """Writing 20 MB of pixels in strips of 200 kB takes a few MB: neither the picture nor the file is held."""

    class Sink(io.RawIOBase):
        def write(self, data: Any) -> int:
            return len(data)

    def rows() -> Iterator[Pixels]:
        for seed in range(100):
            yield np.random.default_rng(seed).integers(0, 256, (64, 1024, 3), np.uint8)

    tracemalloc.start()
    save(Strips(1024, 6400, rows()), Sink(), suffix=suffix)  # type: ignore[arg-type] # all of BinaryIO that is used
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 8e6


@pytest.mark.parametrize("suffix", [".png", ".ppm", ".webp", ".tif"])
def test_strips_and_pictures_make_the_same_file(suffix: str, photo: Pixels) -> None:
    """How a picture arrives does not change its file, in formats that stream and in those that gather."""
    picture = Picture(photo)
    files = []
    for source in (picture, cut(picture, [5, 60])):
        stream = io.BytesIO()
        save(source, stream, suffix=suffix)
        files.append(stream.getvalue())
    with Image.open(io.BytesIO(files[1])) as back:
        np.testing.assert_array_equal(np.asarray(back.convert("RGB")), photo)
    assert suffix in (".png", ".ppm") or files[0] == files[1]


def test_a_failure_before_the_first_strip_writes_nothing(photo: Pixels, tmp_path: Any) -> None:
    """An engine that fails at once leaves an empty stream; whenever it fails, a named file does not appear."""

    def failing(after: int) -> Iterator[Pixels]:
        for _ in range(after):
            yield photo[:10]
        raise EngineError("out of memory")

    for after in (0, 2):
        stream = io.BytesIO()
        with pytest.raises(EngineError, match="out of memory"):
            save(Strips(161, 97, failing(after)), stream, suffix=".png")
        assert (stream.getvalue() == b"") == (after == 0)
        with pytest.raises(EngineError):
            save(Strips(161, 97, failing(after)), tmp_path / "a.png")
        assert list(tmp_path.iterdir()) == []


def test_no_transparency_is_said_before_anything_is_painted(photo: Pixels) -> None:
    """A format that holds no alpha is refused without asking for a row."""
    asked = []
    rows = (asked.append(1) or photo for _ in range(1))  # type: ignore[func-returns-value] # a note, then the rows
    with pytest.raises(OutputError, match="holds no transparency"):
        save(Strips(161, 97, rows, photo[:, :, 0]), io.BytesIO(), suffix=".ppm")
    assert asked == []


def test_gathering_is_the_inverse_of_scattering(photo: Pixels) -> None:
    """Strips of a picture make the picture, with all its fields."""
    picture = Picture(photo, photo[:, :, 0], Metadata(b"exif", b"xmp"))
    for strips in (scatter(picture), cut(picture, [1, 1, 50])):
        back = gather(strips)
        np.testing.assert_array_equal(back.rgb, picture.rgb)
        assert back.alpha is picture.alpha and back.metadata == Metadata(b"exif", b"xmp")
