"""Laws of the training stage: it learns, resumes, never sees its validation set, and repeats its recipe."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from sdrt.errors import ModelError

torch = pytest.importorskip("torch", reason="the training stage needs torch")

from sdrt.coding.activity import adapted  # noqa: E402
from sdrt.packs.manifest import GRADIENT, is_prior  # noqa: E402
from sdrt.packs.search import load_pack  # noqa: E402
from sdrt_export.halo import dependence  # noqa: E402
from sdrt_export.photographs import held_out  # noqa: E402
from sdrt_metrics import fidelity, perceptual, weights  # noqa: E402 (after importorskip, on purpose)
from sdrt_train import data, train  # noqa: E402
from sdrt_train.data import CropConfig, CropSource, list_photos, load_photos, recolored  # noqa: E402
from sdrt_train.drawings import drawing, flat  # noqa: E402
from sdrt_train.folded import UNIT_LOG2_STEP, fold  # noqa: E402
from sdrt_train.loss import LossConfig, ms_ssim, repeated_error, texture_distance  # noqa: E402
from sdrt_train.model import (  # noqa: E402
    DOWNSCALE,
    LEVELS,
    Autoencoder,
    Block,
    ModelConfig,
    block_transform,
)
from sdrt_train.muon import orthogonal  # noqa: E402
from sdrt_train.pack import read_checkpoints, space_of, write  # noqa: E402
from sdrt_train.plot import plot, read_log  # noqa: E402
from sdrt_train.rate_model import RateModel, bits_of, channel_groups  # noqa: E402
from sdrt_train.recipe import Recipe, StageConfig, read_recipe  # noqa: E402
from sdrt_train.schedule import rate_factor  # noqa: E402
from sdrt_train.train import run  # noqa: E402
from sdrt_train.trainer import MAP_CELL, Trainer, adapted_offsets  # noqa: E402
from sdrt_train.workers import Workers  # noqa: E402

SMALL = ModelConfig(8, (8, 12, 16), (1, 1, 1), (16, 12, 8), (1, 1, 1))
ROOT = Path(__file__).resolve().parent.parent


def small_recipe(**stage: object) -> Recipe:
    settings: dict[str, object] = {"steps": 40, "batch": 2, "crop_px": 64, **stage}
    return Recipe(model=SMALL, stages=(StageConfig(**settings),))  # type: ignore[arg-type]


def level_map(n: int, height: int, width: int, log2_step: float = 5.0) -> torch.Tensor:
    return torch.full((n, 1, height, width), log2_step)


def write_photos(folder: Path, count: int) -> None:
    random = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        coarse.resize((320, 288), Image.Resampling.BICUBIC).save(folder / f"photo-{i:x}.webp", quality=90)


def needs_metric_weights() -> None:
    try:
        perceptual.Lpips("alexnet")
    except weights.MetricWeightsError as error:
        pytest.skip(str(error))


def test_validation_is_kept_apart_by_name(tmp_path: Path) -> None:
    """Every photograph whose name ends in 0 is held out, and no other is; where none is called so, those that no prior
    is fitted to either."""
    write_photos(tmp_path, 33)
    training, held = list_photos(tmp_path)
    assert {p.stem for p in held} == {"photo-0", "photo-10", "photo-20"}
    assert len(training) == 30 and not set(training) & set(held)
    for path in held:
        path.unlink()
    _, held = list_photos(tmp_path)
    assert set(held) == held_out(training) and len(held) == 4


def test_crops_have_the_asked_size_and_range(tmp_path: Path) -> None:
    """A batch is (N, 3, S, S) in [-1, 1], and the same seed gives the same crops."""
    photos = [np.random.default_rng(i).integers(0, 256, (300, 260, 3), dtype=np.uint8) for i in range(3)]
    first = CropSource(photos, 4, 64, 7, CropConfig(drawn=0)).next()
    assert first.shape == (4, 3, 64, 64)
    assert -1 <= float(first.min()) < -0.9 and 0.9 < float(first.max()) <= 1
    assert torch.equal(first, CropSource(photos, 4, 64, 7, CropConfig(drawn=0)).next())


def test_decisions_pull_where_they_are_open() -> None:
    """Values and bits are those of the integers that `decide` chooses. A latent beside its threshold moves its symbol
    by about its own change, one at an integer hardly; and its bits pull it toward the cheaper of its two integers."""
    torch.manual_seed(1)
    rate = RateModel(8)
    rate.log_deviations.fill_(np.log(64.0))
    exact = (torch.randn(2, 8, 6, 6) * 2).requires_grad_()
    level, strength = level_map(2, 6, 6), torch.tensor([0.0, 1.0])
    symbols, bits = rate.soft_decide(exact, level, strength)
    chosen = rate.decide(exact, level, strength)
    assert torch.equal(symbols, chosen) and torch.allclose(bits, rate(chosen, level))
    (slope,) = torch.autograd.grad(symbols.sum(), exact, retain_graph=True)
    from_threshold = (exact.detach() - exact.detach().floor() - 0.5).abs()[0]  # strength 0: the middle
    assert slope[0][from_threshold < 0.05].min() > 0.9
    assert 0 < slope[0][from_threshold > 0.45].max() < 0.5
    (pull,) = torch.autograd.grad(bits.sum(), exact)
    assert (pull * exact.detach().sign() > 0).float().mean() > 0.9  # zero is the cheapest integer here


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (32, 32)])
def test_updates_of_kernels_are_orthogonal(shape: tuple[int, int]) -> None:
    """All but the smallest singular values come near 1, whatever they were; the directions stay."""
    torch.manual_seed(1)
    left, values, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.logspace(0, -1, len(values))
    after = left.T @ orthogonal((left * values @ right)[None])[0] @ right.T
    assert (after.diagonal() - 1).abs().max() < 0.25
    assert (after - after.diagonal().diag()).abs().max() < 0.15


@pytest.mark.parametrize("strides", [(1, 1, 1, 1, 1), (2, 2, 1, 1, 1)])
def test_ms_ssim_of_the_loss_is_that_of_the_bench(strides: tuple[int, ...]) -> None:
    """Exactly, where its windows lie at every pixel; within a twentieth of the distance where fine ones skip some."""
    random = np.random.default_rng(4)
    photo = np.asarray(Image.fromarray(random.integers(0, 256, (24, 22, 3), np.uint8)).resize((176, 192)))
    for noise in (2, 20):
        picture = (photo + random.normal(0, noise, photo.shape)).round().clip(0, 255).astype(np.uint8)
        tensors = [torch.from_numpy(a.copy()).permute(2, 0, 1)[None] / 127.5 - 1 for a in (picture, photo)]
        wanted = fidelity.ms_ssim(picture, photo)
        tolerance = 2e-6 if strides[0] == 1 else (1 - wanted) / 20
        assert abs(float(ms_ssim(tensors[0], tensors[1], strides)) - wanted) < tolerance


def test_ms_ssim_tells_the_way_to_the_photograph() -> None:
    torch.manual_seed(0)
    photo = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 12) * 2 - 1, size=192, mode="bilinear")
    picture = (photo + torch.randn_like(photo) * 0.2).requires_grad_()
    before = ms_ssim(picture, photo).sum()
    before.backward()
    assert picture.grad is not None
    assert torch.isfinite(picture.grad).all()
    assert float(ms_ssim(picture.detach() + 2000 * picture.grad, photo)) > float(before.detach())
    assert abs(float(ms_ssim(photo, photo)) - 1) < 1e-5
    upside_down = (-photo).requires_grad_()
    (gradient,) = torch.autograd.grad(ms_ssim(upside_down, photo).sum(), upside_down)
    assert torch.isfinite(gradient).all()


def test_an_error_that_repeats_in_every_cell_is_told_from_one_that_does_not() -> None:
    """The same pattern in each cell counts whole, unrelated noise and offsets of cells hardly."""
    torch.manual_seed(0)
    for side in (32, 96, 208):
        photo = torch.rand(2, 3, side, side)
        pattern = torch.randn(2, 3, 16, 16) * 0.1
        pattern = pattern - pattern.mean((2, 3), keepdim=True)
        printed = photo + pattern.repeat(1, 1, side // 16, side // 16)
        expected = pattern.square().mean((1, 2, 3)) * (1 - 1 / min(6, side // 16) ** 2)
        assert torch.allclose(repeated_error(printed, photo), expected, rtol=1e-3)
        noise = torch.randn_like(photo) * 0.1
        offsets = torch.randn(2, 3, side // 16, side // 16).repeat_interleave(16, 2).repeat_interleave(16, 3)
        assert (repeated_error(photo + noise, photo) < 1e-3).all()
        assert (repeated_error(photo + offsets, photo) < 1e-6).all()


def test_texture_is_told_from_flatness_and_not_from_its_place() -> None:
    """The same grains elsewhere cost nothing; grains smoothed away cost much, the more the deeper the map; a map costs
    2 at most."""
    torch.manual_seed(0)
    grains = torch.rand(1, 4, 16, 16)
    moved, smooth = grains.roll(3, dims=3), torch.full_like(grains, float(grains.mean()))
    real = [grains] * 5
    assert float(texture_distance([moved] * 5, real)) < 1e-6
    assert 0.05 < float(texture_distance([smooth] * 5, real)) <= 10
    assert float(texture_distance([torch.zeros_like(grains)] * 5, real)) <= 10
    assert float(texture_distance([smooth, *real[1:]], real)) < float(texture_distance([*real[1:], smooth], real))


@pytest.mark.parametrize("height, width", [(16, 16), (48, 80)])
def test_model_keeps_the_geometry(height: int, width: int) -> None:
    """Latents are a sixteenth of the picture on each side, and the decoder gives the picture's size back."""
    model, level = Autoencoder(SMALL), level_map(2, height // DOWNSCALE, width // DOWNSCALE)
    latents = model.encoder(torch.zeros(2, 3, height, width))
    assert latents.shape == (2, 8, height // DOWNSCALE, width // DOWNSCALE)
    assert model.decoder(latents, level).shape == (2, 3, height, width)


def test_training_starts_at_the_best_block_transform() -> None:
    """With all 768 rows the transform is exact; its rows are orthonormal and come by falling deviation; and a fresh
    model set to it paints flat pictures within a level of it."""
    torch.manual_seed(0)
    pictures = torch.nn.functional.interpolate(torch.rand(16, 3, 8, 8), size=128, mode="bicubic").clamp(0, 1) * 2 - 1
    basis, deviations = block_transform(pictures, 768)
    assert torch.allclose(basis @ basis.T, torch.eye(768), atol=1e-4)
    assert (deviations.diff() <= 1e-3).all()
    model = Autoencoder(replace(SMALL, latent_channels=64))
    model.start_at_transform(basis[:64], deviations[:64])
    for module in (model.encoder.out, model.decoder.to_pixels[-1]):
        torch.nn.init.zeros_(module.weight)
        torch.nn.init.zeros_(module.bias)
    sky, level = torch.tensor([-0.5, 0.1, 0.9])[None, :, None, None].expand(1, 3, 32, 32), level_map(1, 2, 2)
    painted = model.decoder(model.encoder(sky), level)
    assert float((painted - sky).detach().abs().max()) * LEVELS < 1


@pytest.mark.parametrize("told", [False, True], ids=["plain", "quality"])
def test_folded_networks_compute_the_same(told: bool) -> None:
    """Plain convolutions with folded scales and mixes, and the quality level as a channel of decoders that are told
    it, give what the trained modules give, also where the level differs from place to place."""
    torch.manual_seed(0)
    model = Autoencoder(replace(SMALL, quality=told)).eval()
    basis, deviations = block_transform(torch.rand(8, 3, 64, 64) * 2 - 1, 8)
    model.start_at_transform(basis, deviations)
    for module in (model.encoder.body[3], model.decoder.to_eighth[-1], model.decoder.seen_at_eighth):
        torch.nn.init.uniform_(module.scales, 0.2, 1.5)
    if model.decoder.quality is not None:
        torch.nn.init.normal_(model.decoder.quality.second.weight)
    encoder, decoder = fold(model)
    picture, level = torch.rand(2, 3, 48, 80) * 2 - 1, 5 + torch.randn(2, 1, 3, 5)
    octaves = level - UNIT_LOG2_STEP
    with torch.no_grad():
        latents = model.encoder(picture)
        torch.testing.assert_close(encoder(picture), latents, rtol=1e-4, atol=1e-2)
        painted = decoder(torch.cat([latents, octaves], 1) if told else latents)
        torch.testing.assert_close(painted, model.decoder(latents, level), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("group", range(3))
def test_rate_model_is_causal(group: int) -> None:
    """What a group's first pass predicts depends on earlier groups alone."""
    torch.manual_seed(0)
    rate, groups = RateModel(16), channel_groups(16)
    start = sum(groups[:group])
    symbols, level = torch.randn(1, 16, 4, 6) * 3, level_map(1, 4, 6)
    other = symbols.clone()
    other[:, start:] = torch.randn(1, 16 - start, 4, 6) * 5
    first = (torch.arange(4)[:, None] + torch.arange(6)[None]) % 2 == 0
    for seen, changed in zip(rate.predict(symbols, level), rate.predict(other, level), strict=True):
        same = slice(start, start + groups[group])
        assert torch.equal(seen[:, same][..., first], changed[:, same][..., first])
        if start:
            early = rate.predict(symbols.flip(1), level)[0][:, same][..., first]
            assert not torch.equal(seen[:, same][..., first], early)


def test_rate_model_starts_near_the_truth() -> None:
    """With the transform's deviations set, a fresh model codes such Gaussian symbols near their entropy."""
    torch.manual_seed(0)
    deviations = torch.tensor([80.0, 40.0, 20.0, 10.0])
    rate = RateModel(4)
    rate.log_deviations.copy_(deviations.log())
    symbols = torch.round(torch.randn(1, 4, 64, 64) * deviations[:, None, None] / 2**3)
    bits = float(rate(symbols, level_map(1, 64, 64, 3.0)).detach()) / symbols.numel()
    entropy = float((torch.log2(deviations / 2**3) + 0.5 * np.log2(2 * np.pi * np.e)).mean())
    assert entropy < bits < 1.1 * entropy + 0.1


def test_training_learns_and_resumes(tmp_path: Path) -> None:
    """Training changes all weights, writes a checkpoint that loads with weights_only, and a second call goes on from
    its step and weights, through the recipe's stages."""
    photos = tmp_path / "photos"
    photos.mkdir()
    write_photos(photos, 20)
    stages = (*small_recipe(steps=3).stages, *small_recipe(steps=4, learns="decoder").stages)
    recipe = replace(small_recipe(), stages=stages)
    path = run(photos, tmp_path / "run", recipe, last_step=2, cache=tmp_path / "cache")
    first = torch.load(path, weights_only=True)
    assert (first["stage"], first["step"]) == (0, 2)
    run(photos, tmp_path / "run", recipe, last_step=3, cache=tmp_path / "cache")
    joint = torch.load(path, weights_only=True)
    still = [name for name, value in first["model"].items() if torch.equal(joint["model"][name], value)]
    assert not still
    run(photos, tmp_path / "run", recipe, cache=tmp_path / "cache")
    last = torch.load(path, weights_only=True)
    assert (last["stage"], last["step"]) == (1, 4) and last["seconds"] > first["seconds"]
    changed = {name for name, value in joint["model"].items() if not torch.equal(last["model"][name], value)}
    assert changed and all(name.startswith("decoder") for name in changed)
    assert not list((tmp_path / "run").glob("*.part"))
    assert len(list((tmp_path / "cache").glob("*.rgb"))) == 1
    with pytest.raises(ValueError, match="another shape"):
        run(photos, tmp_path / "run", replace(recipe, model=replace(SMALL, latent_channels=9)))
    (tmp_path / "other.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match=r"other\.pt is no checkpoint"):
        run(photos, tmp_path / "other", recipe, start_from=[tmp_path / "other.pt"])


def test_a_loss_that_is_not_finite_ends_all_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, also in the workers whose own loss is finite; the checkpoint is as it was."""
    (tmp_path / "photos").mkdir()
    write_photos(tmp_path / "photos", 20)
    (tmp_path / "small.toml").write_text(
        "[model]\nlatent_channels = 8\nencoder_widths = [8, 12, 16]\nencoder_blocks = [1, 1, 1]\n"
        "decoder_widths = [16, 12, 8]\ndecoder_blocks = [1, 1, 1]\n[[stages]]\nsteps = 4\nbatch = 2\ncrop_px = 64\n"
    )
    command = ["train", *(str(tmp_path / name) for name in ("small.toml", "photos")), "--run", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", command)
    told = iter([False, True])  # whether to stop; whether the loss of any is not finite
    with monkeypatch.context() as patch:
        patch.setattr(Workers, "any", lambda _self, _flag: next(told))
        assert train.main() == 2
    error = capsys.readouterr().err
    assert error.startswith("sdrt_train: the loss is not finite at step 1; ") and error.count("\n") == 1
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    monkeypatch.setattr(Trainer, "train_step", lambda _self, _batch: {"loss": float("nan")})
    assert train.main() == 2


def test_all_workers_ask_one_another_equally_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one, which prints, measures and saves, asks no more than the others: each question waits for all."""
    (tmp_path / "photos").mkdir()
    write_photos(tmp_path / "photos", 20)
    asked: list[str] = []
    monkeypatch.setattr(Workers, "any", lambda _self, flag: asked.append("any") or flag)
    monkeypatch.setattr(Workers, "of_first", lambda _self, value: asked.append("of_first") or value)
    monkeypatch.setattr(Trainer, "validate", lambda _self, _pictures: [])

    def learned(trainer: Trainer, _batch: torch.Tensor) -> dict[str, torch.Tensor]:
        trainer.step += 1
        return {"loss": torch.zeros(())}

    monkeypatch.setattr(Trainer, "train_step", learned)
    questions = []
    for rank in (0, 1):
        monkeypatch.setattr(Workers, "join", lambda rank=rank: Workers(rank, 1))
        run(tmp_path / "photos", tmp_path / f"run{rank}", small_recipe(steps=205), validate_every=50)
        questions.append([*asked])
        asked.clear()
    assert questions[0] == questions[1] and len(questions[0]) >= 205


def test_workers_share_a_batch_evenly_or_not_at_all() -> None:
    """Each takes the same number of pictures, together those of the recipe, neither more nor fewer."""
    assert [Workers(0, count).share_of(8) for count in (1, 2, 4, 8)] == [8, 4, 2, 1]
    for count in (3, 16):
        with pytest.raises(ValueError, match=f"a batch of 8 cannot be shared evenly by {count} workers"):
            Workers(0, count).share_of(8)


def test_perceptual_terms_join_the_loss() -> None:
    """LPIPS, VGG16's distance and the texture term are measured where their weights are not zero."""
    needs_metric_weights()
    loss = LossConfig(alex=100, vgg=100, texture=100, vgg_crop_px=48)
    trainer = Trainer(small_recipe(loss=loss), torch.device("cpu"))
    parts = trainer.train_step(torch.rand(2, 3, 64, 64) * 2 - 1)
    assert {"alex", "vgg", "texture"} <= set(parts) and all(np.isfinite(float(value)) for value in parts.values())


def test_step_maps_differ_from_cell_to_cell() -> None:
    """With all crops mapped, the step is one within a cell and differs between cells; without maps it is flat."""
    mapped = Trainer(small_recipe(maps=1.0), torch.device("cpu"))._quality_levels(4, 2 * MAP_CELL)
    cells = mapped.unflatten(2, (2, MAP_CELL)).unflatten(4, (2, MAP_CELL))
    assert float(cells.std((3, 5)).max()) < 1e-5 and float(mapped.std((2, 3)).max()) > 0.1
    flat_levels = Trainer(small_recipe(maps=0.0), torch.device("cpu"))._quality_levels(4, 8)
    assert float(flat_levels.std((2, 3)).max()) < 1e-5 and float(flat_levels.std()) > 0


def test_training_adapts_steps_as_files_do() -> None:
    """What a picture's activity adds to the level in training, the codec adds to the step index, cut cells included."""
    random = torch.Generator().manual_seed(3)
    busy = torch.rand(1, 1, 4, 5, generator=random).repeat_interleave(MAP_CELL, 2).repeat_interleave(MAP_CELL, 3)
    latents = (8 * busy * torch.randn(1, 24, 16, 20, generator=random))[:, :, :15, :18]
    added = adapted_offsets(latents, level_map(1, 15, 18, 0.0))
    offsets = adapted(latents[0].numpy(), np.ones(24, np.float32), DOWNSCALE, 512)
    assert offsets is not None and offsets.std() > 0.5
    assert np.array_equal(4 * added[0, 0, ::MAP_CELL, ::MAP_CELL].numpy(), offsets)


def test_decisions_cost_fewer_bits_and_stay_beside_the_value() -> None:
    """A chosen symbol is one of the two integers around its value; strength 0 rounds to the nearest, and more strength
    never costs more bits than rounding does under the contexts that it was chosen in."""
    torch.manual_seed(1)
    rate = RateModel(8)
    rate.log_deviations.fill_(np.log(64.0))
    exact, level = torch.randn(2, 8, 6, 6) * 2, level_map(2, 6, 6)
    assert torch.equal(rate.decide(exact, level, torch.zeros(2)), torch.round(exact))
    chosen = rate.decide(exact, level, torch.full((2,), 3.0))
    assert ((chosen - exact).abs() < 1).all() and not torch.equal(chosen, torch.round(exact))
    mean, scale = rate.predict(torch.round(exact), level)
    assert (bits_of(chosen, mean, scale) <= bits_of(torch.round(exact), mean, scale) + 1e-4).all()


def test_drawings_and_recolored_photographs_are_saturated() -> None:
    """The same generator gives the same picture; flats reach the corners of the color cube; recoloring keeps luma."""
    first, second = (drawing(np.random.default_rng(3), 64) for _ in range(2))
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8 and np.array_equal(first, second)
    random = np.random.default_rng(0)
    corners = {tuple(value) for _ in range(300) for value in flat(random, 16).reshape(-1, 3) if set(value) <= {0, 255}}
    assert len(corners) == 8
    photo = np.full((16, 16, 3), (120, 110, 100), np.uint8)
    luma = [np.asarray(Image.fromarray(p).convert("L"), int).mean() for p in (photo, recolored(random, photo))]
    assert abs(luma[0] - luma[1]) < 2


def test_photographs_are_decoded_once(tmp_path: Path) -> None:
    """A second call with a cache reads no photograph, and gives the same pixels."""
    write_photos(tmp_path, 3)
    paths = sorted(tmp_path.glob("*.webp"))
    plain = load_photos(paths, 64)
    load_photos(paths, 64, tmp_path / "cache")
    for path in paths:
        times = path.stat()
        path.write_bytes(bytes(times.st_size))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    cached = load_photos(paths, 64, tmp_path / "cache")
    assert len(plain) == 3 and all(np.array_equal(a, b) for a, b in zip(plain, cached, strict=True))


def test_an_edited_photograph_is_decoded_again(tmp_path: Path) -> None:
    """Also where its name and size are as before."""
    paths = [tmp_path / "photo.png"]
    for level in (10, 20):
        Image.fromarray(np.full((64, 64, 3), level, np.uint8)).save(paths[0], compress_level=0)
        os.utime(paths[0], ns=(level, level))
        assert load_photos(paths, 64, tmp_path / "cache")[0].max() == level


def test_an_interrupted_cache_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until both of its files are whole neither has its name, so no other worker takes half of them."""
    write_photos(tmp_path, 3)
    paths, cache = sorted(tmp_path.glob("*.webp")), tmp_path / "cache"
    given = iter([np.zeros((64, 64, 3), np.uint8), KeyboardInterrupt()])

    def interrupted(_path: Path) -> np.ndarray:
        found = next(given)
        if isinstance(found, BaseException):
            raise found
        return found

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(data, "load_photo", interrupted)
        load_photos(paths, 64, cache)
    assert not list(cache.iterdir())
    assert len(load_photos(paths, 64, cache)) == 3


def test_the_rate_rises_holds_and_falls() -> None:
    """Warm-up, a plateau at 1, and a fall to a fiftieth at the end."""
    factors = [rate_factor(step, 1000, 0.3, 200) for step in range(1001)]
    assert factors[0] < 0.01 and factors[199] == 1 and all(f == 1 for f in factors[200:700])
    assert factors[700:] == sorted(factors[700:], reverse=True) and abs(factors[-1] - 0.02) < 1e-9


def test_units_that_never_fire_are_seen() -> None:
    """The figure that a validation prints is 1 for fresh blocks and falls to 0 with one block's biases far below 0."""
    trainer = Trainer(small_recipe(), torch.device("cpu"))
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    assert trainer.least_alive(pictures) > 0.8
    block = next(module for module in trainer.average.decoder.modules() if isinstance(module, Block))
    torch.nn.init.constant_(block.first.bias, -1000.0)
    assert trainer.least_alive(pictures) == 0


def test_a_log_is_drawn_as_rate_and_distortion(tmp_path: Path) -> None:
    """One curve an update; the unquantized row has no rate and is left out; without LPIPS its panel is empty."""
    pytest.importorskip("matplotlib")
    rows = ["step,hours,log2_step,bpp,psnr,alex", "9,1,8,.1,24,nan", "9,1,7,.2,26,nan", "9,1,-1,0,37,nan"]
    (tmp_path / "validation.csv").write_text("\n".join(rows))
    log = read_log(tmp_path / "validation.csv")
    assert {update: [row["bpp"] for row in rows] for update, rows in log.items()} == {9: [0.1, 0.2]}
    plot(log, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.width == 1320


def test_recipes_are_read_strictly(tmp_path: Path) -> None:
    """Every recipe of the repository is valid; a setting that does not exist is named; an override changes the name."""
    recipes = sorted((ROOT / "training" / "recipes").glob("*.toml"))
    assert recipes and all(read_recipe(path)[0].steps > 0 for path in recipes)
    plain, changed = (read_recipe(recipes[0], o) for o in ([], ["model.latent_channels=7", "stages.0.steps=5"]))
    assert changed[0].model.latent_channels == 7 and changed[0].stages[0].steps == 5 and plain[1] != changed[1]
    bad = tmp_path / "bad.toml"
    for text, word in (
        ("[model]\nwidth = 3", "width"),
        ("seed = ", "TOML"),
        ('[[stages]]\nlearns = "x"', "learns"),
        ("[[stages]]\ncrop_px = 160\nloss.structure = 1", "161 pixels"),
    ):
        bad.write_text(text)
        with pytest.raises(ValueError, match=word):
            read_recipe(bad)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("stages.9.steps=1", "names no setting"),
        ("stages.-1.steps=1", "names no setting"),
        ("stages.last.steps=1", "names no setting"),
        ("stages.steps=1", "names no setting"),
        ("seed.x=1", "names no setting"),
        ("model.haar", "is not NAME=VALUE"),
        ("stages=[]", "stages are tables"),
        ("stages=3", "stages are tables"),
        ("model=3", "model is a table, not 3"),
        ("stages.0.steps=many", "steps cannot be 'many'"),
        ("stages.0.steps=1.5", "steps cannot be 1.5"),
        ("model.haar=1", "haar cannot be 1"),
        ("model.encoder_widths=[1, 2]", "encoder_widths cannot be"),
        ("data.drawn=[]", "drawn cannot be"),
    ],
)
def test_an_override_that_means_nothing_is_named(tmp_path: Path, setting: str, words: str) -> None:
    """A place that is not there, or a value of another type, is a ValueError, which the command prints as one line."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("seed = 1\n[[stages]]\nsteps = 5\nlearning_rate = 1\n")
    assert read_recipe(recipe)[0].stages[0].learning_rate == 1
    with pytest.raises(ValueError, match=re.escape(words)):
        read_recipe(recipe, [setting])


def test_a_checkpoint_becomes_a_pack(tmp_path: Path) -> None:
    """The pack states a halo, holds the averaged weights within the stated tolerance of torch
    and is named by its encoder's weights; what is no checkpoint, or one of another model, is refused by name."""
    trainer = Trainer(small_recipe(), torch.device("cpu"))
    trainer.start(torch.rand(8, 3, 64, 64) * 2 - 1)
    trainer.save(tmp_path / "checkpoint.pt")
    (tmp_path / "small").mkdir()
    for name in ("prior.npz", "prior.0123.npz"):
        (tmp_path / "small" / name).write_bytes(b"of other latents")
    pack = write([tmp_path / "checkpoint.pt"], tmp_path / "small", "none")
    assert load_pack(tmp_path / "small").space == pack.space == space_of(trainer.average)
    assert GRADIENT in pack.files and not any(is_prior(path.name) for path in pack.folder.iterdir())
    assert pack.halo is not None and pack.manifest["verified"]["parity"][0]["passed"]
    with torch.no_grad():
        trainer.average.encoder.out.bias += 1
    trainer.save(tmp_path / "moved.pt")
    mean, training = read_checkpoints([tmp_path / "checkpoint.pt", tmp_path / "moved.pt"])
    torch.testing.assert_close(mean.encoder.out.bias, trainer.average.encoder.out.bias - 0.5)
    assert training["mean_of"] == 2 and space_of(trainer.average).identity != pack.space.identity
    (tmp_path / "other.pt").write_bytes(b"no checkpoint")
    for name, words in (("other.pt", r"other\.pt is no checkpoint"), ("absent.pt", r"cannot read .*absent\.pt")):
        with pytest.raises(ModelError, match=words):
            read_checkpoints([tmp_path / name])
    wider = Trainer(replace(small_recipe(), model=replace(SMALL, latent_channels=16)), torch.device("cpu"))
    wider.save(tmp_path / "wider.pt")
    with pytest.raises(ModelError, match="different models"):
        read_checkpoints([tmp_path / "checkpoint.pt", tmp_path / "wider.pt"])


def test_a_slice_that_cuts_a_picture_has_no_halo() -> None:
    """Every n-th row is a window; a slice that leaves rows out at an end is not, whatever else the graph holds."""
    for starts, ends, steps, halo in (([0], [2**63 - 1], [4], 0), ([1], [2**63 - 1], [1], None), ([0], [5], [1], None)):
        names = {"starts": starts, "ends": ends, "axes": [2], "steps": steps}
        constants = [numpy_helper.from_array(np.array(values, np.int64), name) for name, values in names.items()]
        graph = helper.make_graph(
            [helper.make_node("Slice", ["x", *names], ["y"])],
            "slice",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, "h", "w"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, "a", "b"])],
            constants,
        )
        assert dependence(helper.make_model(graph), 1) == halo
