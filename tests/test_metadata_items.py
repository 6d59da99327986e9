"""Laws of every item of metadata: they follow from the table ``ITEMS``, which is all that a new item needs."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.make_container_golden import GOOD, SAMPLES

from sdrt.codec import Codec
from sdrt.container import sdl
from sdrt.errors import OutputError
from sdrt.limits import MAX_ANCILLARY_BYTES
from sdrt.metadata_chunks import from_chunks
from sdrt.packs.manifest import ModelPack
from sdrt.pixels.load import load
from sdrt.pixels.metadata import ITEMS, Metadata
from sdrt.pixels.picture import Picture
from sdrt.pixels.save import SAVE_OPTIONS, save, to_pil

Pixels = NDArray[np.uint8]
ITEM_AND_SUFFIX = [
    (name, suffix)
    for name, item in ITEMS.items()
    for suffix, (kind, _) in SAVE_OPTIONS.items()
    if kind in ("PNG", *item.formats)
]
BEYOND_JPEG = [(name, suffix) for name, suffix in ITEM_AND_SUFFIX if not suffix.startswith(".jp")]
"""Where an item may be too large for an .sdl file."""
items = pytest.mark.parametrize("name", ITEMS)


def sample(name: str, size_bytes: int = 0) -> bytes:
    """A valid item, with spaces up to ``size_bytes``."""
    return SAMPLES[ITEMS[name].chunk].ljust(size_bytes)


def with_item(rgb: Pixels, name: str, data: bytes) -> Picture:
    return Picture(rgb, metadata=Metadata(**{name: data}))


def source(picture: Picture, suffix: str) -> bytes:
    file = io.BytesIO()
    save(picture, file, suffix=suffix)
    return file.getvalue()


def with_chunk(kind: bytes, data: bytes) -> sdl.SdlFile:
    return replace(GOOD["plain"], chunks=(sdl.Chunk(kind, data),))


def encoded(given: Picture | Image.Image | bytes, notes: list[str]) -> bytes:
    return Codec("testpack", device="cpu", threads=1).encode(given, keep_metadata=True, note=notes.append)


@items
def test_it_is_kept_and_left_out(name: str, testpack: ModelPack, photo: Pixels, tmp_path: Path) -> None:
    """Of a picture in memory it is kept where that is asked for, in a crop too, and nothing else; with ``strip`` a
    decoded file has none."""
    image = to_pil(with_item(photo, name, sample(name)))
    codec = Codec("testpack", device="cpu", threads=1)
    assert sdl.unpack(codec.encode(image)).chunks == ()
    data = codec.encode(image, keep_metadata=True)
    assert sdl.unpack(data).chunks == (sdl.Chunk(ITEMS[name].chunk, sample(name)),)
    assert codec.decode_picture(data, crop=(8, 8, 40, 24)).metadata == Metadata(**{name: sample(name)})
    codec.decode_file(data, tmp_path / "bare.png", strip=True)
    assert load(tmp_path / "bare.png").metadata == Metadata()


@pytest.mark.parametrize(("name", "suffix"), ITEM_AND_SUFFIX)
def test_it_is_written_and_read(name: str, suffix: str, photo: Pixels) -> None:
    """Every format that can hold it brings it back byte for byte."""
    picture = with_item(photo[:16, :16], name, sample(name))
    assert load(source(picture, suffix)).metadata == picture.metadata


@items
def test_what_is_no_item_is_none(name: str, photo: Pixels) -> None:
    """Text that Pillow's caller put into ``Image.info`` is UTF-8; what is empty, or neither text nor bytes, is none."""
    utf8 = {} if name == "exif" else {"K\xf6ln": "K\xf6ln".encode()}
    for given, kept in {"": None, b"": None, 7: None, (b"x",): None, **utf8}.items():
        image = Image.fromarray(photo[:16, :16])
        image.info[name] = given
        assert load(image).metadata == Metadata(**{name: kept})


@pytest.mark.parametrize("name", [name for name, item in ITEMS.items() if "JPEG" in item.formats])
def test_too_much_for_jpeg_names_the_way_out(name: str, photo: Pixels) -> None:
    """Beyond a segment it is refused with the numbers and the option; the largest that fits is written."""
    most = 65533 - len(ITEMS[name].jpeg_prefix)
    fits, too_much = (with_item(photo, name, sample(name, most + more)) for more in (0, 1))
    assert load(source(fits, ".jpg")).metadata == fits.metadata
    with pytest.raises(OutputError, match=f"{most + 1} bytes of {name.upper()}.*{most}.*--strip"):
        source(too_much, ".jpg")
    assert load(source(too_much, ".png")).metadata == too_much.metadata


@items
def test_it_is_broken_in_png(name: str, photo: Pixels) -> None:
    """A wrong checksum costs the item, with a note, and nothing else."""
    data = source(with_item(photo, name, sample(name)), ".png")
    at = data.index(b"IDAT") - 5  # the last byte of the checksum before it
    picture = load(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert picture.metadata == Metadata() and (picture.rgb == photo).all()
    assert [note for note in picture.notes if "wrong checksum: ignored" in note] == list(picture.notes) != []


@items
def test_the_largest_is_kept(name: str, testpack: ModelPack, photo: Pixels) -> None:
    """An item of exactly its limit is in the file, and in a PNG; no limit is beyond that of a chunk."""
    assert ITEMS[name].max_bytes <= MAX_ANCILLARY_BYTES
    largest = sample(name, ITEMS[name].max_bytes)
    picture = with_item(photo[:16, :16], name, largest)
    assert sdl.unpack(encoded(picture, [])).chunks == (sdl.Chunk(ITEMS[name].chunk, largest),)
    assert load(source(picture, ".png")).metadata == picture.metadata


@pytest.mark.parametrize(("name", "suffix"), [*((name, "") for name in ITEMS), *BEYOND_JPEG])
def test_too_much_for_a_file_costs_no_picture(name: str, suffix: str, testpack: ModelPack, photo: Pixels) -> None:
    """An item beyond its limit is left out with a note, whatever file or image it came in."""
    picture = with_item(photo[:16, :16], name, sample(name, ITEMS[name].max_bytes + 1))
    for given in (source(picture, suffix),) if suffix else (picture, to_pil(picture)):
        notes: list[str] = []
        assert sdl.unpack(encoded(given, notes)).chunks == ()
        assert len(notes) == 1 and str(ITEMS[name].max_bytes) in notes[0]


@pytest.mark.parametrize("name", [name for name, item in ITEMS.items() if item.utf8])
def test_a_text_that_is_no_utf8(name: str, testpack: ModelPack, photo: Pixels) -> None:
    """It is left out of an .sdl file with a note; a PNG keeps it byte for byte."""
    for text in (b"\xff", b"<caf\xe9/>", "<x/>".encode("utf-16")):
        picture = with_item(photo[:16, :16], name, text)
        notes: list[str] = []
        assert sdl.unpack(encoded(picture, notes)).chunks == ()
        assert len(notes) == 1 and "UTF-8" in notes[0]
        assert load(source(picture, ".png")).metadata == picture.metadata


def test_the_page_has_every_item() -> None:
    """docs/PICTURES.md names each item, by its name or as the field of ``Metadata``."""
    page = (Path(__file__).parents[1] / "docs" / "PICTURES.md").read_text(encoding="utf-8").split("## Metadata")[1]
    words = page.split("\n## ")[0]
    assert not [name for name in ITEMS if name.upper() not in words and f"`Metadata.{name}`" not in words]


@items
def test_what_no_file_should_hold_costs_no_picture(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader takes an item of a file that is too long, or a text that is no UTF-8, for absent."""
    monkeypatch.setitem(ITEMS, name, replace(ITEMS[name], max_bytes=len(sample(name))))
    for data in (sample(name) + b" ", *([b"\xff"] if ITEMS[name].utf8 else [])):
        assert from_chunks(with_chunk(ITEMS[name].chunk, data).chunks) == Metadata()
    assert from_chunks(with_chunk(ITEMS[name].chunk, sample(name)).chunks) == Metadata(**{name: sample(name)})


def test_latents_and_pictures_keep_the_same(testpack: ModelPack, photo: Pixels) -> None:
    """Beside latents, too, an item is kept whole or left out with a note, and only where metadata are asked for."""
    codec = Codec("testpack", device="cpu", threads=1)
    latents = codec.latents(codec.encode(photo[:16, :16]))
    for metadata in (
        Metadata(exif=sample("exif"), xmp=sample("xmp")),
        Metadata(exif=bytes(MAX_ANCILLARY_BYTES + 1), xmp=b"\xff"),
        Metadata(exif=sample("exif"), xmp=bytes(MAX_ANCILLARY_BYTES + 1)),
    ):
        for keep in (True, False):
            told: tuple[list[str], list[str]] = [], []
            picture = Picture(photo[:16, :16], metadata=metadata)
            of_picture = codec.encode(picture, keep_metadata=keep, note=told[0].append)
            of_latents = codec.encode_latents(
                latents, 16, 16, metadata=metadata, keep_metadata=keep, note=told[1].append
            )
            assert sdl.unpack(of_latents).chunks == sdl.unpack(of_picture).chunks
            assert told[0] == told[1] and len(told[0]) == (keep and 2 - len(sdl.unpack(of_latents).chunks))
