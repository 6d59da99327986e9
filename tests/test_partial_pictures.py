"""Laws of files whose picture Pillow does not give: refused or noted by name, never a preview without a word."""

from __future__ import annotations

import io
import struct
import sys
import types
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sdrt.errors import ImageError, LimitError
from sdrt.pixels.load import load

Pixels = NDArray[np.uint8]


def tiff_page(pixels: Pixels, at: int, tags: dict[int, tuple[int, ...]], *, last: bool = False) -> bytes:
    """A little-endian directory of an RGB page that begins ``at``, its pixels behind it, and a link to what follows."""
    height_px, width_px = pixels.shape[:2]
    entries = {256: (width_px,), 257: (height_px,), 258: (8, 8, 8), 259: (1,), 262: (2,), 277: (3,), 278: (height_px,)}
    entries |= {273: (0,), 279: (pixels.size,), **tags}
    far = at + 2 + 12 * len(entries) + 4
    behind = struct.pack("<3H", 8, 8, 8).ljust(8, b"\0")
    entries[273] = (far + len(behind),)
    coded = struct.pack("<H", len(entries))
    for tag, values in sorted(entries.items()):
        if tag == 258:
            coded += struct.pack("<HHII", tag, 3, 3, far)
        elif tag == 50706:
            coded += struct.pack("<HHI4B", tag, 1, 4, *values)
        else:
            coded += struct.pack("<HHII", tag, 4, 1, values[0])
    behind += pixels.tobytes()
    return coded + struct.pack("<I", 0 if last else far + len(behind)) + behind


def tiff(*pages: tuple[Pixels, dict[int, tuple[int, ...]]]) -> bytes:
    data = b"II*\0" + struct.pack("<I", 8)
    for number, (pixels, tags) in enumerate(pages):
        data += tiff_page(pixels, len(data), tags, last=number == len(pages) - 1)
    return data


PREVIEW, INNER, DNG = {254: (1,)}, {330: (8,)}, {50706: (1, 4, 0, 0)}


@pytest.mark.parametrize("tags", [PREVIEW | INNER, PREVIEW | INNER | DNG, DNG])
def test_a_raw_files_preview_is_refused(tags: dict[int, tuple[int, ...]], photo: Pixels) -> None:
    """A TIFF whose first picture is the preview of an inner one, or that has a DNG version, is a camera's raw file."""
    data = tiff((photo[:16, :24], tags))
    with pytest.raises(ImageError, match="raw file"):
        load(data)
    with Image.open(io.BytesIO(data)) as image, pytest.raises(ImageError, match="raw file"):
        load(image)


def test_pages_are_not_raw_files(photo: Pixels) -> None:
    """Of pages the first that is no preview is taken, with a note; smaller versions behind it or inside are no matter;
    where all say that they are previews the first is taken."""
    small, whole = photo[:16, :24].copy(), photo[:48, :72].copy()
    picture = load(tiff((small, PREVIEW), (whole, {})))
    assert (picture.rgb == whole).all()
    assert "pages" in picture.notes[0]
    assert (load(tiff((whole, {}), (small, PREVIEW))).rgb == whole).all()
    assert (load(tiff((whole, INNER))).rgb == whole).all()
    assert (load(tiff((small, PREVIEW))).rgb == small).all()


def psd(pixels: Pixels, *, merged: int | None) -> bytes:
    """A Photoshop file without layers; ``merged``: what resource 1057 says of the merged picture, None: no resource."""
    height_px, width_px = pixels.shape[:2]
    version = struct.pack(">IB", 1, merged or 0) + struct.pack(">II", 0, 0) + struct.pack(">I", 1)
    version += b"\0" * (len(version) % 2)
    resources = b"" if merged is None else b"8BIM" + struct.pack(">HHI", 1057, 0, len(version)) + version
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, height_px, width_px, 8, 3)
    body = struct.pack(">I", 0) + struct.pack(">I", len(resources)) + resources + struct.pack(">I", 0)
    return head + body + struct.pack(">H", 0) + pixels.transpose(2, 0, 1).tobytes()


def test_layers_without_their_merged_picture_are_refused(photo: Pixels) -> None:
    """A PSD that says that its merged picture is not real is refused; one that says it is, or nothing, is read."""
    with pytest.raises(ImageError, match="merged picture"):
        load(psd(photo, merged=0))
    for merged in (1, None):
        picture = load(psd(photo, merged=merged))
        assert (picture.rgb == photo).all()
        assert picture.notes == ()


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pillow-heif"),
        (b"\0\0\0\x18ftyphevc\0\0\0\0", "pillow-heif"),
        (b"\xff\x0a" + bytes(40), "pillow-jxl-plugin"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "pillow-jxl-plugin"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "render it first"),
        (b"\xef\xbb\xbf  <?xml version='1.0'?>\n<svg/>", "render it first"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "raw file"),
        (b"FUJIFILMCCD-RAW 0201", "raw file"),
        (b"II*\0\x10\0\0\0CR\2\0", "raw file"),
        (b"IIU\0" + bytes(40), "raw file"),
        (b"<html>", "not a picture of a known format"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0", "not a picture of a known format"),
    ],
)
def test_what_pillow_does_not_know_is_named(head: bytes, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formats that a plugin, another program or nobody reads are told apart in one line."""
    for plugin in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, plugin, None)
    # Another test may have made them join in.
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name not in ("JXL", "HEIF")])
    with pytest.raises(ImageError, match=words) as caught:
        load(head)
    assert "\n" not in str(caught.value)


def test_an_installed_plugin_joins_in(photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the named plugin is installed it is asked to register, and its picture is read."""
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))

    def opened(_file: object, _name: object) -> Image.Image:
        return Image.fromarray(photo)

    def register() -> None:
        Image.register_open("HEIF", opened, lambda prefix: prefix[4:12] == b"ftypheic")  # type: ignore[arg-type]

    plugin = types.ModuleType("pillow_heif")
    plugin.register_heif_opener = register  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    assert (load(b"\0\0\0\x18ftypheic" + bytes(40)).rgb == photo).all()


def bomb(side_px: int) -> bytes:
    """A PNG that announces side_px x side_px pixels and has none of them."""
    header = struct.pack(">II", side_px, side_px) + b"\x08\0\0\0\0"
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    coded = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(coded)


@pytest.mark.parametrize("limit", [None, 10_000, 10**9])
@pytest.mark.parametrize("side_px", [120, 14_200, 40_000])
def test_every_refusal_for_pixels_names_the_option(side_px: int, limit: int | None) -> None:
    """Whoever counts first, sdrt or Pillow, says how many pixels there are, what the limit is, and how to raise it."""
    options = {} if limit is None else {"max_pixels": limit}
    if side_px**2 <= (limit or 178_956_970):
        with pytest.raises(ImageError):
            load(bomb(side_px), **options)
        return
    with pytest.raises(LimitError, match="--max-pixels") as caught:
        load(bomb(side_px), **options)
    assert str(side_px**2) in str(caught.value)
    assert str(limit or 178_956_970) in str(caught.value)
