"""Laws of --effort: better pictures in as many bytes, in bounded memory, with any pack, and nothing lost on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import sdrt
from sdrt import model_cache
from sdrt.bitstream import FileWriter
from sdrt.codec import Codec
from sdrt.coding import payload, quantize
from sdrt.coding.prior_file import build_prior
from sdrt.coding.symbols import to_channels
from sdrt.command import cli
from sdrt.errors import ModelError, OutputError
from sdrt.network import onnxruntime_session, refine, transform, viewer
from sdrt.network.devices import DEVICE_FACTS
from sdrt.network.engine import Engine
from sdrt.network.graph import Graph
from sdrt.packs import effort, search
from sdrt.packs.manifest import GRADIENT, ModelPack
from sdrt_export import effort_pack, pack_gradient
from sdrt_export.autoencoders import describe_space, halves
from sdrt_export.effort_pack import effort_graph, write_effort_pack
from sdrt_export.graph import export_modules
from sdrt_export.pack_gradient import add_to_pack, add_where_known
from sdrt_export.pack_writer import update_manifest, write_pack
from sdrt_export.pixel_output import set_output
from sdrt_export.prior_plan import generic_arrays
from sdrt_export.session import open_session

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

pytestmark = pytest.mark.usefixtures("one_thread")


def with_gradient(pack: ModelPack) -> ModelPack:
    """The tests' pack keeps an opset from before gradients; its operators are the same ones in opset 18."""
    for path in (pack.encoder_path(), pack.decoder_path()):
        model = onnx.load(path)
        model.opset_import[0].version = 18
        onnx.save(model, path)
    return add_to_pack(update_manifest(pack.folder))


@pytest.fixture
def pack(make_pack: Callable[..., ModelPack]) -> ModelPack:
    return with_gradient(make_pack("effort-test"))


def gradient_of(pack: ModelPack) -> onnxruntime_session.NamedRunner:
    graph = Graph(*search.read_gradient(pack))
    return onnxruntime_session.open_named(graph, "cpu", 1, inputs=refine.INPUTS, outputs=refine.OUTPUTS)


def rounding(latents: Floats, step: float) -> refine.Quantizer:
    """Plain rounding to multiples of one step, without a word on bits."""

    def choose(values: Floats, _indices: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
        free = np.zeros_like(values)
        return np.rint(values / np.float32(step)), free, free

    return refine.Quantizer(np.full(latents.shape[1:], 512), np.full_like(latents, step), choose)


def squared_error(codec: Codec, data: bytes, rgb: Pixels) -> float:
    return float(np.square(codec.decode_picture(data).rgb.astype(float) - rgb).mean())


@pytest.mark.parametrize("variant", [{}, {"quality_input": True}, {"distribution": True}, {"halo": None}], ids=str)
def test_effort_buys_quality_at_the_same_size(
    make_pack: Callable[..., ModelPack], make_photo: Callable[[int, int], Pixels], variant: dict[str, Any]
) -> None:
    """In as many bytes the squared error falls, and falls further with more effort; sides need not be whole cells."""
    photo = make_photo(77, 101)
    codec = Codec(with_gradient(make_pack("variant", **variant)).folder, device="cpu")
    files = [codec.encode(photo, target_bytes=500, tune="psnr", effort=level) for level in (0, 2, 6)]
    errors = [squared_error(codec, data, photo) for data in files]
    assert all(490 <= len(data) <= 500 for data in files)
    assert errors[2] < errors[1] < errors[0]


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_descent_chooses_what_the_codec_codes(weight: float) -> None:
    """`choose` gives the symbols of `quantize`, and nearly all the bits that they take, in the latent space's order."""
    arrays = generic_arrays(6)
    arrays["order"] = np.array([3, 1, 5, 0, 2, 4], np.uint8)
    prior = build_prior(arrays)
    latents = np.random.default_rng(1).normal(0, 2, (6, 9, 11)).astype(np.float32)
    indices = np.full((9, 11), 500)
    coded = quantize.quantize(latents, prior, indices, weight=weight)
    symbols, bits, gaps = quantize.choose(latents, prior, indices, weight=weight)
    np.testing.assert_array_equal(symbols, to_channels(coded, prior))
    assert bits.sum() == pytest.approx(payload.bits(coded, prior, indices), rel=0.02)
    assert np.sign(gaps)[latents > 3].mean() > 0.9, "larger numbers take more bits"
    assert np.sign(gaps)[latents < -3].mean() < -0.9


def test_a_descent_that_finds_nothing_better_changes_nothing(pack: ModelPack, photo: Pixels) -> None:
    """For the squared error the best of all steps counts, the first of which sees the encoder's latents."""
    latents = transform.to_latents(photo, pack, Engine(pack.encoder_path(), device="cpu"))
    how = refine.Refinement(refine.Recipe(3, reach=100.0), gradient_of(pack), None)
    quantizer = rounding(latents, 0.5)
    refined = refine.refine(latents, photo, how, pack=pack, quantizer=quantizer)
    errors = []
    for values in (latents, refined):
        symbols, _, _ = quantizer.choose(values, quantizer.indices)
        strips = transform.pixel_strips(
            symbols * np.float32(0.5), pack, Engine(pack.decoder_path(), device="cpu"), (0, 0, *photo.shape[1::-1])
        )
        errors.append(float(np.square(np.concatenate(list(strips)).astype(float) - photo).mean()))
    assert errors[1] <= errors[0] * 1.001


def test_a_step_map_is_a_part_of_the_picture_that_is_refined(pack: ModelPack, photo: Pixels) -> None:
    """Where the step differs from cell to cell, the descent counts in each cell's own steps."""
    codec = Codec(pack.folder, device="cpu")
    coder = codec._models.coder(pack)
    engine, gradient = Engine(pack.encoder_path(), device="cpu"), gradient_of(pack)
    latents = transform.to_latents(photo, pack, engine)
    how = refine.Refinement(refine.recipe_of(5, "psnr"), gradient, None)
    offsets = np.zeros((-(-photo.shape[0] // 64), -(-photo.shape[1] // 64)), np.int8)
    offsets[:, ::2] = 3
    options = sdrt.EncodeOptions(quality=40, tune="psnr")
    writer = FileWriter(coder, photo.shape[1], photo.shape[0], (), options, offsets)
    plain, _ = writer.write(lambda *_: latents)
    better, _ = writer.write(
        lambda *_: latents,
        lambda values, quantizer: refine.refine(values, photo, how, pack=pack, quantizer=quantizer),
    )
    assert squared_error(codec, better, photo) < 0.98 * squared_error(codec, plain, photo)


def test_memory_is_that_of_a_frame(pack: ModelPack, make_photo: Callable[[int, int], Pixels]) -> None:
    """No frame is larger than was asked for, whatever the picture; tiles refine as the whole does, seams included."""
    photo = make_photo(200, 170)
    engine, gradient = Engine(pack.encoder_path(), device="cpu"), gradient_of(pack)
    latents = transform.to_latents(photo, pack, engine)
    frames: list[int] = []

    def counted(arrays: onnxruntime_session.Named) -> onnxruntime_session.Named:
        frames.append(arrays["photo"][0, 0].size)
        return gradient(arrays)

    how = refine.Refinement(refine.Recipe(6, reach=0.1), counted, None)
    calls: list[tuple[int, int]] = []
    whole, tiled = (
        refine.refine(
            latents,
            photo,
            how,
            pack=pack,
            quantizer=rounding(latents, 2.0),
            progress=lambda done, total: calls.append((done, total)),
            tile_px=tile_px,
        )
        for tile_px in (None, 72)
    )
    assert max(frames[9:]) <= 72**2 < frames[0]
    assert calls[6:] == [(done, len(calls) - 6) for done in range(1, len(calls) - 5)], "progress counts all tiles"
    painted = [
        np.concatenate(
            list(transform.pixel_strips(values, pack, Engine(pack.decoder_path(), device="cpu"), (0, 0, 170, 200)))
        )
        for values in (latents, whole, tiled)
    ]
    before, one, many = (float(np.square(picture.astype(float) - photo).mean()) for picture in painted)
    assert one < 0.9 * before
    assert many < before - 0.9 * (before - one)


@pytest.mark.parametrize("encoder", DEVICE_FACTS)
def test_the_descent_runs_on_the_encoder_s_hardware(
    pack: ModelPack, monkeypatch: pytest.MonkeyPatch, encoder: str
) -> None:
    """It runs in ONNX Runtime whatever runs the encoder: on that device, or on the one that its row names."""
    asked: list[str] = []
    models = model_cache.ModelCache(pack.folder, device="auto", precision=None, threads=1)
    monkeypatch.setattr(models, "engine", lambda *_: SimpleNamespace(device=encoder))
    monkeypatch.setattr(model_cache, "open_named", lambda _graph, device, *_, **__: asked.append(device))
    models.refinement(pack, refine.recipe_of(1, "psnr"))
    assert asked == [DEVICE_FACTS[encoder].refines_on or encoder]


def test_what_is_thrown_away_is_not_refined(pack: ModelPack, make_photo: Callable[[int, int], Pixels]) -> None:
    """Pixels beyond the picture's edge and in a halo's outer half have no weight; all others have."""
    photo = make_photo(90, 61)
    seen: list[Floats] = []
    gradient = gradient_of(pack)

    def watched(arrays: onnxruntime_session.Named) -> onnxruntime_session.Named:
        if arrays["error_weight"].size > 1:  # a step of the descent
            seen.append(arrays["error_weight"][0, 0] > 0)
        return gradient(arrays)

    latents = np.zeros((12, 12, 8), np.float32)
    how = refine.Refinement(refine.Recipe(1, reach=0.1), watched, None)
    refine.refine(latents, photo, how, pack=pack, quantizer=rounding(latents, 1.0))
    assert seen[0].shape == (96, 64)
    assert seen[0][:90, :61].all()
    assert seen[0].sum() == 90 * 61
    seen.clear()
    refine.refine(latents, photo, how, pack=pack, quantizer=rounding(latents, 1.0), tile_px=72)
    first = seen[0]
    assert first[0, 0]
    assert not first[-8:].any(), "one cell of the halo's two"
    assert first[-9, 0]


def test_a_small_autoencoder_of_stable_diffusions_kind(
    tmp_path: Path, make_photo: Callable[[int, int], Pixels]
) -> None:
    """AutoencoderKL, random: the joined graph's gradient is autograd's, and its pictures come nearer to a target."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(1)
    from tests.small_autoencoders import KL_THREE_BLOCKS  # which imports diffusers

    vae = diffusers.AutoencoderKL(**KL_THREE_BLOCKS).eval()
    space = describe_space(vae, None, None)
    encoder, decoder = halves(vae, space, space)
    exported = export_modules(encoder, decoder, tmp_path, space=space, latent_distribution=True, precisions=["fp32"])
    (tmp_path / "decoder.fp32.onnx").rename(tmp_path / "decoder.onnx")
    (tmp_path / "encoder.fp32.onnx").rename(tmp_path / "encoder.onnx")
    assert exported.halo is None
    pack = add_to_pack(write_pack(tmp_path, name="kl", space=space, latent_distribution=True))
    gradient = gradient_of(pack)
    rng = np.random.default_rng(2)
    raw = rng.standard_normal((1, 4, 5, 7)).astype(np.float32)
    photo = make_photo(20, 28).transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1
    weight = rng.random((1, 1, 20, 28), np.float32)
    pull = rng.standard_normal((1, 3, 20, 28)).astype(np.float32)
    ends = gradient({"latent_sample": raw, "photo": photo, "error_weight": weight, "pull": pull})
    double = decoder.double()
    leaf = torch.from_numpy(raw).double().requires_grad_()
    painted = double(leaf)
    error = (torch.from_numpy(weight) * (painted - torch.from_numpy(photo)).square()).sum() / 2
    (error + (torch.from_numpy(pull) * painted).sum()).backward()
    assert leaf.grad is not None
    expected = leaf.grad.numpy()
    assert np.abs(ends["latent_sample.gradient"] - expected).max() < 1e-4 * np.abs(expected).max()

    latents = (raw[0] - np.float32(space.shift)) * np.float32(space.scale)
    target = make_photo(20, 28)
    refined = refine.refine(
        latents,
        target,
        refine.Refinement(refine.Recipe(10, reach=0.1), gradient, None),
        pack=pack,
        quantizer=rounding(latents, 0.05),
    )
    engine = Engine(pack.decoder_path(), device="cpu")
    errors = [
        float(np.square(transform.to_pixels(values, pack, engine, (0, 0, 28, 20)).astype(float) - target).mean())
        for values in (latents, refined)
    ]
    assert errors[1] < 0.97 * errors[0]


def test_the_default_packs_gradient_is_of_its_decoder() -> None:
    """models/tiny has it, in a hundredth of its decoder's bytes, and it is what the command writes today."""
    pack = search.load_pack(Path(__file__).parents[1] / "models" / "tiny")
    content = pack_gradient.gradient_part(onnx.load(pack.decoder_path()))
    assert (pack.folder / GRADIENT).read_bytes() == content
    assert len(content) < pack.decoder_path().stat().st_size / 100
    Graph(*search.read_gradient(pack)).check_alone()


class Blur(nn.Module):
    """Stands for perceptual networks: the squared error of pictures at a quarter of their sides."""

    def forward(self, painted: Tensor, photo: Tensor) -> Tensor:
        return (nn.functional.avg_pool2d(painted, 4) - nn.functional.avg_pool2d(photo, 4)).square().mean()


@pytest.fixture
def eyes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An effort pack where it is looked for."""
    monkeypatch.setenv("SDRT_MODELS", str(tmp_path / "here"))
    write_effort_pack(tmp_path / "here" / effort.NAME, Blur())
    return tmp_path / "here" / effort.NAME


def test_an_effort_pack_goes_to_the_user_or_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the user has no known folder it is not put into the last one that is searched, that of the program."""
    monkeypatch.setattr(effort_pack, "user_models", lambda: None)
    with pytest.raises(OutputError, match="give --out"):
        effort_pack.main([])


def test_an_effort_packs_graph_gives_the_gradient_of_its_distance() -> None:
    """Equal to autograd at sizes that it was not traced at, and multiplied by what is fed."""
    session = open_session(effort_graph(Blur()))
    rng = np.random.default_rng(1)
    painted, photo = (rng.standard_normal((1, 3, 24, 40)).astype(np.float32) for _ in range(2))
    (result,) = session.run(
        ["painted.gradient"], {"painted": painted, "photo": photo, "loss.gradient": np.array(2, np.float32)}
    )
    leaf = torch.from_numpy(painted).requires_grad_()
    (2 * Blur()(leaf, torch.from_numpy(photo))).backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(result, leaf.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_tune_eyes_follows_its_networks(pack: ModelPack, eyes: Path, photo: Pixels) -> None:
    """What the effort pack measures falls, at the same size."""
    codec = Codec(pack.folder, device="cpu")

    def distance(data: bytes) -> float:
        pair = (
            torch.from_numpy(each.astype(np.float32).transpose(2, 0, 1)[None])
            for each in (codec.decode_picture(data).rgb, photo)
        )
        return float(Blur()(*pair))

    plain, better = (codec.encode(photo, target_bytes=500, effort=level) for level in (0, 5))
    assert 490 <= len(better) <= 500
    assert distance(better) < 0.97 * distance(plain)


def test_a_viewer_sees_every_pixel_of_its_area_and_no_other() -> None:
    """After looks at twice the area each pixel has the gradient of the last window that held it; beyond it is 0."""
    photo = np.zeros((1, 3, 50, 70), np.float32)
    calls = 0

    def networks(arrays: onnxruntime_session.Named) -> onnxruntime_session.Named:
        nonlocal calls
        calls += 1
        return {"painted.gradient": arrays["painted"] * arrays["loss.gradient"] / arrays["painted"][0, 0].size}

    area = slice(8, 50), slice(0, 61)
    look = viewer.Viewer(networks, photo, area, share=2.0)
    painted = np.random.default_rng(1).standard_normal(photo.shape).astype(np.float32)
    pull = look(painted)
    np.testing.assert_allclose(pull[:, :, 8:, :61], painted[:, :, 8:, :61], rtol=1e-6)
    assert not pull[:, :, :8].any()
    assert not pull[:, :, :, 61:].any()
    assert calls == 2, "a small area is one window"


def test_windows_cover_large_areas_at_changing_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sweep covers all, within the area, in windows of one size."""
    monkeypatch.setattr(viewer, "WINDOW_PX", 16)
    rng = np.random.default_rng(1)
    sweeps = [viewer._windows(slice(5, 62), rng) for _ in range(20)]
    for sweep in sweeps:
        assert {window.stop - window.start for window in sweep} == {16}
        assert set().union(*(range(window.start, window.stop) for window in sweep)) == set(range(5, 62))
    assert len({sweep[1].start for sweep in sweeps}) > 5


def test_what_is_missing_is_said_with_the_line_that_makes_it(
    pack: ModelPack, make_pack: Callable[..., ModelPack], photo: Pixels, eyes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No effort pack, an altered one, no gradient, one of another decoder: a line each; effort 0 still works."""
    codec = Codec(pack.folder, device="cpu")
    (eyes / effort.GRAPH).write_bytes(b"altered")
    with pytest.raises(ModelError, match=r"networks\.onnx is altered: python -m sdrt_export effort"):
        codec.encode(photo, effort=1)
    (eyes / effort.LIST).write_text("[]")
    with pytest.raises(ModelError, match="not the manifest of an effort pack"):
        codec.encode(photo, effort=1)
    (eyes / effort.LIST).write_text(json.dumps({"format": 2, "files": {effort.GRAPH: {"sha256": ""}}}))
    with pytest.raises(ModelError, match="has format 2"):
        codec.encode(photo, effort=1)
    (eyes / effort.LIST).unlink()
    with pytest.raises(ModelError, match=r"unless --tune psnr: python -m sdrt_export effort builds it"):
        codec.encode(photo, effort=1)
    assert codec.encode(photo, effort=0)

    bare = make_pack("bare")
    with pytest.raises(
        ModelError, match=r"has no gradient\.onnx, which --effort needs: python -m sdrt_export gradient"
    ):
        Codec(bare.folder, device="cpu").encode(photo, effort=1, tune="psnr")
    model = onnx.load(pack.decoder_path())
    model.producer_name = "another"
    onnx.save(model, pack.decoder_path())
    update_manifest(pack.folder)
    with pytest.raises(ModelError, match="is of another decoder: python -m sdrt_export gradient"):
        Codec(pack.folder, device="cpu").encode(photo, effort=1, tune="psnr")


def test_decoders_without_a_gradient_make_packs_all_the_same(make_pack: Callable[..., ModelPack]) -> None:
    """The tests' pack is of opset 17: it stays as it is, and why is told."""
    bare = make_pack("old")
    same, why = add_where_known(bare)
    assert same == bare
    assert why is not None
    assert "opset 18 or newer" in why


def test_decoders_that_give_pixels_have_gradients_too(pack: ModelPack, photo: Pixels) -> None:
    """The gradient is of the samples before they are clamped and rounded."""
    files = []
    for output in ("float32", "uint8"):
        set_output(pack, output)
        add_to_pack(search.load_pack(pack.folder))
        files.append(Codec(pack.folder, device="cpu").encode(photo, target_bytes=500, effort=1, tune="psnr"))
    assert files[0] == files[1]


@pytest.mark.parametrize("wrong", [-1, 10, 1.0, True, "3", None], ids=str)
def test_effort_is_an_integer_from_0_to_9(wrong: Any) -> None:
    with pytest.raises(sdrt.ArgumentError, match=r"effort is .*, it must be (an integer|at least 0|from 0 to 9)$"):
        sdrt.EncodeOptions(effort=wrong)


def test_the_command_encodes_with_effort(
    pack: ModelPack, photo: Pixels, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--effort reaches the codec with --threads; without the effort pack it says what builds it, and leaves no file."""
    from PIL import Image

    monkeypatch.setenv("SDRT_MODELS", str(pack.folder.parent))
    monkeypatch.setattr(effort, "search_paths", lambda: [tmp_path])
    threads: list[int | None] = []
    options = onnxruntime_session._session_options
    monkeypatch.setattr(
        onnxruntime_session, "_session_options", lambda *given: (threads.append(given[2]), options(*given))[1]
    )
    source, target = tmp_path / "photo.png", tmp_path / "photo.sdl"
    Image.fromarray(photo).save(source)
    call = ["encode", str(source), "--model", pack.name, "--device", "cpu", "--threads", "1", "--target-size", "500"]
    assert cli.main([*call, "--effort", "1"]) == ModelError.exit_code
    assert capsys.readouterr().err.count("\n") == 1
    assert not target.exists()
    assert cli.main([*call, "--effort", "1", "--tune", "psnr"]) == 0
    assert target.stat().st_size <= 500
    assert len(threads) >= 2
    assert set(threads) == {1}
    with pytest.raises(SystemExit):
        cli.main([*call, "--effort", "10"])


def test_an_interrupted_refinement_leaves_no_file(pack: ModelPack, photo: Pixels, tmp_path: Path) -> None:
    """Ctrl-C between two steps: nothing has the destination's name, and nothing else is left beside it."""

    def interrupt(done: int, total: int) -> None:
        if total > 1 and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Codec(pack.folder, device="cpu").encode_file(
            photo, tmp_path / "a.sdl", effort=1, tune="psnr", progress=interrupt
        )
    assert not list(tmp_path.glob("*.sdl*"))


def test_the_real_taef2_is_refined(shared: Path, kodak: list[Path], tmp_path: Path) -> None:
    """Flux 2's tiny autoencoder with its real weights, at 1 bpp: PSNR rises by a tenth of a decibel or more."""
    weights = shared / "weights" / "taef2"
    if not weights.is_dir():
        pytest.skip(f"needs {weights}, which is not here")
    from PIL import Image

    from sdrt.coding.prior_file import write_prior
    from sdrt_export.sources import SourceOptions, open_source

    source = open_source(str(weights / "taef2_decoder.pth"), SourceOptions())
    export_modules(source.encoder, source.decoder, tmp_path, space=source.space)
    prior = write_prior(generic_arrays(source.space.channels))
    pack = add_to_pack(write_pack(tmp_path, name="taef2", space=source.space, files={"prior.npz": prior}))
    photo = np.asarray(Image.open(kodak[14]).convert("RGB"))[60:188, 280:408]
    codec = Codec(pack.folder, device="cpu")
    errors = [
        squared_error(codec, codec.encode(photo, target_bpp=1.0, tune="psnr", effort=level), photo) for level in (0, 3)
    ]
    assert errors[1] < 0.977 * errors[0]
