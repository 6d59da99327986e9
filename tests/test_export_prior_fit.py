"""Fitting: the float twin equals the integers, fitted priors are valid, beat generic ones, and repeat."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sdrt.coding.context import inverse_step, replay
from sdrt.coding.payload import bits, decode, encode
from sdrt.coding.prior import FRACTIONS, MEAN_BITS, SCALE_BITS, build_prior, load_prior, write_prior
from sdrt.errors import ImageError
from sdrt.packs.manifest import ModelPack
from sdrt.packs.search import load_pack
from sdrt_export import encoded_crops
from sdrt_export.pack_writer import update_manifest
from sdrt_export.photographs import crops, list_images
from sdrt_export.prior_fit import (
    MOST_ITERATIONS,
    fit_prior,
    generic_arrays,
    generic_prior,
    iterations_for,
    main,
)
from sdrt_export.prior_steps import base_steps
from sdrt_export.prior_tables import (
    SPREAD,
    class_layout,
    count_tables,
    shape_centres,
    shape_probabilities,
    to_frequencies,
)
from sdrt_export.progress import Progress, in_time

Float32 = NDArray[np.float32]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small products in several threads cost more than they save, the more so on a busy machine."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def textured(seed: int, channels: int = 6, side: int = 20) -> Float32:
    """Latents (C, h, w) whose channels repeat each other, whose neighbours agree and whose activity wanders."""
    random = np.random.default_rng(seed)
    noise = random.normal(0, 1, (channels, side + 4, side + 4))
    smooth = sum(noise[:, y : y + side, x : x + side] for y in range(5) for x in range(5)) / 5
    smooth[1] += 0.8 * smooth[0]
    activity = np.exp(1.5 * np.sin(np.linspace(0, random.uniform(3, 9), side)))[None, None]
    return (smooth * activity + random.normal(0, 0.2, smooth.shape)).astype(np.float32)


def test_the_float_twin_equals_the_integers() -> None:
    """With rounding simulated, the network in training predicts what the exported integers predict."""
    torch = pytest.importorskip("torch")
    from sdrt_export.prior_network import FitConfig, Network
    from sdrt_export.prior_training import integer_arrays

    torch.manual_seed(0)
    network = Network(8, FitConfig(hidden=12, sparse_hidden=5))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    prior = build_prior({**generic_arrays(8), **integer_arrays(network)})
    thresholds = class_layout()[0]
    symbols = np.rint(np.random.default_rng(0).laplace(0, 2, (13, 18, 8))).astype(np.int32)
    inverse = torch.tensor([inverse_step(560) / 32])
    pictures = torch.from_numpy(symbols)[None].float()
    for net, (_step, values, prediction) in zip(network.nets, replay(prior, symbols, 560), strict=True):
        inputs, targets = net.rows(pictures, inverse)
        np.testing.assert_array_equal(targets[0].numpy(), values)
        with torch.no_grad():
            mean, scale = (part[0].numpy().ravel() for part in net.forward(inputs, True))
        eighths = (prediction.mean << MEAN_BITS) + prediction.sign * (prediction.table % FRACTIONS)
        assert np.abs(eighths - mean * 2**MEAN_BITS).max() <= 0.6
        classes = np.searchsorted(thresholds, scale * 2**SCALE_BITS, side="right")
        assert np.mean(classes != prediction.table // FRACTIONS) < 0.15
        assert np.abs(classes - prediction.table // FRACTIONS).max() <= 1


@pytest.mark.parametrize("spread", [0.6, 4.0, 30.0])
def test_a_scale_means_the_same_to_the_twin_and_to_the_tables(spread: float) -> None:
    """Bits that training counts are those that parametric tables spend, for small symbols and for large ones."""
    torch = pytest.importorskip("torch")
    from sdrt_export.prior_network import FitConfig, Network
    from sdrt_export.prior_training import integer_arrays

    torch.manual_seed(0)
    network = Network(3, FitConfig(hidden=4, sparse_hidden=4))
    with torch.no_grad():
        network.share.copy_(torch.logit(torch.tensor(0.85)) * torch.tensor([1.0, 0.0]))
        for net in network.nets:
            size = net.plan.size
            net.direct[:] = 0
            net.direct[net.plan.small, size:] = spread / net.out_pace[size:]
    prior = build_prior({**generic_arrays(3), **integer_arrays(network)})
    random = np.random.default_rng(0)
    symbols = np.rint(random.logistic(0, SPREAD * spread, (3, 40, 40))).astype(np.int32)
    coded = torch.from_numpy(np.ascontiguousarray(symbols[prior.order].transpose(1, 2, 0)))[None].float()
    with torch.no_grad():
        counted = float(network.bits(coded, torch.tensor([1.0]), True))
    assert bits(symbols, prior, 512) == pytest.approx(counted, rel=0.02)


def test_later_groups_are_as_large_as_what_they_see() -> None:
    """Groups double, so that channels that are alike do not go together; the last takes what is left."""
    pytest.importorskip("torch")
    from sdrt_export.prior_network import channel_groups

    assert channel_groups(32) == [1, 1, 2, 4, 8, 16]
    assert channel_groups(12) == [1, 1, 2, 4, 4]
    assert channel_groups(4) == [1, 1, 1, 1]


def test_plans_cover_every_symbol_once() -> None:
    """For any number of channels the planned passes code each symbol once, in at most 64 passes."""
    pytest.importorskip("torch")
    from sdrt_export.prior_network import plan_passes

    for channels in (1, 2, 3, 4, 5, 8, 12, 16, 31, 32, 128, 256):
        covered = np.zeros((channels, 8, 8), np.int64)
        plans = plan_passes(channels)
        for plan in plans:
            for grid in plan.grids:
                covered[plan.start : plan.stop, grid.y :: grid.stride, grid.x :: grid.stride] += 1
        assert (covered == 1).all()
        assert len(plans) <= 64


def test_a_fitted_prior_beats_a_generic_one_and_repeats() -> None:
    """A few pictures and iterations save a quarter of the bits on others; the same seed gives the same bytes."""
    pytest.importorskip("torch")
    training, held = [textured(i) for i in range(16)], [textured(100 + i) for i in range(2)]
    arrays = fit_prior(training, held, index_range=(448, 576), hidden=8, iterations=30)
    prior, generic = build_prior(arrays), generic_prior(6)
    fitted, plain = 0.0, 0.0
    for picture in held:
        symbols = np.rint(picture).astype(np.int32)
        np.testing.assert_array_equal(decode(encode(symbols, prior, 512), symbols.shape, prior, 512), symbols)
        fitted += bits(symbols, prior, 512)
        plain += bits(symbols, generic, 512)
    assert fitted < 0.75 * plain
    again = fit_prior(training, held, index_range=(448, 576), hidden=8, iterations=30)
    assert write_prior(again) == write_prior(arrays)


def test_tables_are_distributions() -> None:
    """Shapes sum to one over entries and escape, frequencies to 65536, and centres stay in their cells."""
    for scale, radius, low_bits in zip(*class_layout()[1:], strict=True):
        shape = shape_probabilities(SPREAD * scale, int(radius), int(low_bits))
        np.testing.assert_allclose(shape.sum(1), 1, atol=1e-6)
        frequencies = to_frequencies(shape)
        assert (frequencies > 0).all()
        assert (frequencies.sum(1) == 65536).all()
        assert np.abs(shape_centres(SPREAD * scale, int(radius), int(low_bits))).max() <= 0.5


def test_counted_tables_follow_the_data() -> None:
    """Tables counted on data code that data in fewer bits than the parametric ones, with centres nearer to it."""
    arrays = generic_arrays(6)
    pictures = [np.ascontiguousarray(textured(i).transpose(1, 2, 0)) for i in range(12)]
    counted = build_prior({**arrays, **count_tables(build_prior(arrays), [(p, 540) for p in pictures])})
    other = textured(50)
    symbols = np.rint(other / 2 ** (28 / 64)).astype(np.int32)
    assert bits(symbols, counted, 540) < 0.97 * bits(symbols, build_prior(arrays), 540)


def test_steps_follow_sensitivity() -> None:
    """Channels that pixels feel more get finer steps; the geometric mean stays 1, the spread bounded."""
    steps = base_steps(np.array([1, 4, 16, 1e9, 1e-9], np.float32))
    assert steps[0] > steps[1] > steps[2]
    assert np.log(steps).mean() == pytest.approx(0, abs=1e-6)
    assert steps.max() / steps.min() <= 4.001


def test_crops_fit_the_cells_and_skip_what_is_broken(tmp_path: Path) -> None:
    """Crops are multiples of the cell, at most 384 pixels, the same for a seed; broken files are skipped."""
    random = np.random.default_rng(0)
    for i in range(9):
        size = (100 + 60 * i, 90 + 30 * i, 3)
        Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    one, two = (list(crops(list_images(tmp_path), 40, 16, 5)) for _ in range(2))
    assert len(one) >= 36
    assert {held for held, _crop in one} == {True, False}
    for (_held, crop), (_other, same) in zip(one, two, strict=True):
        assert crop.shape[0] % 16 == crop.shape[1] % 16 == 0
        assert max(crop.shape) <= 384
        np.testing.assert_array_equal(crop, same)
    with pytest.raises(ImageError, match="0 pictures"):
        list_images(tmp_path / "absent")


def test_minutes_become_iterations() -> None:
    """No time gives the fewest iterations, endless time the most."""
    pytest.importorskip("torch")
    training = [textured(0, channels=2, side=12)]
    assert iterations_for(0, training, 8) == 50
    assert iterations_for(1e9, training, 8) == MOST_ITERATIONS


@pytest.fixture
def pack(tmp_path: Path, testpack: ModelPack, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pack to be fitted, and an empty cache."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("SDRT_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(testpack.folder, tmp_path / "pack"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(5):
        gradient = np.add.outer(np.arange(96) * (i + 1), np.arange(128)) % 256
        Image.fromarray(np.repeat(gradient[..., None], 3, 2).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("decisions", [None, 0.75])
def test_the_command_fits_a_pack(pack: Path, photos: Path, testpack: ModelPack, decisions: float | None) -> None:
    """``python -m sdrt_export prior`` writes a valid prior, its hash and its settings, also those wished for."""
    arguments = [str(pack), "--images", str(photos), "--photos", "8", "--iterations", "20", "--hidden", "8"]
    arguments += ["--threads", "1"] if decisions is None else ["--decisions", str(decisions), "--no-centres"]
    assert main(arguments) == 0
    fitted = load_pack(pack)
    prior = load_prior(fitted.prior_path)
    assert fitted.prior_identity != testpack.prior_identity
    assert prior.channels == fitted.space.channels
    assert fitted.manifest["prior"]["iterations"] == 20
    assert fitted.manifest["prior"]["decisions"] == prior.decisions
    if decisions is not None:
        assert prior.decisions == decisions
        assert not any(table.any() for table in prior.centres)


def test_encoded_crops_are_kept_for_the_pack_and_the_photographs(
    pack: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run encodes nothing and has the same crops; another encoder, seed or photograph begins anew."""
    runs: list[int] = []
    original = encoded_crops.to_latents

    def counted(*arguments: object, **options: object) -> Float32:
        runs.append(1)
        return original(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(encoded_crops, "to_latents", counted)

    def encode(seed: int = 1) -> tuple[int, encoded_crops.EncodedCrops]:
        runs.clear()
        found = encoded_crops.encode_crops(load_pack(pack), photos, 10, seed, 1)
        return len(runs), found

    (first, fresh), (second, kept) = encode(), encode()
    assert (first, second) == (10, 0)
    for one, two in zip(fresh.training, kept.training, strict=True):
        np.testing.assert_array_equal(one, two)
    for (crop, latents), (same_crop, same_latents) in zip(fresh.held, kept.held, strict=True):
        np.testing.assert_array_equal(crop, same_crop)
        np.testing.assert_array_equal(latents, same_latents)
    assert encode(seed=2)[0] == 10
    os.utime(photos / "3.png", (1, 1))
    assert encode()[0] == 10
    encoder = pack / "encoder.onnx"
    encoder.write_bytes(encoder.read_bytes() + b"\x72\x00")  # an empty field more: the same graph by another hash
    update_manifest(pack)
    assert encode()[0] == 10


def test_an_interrupted_encoding_goes_on(pack: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C only what was not finished is encoded, and the crops are those of an undisturbed run; damage too."""
    whole = encoded_crops.encode_crops(load_pack(pack), photos, 10, 1, 1)
    files = sorted(whole.folder.iterdir())
    assert len(files) == 5
    files[2].write_bytes(files[2].read_bytes()[:100])
    files[3].unlink()
    files[4].unlink()
    again = encoded_crops.encode_crops(load_pack(pack), photos, 10, 1, 1)
    for one, two in zip(whole.training, again.training, strict=True):
        np.testing.assert_array_equal(one, two)


def test_an_interrupted_training_gives_what_it_would_have_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends after a whole iteration; the next run goes on from there, and the prior's bytes are the same."""
    from sdrt_export import prior_training

    training, held = [textured(i, 3, 12) for i in range(4)], [textured(100, 3, 12)]
    checkpoint = tmp_path / "training.pt"

    def fit(path: Path | None) -> bytes:
        settings = {"index_range": (448, 576), "hidden": 4, "iterations": 50}
        return write_prior(fit_prior(training, held, checkpoint=path, **settings))  # type: ignore[arg-type]

    undisturbed = fit(None)
    original, learnt = prior_training._learn, []

    def learn(*arguments: object) -> object:
        learnt.append(1)
        if len(learnt) == 13:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(prior_training, "_learn", learn)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(checkpoint)
    assert (len(learnt), prior_training.stored_iterations(checkpoint)) == (13, 50)
    assert signal.getsignal(signal.SIGINT) is before
    assert fit(checkpoint) == undisturbed
    assert len(learnt) == 50
    assert fit(checkpoint) == undisturbed, "the end is kept until the prior is written"
    assert len(learnt) == 50
    checkpoint.write_bytes(b"damaged")
    assert fit(checkpoint) == undisturbed


def test_ctrl_c_says_that_the_command_goes_on(
    pack: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 130 and one line that says what the same command will do; then it does, and leaves no checkpoint."""
    from sdrt_export import prior_training
    from sdrt_export.__main__ import main as command

    arguments = ["prior", str(pack), "--images", str(photos), "--photos", "8", "--iterations", "20", "--hidden", "4"]
    original = prior_training._learn

    def learn(*arguments: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(prior_training, "_learn", learn)
    assert command(arguments) == 130
    error = capsys.readouterr().err
    assert "the same command goes on where it was" in error.splitlines()[-1]
    assert "prior: photographs through the encoder [####" in error
    monkeypatch.setattr(prior_training, "_learn", original)
    assert command(arguments) == 0
    assert "1/20" in capsys.readouterr().err
    assert not list((pack.parent / "cache").rglob("*.pt"))


def test_a_generic_prior_makes_a_pack_usable_at_once(
    pack: Path, photo: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without photographs a pack encodes and decodes; one that has a prior, with files written by it, keeps it."""
    from sdrt.codec import Codec
    from sdrt_export.__main__ import main as command

    assert command(["prior", str(pack), "--generic"]) == 7
    assert "has a prior already" in capsys.readouterr().err
    (pack / "prior.npz").unlink()
    update_manifest(pack)
    assert command(["prior", str(pack), "--generic"]) == 0
    assert load_pack(pack).manifest["prior"] == {"generic": True}
    codec = Codec(pack, device="cpu")
    assert codec.decode(codec.encode(photo)).size == (photo.shape[1], photo.shape[0])
    with pytest.raises(SystemExit):
        main([str(pack)])


def test_progress_is_shown_from_the_first_moment() -> None:
    """A bar at once, an estimate with the first part done; lines only now and then where there is no terminal."""
    now = [0.0]

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, shown in ((io.StringIO(), 3), (Terminal(), 9)):
        now[0] = 0.0
        with Progress("step", 8, stream=stream, clock=lambda: now[0]) as progress:
            assert "step [........................] 0/8" in stream.getvalue()
            for part in range(1, 9):
                now[0] += 2
                progress.reach(part, "note")
                if part == 5:
                    assert "5/8  10 s, about 6 s left  note" in stream.getvalue()
        assert len(re.split(r"[\r\n]+", stream.getvalue().strip())) >= shown
        assert "8/8  16 s" in stream.getvalue()
    assert [in_time(seconds) for seconds in (3, 600, 9000)] == ["3 s", "10 min", "2.5 h"]
    stream = io.StringIO()
    with Progress("step", 8, done=6, stream=stream, clock=lambda: now[0]) as progress:
        now[0] += 60
        progress.reach(7)
        assert "7/8  60 s, about 60 s left" in stream.getvalue(), "what an earlier run did does not count"
