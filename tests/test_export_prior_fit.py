"""Fitting: the float twin equals the integers, fitted priors are valid, beat generic ones, and repeat."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.prior_samples import DENSE, WIDE, laplace

from sdrt.codec import Codec
from sdrt.coding.context import replay
from sdrt.coding.payload import bits, decode, encode
from sdrt.coding.prior import FRACTIONS, MEAN_BITS, SCALE_BITS, Prior
from sdrt.coding.prior_file import build_prior, load_prior, write_prior
from sdrt.coding.quantize import quantize
from sdrt.errors import ImageError
from sdrt.packs.manifest import ModelPack
from sdrt.packs.search import load_pack
from sdrt_export import encoded_crops
from sdrt_export.pack_writer import update_manifest
from sdrt_export.photographs import crops, list_images
from sdrt_export.prior_plan import (
    Plan,
    channel_arrays,
    channel_groups,
    generic_arrays,
    generic_prior,
    layout_arrays,
    plan_scans,
    unfitted_prior,
)
from sdrt_export.prior_steps import base_steps
from sdrt_export.prior_tables import (
    SPREAD,
    class_layout,
    count_tables,
    shape_arrays,
    shape_probabilities,
    to_frequencies,
)
from sdrt_export.progress import Progress, in_time

pytest.importorskip("torch")

import torch

from sdrt_export import prior_training
from sdrt_export.__main__ import main as command
from sdrt_export.prior_fit import Quantizable, at_several_steps, fit_prior
from sdrt_export.prior_network import ScanNet, rounded_together
from sdrt_export.prior_training import FitConfig, Sample, collect, fit_scan

Float32 = NDArray[np.float32]
KINDS = ("weights", "own_weights", "global_weights", "shift", "out_weights", "out_shift")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small products in several threads cost more than they save, the more so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def textured(seed: int, channels: int = 6, side: int = 20) -> Float32:
    """Latents (C, h, w) whose channels repeat each other, whose neighbors agree and whose activity wanders."""
    random = np.random.default_rng(seed)
    noise = random.normal(0, 1, (channels, side + 4, side + 4))
    smooth = sum(noise[:, y : y + side, x : x + side] for y in range(5) for x in range(5)) / 5
    smooth[1] += 0.8 * smooth[0]
    activity = np.exp(1.5 * np.sin(np.linspace(0, random.uniform(3, 9), side)))[None, None]
    return (smooth * activity + random.normal(0, 0.2, smooth.shape)).astype(np.float32)


def exported(plan: Plan, nets: list[ScanNet]) -> Prior:
    """The prior of these networks."""
    parts = [net.export() for net in nets]
    kinds = {key: "<i4" if key == "global_weights" else "u1" if "shift" in key else "i1" for key in KINDS}
    together = {key: np.concatenate([p[key].ravel() for p in parts]).astype(kind) for key, kind in kinds.items()}
    ones = np.ones(plan.channels)
    channels = channel_arrays(ones, ones, np.arange(plan.channels))
    return build_prior({**channels, **layout_arrays(plan), **together, **shape_arrays()})


@pytest.mark.parametrize("plan", [DENSE, WIDE], ids=["dense", "wide"])
def test_the_float_twin_equals_the_integers(plan: Plan) -> None:
    """With rounding simulated, the network in training predicts what the exported integers predict."""
    layout = unfitted_prior(plan)
    sample = Sample(laplace((13, 18), layout, 2), np.random.default_rng(0).integers(400, 700, (13, 18)))
    seen = collect(layout, [sample], 13 * 18, 0)
    torch.manual_seed(0)
    nets = [ScanNet(scan) for scan in layout.scans]
    with torch.no_grad():
        for net, examples in zip(nets, seen, strict=True):
            net.set_paces(examples.at(torch.arange(len(examples))))
            for parameter in net.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    prior, thresholds = exported(plan, nets), class_layout()[0]
    replayed = replay(prior, sample.coded, sample.step_indices)
    for net, examples, (_scan, values, prediction) in zip(nets, seen, replayed, strict=True):
        every = examples.at(torch.arange(len(examples)))
        np.testing.assert_array_equal(every.symbols.numpy(), values)
        with torch.no_grad():
            mean, scale = (part.numpy().ravel() for part in net.forward(every, True))
        eighths = (prediction.mean << MEAN_BITS) + prediction.sign * (prediction.table % FRACTIONS)
        assert np.abs(eighths - mean * 2**MEAN_BITS).max() <= 0.7
        classes = np.searchsorted(thresholds, scale * 2**SCALE_BITS, side="right")
        assert np.mean(classes != prediction.table // FRACTIONS) < 0.2
        assert np.abs(classes - prediction.table // FRACTIONS).max() <= 1


@pytest.mark.parametrize("spread", [0.6, 4.0, 30.0])
def test_a_scale_means_the_same_to_the_twin_and_to_the_tables(spread: float) -> None:
    """Bits that training counts are those that parametric tables spend, for small symbols and for large ones."""
    plan = plan_scans(3, 4, 4)
    layout = unfitted_prior(plan)
    random = np.random.default_rng(0)
    symbols = np.rint(random.logistic(0, SPREAD * spread, (40, 40, 3))).astype(np.int32)
    sample = Sample(symbols, np.full((40, 40), 512))
    nets = [ScanNet(scan) for scan in layout.scans]
    counted = 0.0
    with torch.no_grad():
        for net, examples in zip(nets, collect(layout, [sample], 1600, 0), strict=True):
            net.first.zero_()
            net.direct.zero_()
            net.direct[-2, net.scan.size :] = spread / net.out_pace[net.scan.size :]
            every = examples.at(torch.arange(len(examples)))
            counted += float(net.bits(every, True, torch.tensor(0.15)).sum())
    assert bits(symbols, exported(plan, nets), sample.step_indices) == pytest.approx(counted, rel=0.02)


def test_later_groups_are_as_large_as_what_they_see() -> None:
    """Groups double, so that channels that are alike do not go together; the last takes what is left."""
    assert channel_groups(32) == [1, 1, 2, 4, 8, 16]
    assert channel_groups(12) == [1, 1, 2, 4, 4]
    assert channel_groups(4) == [1, 1, 1, 1]


def test_weights_are_rounded_together() -> None:
    """Of inputs that go together, what rounding does to one others undo; all are whole and within their limits."""
    torch.manual_seed(0)
    inputs = torch.randn(4000, 6) @ torch.randn(6, 24) + 0.1 * torch.randn(4000, 24)
    inputs = torch.cat([inputs, torch.ones(4000, 1)], 1)
    counts = torch.rand(4000, 1)
    weights = 0.4 * torch.randn(25, 3)
    units = torch.full((25, 3), 0.25)
    units[-1] /= 256
    limits = torch.full((25, 1), 4.0)
    limits[-1] = 10_000
    whole = rounded_together(inputs, counts, weights, units, limits)

    def error(found: torch.Tensor) -> float:
        return float((counts * (inputs @ (found * units) - inputs @ weights).square()).mean())

    by_itself = torch.minimum(torch.maximum(torch.round(weights / units), -limits), limits)
    assert (whole == whole.round()).all() and (whole.abs() <= limits).all()
    assert error(whole) < 0.15 * error(by_itself)


def test_rounding_costs_a_network_few_bits() -> None:
    """Of a trained network: less than a hundredth, where each weight by itself costs several times as much."""
    plan = plan_scans(12, 12, 8)
    layout = unfitted_prior(plan)
    samples = [
        Sample(np.rint(4 * textured(n, 12, 40)).astype(np.int32).transpose(1, 2, 0), np.full((40, 40), 512))
        for n in range(12)
    ]
    seen, kept = (collect(layout, some, 8000, 0) for some in (samples[:9], samples[9:]))
    number = 4
    torch.manual_seed(0)
    net, _bits = fit_scan(layout.scans[number], seen[number], kept[number], FitConfig(iterations=300))
    share = torch.tensor(0.2)
    every = kept[number].at(torch.arange(len(kept[number])))
    with torch.no_grad():
        exact, together = (float(net.bits(every, rounded, share).mean()) for rounded in (False, True))
        net._integers = None
        by_itself = float(net.bits(every, True, share).mean())
    assert together < 1.01 * exact and together - exact < 0.5 * (by_itself - exact)


def test_a_prior_is_fitted_where_files_are() -> None:
    """Three in four steps lie between the ends of the usual range, most near its middle; the others anywhere."""
    flat = [np.zeros((1, 2, 2), np.float32)] * 400
    found = at_several_steps(flat, (300, 900), 1, lambda one, index: np.full(one.shape[1:], index), (500, 600, 650))
    indices = np.array([int(one.step_indices[0, 0]) for one in found])
    assert len(indices) == 3 * 400 and indices.min() < 330 and indices.max() > 870
    inside = (indices >= 500) & (indices <= 650)
    assert 0.7 < inside.mean() < 0.9 and np.median(indices[inside]) == pytest.approx(585, abs=10)
    alone = at_several_steps(flat, (300, 900), 1, lambda one, index: np.full(one.shape[1:], index), (500, 500, 500))
    assert np.mean([one.step_indices[0, 0] == 500 for one in alone]) > 0.7


def at_step(latents: NDArray[np.float32], step_index: int = 512) -> Quantizable:
    return Quantizable(latents, np.full(latents.shape[1:], step_index))


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 12, 31, 32, 48, 49, 64, 100, 128, 192, 256])
def test_plans_are_valid_for_any_number_of_channels(channels: int) -> None:
    """A plan loads as a prior, so that every symbol is coded once; beyond 48 channels it codes extents first."""
    plan = plan_scans(channels, 4, 2)
    prior = unfitted_prior(plan)
    assert prior.channels == channels
    assert bool(prior.extents) == (channels > 48)
    assert len(prior.scans) <= 64
    coded = laplace((5, 6), prior, 1)
    indices = np.full((5, 6), 512)
    np.testing.assert_array_equal(decode(encode(coded, prior, indices), prior, indices), coded)


def test_a_fitted_prior_beats_a_generic_one_and_repeats() -> None:
    """A few pictures and iterations save a quarter of the bits on others; the same seed gives the same bytes."""
    training, held = ([at_step(textured(i)) for i in range(a, b)] for a, b in ((0, 16), (100, 102)))
    config = FitConfig(hidden=8, sparse_hidden=4, iterations=30, batch=256)
    arrays = fit_prior(training, held, config=config)
    prior, generic, indices = build_prior(arrays), generic_prior(6), np.full((20, 20), 512)
    fitted = plain = 0.0
    for one in held:
        coded = quantize(one.latents, prior, indices, weight=0)
        np.testing.assert_array_equal(decode(encode(coded, prior, indices), prior, indices), coded)
        fitted += bits(coded, prior, indices)
        plain += bits(quantize(one.latents, generic, indices, weight=0), generic, indices)
    assert fitted < 0.75 * plain
    assert write_prior(fit_prior(training, held, config=config)) == write_prior(arrays)


def test_a_wide_prior_is_fitted_and_pays_for_what_is_there() -> None:
    """Sixty channels of which six say anything: the fitted prior codes them, and an empty picture costs little."""

    def sparse(seed: int) -> Quantizable:
        latents = textured(seed, 60, 12) * np.float32(0.05)
        latents[:6] *= 30
        latents[:, 6:] = 0
        return at_step(latents)

    training, held = [sparse(i) for i in range(8)], [sparse(100)]
    config = FitConfig(hidden=4, sparse_hidden=4, iterations=12, batch=128)
    prior, indices = build_prior(fit_prior(training, held, config=config)), np.full((12, 12), 512)
    assert prior.extents
    coded = quantize(held[0].latents, prior, indices, weight=0)
    payload = encode(coded, prior, indices)
    np.testing.assert_array_equal(decode(payload, prior, indices), coded)
    empty = encode(np.zeros_like(coded), prior, indices)
    assert len(empty) < len(payload) / 4


def test_tables_are_distributions() -> None:
    """Shapes sum to one over entries and escape, frequencies to 65536."""
    for scale, radius, low_bits in zip(*class_layout()[1:], strict=True):
        shape = shape_probabilities(SPREAD * scale, int(radius), int(low_bits))
        np.testing.assert_allclose(shape.sum(1), 1, atol=1e-6)
        frequencies = to_frequencies(shape)
        assert (frequencies > 0).all()
        assert (frequencies.sum(1) == 65536).all()


def test_counted_tables_follow_the_data() -> None:
    """Tables counted on data code other data in fewer bits than the parametric ones."""
    arrays, indices = generic_arrays(6), np.full((20, 20), 540)

    def coded(seed: int) -> NDArray[np.int32]:
        return quantize(textured(seed), build_prior(arrays), indices, weight=0)

    counted = build_prior({**arrays, **count_tables(build_prior(arrays), [(coded(i), indices) for i in range(12)])})
    assert bits(coded(50), counted, indices) < 0.97 * bits(coded(50), build_prior(arrays), indices)


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


@pytest.mark.parametrize(("option", "least"), [("photos", 2), ("iterations", 1), ("hidden", 1), ("seed", 0)])
def test_numbers_out_of_range_are_refused_before_the_work(
    option: str, least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with its name and its bound, without a look at the pack."""
    with pytest.raises(SystemExit) as ended:
        command(["prior", "nowhere", "--images", "nowhere", f"--{option}", str(least - 1)])
    assert ended.value.code == 2
    assert f"--{option} is {least - 1}, it must be {least} or more\n" in capsys.readouterr().err


@pytest.fixture
def pack(tmp_path: Path, testpack: ModelPack, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pack to be fitted, and an empty cache."""
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
    """``python -m sdrt_export prior`` writes a valid prior, its hash and its settings, also those wished for, and keeps
    the prior before, unless it is to replace it."""
    arguments = ["prior", str(pack), "--images", str(photos), "--photos", "8", "--iterations", "10", "--hidden", "8"]
    arguments += ["--threads", "1"] if decisions is None else ["--decisions", str(decisions), "--dead-zone", "0.1"]
    if decisions is not None:
        arguments.append("--replace")
    assert command(arguments) == 0
    fitted = load_pack(pack)
    prior = load_prior(fitted.prior_path)
    assert fitted.prior_identity != testpack.prior_identity
    kept = [testpack.prior_identity] if decisions is None else []
    assert list(fitted.priors) == [fitted.prior_identity, *kept]
    assert prior.channels == fitted.space.channels
    assert fitted.manifest["prior"]["iterations"] == 10
    assert fitted.manifest["prior"]["decisions"] == prior.bit_weight
    assert decisions is None or prior.bit_weight == decisions


def assert_same(one: encoded_crops.EncodedCrops, two: encoded_crops.EncodedCrops) -> None:
    """The same latents and the same crops."""
    for example, same in zip(one.held, two.held, strict=True):
        np.testing.assert_array_equal(example.crop, same.crop)
    pairs = [[*crops.training, *(example.latents for example in crops.held)] for crops in (one, two)]
    for a, b in zip(*pairs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_encoded_crops_are_kept_for_the_pack_and_the_photographs(
    pack: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run encodes nothing and has the same crops; another encoder, seed or photograph begins anew."""
    runs: list[int] = []
    original = encoded_crops.to_latents

    def counted(rgb: NDArray[np.uint8], pack: ModelPack, *arguments: object, **options: object) -> Float32:
        runs.append(1)
        return original(rgb, pack, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(encoded_crops, "to_latents", counted)

    def encode(seed: int = 1) -> tuple[int, encoded_crops.EncodedCrops]:
        runs.clear()
        found = encoded_crops.encode_crops(load_pack(pack), photos, 10, seed=seed, threads=1)
        return len(runs), found

    (first, fresh), (second, kept) = encode(), encode()
    assert (first, second) == (10, 0)
    assert_same(fresh, kept)
    assert encode(seed=2)[0] == 10
    os.utime(photos / "3.png", (1, 1))
    assert encode()[0] == 10
    encoder = pack / "encoder.onnx"
    encoder.write_bytes(encoder.read_bytes() + b"\x72\x00")  # an empty field more: the same graph by another hash
    update_manifest(pack)
    assert encode()[0] == 10


def test_an_interrupted_encoding_goes_on(pack: Path, photos: Path) -> None:
    """After Ctrl-C only what was not finished is encoded, and the crops are those of an undisturbed run; damage too."""

    def encode() -> encoded_crops.EncodedCrops:
        return encoded_crops.encode_crops(load_pack(pack), photos, 10, seed=1, threads=1)

    whole = encode()
    files = sorted(whole.folder.iterdir())
    assert len(files) == 5
    files[2].write_bytes(files[2].read_bytes()[:100])
    files[3].unlink()
    files[4].unlink()
    assert_same(whole, encode())


def test_an_interrupted_training_gives_what_it_would_have_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run after Ctrl-C fits only the scans that are not done, and the prior's bytes are the same; damage too."""
    training, held = [at_step(textured(i, 3, 12)) for i in range(4)], [at_step(textured(100, 3, 12))]
    finished = tmp_path / "scans"
    config = FitConfig(hidden=4, sparse_hidden=4, iterations=5, batch=64)

    def fit(folder: Path | None) -> bytes:
        return write_prior(fit_prior(training, held, config=config, finished=folder))

    undisturbed = fit(None)
    original, fitted = prior_training.fit_scan, []

    def fit_scan(*arguments: object) -> object:
        fitted.append(1)
        if len(fitted) == 13:
            raise KeyboardInterrupt
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(prior_training, "fit_scan", fit_scan)
    with pytest.raises(KeyboardInterrupt):
        fit(finished)
    assert fit(finished) == undisturbed
    assert len(fitted) == 18 + 1, "18 scans, one of them tried twice"
    assert fit(finished) == undisturbed, "scans are kept until the prior is written"
    assert len(fitted) == 18 + 1
    (finished / "004.npz").write_bytes(b"damaged")
    assert fit(finished) == undisturbed


def test_ctrl_c_says_that_the_command_goes_on(
    pack: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 130 and one line that says what the same command will do; then it does, and leaves no scans behind."""
    arguments = ["prior", str(pack), "--images", str(photos), "--photos", "8", "--iterations", "2", "--hidden", "4"]
    original, fitted = prior_training.fit_scan, []

    def fit_scan(*arguments: object) -> object:
        fitted.append(1)
        if len(fitted) == 3:
            raise KeyboardInterrupt
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(prior_training, "fit_scan", fit_scan)
    assert command(arguments) == 130
    error = capsys.readouterr().err
    assert "the same command resumes" in error.splitlines()[-1]
    assert "prior: photographs through the encoder [####" in error
    assert command(arguments) == 0
    assert "prior: scans [#" in capsys.readouterr().err
    assert not list((pack.parent / "cache").rglob("scans-*"))


def test_a_generic_prior_makes_a_pack_usable_at_once(
    pack: Path, photo: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without photographs a pack encodes and decodes; one that has a prior, with files written by it, keeps it."""
    assert command(["prior", str(pack), "--generic"]) == 7
    assert "has a prior already" in capsys.readouterr().err
    (pack / "prior.npz").unlink()
    update_manifest(pack)
    assert command(["prior", str(pack), "--generic"]) == 0
    assert load_pack(pack).manifest["prior"] == {"generic": True}
    codec = Codec(pack, device="cpu")
    assert codec.decode(codec.encode(photo)).size == (photo.shape[1], photo.shape[0])
    with pytest.raises(SystemExit):
        command(["prior", str(pack)])


def test_a_generic_prior_needs_no_torch(pack: Path) -> None:
    """The command imports none on this way."""
    (pack / "prior.npz").unlink()
    update_manifest(pack)
    code = (
        "import sys; sys.modules['torch'] = None; from sdrt_export.__main__ import main; "
        f"sys.exit(main(['prior', {str(pack)!r}, '--generic']))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
