"""Laws of the training stage: it learns, resumes, never sees its validation set, and reads weights safely."""

from __future__ import annotations

import io
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdrt.errors import ModelError
from sdrt.packs.search import load_pack

torch = pytest.importorskip("torch", reason="the training stage needs torch")

from sdrt_metrics import perceptual  # noqa: E402 (after importorskip, on purpose)
from sdrt_train.data import CropSource, list_photos  # noqa: E402
from sdrt_train.loss import LossConfig, texture_distance  # noqa: E402
from sdrt_train.model import DOWNSCALE, Autoencoder, ModelConfig, straight_through  # noqa: E402
from sdrt_train.pack import read_checkpoints, space_of, write  # noqa: E402
from sdrt_train.rate import RateModel, bits_of, channel_groups  # noqa: E402
from sdrt_train.shards import deal  # noqa: E402
from sdrt_train.train import run  # noqa: E402
from sdrt_train.trainer import TrainConfig, Trainer  # noqa: E402

SMALL = ModelConfig(8, (16, 16, 16), (1, 1, 1), (16, 16, 16, 16), (1, 1, 1, 1))


def write_photos(folder: Path, count: int) -> None:
    random = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        coarse.resize((320, 288), Image.Resampling.BICUBIC).save(folder / f"photo-{i:x}.webp", quality=90)


def needs_metric_weights() -> None:
    try:
        perceptual.Lpips("alexnet")
    except perceptual.MetricWeightsError as error:
        pytest.skip(str(error))


def test_validation_is_kept_apart_by_name(tmp_path: Path) -> None:
    """Every photograph whose name ends in 0 is held out, and no other is."""
    write_photos(tmp_path, 33)
    training, held = list_photos(tmp_path)
    assert {p.stem for p in held} == {"photo-0", "photo-10", "photo-20"}
    assert len(training) == 30 and not set(training) & set(held)


def test_shards_hold_every_photograph_once(tmp_path: Path) -> None:
    """Each shard stays under its limit and carries the validation photographs; the others are dealt out once each."""
    write_photos(tmp_path, 40)
    training, held = list_photos(tmp_path)
    largest = max(p.stat().st_size for p in training)
    limit = sum(p.stat().st_size for p in held) + 4 * largest
    shards = deal(training, held, limit)
    assert len(shards) > 1 and all(sum(p.stat().st_size for p in shard) <= limit for shard in shards)
    dealt = [p for shard in shards for p in shard if p not in held]
    assert sorted(dealt) == training and all(set(held) <= set(shard) for shard in shards)
    with pytest.raises(ValueError, match="does not fit"):
        deal(training, held, limit - 4 * largest)


def test_crops_have_the_asked_size_and_range(tmp_path: Path) -> None:
    """A batch is (N, 3, S, S) in [-1, 1], and the same seed gives the same crops."""
    photos = [np.random.default_rng(i).integers(0, 256, (300, 260, 3), dtype=np.uint8) for i in range(3)]
    first = CropSource(photos, 4, 64, seed=7).next()
    assert first.shape == (4, 3, 64, 64)
    assert -1 <= float(first.min()) < -0.9 and 0.9 < float(first.max()) <= 1
    assert torch.equal(first, CropSource(photos, 4, 64, seed=7).next())


@pytest.mark.parametrize("height, width", [(16, 16), (48, 80)])
def test_model_keeps_the_geometry(height: int, width: int) -> None:
    """Latents are a sixteenth of the picture on each side, and the decoder gives the picture's size back."""
    model = Autoencoder(SMALL)
    latents = model.encoder(torch.zeros(2, 3, height, width))
    assert latents.shape == (2, 8, height // DOWNSCALE, width // DOWNSCALE)
    assert model.decoder(latents).shape == (2, 3, height, width)


def test_rounding_passes_the_gradient() -> None:
    """The value is a multiple of the step; the gradient is that of the identity."""
    latents = torch.tensor([0.3, 1.6, -2.7], requires_grad=True)
    rounded = straight_through(latents, torch.round(latents / 0.5) * 0.5)
    assert torch.allclose(rounded, torch.tensor([0.5, 1.5, -2.5]))
    rounded.sum().backward()
    assert torch.equal(latents.grad, torch.ones(3))


def test_rate_model_is_causal() -> None:
    """A pass's bits depend on no symbol that is coded after it: the first group's first phase costs the
    same whatever all the others hold."""
    torch.manual_seed(0)
    rate = RateModel(16)
    symbols = torch.randn(1, 16, 4, 6) * 3
    size = channel_groups(16)[0]
    other = symbols.clone()
    other[:, size:] = torch.randn(1, 16 - size, 4, 6) * 5
    assert rate(symbols, torch.zeros(1)).item() > 0

    def first_pass_mean(x: torch.Tensor) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        handle = rate.predictors[0].register_forward_hook(lambda _m, _i, out: seen.append(out))
        rate(x, torch.zeros(1))
        handle.remove()
        return seen[0]

    assert torch.equal(first_pass_mean(symbols), first_pass_mean(other))


def test_training_learns_and_resumes(tmp_path: Path) -> None:
    """Training changes the weights, writes a checkpoint that loads with weights_only, and a second call goes
    on from its step and weights."""
    needs_metric_weights()
    photos = tmp_path / "photos"
    photos.mkdir()
    write_photos(photos, 20)
    config = TrainConfig(batch=2, crop_px=64)
    path = run(photos, tmp_path / "run", 1.0, config, SMALL, last_step=2)
    first = torch.load(path, weights_only=True)
    assert first["step"] == 2
    run(photos, tmp_path / "run", 1.0, config, SMALL, last_step=16)
    second = torch.load(path, weights_only=True)
    assert second["step"] == 16 and second["seconds"] > first["seconds"]
    still = [name for name, value in first["model"].items() if torch.equal(second["model"][name], value)]
    assert not still
    assert not list((tmp_path / "run").glob("*.part"))


@pytest.mark.parametrize("share", [0.0, 0.2], ids=["alone", "against critics"])
def test_the_decoder_stage_leaves_the_latent_space_alone(tmp_path: Path, share: float) -> None:
    """Trained alone or against critics, the decoder changes and the encoder does not, so files of the space stay
    readable; critics resume with it, and neither another stage's folder nor nothing can be its start."""
    needs_metric_weights()
    photos = tmp_path / "photos"
    photos.mkdir()
    write_photos(photos, 20)
    joint = run(photos, tmp_path / "joint", 1.0, TrainConfig(batch=2, crop_px=64), SMALL, last_step=2)
    loss = LossConfig(vgg_crop_px=48, texture_weight=0.5, patch_critic_share=share, feature_critic_share=share)
    config = TrainConfig(stage="decoder", batch=2, crop_px=64, loss=loss)
    with pytest.raises(ValueError, match="start-from"):
        run(photos, tmp_path / "none", 1.0, config, SMALL, last_step=1)
    with pytest.raises(ValueError, match="stage joint"):
        run(photos, tmp_path / "joint", 1.0, config, SMALL, last_step=3)
    path = run(photos, tmp_path / "decoder", 1.0, config, SMALL, start_from=[joint], last_step=2)
    run(photos, tmp_path / "decoder", 1.0, config, SMALL, last_step=3)
    before, after = torch.load(joint, weights_only=True), torch.load(path, weights_only=True)
    assert after["step"] == 3 and after["seconds_before"] == before["seconds"]
    still = {name for name, value in before["average"].items() if torch.equal(value, after["average"][name])}
    assert {name for name in before["average"] if name.startswith("encoder")} <= still
    assert "decoder.pixels.weight" not in still


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


def test_decisions_cost_fewer_bits_and_stay_beside_the_value() -> None:
    """A chosen symbol is one of the two integers around its value; strength 0 rounds to the nearest, and more strength
    never costs more bits than rounding does under the contexts that it was chosen in."""
    torch.manual_seed(1)
    rate = RateModel(8)
    exact = torch.randn(2, 8, 6, 6) * 2
    zeros, log2_step = torch.zeros(2), torch.zeros(2)
    assert torch.equal(rate.decide(exact, log2_step, zeros), torch.round(exact))
    chosen = rate.decide(exact, log2_step, torch.full((2,), 3.0))
    assert ((chosen - exact).abs() < 1).all() and not torch.equal(chosen, torch.round(exact))
    mean, scale = rate.predict(torch.round(exact), log2_step)
    assert (bits_of(chosen, mean, scale) <= bits_of(torch.round(exact), mean, scale) + 1e-4).all()


def test_a_checkpoint_becomes_a_pack(tmp_path: Path) -> None:
    """The pack holds the averaged weights within the stated tolerance of torch, its space is named by the encoder's
    weights, and what is no checkpoint is refused by name."""
    needs_metric_weights()
    trainer = Trainer(TrainConfig(), SMALL, torch.device("cpu"))
    trainer.save(tmp_path / "checkpoint.pt")
    pack = write([tmp_path / "checkpoint.pt"], tmp_path / "small", "none")
    assert load_pack(tmp_path / "small").space == pack.space == space_of(trainer.average)
    assert pack.halo is not None and pack.manifest["verified"]["parity"][0]["passed"]
    with torch.no_grad():
        trainer.average.encoder.out.bias += 1
    trainer.save(tmp_path / "moved.pt")
    mean, training = read_checkpoints([tmp_path / "checkpoint.pt", tmp_path / "moved.pt"])
    torch.testing.assert_close(mean.encoder.out.bias, trainer.average.encoder.out.bias - 0.5)
    assert training["mean_of"] == 2
    assert space_of(trainer.average).identity != pack.space.identity
    (tmp_path / "other.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match=r"other\.pt is no checkpoint"):
        write([tmp_path / "other.pt"], tmp_path / "other", "none")
    with pytest.raises(ModelError, match=r"other\.pt is no checkpoint"):
        trainer.start_from([tmp_path / "other.pt"])
    state = torch.load(tmp_path / "moved.pt", weights_only=True)
    del state["average"]
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(ModelError, match=r"part\.pt is no checkpoint"):
        read_checkpoints([tmp_path / "part.pt"])
    with pytest.raises(ModelError, match=r"cannot read .*absent\.pt"):
        read_checkpoints([tmp_path / "absent.pt"])
    wider = Trainer(TrainConfig(), replace(SMALL, latent_channels=2 * SMALL.latent_channels), torch.device("cpu"))
    with pytest.raises(ValueError, match=r"moved\.pt holds a model of another shape"):
        wider.start_from([tmp_path / "moved.pt"])


def test_metric_weights_are_read_without_running_code() -> None:
    """A pickle that names anything but numpy's array builders is refused before it runs."""

    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("true",)

    with pytest.raises(pickle.UnpicklingError, match="not an array"):
        perceptual._ArrayUnpickler(io.BytesIO(pickle.dumps(Attack()))).load()
