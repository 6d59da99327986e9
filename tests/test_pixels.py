"""Laws of reading and writing pictures."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from sdrt.errors import ArgumentError, EngineError, ImageError, LimitError, OutputError
from sdrt.pixels.load import load
from sdrt.pixels.metadata import Metadata
from sdrt.pixels.picture import Picture
from sdrt.pixels.save import SAVE_OPTIONS, save, to_pil
from sdrt.pixels.tensors import from_sample, sample_region, to_sample

Pixels = NDArray[np.uint8]


def coded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# Modes


def test_the_same_picture_from_every_kind_of_source(photo: Pixels, tmp_path: Path) -> None:
    """A path, its text, bytes, buffers, streams, a Pillow image and an array give the same picture."""
    data = coded(Image.fromarray(photo))
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    with path.open("rb") as stream:
        for source in (path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), stream):
            picture = load(source)
            assert (picture.rgb == photo).all()
            assert (picture.alpha, picture.metadata, picture.notes) == (None, Metadata(), ())
    assert (load(Image.fromarray(photo)).rgb == photo).all()
    assert load(photo).rgb is photo


def test_alpha_is_kept_and_opaque_alpha_is_none(photo: Pixels) -> None:
    """Alpha that says something is kept next to the colors, alpha of 255 throughout is dropped."""
    alpha = np.tile(np.arange(photo.shape[1], dtype=np.uint8), (photo.shape[0], 1))
    rgba = np.dstack([photo, alpha])
    for source in (rgba, Image.fromarray(rgba), coded(Image.fromarray(rgba)), coded(Image.fromarray(rgba), "TIFF")):
        picture = load(source)
        assert (picture.rgb == photo).all()
        assert picture.alpha is not None
        assert (picture.alpha == alpha).all()
    rgba[:, :, 3] = 255
    assert load(rgba).alpha is None
    assert load(Image.fromarray(rgba)).alpha is None


def test_premultiplied_and_gray_alpha(photo: Pixels) -> None:
    """LA and premultiplied RGBa give straight colors and their alpha."""
    la = Image.merge("LA", [Image.fromarray(photo[:, :, 0].copy()), Image.fromarray(photo[:, :, 1].copy())])
    picture = load(la)
    assert (picture.rgb == photo[:, :, :1]).all()
    assert picture.alpha is not None
    assert (picture.alpha == photo[:, :, 1]).all()
    straight = Image.fromarray(np.dstack([photo, np.full(photo.shape[:2], 200, np.uint8)]))
    assert np.abs(load(straight.convert("RGBa")).rgb.astype(int) - photo).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB", "RGBX"])
def test_modes_look_like_pillows_own_rgb(mode: str, photo: Pixels) -> None:
    """8-bit modes without transparency become what Pillow's conversion to RGB gives."""
    image = Image.fromarray(photo).convert(mode)
    picture = load(image)
    assert (picture.rgb == np.asarray(image.convert("RGB"))).all()
    assert picture.alpha is None


@pytest.mark.parametrize("transparency", [3, bytes(range(0, 250, 2))])
def test_a_palettes_transparency_becomes_alpha(transparency: int | bytes, photo: Pixels) -> None:
    """A palette's transparent entry, or its table of opacities, becomes the alpha plane."""
    image = Image.open(io.BytesIO(coded(Image.fromarray(photo).quantize(64), transparency=transparency)))
    expected = np.asarray(image.convert("RGBA"))
    picture = load(image)
    assert (picture.rgb == expected[:, :, :3]).all()
    assert picture.alpha is not None
    assert (picture.alpha == expected[:, :, 3]).all()


def test_a_color_key_makes_exactly_its_pixels_transparent(photo: Pixels) -> None:
    """PNG's transparent color makes exactly the pixels of that color transparent, in RGB and in gray."""
    rgb = photo.copy()
    rgb[5:20, 7:30] = (10, 200, 30)
    expected = np.where((rgb == (10, 200, 30)).all(2), 0, 255)
    picture = load(coded(Image.fromarray(rgb), transparency=(10, 200, 30)))
    assert picture.alpha is not None
    assert (picture.alpha == expected).all()
    assert (picture.rgb == rgb).all()
    gray = rgb[:, :, 0].copy()
    picture = load(coded(Image.fromarray(gray), transparency=10))
    assert picture.alpha is not None
    assert (picture.alpha == np.where(gray == 10, 0, 255)).all()


# Deep pixels


@pytest.mark.parametrize("byte_order", ["<u2", ">u2"])
def test_sixteen_bits_are_scaled_not_clipped(byte_order: str) -> None:
    """Of 16-bit gray every value becomes its nearest 8-bit level: the range is kept from black to white."""
    values = np.arange(65536, dtype="<u2").reshape(256, 256)
    expected = ((values.astype(np.int64) * 510 + 65535) // (2 * 65535)).astype(np.uint8)
    wide = Image.fromarray(values)
    assert wide.mode == "I;16"
    for source in (wide, coded(wide), coded(wide, "TIFF"), values.astype(byte_order), wide.convert("I")):
        picture = load(source)
        assert (picture.rgb == expected[:, :, None]).all()
        assert picture.notes == ()


def test_twelve_bits_use_their_own_range() -> None:
    """A TIFF of 12-bit gray is scaled by 4095, not by 65535: it is not dark."""
    tags = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 134), (277, 1), (278, 1), (279, 6)]
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags)
    head = b"II*\x00" + struct.pack("<IH", 8, len(tags)) + entries
    pixels = bytes.fromhex("000800 fff7ff")  # 0, 0x800, 0xfff, 0x7ff
    data = (head + bytes(4)).ljust(134, b"\x00") + pixels
    assert load(data).rgb[0, :, 0].tolist() == [0, 128, 255, 127]


def test_floats_from_0_to_1_and_from_0_to_255() -> None:
    """Float images keep their scale where it is plain, and are stretched with a note where it is not."""
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None].repeat(3, 0)
    for scale in (1, 255):
        picture = load(Image.fromarray(ramp * scale))
        assert (picture.rgb[0, :, 0] == np.arange(256)).all()
        assert picture.notes == ()
    picture = load(Image.fromarray(ramp * 5000 - 300))
    assert (picture.rgb[0, :, 0] == np.arange(256)).all()
    assert "stretched" in picture.notes[0]


def test_not_a_number_becomes_black_with_a_note() -> None:
    """Values that are no numbers are black, the others are untouched, and a note says so."""
    values = np.full((4, 4), 0.5, np.float32)
    values[1] = [np.nan, np.inf, -np.inf, 1.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = load(Image.fromarray(values))
    assert picture.rgb[1, :, 0].tolist() == [0, 0, 0, 255]
    assert picture.rgb[0, 0].tolist() == [128] * 3
    assert "not numbers" in picture.notes[0]
    assert load(Image.fromarray(np.full((2, 2), np.nan, np.float32))).rgb.max() == 0


def test_integers_beyond_16_bits_are_stretched() -> None:
    """32-bit integers, also negative ones and constant ones, become a picture with a note."""
    values = np.linspace(-(2**31), 2**31 - 1, 256).astype(np.int32)[None]
    picture = load(Image.fromarray(values))
    assert picture.rgb[0, [0, -1], 0].tolist() == [0, 255]
    assert "stretched" in picture.notes[0]
    assert load(Image.fromarray(np.full((2, 2), -5, np.int32))).rgb.shape == (2, 2, 3)


# Arrays


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
def test_arrays_of_every_type_give_the_same_levels(channels: int | None, dtype: type[np.generic]) -> None:
    """Gray, RGB and RGBA arrays of every type give the same levels."""
    shape = (16, 16) if channels is None else (16, 16, channels)
    levels = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    white = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1)
    picture = load((levels / 255 * white).round(7).astype(dtype))
    cube = levels.reshape(16, 16, -1)
    assert picture.rgb.shape == (16, 16, 3)
    assert (picture.rgb == cube[:, :, :3]).all()
    assert (picture.alpha is not None) == (channels == 4)
    if picture.alpha is not None:
        assert (picture.alpha == cube[:, :, 3]).all()


def test_strides_of_an_array_do_not_matter(photo: Pixels) -> None:
    """Strides do not matter: mirrored, transposed and cropped views are read as they look."""
    for view in (photo[::-1], photo.swapaxes(0, 1), photo[3:9, ::2], photo[:, :, ::-1]):
        picture = load(view)
        assert (picture.rgb == view).all()
        assert picture.rgb.flags.c_contiguous


@pytest.mark.parametrize(
    "source",
    [
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((4,), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0), np.float32),
        np.zeros((4, 4), np.int32),
        np.zeros((4, 4), np.complex64),
        np.zeros((4, 4), object),
        np.full((4, 4), 255.0),
        np.full((4, 4), -0.1),
        np.full((4, 4), np.nan),
        np.full((4, 4), np.inf),
        None,
        12,
        [[1, 2]],
        io.StringIO("text"),
        Image.new("RGB", (0, 5)),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(source: object) -> None:
    """Arrays of other shapes, types and ranges raise ImageError, other objects ArgumentError, in one line."""
    with pytest.raises((ImageError, ArgumentError)) as caught:
        load(source)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_orientation_is_applied_and_cleared(orientation: int, kind: str, photo: Pixels) -> None:
    """A stored image with an orientation is read as Pillow's own exif_transpose turns it, and its EXIF says upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "maker"
    options = {"lossless": True} if kind == "WEBP" else {}
    rgba = np.dstack([photo, photo[:, :, 0]])
    data = coded(Image.fromarray(rgba), kind, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    picture = load(data)
    assert picture.rgb.flags.c_contiguous
    assert (picture.rgb == expected[:, :, :3])[expected[:, :, 3] > 0].all()
    assert picture.alpha is not None
    assert (picture.alpha == expected[:, :, 3]).all()
    assert picture.metadata.exif is not None
    again = Image.Exif()
    again.load(b"Exif\x00\x00" + picture.metadata.exif)
    assert again.get(0x0112, 1) == 1
    assert again[0x010F] == "maker"


def test_orientation_of_xmp_counts_where_exif_has_none(photo: Pixels) -> None:
    """XMP's orientation is applied and reset when EXIF states none; EXIF wins when it does."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    image = Image.fromarray(photo)
    image.info["xmp"] = xmp
    picture = load(image)
    assert (picture.rgb == np.rot90(photo, -1)).all()
    assert picture.metadata.xmp == xmp.replace(b'"6"', b'"1"')
    exif = Image.Exif()
    exif[0x0112] = 3
    image.info["exif"] = exif.tobytes()
    assert (load(image).rgb == photo[::-1, ::-1]).all()


@pytest.mark.parametrize("order", ["little", "big"])
def test_only_the_orientation_changes_in_exif(order: str) -> None:
    """EXIF bytes come back byte for byte but for the orientation, whatever their byte order."""
    number = {2: lambda v: v.to_bytes(2, order), 4: lambda v: v.to_bytes(4, order)}  # type: ignore[arg-type]
    head = (b"II*\x00" if order == "little" else b"MM\x00*") + number[4](8) + number[2](2)
    entry = number[2](0x0112) + number[2](3) + number[4](1)
    other = number[2](0x927C) + number[2](7) + number[4](4) + b"mkr!"
    rest = number[4](0) + b"anything after it"
    image = Image.new("RGB", (2, 3))
    image.info["exif"] = b"Exif\x00\x00" + head + entry + number[2](8) + b"\x00\x00" + other + rest
    picture = load(image)
    assert picture.metadata.exif == head + entry + number[2](1) + b"\x00\x00" + other + rest
    assert picture.rgb.shape == (2, 3, 3)


@pytest.mark.parametrize(
    "exif",
    [b"", b"Exif\x00\x00", b"garbage", b"II*\x00", b"MM\x00*\xff\xff\xff\xff", b"II*\x00\x08\x00\x00\x00\xff\xff"],
)
def test_broken_exif_is_dropped_not_fatal(exif: bytes) -> None:
    """EXIF that is cut or nonsense never keeps a picture from being read."""
    image = Image.new("RGB", (2, 3), (1, 2, 3))
    image.info["exif"] = exif
    picture = load(image)
    assert (picture.rgb == (1, 2, 3)).all()


# Color profiles


def swapped_profile() -> bytes:
    """A matrix profile whose primaries are not sRGB's: sRGB with the red and the blue column exchanged."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    entries = {bytes(data[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, blue = entries[b"rXYZ"], entries[b"bXYZ"]
    data[red + 4 : red + 12], data[blue + 4 : blue + 12] = data[blue + 4 : blue + 12], data[red + 4 : red + 12]
    return bytes(data)


def test_srgb_profiles_change_nothing(photo: Pixels) -> None:
    """Pixels with an sRGB profile, whatever it calls itself, come back bit for bit."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = load(coded(Image.fromarray(photo), icc_profile=profile))
    assert (picture.rgb == photo).all()
    assert picture.notes == ()


def test_other_profiles_are_converted(photo: Pixels) -> None:
    """With red's and blue's primaries exchanged in the profile, so they are in the pixels; alpha stays."""
    rgba = np.dstack([photo, photo[:, :, 1]])
    for pixels in (photo, rgba):
        picture = load(coded(Image.fromarray(pixels), icc_profile=swapped_profile()))
        difference = np.abs(picture.rgb.astype(int) - photo[:, :, ::-1])
        assert difference.max() <= 2
        if picture.alpha is not None:
            assert (picture.alpha == photo[:, :, 1]).all()


def test_gray_with_an_rgb_profile_stays_gray(photo: Pixels) -> None:
    """A gray image may carry an RGB profile: its neutral axis is kept."""
    picture = load(coded(Image.fromarray(photo[:, :, 0].copy()), icc_profile=swapped_profile()))
    assert np.abs(picture.rgb.astype(int) - photo[:, :, :1]).max() <= 2


@pytest.mark.parametrize("profile", [b"x", b"nonsense" * 50, swapped_profile()[:300]])
def test_broken_profiles_are_noted(profile: bytes, photo: Pixels) -> None:
    """A profile that cannot be used leaves the pixels as they are and leaves a note."""
    picture = load(coded(Image.fromarray(photo), icc_profile=profile))
    assert (picture.rgb == photo).all()
    assert any("color profile" in note for note in picture.notes)


def test_a_profile_of_another_space_is_noted(photo: Pixels) -> None:
    """An RGB profile on CMYK pixels is not applied, and a note says so."""
    cmyk = Image.fromarray(photo).convert("CMYK")
    cmyk.info["icc_profile"] = swapped_profile()
    picture = load(cmyk)
    assert (picture.rgb == np.asarray(cmyk.convert("RGB"))).all()
    assert "profile is for RGB" in picture.notes[0]


def test_lab_pixels_with_a_lab_profile_are_no_surprise(photo: Pixels) -> None:
    """They are colors already: converted as those without a profile, and nothing is noted."""
    lab = Image.fromarray(photo).convert("LAB")
    lab.info.pop("icc_profile", None)
    plain = load(lab)
    lab.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    told = load(lab)
    assert told.notes == plain.notes == ()
    assert (told.rgb == plain.rgb).all()
    assert np.abs(told.rgb.astype(int) - photo).mean() < 3  # 8 bits of Lab


# Bad files and limits


def test_frames_and_pages_are_noted(photo: Pixels) -> None:
    """Of an animation or a document the first frame is taken, and a note says so."""
    frames = [Image.fromarray(photo), Image.fromarray(255 - photo)]
    for kind in ("PNG", "WEBP", "TIFF"):
        data = coded(
            frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
        )
        picture = load(data)
        assert (picture.rgb == photo).all()
        assert "only the first" in picture.notes[0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "PPM", "ICO", "TGA", "PCX"])
def test_truncated_files_raise_only_ours(kind: str, photo: Pixels) -> None:
    """A file of any format cut at any of 40 places is read or raises ImageError, in one line, without a warning."""
    data = coded(Image.fromarray(photo), kind)
    refused = 0
    for size_bytes in np.linspace(0, len(data) - 1, 40).astype(int):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                picture = load(data[:size_bytes])
            except ImageError as error:
                refused += 1
                assert "\n" not in str(error)
            else:
                assert picture.rgb.ndim == 3
    assert refused >= 20


def test_what_is_no_picture_is_one_line_that_names_it(tmp_path: Path) -> None:
    """A missing file, a folder, and a file of text are ImageErrors that name the path."""
    (tmp_path / "text.png").write_text("not a picture\n" * 20)
    for path in (tmp_path / "absent.png", tmp_path, tmp_path / "text.png", "no\0name"):
        with pytest.raises(ImageError, match="cannot read") as caught:
            load(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="no such file"):
        load(tmp_path / "absent.png")


def test_eps_is_refused_without_running_a_program() -> None:
    """EPS, for which Pillow would start Ghostscript, is refused."""
    eps = coded(Image.new("RGB", (4, 4)), "EPS")
    with pytest.raises(ImageError, match="EPS"):
        load(eps)


def bomb(side_px: int) -> bytes:
    """A PNG of 2 kB that announces side_px x side_px pixels and has none of them."""
    data = bytearray(coded(Image.new("L", (16, 16))))
    data[16:24] = side_px.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def test_pixel_limit_before_decoding() -> None:
    """More pixels than the limit are LimitError, by default from Pillow's own number on and before they are decoded."""
    assert load(bytes(coded(Image.new("L", (30, 20)))), max_pixels=600).rgb.shape == (20, 30, 3)
    for source in (coded(Image.new("L", (30, 20))), Image.new("L", (30, 20)), np.zeros((20, 30), np.uint8)):
        with pytest.raises(LimitError, match="600"):
            load(source, max_pixels=599)
    for side_px in (13378, 20000, 2**31 - 1):
        with pytest.raises(LimitError):
            load(bomb(side_px))


def test_limit_can_be_raised_and_pillow_is_left_as_it_was() -> None:
    """With max_pixels raised or None Pillow's own limit gives way, and is in place again afterwards."""
    theirs = Image.MAX_IMAGE_PIXELS
    for limit in (None, 10**9):
        with pytest.raises(ImageError):
            load(bomb(20000), max_pixels=limit)  # past the limit: its pixels are missing
        assert theirs == Image.MAX_IMAGE_PIXELS


def test_threads_do_not_disturb_each_other(photo: Pixels) -> None:
    """Many threads read at once, and afterwards Python's warnings are as they were."""
    data = coded(Image.fromarray(photo))
    shown, filters = warnings.showwarning, list(warnings.filters)
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda: results.extend(bool((load(data).rgb == photo).all()) for _ in range(20)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 160
    assert warnings.showwarning is shown
    assert warnings.filters == filters


# Samples


def test_every_level_survives_the_sample() -> None:
    """from_sample undoes to_sample exactly for all 256 levels, and the ends are -1 and 1."""
    rgb = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    sample = to_sample(rgb, 1)
    assert sample.dtype == np.float32
    assert sample.shape == (1, 3, 16, 16)
    assert (sample.min(), sample.max()) == (-1, 1)
    assert (from_sample(sample, 16, 16) == rgb).all()


@pytest.mark.parametrize("multiple", [1, 8, 16, 64])
def test_padding_repeats_the_edge_and_is_cropped(multiple: int, photo: Pixels) -> None:
    """to_sample pads at the bottom and right to the multiple with numpy's edge mode; from_sample crops it off."""
    for rgb in (photo, photo[:1], photo[:, :1], photo[:1, :1], photo[:64, :64]):
        height, width = rgb.shape[:2]
        padding = ((0, -height % multiple), (0, -width % multiple), (0, 0))
        sample = to_sample(rgb, multiple)
        expected = np.pad(rgb, padding, mode="edge")
        assert sample.shape == (1, 3, *expected.shape[:2])
        assert (from_sample(sample, *expected.shape[:2]) == expected).all()
        assert (from_sample(sample, height, width) == rgb).all()


def test_regions_are_cut_from_an_endless_picture(photo: Pixels) -> None:
    """Any rectangle, also one beside the picture, shows the picture continued by its edge pixels for ever."""
    height, width = photo.shape[:2]
    rng = np.random.default_rng(4)
    for _ in range(300):
        y, x = int(rng.integers(-150, height + 150)), int(rng.integers(-150, width + 150))
        rows, columns = (int(rng.integers(1, 200)) for _ in range(2))
        ys = np.clip(np.arange(y, y + rows), 0, height - 1)
        xs = np.clip(np.arange(x, x + columns), 0, width - 1)
        region = sample_region(photo, y, x, rows, columns)
        assert (region == to_sample(photo[ys][:, xs], 1)).all()


def test_from_sample_rounds_to_nearest_and_clips() -> None:
    """Values between levels go to the nearest one, values and infinities beyond the ends to the ends."""
    levels = np.array([-1e9, -0.6, -0.4, 0.4, 0.6, 99.6, 254.4, 255.4, 1e9, np.inf, -np.inf, 127.4], np.float32)
    sample = np.broadcast_to(levels / 127.5 - 1, (1, 3, 2, 12)).astype(np.float32)
    assert from_sample(sample, 2, 12)[1, :, 2].tolist() == [0, 0, 0, 0, 1, 100, 254, 255, 255, 255, 0, 127]


def test_a_sample_that_is_not_numbers_is_an_engine_error() -> None:
    """One value that is not a number, anywhere in the cropped part, is refused rather than shown as black."""
    sample = np.zeros((1, 3, 130, 8), np.float32)
    sample[0, 2, 129, 7] = np.nan
    with pytest.raises(EngineError, match="returned NaN"):
        from_sample(sample, 130, 8)
    assert from_sample(sample, 129, 8).shape == (129, 8, 3)


# Saving


@pytest.mark.parametrize("suffix", SAVE_OPTIONS)
def test_saved_pictures_come_back(suffix: str, photo: Pixels, tmp_path: Path) -> None:
    """Lossless formats give the picture bit for bit, JPEG and AVIF a close one; only the file itself is left."""
    path = tmp_path / f"photo{suffix.upper()}"
    save(Picture(photo), path)
    back = load(path).rgb
    assert back.shape == photo.shape
    mean_error = np.abs(back.astype(int) - photo).mean()
    assert mean_error < 4 if suffix in (".jpg", ".jpeg", ".avif") else mean_error == 0
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".tiff", ".avif"])
def test_alpha_is_saved(suffix: str, photo: Pixels, tmp_path: Path) -> None:
    """Formats with transparency keep the alpha plane, and the lossless ones the colors under it."""
    alpha = np.full(photo.shape[:2], 255, np.uint8)
    alpha[10:40, 10:60] = 0
    save(Picture(photo, alpha), tmp_path / f"x{suffix}")
    picture = load(tmp_path / f"x{suffix}")
    assert picture.alpha is not None
    assert np.abs(picture.alpha.astype(int) - alpha).max() <= (0 if suffix != ".avif" else 40)
    if suffix in (".png", ".tif"):
        assert (picture.rgb == photo).all()


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".ppm"])
def test_formats_without_transparency_refuse_alpha(suffix: str, photo: Pixels, tmp_path: Path) -> None:
    """A format without transparency is not silently given an opaque picture."""
    with pytest.raises(OutputError, match="transparency"):
        save(Picture(photo, photo[:, :, 0]), tmp_path / f"x{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_no_suffix_means_png_and_streams_are_written(photo: Pixels, tmp_path: Path) -> None:
    """Without a suffix PNG is written; a stream gets the format that is asked for."""
    save(Picture(photo), tmp_path / "plain")
    stream = io.BytesIO()
    save(Picture(photo), stream)
    assert stream.getvalue() == (tmp_path / "plain").read_bytes()
    stream = io.BytesIO()
    save(Picture(photo), stream, suffix=".webp")
    assert stream.getvalue()[8:12] == b"WEBP"


def test_unknown_suffix_names_the_known_ones(photo: Pixels, tmp_path: Path) -> None:
    """A suffix that is not known is an OutputError listing those that are."""
    with pytest.raises(OutputError, match=r"\.xyz.*\.png.*\.webp"):
        save(Picture(photo), tmp_path / "x.xyz")


def test_what_a_format_cannot_hold_leaves_nothing_behind(tmp_path: Path) -> None:
    """A picture beyond a format's own limits is an OutputError in one line, and no file appears."""
    with pytest.raises(OutputError, match="cannot write") as caught:
        save(Picture(np.zeros((1, 16384, 3), np.uint8)), tmp_path / "x.webp")
    assert "\n" not in str(caught.value)
    with pytest.raises(OutputError, match="EXIF"):
        save(Picture(np.zeros((1, 1, 3), np.uint8), metadata=Metadata(exif=bytes(70000))), tmp_path / "x.jpg")
    assert list(tmp_path.iterdir()) == []


def test_to_pil_carries_everything(photo: Pixels) -> None:
    """to_pil and load are inverse for pixels, alpha and metadata."""
    exif = Image.Exif()
    exif[0x010F] = "maker"
    picture = Picture(photo, photo[:, :, 0].copy(), Metadata(exif.tobytes().removeprefix(b"Exif\x00\x00"), b"<x/>"))
    back = load(to_pil(picture))
    assert (back.rgb == picture.rgb).all()
    assert back.alpha is not None
    assert (back.alpha == picture.alpha).all()
    assert (back.metadata, back.notes) == (picture.metadata, ())
