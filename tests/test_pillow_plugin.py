"""Laws of the Pillow plugin: lazy, honest about what is broken, and good enough for readers that only know Pillow."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError
from tests.make_container_golden import SAMPLES

import sdrt
from sdrt import pillow_plugin
from sdrt.container import sdl
from sdrt.packs import search
from sdrt.packs.manifest import ModelPack
from sdrt.pixels.metadata import ITEMS, Metadata
from sdrt.pixels.picture import Picture
from sdrt.pixels.save import save

Pixels = NDArray[np.uint8]
TESTS = Path(__file__).parent
GOLDEN = sorted((TESTS / "golden" / "codec").glob("*.sdl"))
BROKEN = sorted((TESTS / "golden" / "errors").glob("*.sdl"))
ALPHA = TESTS / "golden" / "codec" / "161x97-alpha.sdl"
MAKER, ORIENTATION = 0x010F, 0x0112
TURNED = 6


@pytest.fixture(autouse=True)
def plugin(testpack: ModelPack) -> Iterator[None]:
    """The plugin with the tests' pack, on one thread of the CPU; afterwards as it is on import."""
    sdrt.register_opener(model="testpack", device="cpu", threads=1)
    yield
    sdrt.register_opener()


def turned_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[MAKER], exif[ORIENTATION] = "maker", TURNED
    return exif


def saved(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "SDL", **options)
    return stream.getvalue()


def test_a_stream_that_takes_little_at_once_gets_all(photo: Pixels) -> None:
    """Pillow hands over any stream; one that takes 100 bytes a call has the whole file in the end."""

    class Sips(io.RawIOBase):
        data = b""

        def write(self, data: Any) -> int:
            self.data += bytes(data[:100])
            return min(len(data), 100)

    stream = Sips()
    Image.fromarray(photo).save(stream, "SDL")
    assert stream.data == saved(Image.fromarray(photo))


# Opening


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: str(path.stem))
def test_every_golden_file_opens(path: Path) -> None:
    """The size is there before the pixels, the pixels are those of ``sdrt.decode``."""
    with Image.open(path) as image, Image.open(path.with_suffix(".png")) as painted:
        assert (image.format, image.get_format_mimetype()) == ("SDL", "image/x-sdl")
        assert (image.size, image.mode) == (painted.size, painted.mode)
        decoded = sdrt.decode(path, device="cpu")
        assert (decoded.size, decoded.mode) == (image.size, image.mode)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(decoded))


def test_opening_needs_neither_numpy_nor_an_engine() -> None:
    """Pillow's probing and the header take the standard library and Pillow alone; a folder is listed in no time."""
    code = (
        "import sys, sdrt.pillow_plugin\n"
        "from PIL import Image\n"
        f"with Image.open({str(ALPHA)!r}) as image: print(image.size, image.mode)\n"
        "print({name.partition('.')[0] for name in sys.modules} & {'numpy', 'constriction', 'onnxruntime', 'openvino'})"
    )
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent / "runtime")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, text=True)
    assert done.stdout == "(161, 97) RGBA\nset()\n"


def test_opening_reads_the_header_only(photo: Pixels) -> None:
    """However long the payload, no byte of it is read before the pixels are wanted."""
    file = sdl.unpack(saved(Image.fromarray(photo), xmp=b"<x/>"))
    data = sdl.pack(sdl.SdlFile(**{**vars(file), "payload": bytes(10**6)}))
    read: list[int] = []

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            block = super().read(size)
            read.append(len(block))
            return block

    with Image.open(Watched(data)) as image:
        assert image.info["xmp"] == b"<x/>"
    assert sum(read) < 100


@pytest.mark.parametrize("data", [b"", b"SD", b"\x89PNG\r\n\x1a\n", b"sdl\x01" + bytes(30)])
def test_what_is_not_ours_is_a_syntax_error(data: bytes) -> None:
    """So Pillow goes on to its other formats; in the end nobody knows the file."""
    with pytest.raises(SyntaxError):
        pillow_plugin.SdlImageFile(io.BytesIO(data))
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(data))


def test_other_formats_open_as_ever(photo: Pixels) -> None:
    """With the plugin there, a PNG is a PNG."""
    stream = io.BytesIO()
    Image.fromarray(photo).save(stream, "PNG")
    assert Image.open(stream).format == "PNG"


def test_a_newer_version_says_so() -> None:
    """Pillow cannot identify the file, and warns that sdrt wants an update."""
    with pytest.warns(UserWarning, match="format version 2.*update sdrt"), pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(b"SDL\x02" + bytes(40)))


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: str(path.stem))
def test_what_is_broken_is_an_os_error(path: Path) -> None:
    """Every broken container raises OSError (UnidentifiedImageError is one), on opening or else on loading."""
    for finish in (Image.Image.load, Image.Image.verify):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises((OSError, Image.DecompressionBombError)) as caught, Image.open(path) as image:
                getattr(image, finish.__name__)()
        assert "\n" not in str(caught.value)


def test_damage_behind_the_header_is_found_on_loading(tmp_path: Path) -> None:
    """A cut or altered file opens, with its true size, and raises OSError when it is loaded or verified."""
    data = ALPHA.read_bytes()
    for damaged in (data[:-1], data[:-20], data[:-30] + b"\0" + data[-29:]):
        for finish in ("load", "verify"):
            image = Image.open(io.BytesIO(damaged))
            assert image.size == (161, 97)
            with pytest.raises(OSError, match="checksum"):
                getattr(image, finish)()


def test_a_whole_file_verifies() -> None:
    """``verify`` passes without decoding, and closes the file."""
    image = Image.open(ALPHA)
    image.verify()
    assert image.fp is None


def test_a_missing_model_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers catch OSError: what is missing here comes as one, in its own words."""
    sdrt.register_opener()
    monkeypatch.setattr(search, "search_paths", lambda: [Path("/nowhere")])
    with Image.open(ALPHA) as image, pytest.raises(OSError, match="latent space"):
        image.load()


def test_a_closed_image_says_so() -> None:
    """Pixels that were never wanted is unavailable once the file is closed."""
    with Image.open(ALPHA) as image:
        pass
    with pytest.raises(ValueError, match="closed"):
        image.load()


def test_pillows_limit_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture beyond twice ``Image.MAX_IMAGE_PIXELS`` is refused on opening."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 97 * 161 // 2 - 1)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(ALPHA)


def test_the_limit_of_a_side_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thin picture of few pixels takes the work of many, since cells are painted whole; no limit at all is none."""
    thin = replace(sdl.unpack(ALPHA.read_bytes()), width_px=1, height_px=sdl.MAX_SIDE_PX)
    with pytest.raises(Image.DecompressionBombError, match="side"):
        Image.open(io.BytesIO(sdl.pack(thin)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert Image.open(io.BytesIO(sdl.pack(thin))).size == (1, sdl.MAX_SIDE_PX)


# Saving


def test_options_of_the_encoder_are_options_of_save(photo: Pixels, tmp_path: Path) -> None:
    """The suffix chooses the format; quality and targets are the encoder's; unknown options are ignored as ever."""
    path = tmp_path / "photo.sdl"
    image = Image.fromarray(photo)
    image.save(path, quality=80, optimize=True)
    assert path.read_bytes() == sdrt.encode(photo, model="testpack", device="cpu", threads=1, quality=80)
    image.save(path, target_bytes=600, tune="psnr")
    assert 0 < path.stat().st_size <= 600
    with Image.open(path) as back:
        assert back.size == image.size


@pytest.mark.parametrize("options", [{"quality": 101}, {"quality": 5, "target_bytes": 500}, {"tune": "fast"}], ids=str)
def test_wrong_options_are_value_errors(options: dict[str, Any], photo: Pixels, tmp_path: Path) -> None:
    """And no file is left behind."""
    with pytest.raises(ValueError, match=next(iter(options))):
        Image.fromarray(photo).save(tmp_path / "photo.sdl", **options)
    assert list(tmp_path.iterdir()) == []


def test_metadata_are_kept_where_they_are_given(photo: Pixels) -> None:
    """As in Pillow's JPEG and WebP: exif and xmp as arguments, never on their own; keep_metadata keeps the image's."""
    image = Image.fromarray(photo)
    image.info.update(exif=turned_exif().tobytes(), xmp=b"<x/>", other=b"none of ours")
    assert Image.open(io.BytesIO(saved(image))).info == {}
    assert saved(image) == saved(Image.fromarray(photo)), "nor do they turn the picture"
    for exif in (turned_exif(), turned_exif().tobytes()):
        back = Image.open(io.BytesIO(saved(image, exif=exif, xmp=b"<y/>")))
        assert back.getexif()[MAKER] == "maker" and back.info["xmp"] == b"<y/>"
        assert back.size == (97, 161) and back.getexif()[ORIENTATION] == 1, "kept with the picture, EXIF turns it"
        assert ImageOps.exif_transpose(back).size == (97, 161)
    kept = Image.open(io.BytesIO(saved(image, keep_metadata=True)))
    assert kept.getexif()[MAKER] == "maker" and kept.info["xmp"] == b"<x/>"


@pytest.mark.parametrize("name", ITEMS)
def test_an_opened_file_is_saved_with_its_metadata(name: str) -> None:
    """From one .sdl file to the next keep_metadata loses no item that a file may hold."""
    kind = ITEMS[name].chunk
    file = replace(sdl.unpack(GOLDEN[0].read_bytes()), chunks=(sdl.Chunk(kind, SAMPLES[kind]),))
    with Image.open(io.BytesIO(sdl.pack(file))) as image:
        assert name in image.info
        assert sdl.unpack(saved(image, keep_metadata=True)).chunk(kind) == SAMPLES[kind]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_file_of_pillows_is_saved_with_its_metadata(kind: str, photo: Pixels) -> None:
    """Under whatever name Pillow has an item, keep_metadata keeps it; without it there is none."""
    file = io.BytesIO()
    save(Picture(photo[:16, :16], metadata=Metadata(iptc=SAMPLES[b"iptc"])), file, suffix=f".{kind.lower()}")
    with Image.open(file) as image:
        assert "iptc" not in image.info
        assert sdl.unpack(saved(image, keep_metadata=True)).chunks == (sdl.Chunk(b"iptc", SAMPLES[b"iptc"]),)
        assert sdl.unpack(saved(image)).chunks == ()
    exif = turned_exif().tobytes()
    image = Image.fromarray(photo[:16, :16])
    image.info["Raw profile type exif"] = f"\nexif\n{len(exif)}\n{exif.hex()}\n"
    assert Image.open(io.BytesIO(saved(image, keep_metadata=True))).getexif()[MAKER] == "maker"


def test_a_tiff_keeps_what_its_tags_say(photo: Pixels) -> None:
    """Opened and saved it has the EXIF that sdrt.encode keeps, or none; the image is as it was."""
    tiff = io.BytesIO()
    exif = Image.Exif()
    exif[MAKER] = "maker"
    Image.fromarray(photo).save(tiff, "TIFF", exif=exif)
    image = Image.open(tiff)
    before = dict(image.info)
    assert Image.open(io.BytesIO(saved(image, keep_metadata=True))).getexif()[MAKER] == "maker"
    assert (
        sdl.unpack(saved(image, keep_metadata=True)).chunks
        == sdl.unpack(sdrt.encode(io.BytesIO(tiff.getvalue()), keep_metadata=True)).chunks
    )
    assert sdl.unpack(saved(image)).chunks == ()
    assert image.info == before


def test_every_mode_is_saved(photo: Pixels) -> None:
    """Gray, palette, 16 bits, CMYK, alpha and a key color become what ``sdrt.encode`` makes of them."""
    rgba = np.dstack([photo, np.where(photo[:, :, 0] > 128, 255, 0).astype(np.uint8)])
    palette = Image.fromarray(photo).quantize(16)
    palette.info["transparency"] = 3
    images = [Image.fromarray(rgba), palette, *(Image.fromarray(photo).convert(mode) for mode in ("1", "L", "CMYK"))]
    images.append(Image.fromarray(photo[:, :, 0].astype(np.uint16) * 257))
    profiled = Image.fromarray(photo)
    profiled.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for image in [*images, profiled]:
        assert saved(image, quality=30) == sdrt.encode(image, model="testpack", device="cpu", threads=1, quality=30)


def test_a_file_of_ours_is_a_picture_to_encode(testpack: ModelPack) -> None:
    """``sdrt.encode`` reads whatever Pillow opens, so .sdl files as well; a broken one is an ImageError."""
    data = ALPHA.read_bytes()
    again = sdrt.encode(data, model="testpack", device="cpu", quality=20)
    assert sdrt.info(again).alpha and sdrt.info(again).width_px == 161
    with pytest.raises(sdrt.ImageError, match="checksum"):
        sdrt.encode(data[:-1], model="testpack", device="cpu")


# Readers that only know Pillow


def test_threads_open_and_save_at_once() -> None:
    """Eight threads that open, load and save get what one gets."""

    def work(path: Path) -> bytes:
        with Image.open(path) as image:
            return saved(image.convert("RGBA"), quality=40) + image.tobytes()

    paths = [path for path in GOLDEN if "999" not in path.stem] * 3
    alone = [work(path) for path in paths]
    sdrt.register_opener(model="testpack", device="cpu", threads=1)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, paths)) == alone


def test_torchvisions_loader_closes_the_file() -> None:
    """``torchvision.datasets.folder.pil_loader``, word for word: the file is closed after the conversion."""

    def pil_loader(path: Path) -> Image.Image:
        with path.open("rb") as f:
            img = Image.open(f)
            return img.convert("RGB")

    np.testing.assert_array_equal(
        np.asarray(pil_loader(ALPHA)), np.asarray(sdrt.decode(ALPHA, device="cpu").convert("RGB"))
    )


def test_imageio_reads_and_writes_through_pillow_alone(photo: Pixels, tmp_path: Path) -> None:
    """imageio reads and writes .sdl files and knows their shape beforehand, through Pillow alone."""
    imageio = pytest.importorskip("imageio.v3")
    path = tmp_path / "photo.sdl"
    imageio.imwrite(path, photo, plugin="pillow", extension=".sdl", quality=60)
    assert imageio.improps(path, plugin="pillow").shape == photo.shape
    np.testing.assert_array_equal(imageio.imread(path), np.asarray(sdrt.decode(path, device="cpu")))


def test_pillows_parser_takes_a_file_in_pieces(photo: Pixels) -> None:
    """``ImageFile.Parser`` takes a file in pieces, as web frameworks hand it over."""
    parser = ImageFile.Parser()
    data = saved(Image.fromarray(photo))
    for start in range(0, len(data), 100):
        parser.feed(data[start : start + 100])
    np.testing.assert_array_equal(np.asarray(parser.close()), np.asarray(sdrt.decode(data, device="cpu")))


def test_images_behave_as_pillow_s_own() -> None:
    """Copies, crops, thumbnails, pickles and in-place drawing work without a call of ``load`` before."""
    whole = np.asarray(sdrt.decode(ALPHA, device="cpu"))
    np.testing.assert_array_equal(np.asarray(Image.open(ALPHA).copy()), whole)
    np.testing.assert_array_equal(np.asarray(Image.open(ALPHA).crop((10, 20, 30, 50))), whole[20:50, 10:30])
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(Image.open(ALPHA)))), whole)
    small = Image.open(ALPHA)
    small.thumbnail((32, 32))
    assert small.size == (32, 19)
    drawn = Image.open(ALPHA)
    drawn.putpixel((1, 2), (1, 2, 3, 4))
    assert drawn.getpixel((1, 2)) == (1, 2, 3, 4)
    frames = Image.open(ALPHA)
    frames.seek(0)
    assert frames.tell() == 0 and frames.getexif() == {}
    with pytest.raises(EOFError):
        frames.seek(1)


def test_settings_of_the_codec_are_settings_of_the_plugin() -> None:
    """register_opener refuses what Codec refuses, at once."""
    with pytest.raises(sdrt.ArgumentError, match="npu"):
        sdrt.register_opener(device="npu")  # type: ignore[arg-type]
    sdrt.register_opener(max_pixels=100)
    with Image.open(ALPHA) as image, pytest.raises(OSError, match="the limit is 100"):
        image.load()
