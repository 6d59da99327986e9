"""Laws of colors that are told otherwise than by an ICC profile: they become sRGB, or a note says that they do not."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from sdrt.pixels.colorimetry import from_cicp, to_srgb
from sdrt.pixels.examine import examine
from sdrt.pixels.load import load

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

BT709 = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
BT2020 = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
D65 = (0.3127, 0.3290)
SWAPPED = (BT709[1], BT709[0], BT709[2])


def colors() -> Pixels:
    """(18, 18, 3) of the color cube, dark ones and saturated ones among them."""
    axis = np.array([0, 20, 80, 140, 200, 255], np.uint8)
    cube = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(12, 18, 3)
    grays = np.linspace(0, 255, 108).astype(np.uint8).reshape(6, 18, 1).repeat(3, 2)
    return np.concatenate([cube, grays])


def with_chunks(image: Image.Image, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with these chunks before its pixels."""
    file = io.BytesIO()
    image.save(file, "PNG")
    data = file.getvalue()
    coded = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return data[:33] + coded + data[33:]


def gamma_chunk(gamma: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(gamma * 100_000))


def corners_chunk(corners: tuple[tuple[float, float], ...], white: tuple[float, float] = D65) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *(round(value * 100_000) for point in (white, *corners) for value in point))


def matrix_to_xyz(corners: tuple[tuple[float, float], ...]) -> Floats:
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in corners]).T
    white = np.array([D65[0] / D65[1], 1, (1 - D65[0] - D65[1]) / D65[1]])
    return np.asarray(columns * np.linalg.solve(columns, white))


def srgb_of(light: Floats, corners: tuple[tuple[float, float], ...]) -> Floats:
    """Levels 0..255, not rounded, of light (..., 3) with D65's white: the plain way, written from the standards."""
    matrix = np.linalg.inv(matrix_to_xyz(BT709)) @ matrix_to_xyz(corners)
    linear = np.clip(light @ matrix.T, 0, 1)
    return np.asarray(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def srgb_light(signal: Floats) -> Floats:
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


def bt2020_light(signal: Floats) -> Floats:
    return np.where(signal < 4.5 * 0.0181, signal / 4.5, ((signal + 0.0993) / 1.0993) ** (1 / 0.45))


def avif_of(pixels: Pixels, primaries: int, transfer: int) -> bytes:
    """A lossless AVIF that says so in its nclx box."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "AVIF", quality=100, subsampling="4:4:4")
    data = file.getvalue()
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


@pytest.mark.parametrize("gamma", [1.0, 1 / 2.2, 0.35, 2.5])
def test_png_gamma_is_undone(gamma: float) -> None:
    """Each level v with gAMA g is the light (v / 255) ** (1 / g), and comes as sRGB's level of that light."""
    pixels = colors()
    expected = srgb_of((pixels / 255) ** (1 / gamma), BT709)
    picture = load(with_chunks(Image.fromarray(pixels), gamma_chunk(gamma)))
    assert np.abs(picture.rgb - expected).max() < 0.6
    assert picture.notes == ()


@pytest.mark.parametrize("kind", ["L", "P", "RGBA", "LA", "I;16"])
def test_png_gamma_holds_for_every_kind_of_pixels(kind: str) -> None:
    """Gray, palettes, 16 bits and pictures with alpha are converted like RGB; their alpha is left alone."""
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(gray)
    if kind == "I;16":
        image = Image.fromarray(gray.astype(np.uint16) * 257)
    elif kind in ("RGBA", "LA"):
        image = Image.merge("LA", [image, Image.fromarray(gray[::-1].copy())]).convert(kind)
    elif kind == "P":
        image = image.convert("P")
    picture = load(with_chunks(image, gamma_chunk(1)))
    expected = srgb_of((gray / 255)[:, :, None].repeat(3, 2), BT709)
    assert np.abs(picture.rgb - expected).max() < 0.6
    if kind in ("RGBA", "LA"):
        assert picture.alpha is not None
        assert (picture.alpha == gray[::-1]).all()


def test_sixteen_bits_of_gray_are_converted_before_they_are_rounded() -> None:
    """Linear gray of 16 bits keeps the steps of its shadows: every level is the nearest to its own light."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    picture = load(with_chunks(Image.fromarray(values), gamma_chunk(1)))
    expected = srgb_of((values / 65535)[:, :, None].repeat(3, 2), BT709)
    assert np.abs(picture.rgb - expected).max() < 0.51
    assert len(np.unique(picture.rgb)) == 256


def test_png_corners_are_undone() -> None:
    """cHRM alone moves colors and keeps sRGB's curve; with red's and green's corners exchanged so are the values."""
    pixels = colors()
    picture = load(with_chunks(Image.fromarray(pixels), corners_chunk(SWAPPED)))
    assert np.abs(picture.rgb.astype(int) - pixels[:, :, [1, 0, 2]]).max() <= 1
    picture = load(with_chunks(Image.fromarray(pixels), gamma_chunk(1 / 2.2), corners_chunk(P3)))
    assert np.abs(picture.rgb - srgb_of((pixels / 255) ** 2.2, P3)).max() < 0.6


def test_another_white_stays_white() -> None:
    """With cHRM's white at D50 white and gray stay neutral: whites are adapted, not tinted."""
    pixels = colors()[-6:]
    rgb = load(with_chunks(Image.fromarray(pixels), corners_chunk(BT709, (0.3457, 0.3585)))).rgb.astype(int)
    assert np.abs(rgb - pixels).max() <= 1


@pytest.mark.parametrize(
    ("code_points", "light", "corners"),
    [
        ((12, 13), srgb_light, P3),
        ((9, 14), bt2020_light, BT2020),
        ((9, 15), bt2020_light, BT2020),
        ((1, 8), None, BT709),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "AVIF"])
def test_code_points_are_converted(kind: str, code_points, light, corners) -> None:  # type: ignore[no-untyped-def]
    """P3, BT.2020 of 10 and 12 bits and linear light, told by cICP or nclx, come as their standards have it."""
    pixels = colors()
    if kind == "AVIF":
        data = avif_of(pixels, *code_points)
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image)
    else:
        data = with_chunks(Image.fromarray(pixels), (b"cICP", bytes([*code_points, 0, 1])))
    signal = pixels / 255
    picture = load(data)
    assert np.abs(picture.rgb - srgb_of(signal if light is None else light(signal), corners)).max() < 0.7
    assert picture.notes == ()


@pytest.mark.parametrize("code_points", [(1, 13), (1, 1), (2, 2), (1, 6)])
def test_srgb_and_its_kin_are_left_alone(code_points: tuple[int, int]) -> None:
    """sRGB, what is not told, and video's BT.709, which every viewer shows as sRGB, keep their values."""
    pixels = colors()
    data = with_chunks(Image.fromarray(pixels), (b"cICP", bytes([*code_points, 0, 1])))
    assert (load(data).rgb == pixels).all()
    with Image.open(io.BytesIO(avif_of(pixels, *code_points))) as image:
        expected = np.asarray(image)
    assert (load(avif_of(pixels, *code_points)).rgb == expected).all()


def test_narrow_range_is_widened() -> None:
    """cICP without full range: 16 is black and 235 white."""
    pixels = np.array([[[16] * 3, [235] * 3, [0] * 3, [255] * 3]], np.uint8)
    picture = load(with_chunks(Image.fromarray(pixels), (b"cICP", bytes([1, 13, 0, 0]))))
    assert picture.rgb[0, :, 0].tolist() == [0, 255, 0, 255]


def test_the_order_of_words_is_the_standards() -> None:
    """cICP before iCCP before sRGB before gAMA: a later word changes nothing where an earlier one is there."""
    pixels = colors()
    image = Image.fromarray(pixels)
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = (b"iCCP", b"x\0\0" + zlib.compress(icc))
    p3 = (b"cICP", bytes([12, 13, 0, 1]))
    assert (load(with_chunks(image, (b"sRGB", b"\0"), gamma_chunk(1))).rgb == pixels).all()
    assert (load(with_chunks(image, profile, gamma_chunk(1))).rgb == pixels).all()
    assert (load(with_chunks(image, p3, profile, gamma_chunk(1))).rgb == load(with_chunks(image, p3)).rgb).all()


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
@pytest.mark.parametrize("kind", ["PNG", "AVIF"])
def test_hdr_is_tone_mapped_with_a_word(kind: str, transfer: int, name: str) -> None:
    """PQ and HLG come with a note; black stays black, order is kept, and the picture is no longer gray: its contrast
    grows, and the brightest light becomes white."""
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    data = (
        with_chunks(Image.fromarray(pixels), (b"cICP", bytes([9, transfer, 0, 1])))
        if kind == "PNG"
        else avif_of(pixels, 9, transfer)
    )
    picture = load(data)
    assert any("HDR" in note and name in note for note in picture.notes)
    gray = picture.rgb[:, :, 0].ravel().astype(int)
    assert gray[0] == 0 and gray[-1] == 255
    assert (np.diff(gray) >= -1).all()
    assert np.ptp(picture.rgb.astype(int), axis=2).max() <= 1


def test_pq_below_white_is_exact() -> None:
    """A PQ picture of nothing brighter than HDR's white, 203 cd/m2, is not tone-mapped: that white is sRGB's."""
    signal = np.arange(149) / 255
    root = signal ** (32 / 2523)
    nits = 10_000 * (np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root)) ** (8192 / 1305)
    assert 198 < nits[-1] < 208
    pixels = np.arange(149, dtype=np.uint8).repeat(3).reshape(1, 149, 3)
    rgb = load(with_chunks(Image.fromarray(pixels), (b"cICP", bytes([1, 16, 0, 1])))).rgb
    assert np.abs(rgb - srgb_of((nits / 203)[None, :, None].repeat(3, 2), BT709)).max() < 0.7


def test_hdr_highlights_are_rolled_off_not_cut() -> None:
    """In a picture up to 4,000 cd/m2 dark tones keep their light, and lights above white can still be told apart."""
    rgb = load(
        with_chunks(
            Image.fromarray(np.arange(231, dtype=np.uint8).repeat(3).reshape(1, 231, 3)), (b"cICP", b"\1\x10\0\1")
        )
    ).rgb
    gray = rgb[0, :, 0].astype(int)
    dark = load(
        with_chunks(
            Image.fromarray(np.arange(80, dtype=np.uint8).repeat(3).reshape(1, 80, 3)), (b"cICP", b"\1\x10\0\1")
        )
    ).rgb
    assert (np.abs(gray[:80] - dark[0, :, 0]) <= 1).all()
    assert (np.diff(gray[148:231:12]) > 0).all()


@pytest.mark.parametrize(
    "chunk",
    [
        (b"cICP", bytes([77, 99, 0, 1])),
        (b"cICP", bytes([9, 16, 9, 1])),
        (b"cICP", b"\1"),
        (b"gAMA", bytes(4)),
        (b"cHRM", bytes(32)),
        corners_chunk((D65, D65, D65)),
        corners_chunk(BT709, (0.7, 0.25)),
    ],
)
def test_words_that_mean_nothing_are_noted(chunk: tuple[bytes, bytes]) -> None:
    """Colors told by reserved code points, a gamma of 0 or corners on a line leave the pixels alone, with a note."""
    pixels = colors()
    picture = load(with_chunks(Image.fromarray(pixels), chunk))
    assert (picture.rgb == pixels).all()
    assert len(picture.notes) == 1


def test_an_avif_with_a_profile_keeps_to_it() -> None:
    """In AVIF an ICC profile counts, whatever nclx says beside it."""
    pixels = colors()
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "AVIF", quality=100, subsampling="4:4:4", icc_profile=icc)
    data = bytearray(file.getvalue())
    at = data.index(b"colrnclx") + 8
    data[at : at + 4] = struct.pack(">HH", 9, 16)
    assert np.abs(load(bytes(data)).rgb.astype(int) - pixels).max() <= 3


def exif_of(color_space: int, option_file: bytes) -> bytes:
    """EXIF with a color space and an interoperability index."""
    exif = Image.Exif()
    exif[0x8769] = {0xA001: color_space, 0xA005: {1: option_file.decode()}}
    return exif.tobytes()


def test_adobe_rgb_told_by_exif_is_converted() -> None:
    """Cameras say Adobe RGB by DCF's option file R03 or by the number 2; sRGB's number and others change nothing."""
    pixels = colors()
    expected = srgb_of((pixels / 255) ** (563 / 256), ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)))
    image = Image.fromarray(pixels)
    for color_space, option_file, converted in (
        (0xFFFF, b"R03", True),
        (2, b"R98", True),
        (1, b"R98", False),
        (0xFFFF, b"R98", False),
    ):
        file = io.BytesIO()
        image.save(file, "WEBP", lossless=True, exif=exif_of(color_space, option_file))
        rgb = load(file.getvalue()).rgb
        assert np.abs(rgb - (expected if converted else pixels)).max() < 0.7


def test_tiffs_tags_are_read() -> None:
    """TIFF's white and corners (tags 318, 319) count; its tables of light (301) are noted."""
    pixels = colors()
    tags = {318: D65, 319: tuple(value for corner in SWAPPED for value in corner)}
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF", tiffinfo=tags)
    assert np.abs(load(file.getvalue()).rgb.astype(int) - pixels[:, :, [1, 0, 2]]).max() <= 1
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF", tiffinfo={301: tuple(range(0, 65536, 256))})
    assert any("transfer function" in note for note in load(file.getvalue()).notes)


def test_jpeg_2000_and_bmp_keep_their_profiles() -> None:
    """An ICC profile in JP2's colr box or at the end of a BMP, which Pillow leaves out, is applied."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = (data.index(name, 132) for name in (b"rXYZ", b"bXYZ"))
    data[red + 4 : red + 12], data[blue + 4 : blue + 12] = data[blue + 4 : blue + 12], data[red + 4 : red + 12]
    icc, pixels = bytes(data), colors()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG2000")
    jp2 = file.getvalue()
    at = jp2.index(b"colr") - 4
    size_bytes = int.from_bytes(jp2[at : at + 4], "big")
    colr = struct.pack(">I", 11 + len(icc)) + b"colr\2\0\0" + icc
    header = jp2.index(b"jp2h") - 4
    header_bytes = int.from_bytes(jp2[header : header + 4], "big") + len(colr) - size_bytes
    jp2 = jp2[:header] + struct.pack(">I", header_bytes) + jp2[header + 4 : at] + colr + jp2[at + size_bytes :]
    height_px, width_px = pixels.shape[:2]
    rows = b"".join(row[:, ::-1].tobytes().ljust(-(-3 * width_px // 4) * 4, b"\0") for row in pixels[::-1])
    v5 = struct.pack("<IiiHHIIiiII", 124, width_px, height_px, 1, 24, 0, len(rows), 0, 0, 0, 0).ljust(56, b"\0")
    v5 = (v5 + b"DEBM").ljust(112, b"\0") + struct.pack("<III", 124 + len(rows), len(icc), 0)
    bmp = b"BM" + struct.pack("<IHHI", 138 + len(rows) + len(icc), 0, 0, 138) + v5 + rows + icc
    for coded in (jp2, bmp):
        assert np.abs(load(coded).rgb.astype(int) - pixels[:, :, ::-1]).max() <= 2


def test_gif_keeps_its_profile() -> None:
    """An ICC profile in a GIF's extension, which Pillow passes over, is applied; cut anywhere it raises nothing."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = (data.index(name, 132) for name in (b"rXYZ", b"bXYZ"))
    data[red + 4 : red + 12], data[blue + 4 : blue + 12] = data[blue + 4 : blue + 12], data[red + 4 : red + 12]
    file = io.BytesIO()
    Image.fromarray(colors()).save(file, "GIF")
    gif = file.getvalue()
    with Image.open(io.BytesIO(gif)) as image:
        expected = np.asarray(image.convert("RGB"))[:, :, ::-1]
    first = 13 + (3 << (gif[10] & 7) + 1)
    blocks = b"".join(bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255))
    comment = b"!\xfe\5hello\0"
    extension = comment + b"!\xff\x0bICCRGBG1012" + blocks + b"\0"
    assert np.abs(load(gif[:first] + extension + gif[first:]).rgb.astype(int) - expected).max() <= 2
    for cut in range(len(extension)):
        examine(io.BytesIO(gif[:first] + extension[:cut]))


def test_a_dds_file_of_srgb_is_srgb() -> None:
    """Pillow gives its DDS files of sRGB a gamma of 1/2.2, which is up to 9 levels off."""
    image = Image.fromarray(colors())
    image.format, image.info["gamma"] = "DDS", 1 / 2.2
    assert (load(image).rgb == colors()).all()


def test_a_pillow_image_brings_its_words() -> None:
    """An image opened by the caller, loaded or not, is converted as its file would be."""
    pixels = colors()
    data = with_chunks(Image.fromarray(pixels), gamma_chunk(1), corners_chunk(SWAPPED))
    expected = load(data).rgb
    with Image.open(io.BytesIO(data)) as image:
        assert (load(image).rgb == expected).all()
        assert (load(image).rgb == expected).all()
    p3 = with_chunks(Image.fromarray(pixels), (b"cICP", bytes([12, 13, 0, 1])))
    with Image.open(io.BytesIO(p3)) as image:
        assert (load(image).rgb == load(p3).rgb).all()


def test_every_code_point_has_a_matrix_and_a_curve() -> None:
    """All that H.273 does not reserve is converted: white to white and black to black, without warnings."""
    ends = np.array([[[0] * 3, [255] * 3]], np.uint8)
    known = 0
    for primaries in range(256):
        for transfer in range(256):
            encoding = from_cicp(primaries, transfer)
            if encoding is None:
                continue
            known += 1
            convert = to_srgb(encoding)
            if convert is not None:
                assert np.abs(convert(ends).astype(int) - ends).max() <= 1, (primaries, transfer)
    assert known == 12 * 17
