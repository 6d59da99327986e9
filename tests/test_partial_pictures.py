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
from sdrt.pixels.tiff_tags import pixels_at

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


def with_inner(
    outer: Pixels, tags: dict[int, tuple[int, ...]], inner: Pixels, inner_tags: dict[int, tuple[int, ...]]
) -> bytes:
    """A TIFF file of one page with a picture inside."""
    at = 8 + len(tiff_page(outer, 8, {**tags, 330: (0,)}, last=True))
    page = tiff_page(outer, 8, {**tags, 330: (at,)}, last=True)
    return b"II*\0" + struct.pack("<I", 8) + page + tiff_page(inner, at, inner_tags, last=True)


@pytest.mark.parametrize("inside", [{}, {262: (32803,)}, {262: (34892,)}])
@pytest.mark.parametrize("outside", [{}, {254: (0,)}, {255: (2,)}])
def test_a_picture_inside_that_is_larger_makes_a_preview(
    outside: dict[int, tuple[int, ...]], inside: dict[int, tuple[int, ...]], photo: Pixels
) -> None:
    """Of raw files too whose makers do not mark the preview as one."""
    data = with_inner(photo[:16, :24], outside, photo[:48, :72], inside)
    for source in (data, Image.open(io.BytesIO(data))):
        with pytest.raises(ImageError, match="raw file"):
            load(source)


@pytest.mark.parametrize(
    ("signature", "head", "entry"),
    [
        (b"II*\0", "<H", "<HHIH2x"),
        (b"MM\0*", ">H", ">HHIH2x"),
        (b"II+\0", "<Q", "<HHQH6x"),
        (b"MM\0+", ">Q", ">HHQH6x"),
    ],
)
def test_sides_are_read_in_every_kind_of_tiff(signature: bytes, head: str, entry: str) -> None:
    """In both byte orders and in BigTIFF, which has longer directories."""
    sides = struct.pack(head, 2) + b"".join(struct.pack(entry, tag, 3, 1, side) for tag, side in ((256, 70), (257, 90)))
    assert pixels_at(io.BytesIO(signature + sides), 4) == 70 * 90


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
    assert (load(tiff((small, {255: (2,)}), (whole, {255: (1,)}))).rgb == whole).all()
    for broken in (2**31, 2**32 - 1, 5, 0):
        assert (load(tiff((whole, {330: (broken,)}))).rgb == whole).all()


def psd(pixels: Pixels, *, merged: int | None, mode: int = 3, layers: int = 0) -> bytes:
    """A Photoshop file; ``merged``: what resource 1057 says of the merged picture, None: no resource; ``layers``: their
    number, negative where the fourth channel is transparency, but none of them."""
    height_px, width_px, channels = pixels.shape
    version = struct.pack(">IB", 1, merged or 0) + struct.pack(">II", 0, 0) + struct.pack(">I", 1)
    version += b"\0" * (len(version) % 2)
    resources = b"" if merged is None else b"8BIM" + struct.pack(">HHI", 1057, 0, len(version)) + version
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, channels, height_px, width_px, 8, mode)
    body = struct.pack(">I", 0) + struct.pack(">I", len(resources)) + resources
    body += struct.pack(">IIh2x", 8, 4, layers) if layers else struct.pack(">I", 0)
    return head + body + struct.pack(">H", 0) + pixels.transpose(2, 0, 1).tobytes()


def test_layers_without_their_merged_picture_are_refused(photo: Pixels) -> None:
    """A PSD that says that its merged picture is not real is refused; one that says it is, or nothing, is read."""
    with pytest.raises(ImageError, match="merged picture"):
        load(psd(photo, merged=0))
    for merged in (1, None):
        picture = load(psd(photo, merged=merged))
        assert (picture.rgb == photo).all()
        assert picture.notes == ()


def test_channels_of_a_psd_are_what_they_are_taken_for(photo: Pixels) -> None:
    """Separate plates are refused; inks that are left out are noted, and a channel that may be no transparency; broken
    layers behind a merged picture are no matter."""
    with pytest.raises(ImageError, match="multichannel"):
        load(psd(photo, merged=1, mode=7))
    assert load(psd(photo[:, :, :1], merged=1, mode=8)).notes[0].startswith("a duotone")
    selected = np.dstack([photo, photo[:, :, 0]])
    for layers, notes in ((-1, 0), (0, 1), (2, 1)):
        picture = load(psd(selected, merged=1, layers=layers))
        assert picture.alpha is not None and (picture.alpha == selected[:, :, 3]).all()
        assert len([note for note in picture.notes if "transparency" in note]) == notes


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
        (b"II*\0\x10\0\0\0\xba\xb0\xac\xbb", "raw file"),
        (b"II*\0\x10\0\0\0IIIITwaR", "raw file"),
        (b"MM\0*\0\0\0\x10MMMMRawT", "raw file"),
        (b"IIU\0" + bytes(40), "raw file"),
        (b"\x89PNG\r\n\x1a\n", "damaged, or a kind of PNG"),
        (b"GIF89a", "damaged, or a kind of GIF"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "damaged, or a kind of AVIF"),
        (b"MM\0*\0\0\0\x08\0\0", "damaged, or a kind of TIFF"),
        (b"8BPS\0\1" + bytes(6) + b"\0\3" + bytes(8) + b"\0\x10\0\3", "damaged, or a kind of PSD"),
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
