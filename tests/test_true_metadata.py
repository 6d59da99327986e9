"""Laws of metadata that are kept: they are true of the picture that comes back, and no longer than they need be."""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdrt.codec import Codec
from sdrt.container import sdl
from sdrt.errors import UnsupportedError
from sdrt.packs.manifest import ModelPack
from sdrt.pixels.exif import Exif
from sdrt.pixels.load import load
from sdrt.pixels.metadata import Metadata
from sdrt.pixels.picture import Picture
from sdrt.pixels.save import save

Pixels = NDArray[np.uint8]
MAKER_NOTE = b"MAKER: points at byte 8 of all"


class ExifWriter:
    """EXIF by hand, in either byte order (``<`` or ``>``)."""

    def __init__(self, order: str) -> None:
        self.order = order
        self.data = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))

    def put(self, body: bytes) -> int:
        self.data += body + b"\0" * (len(body) % 2)
        return len(self.data) - len(body) - len(body) % 2

    def directory(self, entries: list[tuple[int, int, int, int | bytes]], *, following: int = 0) -> int:
        """``entries``: tag, type, count, and the number itself or the bytes of the value. Returns where it begins."""
        coded = struct.pack(f"{self.order}H", len(entries))
        for tag, kind, count, value in sorted(entries, key=lambda entry: entry[0]):
            coded += struct.pack(f"{self.order}HHI", tag, kind, count)
            if isinstance(value, bytes):
                coded += value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(f"{self.order}I", self.put(value))
            else:
                coded += struct.pack(f"{self.order}{'H2x' if kind == 3 else 'I'}", value)
        return self.put(coded + struct.pack(f"{self.order}I", following))

    def finished(self, first: int) -> bytes:
        self.data[4:8] = struct.pack(f"{self.order}I", first)
        return bytes(self.data)


def camera_exif(order: str, orientation: int, *, thumbnail: bytes = b"", thumbnail_first: bool = False) -> bytes:
    """What a camera writes: sides, resolutions, a maker's note, GPS, and a thumbnail behind all that or before it."""
    writer = ExifWriter(order)
    rational = struct.Struct(f"{order}2I")

    def small_picture() -> int:
        if not thumbnail:
            return 0
        at = writer.put(thumbnail)
        size: tuple[int, int, int, int] = (0x0202, 4, 1, len(thumbnail))
        return writer.directory([(0x0112, 3, 1, orientation), (0x0201, 4, 1, at), size])

    second = small_picture() if thumbnail_first else 0
    gps = writer.directory([(0x001D, 2, 11, b"2024:01:02\0")])
    detail = writer.directory(
        [
            (0x9214, 3, 2, struct.pack(f"{order}2H", 40, 30)),
            (0x927C, 7, len(MAKER_NOTE), MAKER_NOTE),
            (0xA002, 4, 1, 161),
            (0xA003, 3, 1, 97),
        ]
    )
    entries: list[tuple[int, int, int, int | bytes]] = [
        (0x010F, 2, 6, b"maker\0"),
        (0x0112, 3, 1, orientation),
        (0x011A, 5, 1, rational.pack(300, 1)),
        (0x011B, 5, 1, rational.pack(150, 1)),
        (0x8769, 4, 1, detail),
        (0x8825, 4, 1, gps),
    ]
    first = writer.directory(entries, following=second)
    if thumbnail and not thumbnail_first:
        second = small_picture()
        link = first + 2 + 12 * len(entries)
        writer.data[link : link + 4] = struct.pack(f"{order}I", second)
    return writer.finished(first)


def with_exif(pixels: Pixels, exif: bytes) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", exif=b"Exif\0\0" + exif)
    return file.getvalue()


THUMBNAIL = b"\xff\xd8thumbnail" + bytes(range(256)) * 8


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_kept_exif_is_true_of_the_upright_picture(order: str, orientation: int, photo: Pixels) -> None:
    """Orientation 1, the picture's own width and height, resolutions along its own axes, no subject where it no longer
    is, no thumbnail; the maker's note stays at its place, and everything else is as it was."""
    given = camera_exif(order, orientation, thumbnail=THUMBNAIL)
    picture = load(with_exif(photo, given))
    assert picture.metadata.exif is not None
    height_px, width_px = picture.rgb.shape[:2]
    kept = Image.Exif()
    kept.load(b"Exif\0\0" + picture.metadata.exif)
    detail = kept.get_ifd(0x8769)
    assert kept[0x0112] == 1
    assert (detail[0xA002], detail[0xA003]) == (width_px, height_px)
    assert (kept[0x011A], kept[0x011B]) == ((300, 150) if orientation < 5 else (150, 300))
    assert (0x9214 in detail) == (orientation == 1)
    assert (kept[0x010F], detail[0x927C], kept.get_ifd(0x8825)[0x1D]) == ("maker", MAKER_NOTE, "2024:01:02")
    assert not kept.get_ifd(1)
    assert b"thumbnail" not in picture.metadata.exif
    assert picture.metadata.exif.index(MAKER_NOTE) == given.index(MAKER_NOTE)
    assert len(picture.metadata.exif) < len(given) - len(THUMBNAIL)


def test_a_thumbnail_in_the_middle_is_blank(photo: Pixels) -> None:
    """Where others' bytes lie behind a thumbnail nothing moves: it becomes zeros, and is linked no more."""
    given = camera_exif("<", 6, thumbnail=THUMBNAIL, thumbnail_first=True)
    kept = load(with_exif(photo, given)).metadata.exif
    assert kept is not None
    assert len(kept) == len(given)
    assert b"thumbnail" not in kept
    assert kept.index(MAKER_NOTE) == given.index(MAKER_NOTE)


def test_a_side_beyond_16_bits_is_stated() -> None:
    """A width or height of more than 65,535 pixels is written as a longer number, not cut."""
    kept = Image.Exif()
    kept.load(b"Exif\0\0" + Exif(camera_exif(">", 1)).upright(1, 3, 70_000))
    assert kept.get_ifd(0x8769)[0xA003] == 70_000


def damaged(data: bytes, seed: int) -> Iterator[bytes]:
    rng = np.random.default_rng(seed)
    for _ in range(1500):
        copy = bytearray(data)
        for _ in range(int(rng.integers(1, 6))):
            copy[int(rng.integers(len(copy)))] = int(rng.choice([0, 1, 127, 255, int(rng.integers(256))]))
        yield bytes(copy[: int(rng.integers(len(copy) // 2, len(copy) + 1))])


def test_damaged_exif_raises_nothing_else() -> None:
    """Whatever EXIF holds, it is ValueError or bytes that are no longer than before and state orientation 1."""
    for data in damaged(camera_exif("<", 6, thumbnail=THUMBNAIL[:200]), 13):
        try:
            exif = Exif(data)
        except ValueError:
            continue
        assert exif.adobe_rgb in (True, False)
        upright = exif.upright(exif.orientation or 1, 97, 161)
        assert len(upright) <= len(data)
        assert Exif(upright).orientation in (1, None)


def test_hostile_exif_takes_no_time() -> None:
    """Tens of thousands of entries that all point at everything are read in an instant."""
    data = bytearray(2**20)
    data[:14] = b"II*\0\x08\0\0\0\0\0" + struct.pack("<I", 14)
    data[14:16] = b"\xff\xff"
    for number in range(65535):
        data[16 + 12 * number : 28 + 12 * number] = struct.pack("<HHII", 0x0111 + 6 * (number % 2), 4, 200_000, 100)
    start_s = time.process_time()
    Exif(bytes(data)).upright(6, 3, 4)
    assert time.process_time() - start_s < 5


# XMP

GAIN_MAP_XMP = """<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:q='http://ns.adobe.com/hdr-gain-map/1.0/'
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:C="http://ns.google.com/photos/1.0/container/" xmlns:I="http://ns.google.com/photos/1.0/container/item/"
 q:Version="1.0" q:Max='2 > 1' tiff:Orientation="6" exif:PixelXDimension="161" xmp:Rating="5"
 xmpNote:HasExtendedXMP="0123" dc:title="q:Version=&quot;kept&quot; >">
<tiff:ImageLength>97</tiff:ImageLength><q:Offset><rdf:Seq><rdf:li>1</rdf:li></rdf:Seq></q:Offset><q:Flag/>
<C:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><C:Item I:Semantic="GainMap"/></rdf:li></rdf:Seq></C:Directory>
<xmp:Thumbnails><rdf:Alt><rdf:li>base64</rdf:li></rdf:Alt></xmp:Thumbnails><dc:subject>a gain map</dc:subject>
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""


def test_kept_xmp_is_true_of_a_picture_alone(photo: Pixels) -> None:
    """Orientation and sides are put right; gain maps, containers, thumbnails and extensions are gone, under whatever
    prefix; all else stays, and the packet is well-formed."""
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "WEBP", lossless=True, xmp=GAIN_MAP_XMP.encode())
    picture = load(file.getvalue())
    assert picture.metadata.xmp is not None
    assert picture.rgb.shape == (161, 97, 3)
    text = picture.metadata.xmp.decode()
    for gone in ('q:Version="1', "q:Max", "q:Offset", "q:Flag", "C:Item", "C:Directory", "Thumb", "base64", "HasExt"):
        assert gone not in text
    for kept in (
        'tiff:Orientation="1"',
        'PixelXDimension="97"',
        "<tiff:ImageLength>161<",
        'xmp:Rating="5"',
        "a gain map",
    ):
        assert kept in text
    description = ElementTree.fromstring(text)[0][0]
    assert description.get("{http://purl.org/dc/elements/1.1/}title") == 'q:Version="kept" >'


def test_plain_and_broken_xmp_stay(photo: Pixels) -> None:
    """A packet that says nothing of the pixels is kept byte for byte, and so is one that is no XML."""
    for xmp in (b"<x:xmpmeta>hello</x:xmpmeta>", b"http://ns.adobe.com/hdr-gain-map/1.0/ <<<", b"\xff\xfe\0"):
        file = io.BytesIO()
        Image.fromarray(photo).save(file, "WEBP", lossless=True, xmp=xmp)
        assert load(file.getvalue()).metadata.xmp == xmp


def test_a_gain_map_that_is_left_out_is_noted(photo: Pixels) -> None:
    """JPEG's and AVIF's gain maps of each standard are named in a note; without one there is none."""
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG")
    data = file.getvalue()
    assert load(data).notes == ()
    segments = (
        b"\xff\xe1"
        + struct.pack(">H", 31 + len(GAIN_MAP_XMP))
        + b"http://ns.adobe.com/xap/1.0/\0"
        + GAIN_MAP_XMP.encode(),
        b"\xff\xe2" + struct.pack(">H", 34) + b"urn:iso:std:iso:ts:21496:-1\0" + bytes(4),
    )
    for segment in segments:
        assert any("gain map" in note for note in load(data[:2] + segment + data[2:]).notes)
    apple = b"\xff\xe2\0\x08MPF\0xx"
    secondary = b"\xff\xd8\xff\xe1 http://ns.apple.com/HDRGainMap/1.0/"
    assert any("gain map" in note for note in load(data[:2] + apple + data[2:] + secondary).notes)
    assert load(data + secondary).notes == ()
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "AVIF", exif=b"II*\0\x08\0\0\0\0\0\0\0\0\0")
    avif = file.getvalue()
    assert load(avif).notes == ()
    at = avif.index(b"infe") + 12
    assert avif[at : at + 4] == b"av01"
    at = avif.index(b"Exif", at)
    assert any("gain map" in note for note in load(avif[:at] + b"tmap" + avif[at + 4 :]).notes)


# What keeping costs


def test_a_target_that_metadata_exceed_says_so(testpack: ModelPack, photo: Pixels) -> None:
    """A thumbnail of 50 kB is not kept and so costs nothing; chunks that fill the target are named."""
    codec = Codec("testpack")
    with_thumbnail = with_exif(photo, camera_exif("<", 1, thumbnail=bytes(50_000)))
    data = codec.encode(with_thumbnail, target_bytes=3000, keep_metadata=True)
    assert len(data) <= 3000
    assert sdl.unpack(data).chunk(b"exif")
    large = Picture(photo, photo[:, :, 0], Metadata(camera_exif("<", 1) + bytes(5000)))
    with pytest.raises(UnsupportedError, match=r" [0-9]+ of them in chunk ALPH, 5[0-9]{3} of them in chunk exif$"):
        codec.encode(large, target_bytes=5000, keep_metadata=True)
    assert len(codec.encode(large, target_bytes=5000)) <= 5000
    with pytest.raises(UnsupportedError, match=r"has [0-9]+ bytes$"):
        codec.encode(photo, target_bytes=5)


def test_an_item_that_says_nothing_of_the_pixels_is_kept() -> None:
    """In a painted picture and in a part of one, whatever items there are besides EXIF and XMP."""

    @dataclass(frozen=True)
    class Wider(Metadata):
        other: bytes | None = None

    metadata = Wider(exif=camera_exif("<", 1), xmp=b"<x/>", other=b"other")
    for changed in (metadata.painted(), metadata.upright(1, 40, 24)):
        assert isinstance(changed, Wider) and changed.other == b"other" and changed != metadata


def test_a_crop_states_its_own_sides(testpack: ModelPack, photo: Pixels) -> None:
    """EXIF and XMP of a part say the part's width and height."""
    xmp = b"<x exif:PixelXDimension='161'/>"
    codec = Codec("testpack")
    data = codec.encode(Picture(photo, metadata=Metadata(camera_exif("<", 1), xmp)), keep_metadata=True)
    part = codec.decode_picture(data, crop=(8, 8, 40, 24))
    kept = Image.Exif()
    kept.load(b"Exif\0\0" + (part.metadata.exif or b""))
    assert (kept.get_ifd(0x8769)[0xA002], kept.get_ifd(0x8769)[0xA003]) == (40, 24)
    assert part.metadata.xmp == b"<x exif:PixelXDimension='40'/>"
    assert codec.decode_picture(data).metadata.exif == camera_exif("<", 1)


# IPTC


def data_set(record: int, number: int, data: bytes, *, long: bool = False) -> bytes:
    """``long``: its length in the extended form, which is for 32,768 bytes and more."""
    length = struct.pack(">HI", 0x8004, len(data)) if long else struct.pack(">H", len(data))
    return bytes([0x1C, record, number]) + length + data


CAPTION = data_set(1, 90, b"\x1b%G") + data_set(2, 120, "K\xf6ln".encode())
CREDIT = data_set(2, 110, b"nobody", long=True)
LANDSCAPE, PORTRAIT = data_set(2, 131, b"L"), data_set(2, 131, b"P")


def resource(number: int, name: bytes, data: bytes) -> bytes:
    """An image resource of Photoshop's."""
    named = bytes([len(name)]) + name
    parts = (named, struct.pack(">I", len(data)), data)
    return b"8BIM" + struct.pack(">H", number) + b"".join(part + bytes(len(part) % 2) for part in parts)


def with_segments(pixels: Pixels, *bodies: bytes) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    segments = (b"\xff\xed" + struct.pack(">H", 2 + len(body)) + body for body in bodies)
    return b"\xff\xd8" + b"".join(segments) + file.getvalue()[2:]


def in_profile(pixels: Pixels, text: str) -> bytes:
    info = PngInfo()
    info.add_text("Raw profile type iptc", text)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def test_iptc_of_a_jpeg_is_kept(testpack: ModelPack, photo: Pixels) -> None:
    """Among other resources, named or of odd length, and in pieces; from the file and from Pillow's image; through
    an .sdl file into a JPEG, where Pillow finds it as it was. Other segments and resources are no IPTC."""
    prefix = b"Photoshop 3.0\0"
    blocks = resource(0x03ED, b"", bytes(16)) + resource(0x0425, b"ab", b"odd") + resource(0x0404, b"abc", CAPTION)
    blocks += resource(0x0406, b"", b"quality")
    codec = Codec("testpack", device="cpu", threads=1)
    whole = with_segments(photo, b"unknown", prefix + blocks)
    with Image.open(io.BytesIO(whole)) as image:
        for source in (whole, image, with_segments(photo, prefix + blocks[:50], prefix + blocks[50:])):
            data = codec.encode(source, keep_metadata=True)
            assert sdl.unpack(data).chunks == (sdl.Chunk(b"iptc", CAPTION),)
    decoded = io.BytesIO()
    save(codec.decode_picture(data), decoded, suffix=".jpg")
    assert Image.open(decoded).info["photoshop"] == {0x0404: CAPTION}
    empty, cut = resource(0x0404, b"", b""), resource(0x0404, b"", CAPTION)[:-2]
    for none in (b"unknown" + blocks, prefix + resource(0x0405, b"", CAPTION), prefix + empty, prefix + cut):
        assert load(with_segments(photo, none)).metadata == Metadata()


def test_iptc_of_other_writers(photo: Pixels) -> None:
    """A PNG's profile holds it in resources or bare; a TIFF's tag as bytes or as numbers of 32 bits."""
    for data in (CAPTION, resource(0x0404, b"", CAPTION)):
        digits = data.hex()
        for text in (
            f"\niptc\n      {len(data)}\n{digits}\n",
            f"\nIPTC profile\n{len(data)}\n{digits[:8]}\n{digits[8:]}",
        ):
            file = in_profile(photo, text)
            assert load(file).metadata == load(Image.open(io.BytesIO(file))).metadata == Metadata(iptc=CAPTION)
    given = CAPTION + bytes(-len(CAPTION) % 4)
    tiff = io.BytesIO()
    Image.fromarray(photo).save(tiff, "TIFF", tiffinfo={33723: given})
    entry = struct.pack("<HHI", 33723, 7, len(given))
    assert tiff.getvalue().count(entry) == 1
    for kind, each in ((7, 1), (1, 1), (4, 4)):
        file = tiff.getvalue().replace(entry, struct.pack("<HHI", 33723, kind, len(given) // each))
        assert load(file).metadata == load(Image.open(io.BytesIO(file))).metadata == Metadata(iptc=given)


@pytest.mark.parametrize("text", ["", "iptc", "\niptc\n4\nxyz", "\niptc\n4\n8", "\niptc\n4\n3842494d"])
def test_a_profile_without_iptc(text: str, photo: Pixels) -> None:
    """It costs nothing but itself, with a note."""
    picture = load(in_profile(photo, text))
    assert picture.metadata == Metadata() and (picture.rgb == photo).all()
    assert "PNG chunk tEXt has no IPTC in its raw profile: ignored" in picture.notes


def test_kept_iptc_is_true_of_the_picture(testpack: ModelPack, photo: Pixels) -> None:
    """Its orientation is that of the sides, also of a crop; previews and what says how pixels were stored are gone."""
    gone = data_set(2, 200, b"\0\1") + data_set(2, 202, bytes(40_000), long=True) + data_set(3, 20, b"\0\x64")
    given = CAPTION + PORTRAIT + gone + CREDIT + bytes(3)
    picture = Picture(photo, metadata=Metadata(iptc=given).upright(1, 161, 97))
    assert picture.metadata.iptc == CAPTION + LANDSCAPE + CREDIT + bytes(3)
    codec = Codec("testpack", device="cpu", threads=1)
    part = codec.decode_picture(codec.encode(picture, keep_metadata=True), crop=(8, 8, 24, 40))
    assert part.metadata.iptc == CAPTION + PORTRAIT + CREDIT + bytes(3)
    assert Metadata(iptc=gone).upright(1, 161, 97) == Metadata()


def test_damaged_iptc_stays_or_loses_data_sets() -> None:
    """Whatever is damaged, nothing is raised; what cannot be parsed stays byte for byte."""
    given = CAPTION + PORTRAIT + data_set(2, 202, bytes(100), long=True) + CREDIT
    for data in damaged(given, 17):
        assert len(Metadata(iptc=data).upright(1, 161, 97).iptc or b"") <= len(data)
    for data in (given[:-1], given + b"x", b"\x1c", b"\x1c\2\x78\xff\xff", given[1:]):
        assert Metadata(iptc=data).upright(1, 161, 97).iptc == data
