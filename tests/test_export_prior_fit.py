"""Fitting: the float twin equals the integers, fitted priors are valid, beat generic ones, and repeat."""

from __future__ import annotations

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
from sdrt_export.prior_fit import (
    MOST_ITERATIONS,
    base_steps,
    crops,
    fit_prior,
    generic_arrays,
    generic_prior,
    iterations_for,
    list_images,
    main,
)
from sdrt_export.prior_tables import (
    SPREAD,
    class_layout,
    count_tables,
    shape_centres,
    shape_probabilities,
    to_frequencies,
)

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
    one, two = (crops(list_images(tmp_path), 40, 16, 5) for _ in range(2))
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


@pytest.mark.parametrize("decisions", [None, 0.75])
def test_the_command_fits_a_pack(tmp_path: Path, testpack: ModelPack, decisions: float | None) -> None:
    """``python -m sdrt_export prior`` writes a valid prior, its hash and its settings, also those wished for."""
    pytest.importorskip("torch")
    pack = tmp_path / "pack"
    pack.mkdir()
    for path in testpack.folder.iterdir():
        (pack / path.name).write_bytes(path.read_bytes())
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(5):
        gradient = np.add.outer(np.arange(96) * (i + 1), np.arange(128)) % 256
        Image.fromarray(np.repeat(gradient[..., None], 3, 2).astype(np.uint8)).save(photos / f"{i}.png")
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
