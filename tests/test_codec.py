"""Laws of the codec: the same integers on both sides, exact sizes, budgets kept, tiles that do not show."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.prior_samples import heavy_arrays, plan

import sdrt
from sdrt import bitstream, info, model_cache
from sdrt.codec import Codec
from sdrt.coding import quantize, rate
from sdrt.coding.prior import Prior
from sdrt.coding.prior_file import load_prior
from sdrt.coding.symbols import to_channels
from sdrt.errors import ArgumentError, LimitError, ModelError, UnsupportedError
from sdrt.network import transform
from sdrt.network.engine import Engine, GraphOf
from sdrt.packs import search
from sdrt.packs.manifest import LatentSpace, ModelPack
from sdrt.pixels.load import Source, load
from sdrt.pixels.picture import Picture

Pixels = NDArray[np.uint8]
GOLDEN = Path(__file__).parent / "golden" / "codec"


def integers_of(rgb: Pixels, pack: ModelPack, step_index: int) -> NDArray[np.int32]:
    """The integers that the encoder's side sees, computed without any file."""
    latents = transform.to_latents(rgb, pack, Engine(pack.encoder_path(), device="cpu"))
    prior = load_prior(pack.prior_path)
    return to_channels(quantize.quantize(latents, prior, np.full(latents.shape[1:], step_index)), prior)


def psnr_db(one: Pixels, other: Pixels) -> float:
    return float(10 * np.log10(255**2 / max(float(np.mean((one.astype(float) - other) ** 2)), 1e-9)))


@pytest.mark.parametrize(
    "size_px", [(1, 1), (1, 999), (999, 1), (257, 513), pytest.param((4000, 4000), marks=pytest.mark.slow)]
)
def test_integers_survive_a_real_file(
    size_px: tuple[int, int], testpack: ModelPack, make_photo: Callable[[int, int], Pixels], tmp_path: Path
) -> None:
    """A file on disk gives back exactly the integers that the encoder had, and a picture of exactly the size."""
    rgb = make_photo(*size_px)
    path = tmp_path / "picture.sdl"
    path.write_bytes(sdrt.encode(rgb, model="testpack"))
    codec = Codec()
    np.testing.assert_array_equal(codec.symbols(path), integers_of(rgb, testpack, codec.info(path).step_index))
    picture = codec.decode(path)
    assert picture.mode == "RGB" and picture.size == size_px[::-1]
    if min(size_px) > 8:
        assert psnr_db(np.asarray(picture), rgb) > 25


def test_every_kind_of_source_gives_the_same_file(testpack: ModelPack, photo: Pixels, tmp_path: Path) -> None:
    """Path, file contents, stream, Pillow image, array and loaded picture are one and the same."""
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    codec = Codec("testpack")
    expected = codec.encode(photo)
    with path.open("rb") as stream:
        pillow, loaded = Image.fromarray(photo), load(photo)
        sources: list[Source | Picture] = [str(path), path, path.read_bytes(), stream, pillow, loaded]
        for source in sources:
            assert codec.encode(source) == expected
    (tmp_path / "photo.sdl").write_bytes(expected)
    for data in (expected, bytearray(expected), memoryview(expected), tmp_path / "photo.sdl"):
        assert np.array_equal(np.asarray(codec.decode(data)), np.asarray(sdrt.decode(expected)))


def test_quality_is_monotone(testpack: ModelPack, photo: Pixels) -> None:
    """A higher quality never makes a smaller file nor a picture further away, and 0..100 spans a wide range."""
    codec = Codec("testpack")
    files = [codec.encode(photo, quality=quality) for quality in range(0, 101, 10)]
    sizes = [len(file) for file in files]
    likeness = [psnr_db(np.asarray(codec.decode(file)), photo) for file in files]
    assert sizes == sorted(sizes) and sizes[-1] > 4 * sizes[0]
    assert all(after > before - 0.05 for before, after in itertools.pairwise(likeness))
    assert codec.encode(photo) == codec.encode(photo, quality=50)  # the pack's default step is in the middle


@pytest.mark.parametrize("target_bytes", [300, 611, 1000, 1999, 2500])
def test_a_target_size_is_kept_and_used(target_bytes: int, testpack: ModelPack, photo: Pixels) -> None:
    """The whole file has at most the bytes asked for, and at least 98 % of them."""
    data = Codec("testpack").encode(photo, target_bytes=target_bytes)
    assert 0.98 * target_bytes <= len(data) <= target_bytes


def test_a_target_rate_counts_the_whole_file(testpack: ModelPack, photo: Pixels) -> None:
    """Bits per pixel are those of the file, header, alpha and all."""
    data = Codec("testpack").encode(photo, target_bpp=0.75)
    assert 0.98 * 0.75 <= 8 * len(data) / (97 * 161) <= 0.75


def test_networks_run_once_however_long_the_search(
    testpack: ModelPack, photo: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target size costs one run of the encoder, and a Codec opens each graph once for many pictures."""
    runs: list[str] = []
    opened: list[str] = []

    class Counted(Engine):
        def __init__(self, graph: GraphOf, **options: Any) -> None:
            super().__init__(graph, **options)
            opened.append(self.path.name)

        def run(self, array: Any) -> NDArray[np.float32]:
            runs.append(self.path.name)
            return super().run(array)

    monkeypatch.setattr(model_cache, "Engine", Counted)
    codec = Codec("testpack")
    files = [codec.encode(photo, target_bytes=size) for size in (700, 900)]
    for file in files:
        codec.decode(file)
    assert runs == ["encoder.onnx", "encoder.onnx", "decoder.onnx", "decoder.onnx"]
    assert opened == ["encoder.onnx", "decoder.onnx"]


def test_a_prior_is_loaded_once(testpack: ModelPack, photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a codec that writes a file and reads it: what names the prior is the same prior."""
    loaded: list[str] = []

    def counted(data: bytes, name: str) -> Prior:
        loaded.append(name)
        return load_prior(data, name)

    monkeypatch.setattr(bitstream, "load_prior", counted)
    codec = Codec("testpack", device="cpu")
    codec.decode(codec.encode(photo[:64, :64]))
    assert len(loaded) == 1


def test_an_impossible_target_names_the_smallest(testpack: ModelPack, photo: Pixels) -> None:
    """A target below the smallest file is refused with that file's size, and that size works."""
    codec = Codec("testpack")
    with pytest.raises(
        UnsupportedError, match=r"30 bytes cannot be reached: the smallest .* has (\d+) bytes"
    ) as caught:
        codec.encode(photo, target_bytes=30)
    smallest = int(str(caught.value).split()[-2])
    assert len(codec.encode(photo, target_bytes=smallest)) == smallest


def test_one_wish_at_a_time(testpack: ModelPack, photo: Pixels) -> None:
    """Quality, size and rate exclude each other; a quality outside 0..100 is refused."""
    pairs: list[dict[str, Any]] = [{"quality": 50, "target_bytes": 500}, {"target_bytes": 500, "target_bpp": 1.0}]
    for wishes in pairs:
        with pytest.raises(UnsupportedError, match="one of"):
            sdrt.encode(photo, model="testpack", **wishes)
    with pytest.raises(UnsupportedError, match="0 to 100"):
        sdrt.encode(photo, model="testpack", quality=101)


def test_tuning_for_psnr_saves_bytes_at_the_same_step(
    testpack: ModelPack, photo: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``tune="psnr"`` decides where the pack's prior asks for plain rounding: fewer bytes at one quality for the same
    reader. What is no tune is refused with those there are."""
    monkeypatch.setattr(bitstream, "load_prior", lambda *source: replace(load_prior(*source), bit_weight=0.0))
    codec = Codec("testpack")
    plain, tuned = codec.encode(photo, quality=60), codec.encode(photo, quality=60, tune="psnr")
    assert len(tuned) < len(plain)
    assert codec.decode(tuned).size == (photo.shape[1], photo.shape[0])
    with pytest.raises(UnsupportedError, match="tune is 'ssim', it must be one of eyes, psnr"):
        codec.encode(photo, tune="ssim")


@pytest.mark.parametrize(
    "target", [{"target_bytes": 0}, {"target_bytes": -3}, {"target_bytes": float("inf")}, {"target_bpp": float("nan")}]
)
def test_what_is_no_target_is_refused(target: dict[str, Any], testpack: ModelPack, photo: Pixels) -> None:
    """A target of no size is refused by name, before any work; one of too few bytes with the smallest file's size."""
    with pytest.raises(UnsupportedError, match=f"{next(iter(target))} is "):
        Codec("testpack").encode(photo, **target)
    with pytest.raises(UnsupportedError, match=r"^0 bytes cannot be reached: the smallest file .* has \d\d bytes$"):
        Codec("testpack").encode(photo[:10, :10], target_bpp=0.01)


@pytest.mark.parametrize("limit", [0, -5, float("nan")])
def test_what_is_no_limit_is_refused(limit: Any, testpack: ModelPack, photo: Pixels) -> None:
    """A limit that refuses every picture, or none, is a mistake and is said to be one, wherever it is given."""
    data = Codec("testpack").encode(photo)
    for job in (
        lambda: Codec("testpack", max_pixels=limit),
        lambda: load(photo, max_pixels=limit),
        lambda: load(Image.fromarray(photo), max_pixels=limit),
        lambda: info(data, max_pixels=limit),
    ):
        with pytest.raises(ArgumentError, match=r"max_pixels is .* must be (at least 1|an integer)"):
            job()


@pytest.mark.parametrize("exact_alpha", [False, True])
def test_alpha_is_kept(exact_alpha: bool, testpack: ModelPack, photo: Pixels) -> None:
    """With ``exact_alpha`` transparency comes back bit for bit; without, 0 and 255 do and the rest within 8 levels.

    So do crops, and the plane counts towards the target.
    """
    alpha = np.zeros(photo.shape[:2], np.uint8)
    alpha[20:80, 30:140] = 255
    alpha[40:60, 50:90] = np.arange(60, 100)
    alpha[70:75, 20:140] = np.random.default_rng(1).integers(1, 255, (5, 120))
    codec = Codec("testpack")
    data = codec.encode(np.dstack([photo, alpha]), target_bytes=2500, exact_alpha=exact_alpha)
    assert len(data) <= 2500 and codec.info(data).alpha
    picture = codec.decode(data)
    assert picture.mode == "RGBA"
    found = np.asarray(picture)[:, :, 3]
    hard = np.isin(alpha, (0, 255))
    np.testing.assert_array_equal(found[hard], alpha[hard])
    error = np.abs(found.astype(int) - alpha).max()
    assert error == 0 if exact_alpha else 0 < error <= 8
    np.testing.assert_array_equal(np.asarray(codec.decode(data, crop=(31, 19, 70, 33)))[:, :, 3], found[19:52, 31:101])


def test_metadata_are_kept_on_request_only(testpack: ModelPack, photo: Pixels) -> None:
    """EXIF and XMP are dropped unless asked for; kept, they come back in the picture's info, upright."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 6
    stream = io.BytesIO()
    Image.fromarray(photo).save(stream, "JPEG", exif=exif, quality=90)
    codec = Codec("testpack")
    bare, kept = (codec.encode(stream.getvalue(), keep_metadata=keep) for keep in (False, True))
    assert codec.info(bare).chunks == {} and len(kept) > len(bare)
    assert "exif" not in codec.decode(bare).info
    picture = codec.decode(kept)
    assert picture.size == (97, 161), "the orientation was applied"
    assert picture.getexif()[0x010F] == "maker" and picture.getexif().get(0x0112, 1) == 1


def test_tiles_do_not_show(make_pack: Callable[..., ModelPack], photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stated halo, small tiles give the latents and, to one level of 255, the pixels of the whole picture."""
    pack = make_pack("tiled")
    codec = Codec(pack.folder)
    encoder = Engine(pack.encoder_path(), device="cpu")
    whole_file = codec.encode(photo, quality=90)
    monkeypatch.setenv("SDRT_MODELS", str(pack.folder.parent))
    whole_latents, whole = transform.to_latents(photo, pack, encoder), np.asarray(codec.decode(whole_file))
    tiles: list[int] = []
    for frame_cells in (1, 64, 100):
        monkeypatch.setattr(transform, "FRAME_PX", frame_cells * 64)
        np.testing.assert_allclose(transform.to_latents(photo, pack, encoder), whole_latents, atol=1e-4)
        painted = np.asarray(codec.decode(whole_file, progress=lambda _done, total: tiles.append(total)))
        assert np.abs(painted.astype(int) - whole).max() <= 1
    assert min(tiles) > 4


def test_a_halo_too_small_would_show(
    make_pack: Callable[..., ModelPack], photo: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison above can fail: with a halo of nothing the tests' pack shows its tiles."""
    pack = make_pack("seams", halo={"encoder_px": 0, "decoder_latents": 0})
    codec = Codec(pack.folder)
    data = codec.encode(photo, quality=90)
    whole = np.asarray(codec.decode(data)).astype(int)
    monkeypatch.setattr(transform, "FRAME_PX", 64 * 64)
    assert np.abs(np.asarray(codec.decode(data)) - whole).max() > 1


def test_a_crop_is_a_cut_of_the_whole(testpack: ModelPack, photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding a part gives the same pixels as cutting it out, and runs less of the graph."""
    codec = Codec("testpack")
    data = codec.encode(photo, quality=80)
    whole = np.asarray(codec.decode(data)).astype(int)
    painted_px: list[int] = []
    original = Engine.run

    def counted(self: Engine, array: NDArray[np.float32]) -> NDArray[np.float32]:
        painted_px.append(array[0, 0].size * 64)
        return original(self, array)

    monkeypatch.setattr(Engine, "run", counted)
    for x, y, width, height in [(0, 0, 1, 1), (160, 96, 1, 1), (0, 0, 161, 97), (7, 9, 1, 88), (50, 33, 64, 17)]:
        painted_px.clear()
        part = codec.decode(data, crop=(x, y, width, height))
        assert part.size == (width, height)
        assert np.abs(whole[y : y + height, x : x + width] - np.asarray(part)).max() <= 1
        assert sum(painted_px) <= (width + 8 * 6) * (height + 8 * 6)
    for outside in [(-1, 0, 5, 5), (0, 0, 162, 97), (160, 0, 2, 1), (3, 3, 0, 4)]:
        with pytest.raises(UnsupportedError, match="does not lie in the picture of 161x97"):
            codec.decode(data, crop=outside)


def test_strips_are_the_whole_and_painted_when_asked_for(
    testpack: ModelPack, photo: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strips, in any crop, are the rows of the whole picture; none is painted before it is asked for."""
    monkeypatch.setattr(transform, "FRAME_PX", 64 * 64)
    rgba = np.dstack([photo, photo[:, :, 0]])
    codec = Codec("testpack")
    data = codec.encode(rgba, quality=80)
    for crop in (None, (50, 33, 64, 47)):
        ticks: list[int] = []
        strips = codec.decode_strips(data, crop=crop, progress=lambda done, _total, ticks=ticks: ticks.append(done))
        whole = codec.decode_picture(data, crop=crop)
        top, counts = 0, []
        for rows in strips.rows:
            np.testing.assert_array_equal(rows, whole.rgb[top : top + len(rows)])
            top += len(rows)
            counts.append(len(ticks))
        assert (top, strips.width_px) == whole.rgb.shape[:2] == (strips.height_px, strips.width_px)
        assert len(counts) > 1 and counts == sorted(set(counts)), "each strip ran tiles of its own"
        assert strips.alpha is not None and whole.alpha is not None
        np.testing.assert_array_equal(strips.alpha, whole.alpha)


def test_smaller_tiles_on_request(testpack: ModelPack, photo: Pixels) -> None:
    """tile_px bounds the frames of both graphs and changes neither file nor picture by more than rounding."""
    totals: list[int] = []

    def note(_done: int, total: int) -> None:
        totals.append(total)

    large, small = Codec("testpack"), Codec("testpack", tile_px=64)
    data = large.encode(photo, quality=80, progress=note)
    whole = large.decode_picture(data, progress=note).rgb.astype(int)
    assert set(totals) == {1}
    assert abs(len(small.encode(photo, quality=80, progress=note)) - len(data)) <= 0.01 * len(data)
    assert np.abs(small.decode_picture(data, progress=note).rgb - whole).max() <= 1
    assert min(totals[2:]) > 4
    with pytest.raises(UnsupportedError, match="at least 1"):
        Codec("testpack", tile_px=0)


def test_graphs_without_a_halo_are_blended(
    make_pack: Callable[..., ModelPack], make_photo: Callable[[int, int], Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a stated halo small pictures run whole, larger ones in blended tiles close to it, crops included."""
    pack = make_pack("global", halo=None, distribution=True)
    codec = Codec(pack.folder)
    rgb = make_photo(300, 420)
    data = codec.encode(rgb, quality=90)
    totals: list[int] = []
    whole = np.asarray(codec.decode(data, progress=lambda _done, total: totals.append(total))).astype(int)
    assert totals == [1]
    monkeypatch.setattr(transform, "GLOBAL_FRAME_PX", 176 * 176)
    monkeypatch.setattr(transform, "GLOBAL_FADE_PX", 32)
    monkeypatch.setattr(transform, "GLOBAL_TRIM_PX", 16)
    tiled = np.asarray(codec.decode(data, progress=lambda _done, total: totals.append(total))).astype(int)
    assert totals[-1] > 4
    assert np.abs(tiled - whole).max() <= 1, "two cells of trimmed rim are more than this graph sees"
    part = np.asarray(codec.decode(data, crop=(100, 120, 200, 90))).astype(int)
    assert np.abs(part - tiled[120:210, 100:300]).max() <= 1
    assert abs(len(codec.encode(rgb, quality=90)) - len(data)) <= 0.01 * len(data)


def test_a_distribution_codes_its_mean(make_pack: Callable[..., ModelPack], photo: Pixels) -> None:
    """An encoder that gives mean and log-variance makes the same integers as one that gives the mean alone."""
    plain, spread = make_pack("plain"), make_pack("spread", distribution=True)
    np.testing.assert_array_equal(integers_of(photo, plain, 512), integers_of(photo, spread, 512))


def test_a_prior_with_extents_codes_files(make_pack: Callable[..., ModelPack], photo: Pixels) -> None:
    """A prior for wide latent spaces, with extents, near channels and a band, gives the integers back, and a target is
    kept with it as with any other."""
    pack = make_pack("wide", prior=heavy_arrays(plan(12, 5, (4, 12), (0, 1, 5, 13))))
    codec = Codec(pack.folder)
    data = codec.encode(photo, quality=40)
    np.testing.assert_array_equal(codec.symbols(data), integers_of(photo, pack, codec.info(data).step_index))
    assert len(codec.encode(photo, target_bytes=len(data) // 2)) <= len(data) // 2


def test_another_latent_space_is_refused(
    testpack: ModelPack, make_pack: Callable[..., ModelPack], photo: Pixels
) -> None:
    """A model that speaks another space is refused before anything is decoded, and both sides are named."""
    other = make_pack("other", space=LatentSpace(id="other", channels=12, downscale=8, scale=2.0, shift=0.0))
    data = sdrt.encode(photo, model="testpack")
    with pytest.raises(ModelError) as caught:
        sdrt.decode(data, model=other.folder)
    assert testpack.space.identity.hex() in str(caught.value) and other.space.identity.hex() in str(caught.value)


def test_any_decoder_of_the_space_may_paint(
    testpack: ModelPack, make_pack: Callable[..., ModelPack], photo: Pixels
) -> None:
    """A model of the same space with another prior paints the file, with the prior of the pack that the file names."""
    painter = make_pack("painter", base_step=2.0)
    data = sdrt.encode(photo, model="testpack")
    assert painter.prior_identity != testpack.prior_identity
    np.testing.assert_array_equal(
        np.asarray(sdrt.decode(data, model=painter.folder)), np.asarray(sdrt.decode(data, model="testpack"))
    )


def test_an_unknown_prior_is_refused(make_pack: Callable[..., ModelPack], testpack: ModelPack, photo: Pixels) -> None:
    """Without the prior that the file names there are no integers: ModelError, both sides named."""
    stranger = make_pack("stranger", base_step=3.0)
    data = sdrt.encode(photo, model=stranger.folder)
    for model in (None, "testpack"):
        with pytest.raises(ModelError, match=stranger.prior_identity.hex()) as caught:
            sdrt.decode(data, model=model)
        assert testpack.prior_identity.hex() in str(caught.value)


def test_progress_counts_tiles(testpack: ModelPack, photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress counts up to its total, for both directions."""
    monkeypatch.setattr(transform, "FRAME_PX", 64 * 64)
    data = sdrt.encode(photo, model="testpack")
    for decoding in (False, True):
        seen: list[tuple[int, int]] = []

        def tick(done: int, total: int, seen: list[tuple[int, int]] = seen) -> None:
            seen.append((done, total))

        if decoding:
            Codec("testpack").decode(data, progress=tick)
        else:
            Codec("testpack").encode(photo, progress=tick)
        assert [done for done, _ in seen] == list(range(1, seen[0][1] + 1))
        assert seen[0][1] > 1


def test_limits_hold_on_both_sides(testpack: ModelPack, photo: Pixels) -> None:
    """max_pixels bounds what is read, whichever way, and can be lifted."""
    data = Codec("testpack").encode(photo)
    with pytest.raises(LimitError):
        Codec("testpack", max_pixels=97 * 161 - 1).encode(photo)
    with pytest.raises(LimitError):
        sdrt.decode(data, max_pixels=97 * 161 - 1)
    assert sdrt.decode(data, max_pixels=None).size == sdrt.decode(data, max_pixels=97 * 161).size


def test_the_default_model_is_tiny(testpack: ModelPack, monkeypatch: pytest.MonkeyPatch, photo: Pixels) -> None:
    """Nobody has to name a model: ``tiny`` encodes; where it is missing, the error says where it was sought."""
    monkeypatch.setattr(search, "search_paths", lambda: [Path("/nowhere")])
    with pytest.raises(ModelError, match=r"'tiny'.*/nowhere"):
        sdrt.encode(photo)
    assert model_cache.DEFAULT_MODEL == "tiny"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.sdl")), ids=lambda path: str(path.stem))
def test_golden_files_decode_for_ever(path: Path, testpack: ModelPack) -> None:
    """A file written long ago gives the integers that it gave then, and its picture to one level of 255, whatever the
    engine; see tests/make_golden.py."""
    expected = json.loads((GOLDEN / "expected.json").read_text())[path.name]
    codec = Codec()
    symbols = codec.symbols(path)
    assert list(symbols.shape) == expected["shape"]
    assert hashlib.sha256(symbols.astype("<i4").tobytes()).hexdigest() == expected["sha256"]
    picture, painted = codec.decode(path), Image.open(path.with_suffix(".png"))
    assert (picture.size, picture.mode) == (painted.size, painted.mode)
    difference = np.abs(np.asarray(picture).astype(int) - np.asarray(painted))
    assert difference.max() <= 1


def test_the_golden_files_are_there() -> None:
    """The test above runs over something."""
    assert len(list(GOLDEN.glob("*.sdl"))) >= 5


@pytest.mark.slow
def test_kodak_targets_are_met_and_quality_is_monotone(kodak: list[Path]) -> None:
    """The default pack on every Kodak image: quality is monotone in size and likeness, targets land within 2 %."""
    codec = Codec()
    for path in kodak:
        picture = load(path)
        files = [codec.encode(picture, quality=quality) for quality in range(0, 101, 10)]
        sizes = [len(file) for file in files]
        likeness = [psnr_db(codec.decode_picture(file).rgb, picture.rgb) for file in files]
        assert sizes == sorted(sizes), path
        assert all(after > before - 0.05 for before, after in itertools.pairwise(likeness)), (path, likeness)
        for target_bpp in (0.06, 0.152, 0.4):
            size = len(codec.encode(picture, target_bpp=target_bpp))
            budget = rate.budget_of(target_bpp, *picture.rgb.shape[:2])
            assert size <= budget and (size >= 0.98 * budget or size >= sizes[-1]), (path, target_bpp, size)
