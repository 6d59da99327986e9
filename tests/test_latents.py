"""Laws of latents: out of files, into files, and through the files of other programs."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sdrt import ArgumentError, Codec, CorruptError, LimitError, UnsupportedError
from sdrt.command import cli
from sdrt.latents import webdataset
from sdrt.latents.kohya import read_npz, write_npz
from sdrt.latents.safetensors import read_safetensors, write_safetensors
from sdrt.latents.sample import LatentSample
from sdrt.latents.webdataset import TarWriter, read_tar, split_key
from sdrt.network.engine import Engine
from sdrt.network.transform import to_latents
from sdrt.options import NEAR_LOSSLESS, EncodeKeywords
from sdrt.packs.manifest import LatentSpace, ModelPack

Pixels = NDArray[np.uint8]
SHIFTED = LatentSpace(id="sdrt-test-shifted", channels=12, downscale=8, scale=0.5, shift=-3.0)


def exact(pack: ModelPack, rgb: Pixels) -> NDArray[np.float32]:
    """The normalized latents of a picture before anything is quantized."""
    return to_latents(rgb, pack, Engine(pack.encoder_path(), device="cpu"))


def relative_error(latents: NDArray[np.float32], of: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.square(latents - of).mean() / np.square(of).mean()))


@pytest.fixture
def sample(photo: Pixels) -> LatentSample:
    """What a trainer keeps of a picture of 160 x 96 pixels, in a bucket that it was cropped to."""
    rng = np.random.default_rng(1)
    latents, flipped = (rng.normal(size=(12, 12, 20)).astype(np.float32) for _ in range(2))
    return LatentSample("a", latents, flipped, photo[:96, :160, 0], (641, 480), (-3, 0, 157, 96))


def same(one: LatentSample, other: LatentSample, max_error: float = 0.0) -> bool:
    for field in ("latents", "flipped"):
        a, b = getattr(one, field), getattr(other, field)
        if a.shape != b.shape or a.dtype != b.dtype or relative_error(a, b) > max_error:
            return False
    assert one.alpha is not None and other.alpha is not None
    sizes = (one.original_size, one.crop_ltrb) == (other.original_size, other.crop_ltrb)
    return sizes and np.array_equal(one.alpha, other.alpha)


def test_latents_are_what_the_decoder_is_given(make_pack: Callable[..., ModelPack], photo: Pixels) -> None:
    """``scaled`` is the integers times their steps; raw is that over the scale plus the shift; neither needs an engine.
    Either can be encoded again."""
    codec = Codec(make_pack("shifted", space=SHIFTED).folder)
    data = codec.encode(photo, latent_error=0.02)
    raw, scaled = codec.latents(data), codec.latents(data, scaled=True)
    assert raw.dtype == scaled.dtype == np.float32 and raw.shape == (12, 13, 21)
    np.testing.assert_allclose((raw + 3) * 0.5, scaled, atol=1e-5)
    step = 2 ** ((codec.info(data).step_index - 512) / 64)
    np.testing.assert_allclose(codec.symbols(data) * step, scaled, rtol=1e-5)
    for latents, is_scaled in ((raw, False), (scaled, True), (raw[None].astype(np.float64), False)):
        again = codec.encode_latents(latents, 161, 97, latent_error=0.001, scaled=is_scaled)
        assert relative_error(codec.latents(again, scaled=True), scaled) <= 0.001


def test_many_are_as_one_each(testpack: ModelPack, photo: Pixels) -> None:
    """Lists in, in order, and options for all of them."""
    codec = Codec("testpack")
    files = [codec.encode(photo[:side], latent_error=0.1) for side in (97, 40, 16)]
    latents = list(codec.latents_many(files, workers=2))
    assert [array.shape for array in latents] == [(12, 13, 21), (12, 5, 21), (12, 2, 21)]
    pictures = [(array, 161, side) for array, side in zip(latents, (97, 40, 16), strict=True)]
    again = list(codec.encode_latents_many(pictures, workers=2, latent_error=0.1))
    assert again == [codec.encode_latents(*picture, latent_error=0.1) for picture in pictures]


@pytest.mark.parametrize("limit", [0.3, NEAR_LOSSLESS, 0.01])
def test_the_error_is_kept_by_the_coarsest_step(testpack: ModelPack, photo: Pixels, limit: float) -> None:
    """Root mean square error over root mean square; one step coarser would exceed it."""
    codec, of = Codec("testpack"), exact(testpack, photo)
    data = codec.encode(photo, latent_error=limit)
    assert 0.9 * limit < relative_error(codec.latents(data, scaled=True), of) <= limit
    assert len(data) > len(codec.encode(photo, latent_error=1.5 * limit))
    assert codec.encode_latents(of, 161, 97, scaled=True, latent_error=limit) == data


def test_flat_latents_have_a_file(testpack: ModelPack) -> None:
    """Latents of nothing but zeros are coded exactly, whatever the error may be."""
    data = Codec("testpack").encode_latents(np.zeros((12, 2, 2)), 16, 16, latent_error=0.001)
    assert not Codec("testpack").latents(data).any()


def test_packs_that_are_told_the_level_keep_the_error_too(
    make_pack: Callable[..., ModelPack], monkeypatch: pytest.MonkeyPatch, photo: Pixels
) -> None:
    """Latents do not depend on the step; what is finer than the pack's finest is refused with the error that it can
    keep."""
    pack = make_pack("told", quality_input=True)
    monkeypatch.setenv("SDRT_MODELS", str(pack.folder.parent))
    codec = Codec(pack.folder)
    data = codec.encode(photo, latent_error=0.03)
    assert relative_error(codec.latents(data, scaled=True), exact(pack, photo)) <= 0.03
    raw = codec.latents(data)
    assert codec.info(codec.encode_latents(raw, 161, 97, latent_error=0.05)).step_index >= pack.quality_range[1]
    with pytest.raises(UnsupportedError, match=r"latent error of 0.001 .* the finest step leaves 0\.0"):
        codec.encode(photo, latent_error=0.001)


def test_bad_latents_are_refused(testpack: ModelPack) -> None:
    """Shape, kind, values, sizes: each with a line that says what was wanted."""
    codec, good = Codec("testpack", max_pixels=4000), np.zeros((12, 3, 4), np.float32)
    for latents in (good[:4], good[:, :2], good[None].repeat(2, 0), good + np.inf, "text", np.zeros(3)):
        with pytest.raises(ArgumentError, match="latents"):
            codec.encode_latents(latents, 32, 24)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="alpha must be uint8"):
        codec.encode_latents(good, 32, 24, alpha=np.zeros((3, 4), np.uint8))
    with pytest.raises(ArgumentError, match="width_px"):
        codec.encode_latents(good, 0, 24)
    with pytest.raises(LimitError):
        codec.encode_latents(good, 4001, 1)
    with pytest.raises(ArgumentError, match="give only one of"):
        codec.encode_latents(good, 32, 24, quality=5, latent_error=0.1)


@pytest.mark.parametrize("option", [{"truth": True}, {"effort": 1}, {"protect": "text"}, {"protect": "faces"}])
def test_options_that_need_the_picture_are_refused(testpack: ModelPack, option: EncodeKeywords) -> None:
    """Latents alone serve none of them; no option is ignored in silence."""
    with pytest.raises(ArgumentError, match=f"^{next(iter(option))} .*needs the original picture"):
        Codec("testpack").encode_latents(np.zeros((12, 3, 4), np.float32), 32, 24, **option)


def test_kohyas_fields(sample: LatentSample) -> None:
    """What sd-scripts writes is read, with or without the grid in its names; what we write has all that it asks for."""
    for with_grid in (False, True):
        (read,) = read_npz(write_npz(sample, (160, 96), with_grid=with_grid), "a")
        assert same(read, sample) and read.key == ("a_12x20" if with_grid else "a")
    with np.load(io.BytesIO(write_npz(LatentSample("b", sample.latents), (160, 96)))) as arrays:
        assert set(arrays) == {"latents", "original_size", "crop_ltrb"}
        assert arrays["original_size"].tolist() == [160, 96] and arrays["crop_ltrb"].tolist() == [0, 0, 160, 96]
    stream = io.BytesIO()
    np.savez_compressed(stream, latents_2x3=np.zeros((4, 2, 3), "<f2"), latents_3x2=np.ones((1, 4, 3, 2), "<f4"))
    assert [read.latents.shape for read in read_npz(stream.getvalue(), "a")] == [(4, 2, 3), (4, 3, 2)]


@pytest.mark.parametrize(
    "fields",
    [
        {"other": np.zeros(3)},
        {"latents": np.zeros((4, 0, 3), "<f4")},
        {"latents": np.zeros((2, 4, 2, 3), "<f4")},
        {"latents": np.zeros((4, 2, 3), "<c8")},
        {"latents": np.zeros((4, 2, 3), "<f4"), "latents_flipped": np.zeros((4, 2, 4), "<f4")},
        {"latents": np.zeros((4, 2, 3), "<f4"), "crop_ltrb": np.zeros(3, "<i8")},
        {"latents": np.zeros((4, 2, 3), "<f4"), "alpha_mask": np.full((16, 24), 255, "<f4")},
        {"latents": np.array([None, {}], object)},
    ],
)
def test_other_npz_files_are_refused(fields: dict[str, NDArray[np.generic]]) -> None:
    """One line each; nothing is unpickled."""
    stream = io.BytesIO()
    np.savez(stream, **fields)  # type: ignore[arg-type]
    with pytest.raises(CorruptError, match="a: not a latent cache: "):
        read_npz(stream.getvalue(), "a")


def test_comfyuis_file_is_safetensors(sample: LatentSample) -> None:
    """The library reads what we write, and we read what it writes: half floats, batches, and files without the version
    mark, whose numbers are scaled."""
    library = pytest.importorskip("safetensors.numpy")
    tensors = library.load(write_safetensors(sample))
    np.testing.assert_array_equal(tensors["latent_tensor"], sample.latents[None])
    assert tensors["latent_format_version_0"].shape == (0,)
    (half,) = read_safetensors(write_safetensors(sample, half=True), "a")
    np.testing.assert_array_equal(half.latents, sample.latents.astype(np.float16))
    old = library.save({"latent_tensor": np.stack([sample.latents] * 2)}, {"prompt": "x"})
    assert [read.key for read in read_safetensors(old, "a")] == ["a_0", "a_1"]
    np.testing.assert_allclose(read_safetensors(old, "a")[1].latents, sample.latents / 0.18215, rtol=1e-6)
    bf16 = write_safetensors(sample).replace(b'"F32","shape":[1,', b'"BF16","shape":[1,2,').replace(b" ", b"", 1)
    bf16 = (int.from_bytes(bf16[:8], "little") + 2).to_bytes(8, "little") + bf16[8:]
    with pytest.raises(CorruptError, match="latent_tensor has the shape"):
        read_safetensors(bf16, "a")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8"])
def test_floats_of_a_file_raise_no_warning(sample: LatentSample, kind: str) -> None:
    """Infinity and every NaN, the signaling one too, are read in silence: whoever uses the latents refuses them."""
    size = np.dtype(kind).itemsize
    ones = {2: 10, 4: 23, 8: 52}[size]  # bits of the fraction
    signaling = (2 ** (8 * size - 1) - 2**ones + 1).to_bytes(size, "little")
    numbers = np.frombuffer(signaling * 8, kind).reshape(1, 2, 2, 2).copy()
    numbers[0, 0, 0] = np.inf, np.finfo(kind).max
    stream = io.BytesIO()
    np.savez(stream, latents=numbers)
    (cache,) = read_npz(stream.getvalue(), "a")
    entry = {"dtype": f"F{8 * size}", "shape": numbers.shape, "data_offsets": [0, numbers.nbytes]}
    header = json.dumps({"latent_tensor": entry}).encode()
    (comfy,) = read_safetensors(len(header).to_bytes(8, "little") + header + numbers.tobytes(), "a")
    for read in (cache, comfy):
        assert not np.isfinite(read.latents).all()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        b"\2\0\0\0\0\0\0\0{}",
        b"\2\0\0\0\0\0\0\0[]",
        b"\2\0\0\0\0\0\0\0{]",
        *(
            len(text).to_bytes(8, "little") + text + bytes(8)
            for text in (
                b'{"latents":3}',
                b'{"latents":{"dtype":"F32","shape":[1,2,1,1],"data_offsets":[0,4]}}',
                b'{"latents":{"dtype":"F32","shape":[1,2,1,1],"data_offsets":[8,16]}}',
                b'{"latents":{"dtype":"I8","shape":[1,2,1,1],"data_offsets":[0,2]}}',
                b'{"latents":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
                b'{"latents":{"dtype":"F32","shape":[true,2,1,1],"data_offsets":[0,8]}}',
                b'{"latents":{"dtype":"F32","shape":[0,2,1,1],"data_offsets":[0,0]}}',
            )
        ),
    ],
)
def test_other_safetensors_files_are_refused(data: bytes) -> None:
    """Lengths, kinds and shapes are checked before memory is taken for them."""
    with pytest.raises(CorruptError, match="a: not a safetensors file with latents: "):
        read_safetensors(data, "a")


def test_tars_are_read_in_order_and_damage_is_said() -> None:
    """Members of one key are one sample; folders and links are nothing; a cut tar gives what was before the cut."""
    assert split_key("x/b.c/photo.flipped.sdl") == ("x/b.c/photo", "flipped.sdl")
    stream = io.BytesIO()
    writer = TarWriter(stream)
    samples = [("x/a", {"sdl": b"1", "latent.json": b"2"}), ("x/b", {"npz": bytes(3000)})]
    for key, members in samples:
        writer.write(key, members)
    writer.close()
    assert list(read_tar(io.BytesIO(stream.getvalue()), "t")) == samples
    with tarfile.open(fileobj=io.BytesIO(stream.getvalue())) as tar:
        assert tar.getnames() == ["x/a.sdl", "x/a.latent.json", "x/b.npz"]
    whole = stream.getvalue()
    damaged = bytearray(whole)
    damaged[2048 + 150] ^= 1  # in the third header
    for data in (b"", b"x" * 2000, whole[:2048], whole[:2300], whole[:3500], bytes(damaged)):
        with pytest.raises(CorruptError, match="t: not a complete tar file"):
            list(read_tar(io.BytesIO(data), "t"))
    assert next(read_tar(io.BytesIO(whole[:3500]), "t")) == samples[0]
    twice = io.BytesIO()
    with tarfile.open(fileobj=twice, mode="w") as tar:
        for data in (b"first", b"other"):
            entry = tarfile.TarInfo("x/a.sdl")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    with pytest.raises(CorruptError, match="two files"):
        list(read_tar(io.BytesIO(twice.getvalue()), "t"))


@pytest.mark.parametrize("size", [0, 900])
def test_a_sample_without_end_is_refused(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the files that share a key, they take no more memory than the limit; samples before are given."""
    monkeypatch.setattr(webdataset, "MAX_SAMPLE_BYTES", 5000)
    stream = io.BytesIO()
    writer = TarWriter(stream)
    writer.write("a", {"npz": bytes(4000)})
    writer.write("b", {str(number): bytes(size) for number in range(20)})
    writer.close()
    stream.seek(0)
    samples = read_tar(stream, "t")
    assert next(samples)[0] == "a"
    with pytest.raises(LimitError, match=r"^t: with 'b.[0-9]' the sample 'b' has [0-9]+ bytes, the limit is 5000$"):
        next(samples)


def run(*arguments: str | Path) -> int:
    return cli.main(["latents", *map(str, arguments), "--model", "testpack"])


def test_the_command_goes_there_and_back(
    testpack: ModelPack, sample: LatentSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """npz -> sdl (with what lies beside it) -> npz keeps every field, the latents within the error; so do tars, whose
    other members go along and whose broken samples are told."""
    monkeypatch.chdir(tmp_path)
    Path("a.npz").write_bytes(write_npz(sample, (160, 96)))
    assert run("a.npz", "--latent-error", "0.02") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.flipped.sdl", "a.latent.json", "a.npz", "a.sdl"]
    assert run("a.sdl", "a.flipped.sdl", "--out-dir", "back") == 0
    assert [path.name for path in Path("back").iterdir()] == ["a.npz"]
    assert same(read_npz(Path("back/a.npz").read_bytes(), "a")[0], sample, 0.02)
    assert run("a.npz", "-o", "cache.tar", "--to", "sdl", "--latent-error", "0.02") == 0
    with Path("cache.tar").open("rb") as stream:
        ((key, members),) = read_tar(stream, "cache.tar")
    assert (
        key == "a"
        and members["sdl"] == Path("a.sdl").read_bytes()
        and set(members)
        == {
            "sdl",
            "flipped.sdl",
            "latent.json",
        }
    )
    with Path("two.tar").open("wb") as two:
        writer = TarWriter(two)
        writer.write("broken", {"sdl": members["sdl"][:-9]})
        writer.write("a", {**members, "txt": b"a caption"})
        writer.close()
    assert run("two.tar", "--to", "npz-grid", "--out-dir", "grid") == CorruptError.exit_code
    assert Path("grid/a.txt").read_bytes() == b"a caption"
    assert same(read_npz(Path("grid/a.npz").read_bytes(), "a")[0], sample, 0.02)
    assert run("cache.tar", "--to", "latent-fp16") == 0
    assert read_safetensors(Path("a.latent").read_bytes(), "a")[0].latents.shape == sample.latents.shape


def test_the_command_refuses_in_a_line_and_loses_nothing(
    testpack: ModelPack,
    sample: LatentSample,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What exists stays, names do not lead out of the folder, one bad input does not stop the others, and what readers
    would not find in a tar does not go into one."""
    monkeypatch.chdir(tmp_path)
    Path("a.npz").write_bytes(write_npz(sample, (160, 96)))
    Path("bad.npz").write_bytes(b"no")
    Path("odd.bin").write_bytes(b"no")
    assert run("bad.npz", "odd.bin", "gone.npz", "a.npz") == CorruptError.exit_code
    assert Path("a.sdl").exists() and not Path("bad.sdl").exists()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("sdrt: ") for line in lines)
    before = Path("a.sdl").read_bytes()
    assert run("a.npz", "-q", "5") == 10 and Path("a.sdl").read_bytes() == before
    assert run("a.npz", "-q", "5", "-f") == 0 and len(Path("a.sdl").read_bytes()) < len(before)
    assert run("a.sdl", "-o", "a.npz") == 2
    with Path("evil.tar").open("wb") as stream:
        writer = TarWriter(stream)
        writer.write("../out", {"npz": Path("a.npz").read_bytes()})
        writer.close()
    assert run("evil.tar", "--out-dir", "in") == 10 and not Path("out.sdl").exists()
    assert run("evil.tar", "-o", "evil.tar", "-f") == 2
    Path("b.one.npz").write_bytes(Path("a.npz").read_bytes())
    assert run("b.one.npz", "a.npz", "-o", "dots.tar") == 10
    with Path("dots.tar").open("rb") as stream:
        assert [key for key, _ in read_tar(stream, "dots.tar")] == ["a"]
    with Path("captions.tar").open("wb") as stream:
        writer = TarWriter(stream)
        writer.write("a", {"txt": b"a caption"})
        writer.close()
    assert run("captions.tar", "-o", "none.tar") == UnsupportedError.exit_code and not Path("none.tar").exists()
    if Path("/dev/null").exists():
        for name in ("c", "d"):
            Path(f"{name}.npz").write_bytes(Path("a.npz").read_bytes())
        Path("c.sdl").symlink_to("/dev/null")
        assert run("c.npz", "d.npz", "-f") == 0 and Path("d.sdl").stat().st_size
    Path("a.latent.json").write_text(json.dumps({"crop_ltrb": [1, 2]}))
    assert run("a.sdl", "-f") == CorruptError.exit_code
