"""Laws of metadata that must not cost the picture, and of files that lack what the picture does not need."""

from __future__ import annotations

import io
import struct
import time
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from sdrt.errors import ImageError
from sdrt.pixels.examine import examine
from sdrt.pixels.load import load

Pixels = NDArray[np.uint8]


def coded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes, *, damage: int = 0) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ damage)


def png_with(image: Image.Image, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG with more chunks before and after its pixels."""
    data = coded(image, "PNG")
    first, last = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    return data[:first] + before + data[first:last] + after + data[last:]


def jpeg_with(image: Image.Image, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG with more segments at its beginning."""
    data = coded(image, "JPEG")
    more = b"".join(bytes([0xFF, kind]) + struct.pack(">H", len(body) + 2) + body for kind, body in segments)
    return data[:2] + more + data[2:]


BIG = zlib.compress(bytes(3 << 20))
WITHOUT_A_WORD = {
    "a text that inflates to 3 MB": chunk(b"zTXt", b"Nobody's\0\0" + BIG),
    "an international text of 3 MB": chunk(b"iTXt", b"Nobody's\0\1\0\0\0" + BIG),
    "a wrong checksum in a comment": chunk(b"tEXt", b"Nobody's\0hello", damage=1),
    "a wrong checksum in a date": chunk(b"tIME", bytes(7), damage=1),
    "a text of an unknown kind": chunk(b"zTXt", b"Nobody's\0\7" + BIG),
    "text that is called interlace": chunk(b"tEXt", b"interlace\0x"),
    "text that is called bbox": chunk(b"tEXt", b"bbox\0x"),
    "text that is called transparency": chunk(b"tEXt", b"transparency\0x"),
    "text that is called icc_profile": chunk(b"tEXt", b"icc_profile\0x"),
    "text that is called gAMA": chunk(b"tEXt", b"gAMA\0\0\1\x86\xa0"),
    "text that is called iCCP": chunk(b"tEXt", b"iCCP\0x"),
    "a short chunk of resolution": chunk(b"pHYs", b"\0"),
    "many texts": b"".join(chunk(b"zTXt", b"Nobody's\0\0" + zlib.compress(bytes(1 << 20))) for _ in range(70)),
}
WITH_A_WORD = {
    "a wrong checksum in a profile": chunk(b"iCCP", b"x\0\0" + zlib.compress(b"x"), damage=1),
    "a profile that cannot be inflated": chunk(b"iCCP", b"x\0\0nonsense"),
    "a profile of 20 MB": chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(20 << 20))),
    "a wrong checksum in EXIF": chunk(b"eXIf", b"II*\0\x08\0\0\0", damage=1),
    "XMP that inflates to 3 MB": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BIG),
    "a wrong checksum in a gamma": chunk(b"gAMA", struct.pack(">I", 100_000), damage=1),
    "a wrong checksum in a transparent color": chunk(b"tRNS", bytes(6), damage=1),
    "a short transparent color": chunk(b"tRNS", bytes(1)),
    "a short sRGB": chunk(b"sRGB", b""),
}


@pytest.mark.parametrize("disease", [*WITHOUT_A_WORD, *WITH_A_WORD])
@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_a_broken_ancillary_chunk_costs_no_picture(disease: str, mode: str, photo: Pixels) -> None:
    """A PNG's pixels come exactly, whatever stands in chunks that are not pixels; what would have counted is noted."""
    image = Image.fromarray(photo).convert(mode) if mode == "RGB" else Image.fromarray(photo).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    noted = disease in WITH_A_WORD and (mode == "RGB" or disease != "a short transparent color")
    bad = {**WITHOUT_A_WORD, **WITH_A_WORD}[disease]
    places = {"before": png_with(image, bad), "after": png_with(image, b"", bad)}
    for place, data in places.items():
        picture = load(data)
        assert (picture.rgb == expected).all(), place
        if place == "before":
            assert len(picture.notes) == noted, picture.notes
            assert (picture.alpha is None) == (mode == "RGB" or noted or disease in WITHOUT_A_WORD)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_suggested_palette_costs_no_picture(mode: str, photo: Pixels) -> None:
    """PLTE is critical by its name, but of true colors a suggestion to poor screens, which may be broken."""
    for bad in (chunk(b"PLTE", bytes(6), damage=1), chunk(b"PLTE", bytes(7)), chunk(b"PLTE", bytes(3000))):
        picture = load(png_with(Image.fromarray(photo).convert(mode), bad))
        assert (picture.rgb == photo).all() and picture.notes == ()


def test_many_chunks_take_no_time(photo: Pixels) -> None:
    """A PNG of 100,000 pieces with a comment and a profile between every two is read in a moment, with one note."""
    data = coded(Image.fromarray(photo), "PNG")
    start = data.index(b"IDAT") + 4
    pixels = data[start : start + int.from_bytes(data[start - 8 : start - 4], "big")]
    between = chunk(b"tEXt", b"Nobody's\0x")
    profile = WITH_A_WORD["a profile of 20 MB"]
    head, tail = data[: start - 8] + profile * 50, data[data.index(b"IEND") - 4 :]
    pieces = b"".join(chunk(b"IDAT", pixels[at : at + 1]) + between for at in range(len(pixels)))
    empty = (chunk(b"IDAT", b"") + between) * (100_000 - len(pixels))
    start_s = time.process_time()
    picture = load(head + empty + pieces + tail)
    assert time.process_time() - start_s < 10
    assert (picture.rgb == photo).all()
    assert len(picture.notes) == 1


def test_a_profile_of_two_megabytes_is_applied(photo: Pixels) -> None:
    """A large ICC profile is no broken one: it counts like a small one."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = (data.index(name, 132) for name in (b"rXYZ", b"bXYZ"))
    data[red + 4 : red + 12], data[blue + 4 : blue + 12] = data[blue + 4 : blue + 12], data[red + 4 : red + 12]
    data += bytes(2 << 20)
    data[:4] = struct.pack(">I", len(data))
    picture = load(png_with(Image.fromarray(photo), chunk(b"iCCP", b"x\0\0" + zlib.compress(data))))
    assert np.abs(picture.rgb.astype(int) - photo[:, :, ::-1]).max() <= 2
    assert picture.notes == ()


def test_good_metadata_come_through(photo: Pixels) -> None:
    """What is right beside what is broken is kept: EXIF and XMP, in plain and compressed chunks, before the pixels and
    after them."""
    exif = Image.Exif()
    exif[0x010F] = "maker"
    raw = exif.tobytes().removeprefix(b"Exif\0\0")
    good = chunk(b"eXIf", raw)
    good += chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<x:xmpmeta/>"))
    bad = WITHOUT_A_WORD["a text that inflates to 3 MB"]
    for data in (png_with(Image.fromarray(photo), good + bad), png_with(Image.fromarray(photo), bad, good)):
        picture = load(data)
        assert (picture.metadata.exif, picture.metadata.xmp, picture.notes) == (raw, b"<x:xmpmeta/>", ())
    hexadecimal = b"\nexif\n" + b"%8d\n" % (6 + len(raw)) + (b"Exif\0\0" + raw).hex().encode()
    data = png_with(Image.fromarray(photo), chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(hexadecimal)))
    assert load(data).metadata.exif is not None


def test_broken_critical_chunks_are_refused(photo: Pixels) -> None:
    """What makes the picture must be whole: a wrong checksum in the palette or the header is no picture."""
    data = coded(Image.fromarray(photo).quantize(16), "PNG")
    for kind in (b"IHDR", b"PLTE"):
        at = data.index(kind) + 5
        with pytest.raises(ImageError):
            load(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_an_animations_first_frame_without_its_chunks(photo: Pixels) -> None:
    """An animation whose further frames are broken still has its first."""
    frames = [Image.fromarray(photo), Image.fromarray(255 - photo)]
    data = coded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    at = data.rindex(b"fcTL") + 8
    picture = load(data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :])
    assert (picture.rgb == photo).all()
    assert "only the first" in picture.notes[0]


@pytest.mark.parametrize(
    "segment",
    [
        (0xE0, b"JFIF"),
        (0xE2, b"ICC_PROFILE\0"),
        (0xE2, b"ICC_PROFILE\0\1"),
        (0xEE, b"Adobe"),
        (0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed"),
        (0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\xff\xff\xff\xff"),
        *((0xED, (b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\7\x1c\2\x78\0\2hi")[:size]) for size in range(32)),
        (0xE1, b"Exif\0\0"),
        (0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
        (0xE2, b"MPF\0II*\0\x08\0\0\0\0\0"),
        (0xFE, b""),
    ],
)
def test_a_broken_segment_costs_no_picture(segment: tuple[int, bytes], photo: Pixels) -> None:
    """A JPEG's pixels come exactly, however short its segments of metadata are."""
    image = Image.fromarray(photo)
    expected = np.asarray(Image.open(io.BytesIO(coded(image, "JPEG"))))
    assert (load(jpeg_with(image, segment)).rgb == expected).all()


def test_a_profile_in_pieces_of_which_one_is_missing_is_noted(photo: Pixels) -> None:
    """A JPEG that has the first of two parts of its profile is read as sRGB, with a note."""
    picture = load(jpeg_with(Image.fromarray(photo), (0xE2, b"ICC_PROFILE\0\1\2half of it")))
    assert any("color profile are missing" in note for note in picture.notes)


def webp_with(image: Image.Image, *chunks: tuple[bytes, bytes]) -> bytes:
    """A lossless WebP with more chunks behind its pixels, all of which VP8X announces."""
    picture = coded(image, "WEBP", lossless=True)[12:]
    sides = b"".join((side - 1).to_bytes(3, "little") for side in image.size)
    body = b"WEBPVP8X" + struct.pack("<II", 10, 0x0C) + sides + picture
    body += b"".join(kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_broken_metadata_cost_no_webp(photo: Pixels) -> None:
    """A WebP cut anywhere behind its pixels, or whose sizes are wrong there, has them all, with a note."""
    image = Image.fromarray(photo)
    whole = webp_with(image, (b"EXIF", b"II*\0\x08\0\0\0" + bytes(300)), (b"XMP ", b"<x/>"))
    assert load(whole).metadata.xmp == b"<x/>"
    end = whole.index(b"EXIF")
    longer = whole[: end + 4] + b"\xff\xff\xff\x7f" + whole[end + 8 :]
    for data in (*(whole[:cut] for cut in (end + 1, end + 8, end + 99, -3, -1)), longer):
        picture = load(data)
        assert (picture.rgb == photo).all()
        assert any("metadata" in note for note in picture.notes)
    for cut in (end - 2, end - 100, 40, 21, 12, 8):
        with pytest.raises(ImageError):
            load(whole[:cut])


@pytest.mark.parametrize("damage", [b"XXXX", bytes(4)])
def test_broken_exif_costs_no_avif(damage: bytes, photo: Pixels) -> None:
    """An AVIF whose EXIF libavif calls invalid is read without it, with a note."""
    exif = Image.Exif()
    exif[0x010F] = "maker"
    data = coded(Image.fromarray(photo), "AVIF", exif=exif)
    expected = load(data).rgb
    at = data.index(b"MM\0*") if b"MM\0*" in data else data.index(b"II*\0")
    picture = load(data[:at] + damage + data[at + 4 :])
    assert (picture.rgb == expected).all()
    assert picture.metadata.exif is None
    assert "broken metadata: not kept" in picture.notes


@pytest.mark.parametrize("tag", [270, 306, 700, 33432, 33723, 34665, 34853])
def test_broken_tags_cost_no_tiff(tag: int, photo: Pixels) -> None:
    """A TIFF's pixels come exactly, whatever type, count and place its texts, XMP, EXIF and GPS claim."""
    exif = Image.Exif()
    exif.update({270: "a long text", 306: "2024:01:02 03:04:05", 700: b"<x/>" * 9, 33432: "somebody else"})
    exif[33723] = b"\x1c\2\x78\0\5hello"
    exif.update({34665: {0xA002: 1}, 34853: {1: "N"}})
    loaded = Image.Exif()
    loaded.load(exif.tobytes())
    data = coded(Image.fromarray(photo), "TIFF", exif=loaded)
    start = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[start : start + 2], "little")
    (at,) = (at for at in range(start + 2, start + 2 + 12 * count, 12) if data[at : at + 2] == struct.pack("<H", tag))
    for kind in (0, 1, 2, 3, 4, 5, 12, 13, 99):
        for values, place in ((1, 0), (3, 2**32 - 1), (2**32 - 1, 8), (0, 8)):
            bad = data[:at] + struct.pack("<HHII", tag, kind, values, place) + data[at + 12 :]
            assert (load(bad).rgb == photo).all(), (kind, values, place)


# The end of a JPEG


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 100, "subsampling": 0}, {"optimize": True}])
def test_a_jpeg_without_its_end_marker_is_whole(options: dict[str, object], photo: Pixels) -> None:
    """Without the end marker, or the second half of it, all pixels are there: they come exactly."""
    for pixels in (photo, photo[:, :, 0], photo[:64, :64]):
        data = coded(Image.fromarray(pixels), "JPEG", **options)
        for missing in (1, 2):
            assert (load(data[:-missing]).rgb == load(data).rgb).all()
    assert "end marker" in load(coded(Image.fromarray(photo), "JPEG")[:-2]).notes[0]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
def test_a_jpeg_that_lacks_pixels_is_refused(options: dict[str, object], photo: Pixels) -> None:
    """Cut at any place, also where a scan ends, a JPEG is refused as truncated unless its pixels are those of all."""
    data = coded(Image.fromarray(photo), "JPEG", quality=90, **options)
    expected = load(data).rgb
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"][1:]
    for size_bytes in (*range(len(data) - 70, len(data) - 2), len(data) // 2, len(data) * 9 // 10, *scans):
        try:
            assert (load(data[:size_bytes]).rgb == expected).all(), len(data) - size_bytes
        except ImageError as error:
            assert "truncated" in str(error)


def test_nothing_that_a_file_declares_is_a_foreign_error(photo: Pixels) -> None:
    """Whatever bytes a PNG, JPEG, AVIF or JPEG 2000 has at its head: reading what it declares raises nothing."""
    rng = np.random.default_rng(12)
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 1}
    small = Image.fromarray(photo[:16, :16])
    files = [
        png_with(small, chunk(b"cICP", b"\1\1\0\1") + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>")),
        jpeg_with(small, (0xE2, b"ICC_PROFILE\0\1\1x"), (0xE2, b"MPF\0")),
        coded(small, "AVIF", exif=exif),
        coded(small, "JPEG2000"),
        coded(small, "BMP"),
    ]
    for _ in range(1500):
        data = bytearray(files[int(rng.integers(len(files)))])
        for _ in range(int(rng.integers(1, 5))):
            data[int(rng.integers(min(len(data), 300)))] = int(rng.choice([0, 1, 127, 255, int(rng.integers(256))]))
        examine(io.BytesIO(data[: int(rng.integers(1, len(data) + 1))]))
