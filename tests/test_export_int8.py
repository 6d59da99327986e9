"""8-bit graphs: engines take them whole, harmful layers stay out, and only pictures that hold are kept."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from PIL import Image
from torch import nn

from sdrt.container.step_map import octaves
from sdrt.network import onnxruntime_session, openvino_session
from sdrt.packs.manifest import ModelPack
from sdrt.packs.search import load_pack
from sdrt_export import int8
from sdrt_export.__main__ import main
from sdrt_export.graph import trace
from sdrt_export.int8_graph import LEVELS, WEIGHT_LEVELS, convolutions, quantize_graph, seams
from sdrt_export.int8_scales import Calibration, calibrate
from sdrt_export.likeness import compare
from sdrt_export.precision import convert, widen
from sdrt_export.session import open_session

pytestmark = pytest.mark.usefixtures("one_thread")

Floats = NDArray[np.float32]


class Residual(nn.Module):
    """What trained decoders are made of: a branch of two convolutions, an upsampling, a SiLU, a last convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 16, 3, padding=1)
        self.one, self.two = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.up, self.last = nn.Conv2d(16, 32, 1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = x + self.two(torch.relu(self.one(torch.relu(x))))
        result: torch.Tensor = self.last(nn.functional.silu(nn.functional.pixel_shuffle(self.up(x), 2)))
        return result


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    torch.manual_seed(0)
    return trace(Residual().eval(), torch.zeros(2, 4, 3, 5), "latent_sample", "sample")


@pytest.fixture(scope="module")
def inputs() -> list[Floats]:
    random = np.random.default_rng(0)
    return [random.normal(size=(1, 4, 12, 9)).astype(np.float32) for _ in range(3)]


@pytest.fixture(scope="module")
def calibration(graph: onnx.ModelProto, inputs: list[Floats]) -> Calibration:
    return calibrate(graph, inputs)


@pytest.fixture(scope="module")
def whole(graph: onnx.ModelProto, calibration: Calibration) -> onnx.ModelProto:
    return quantize_graph(graph, calibration.scales, [layer.output for layer in calibration.layers])


def test_the_form_is_the_one_that_every_engine_takes(graph: onnx.ModelProto, whole: onnx.ModelProto) -> None:
    """int8 only, zero points 0, one step for each output channel of a weight, integers as rounding gives them."""
    onnx.checker.check_model(whole)
    original = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in whole.graph.initializer}
    rounded = [node for node in whole.graph.node if node.op_type == "QuantizeLinear"]
    assert all(stored[node.input[2]].dtype == np.int8 and stored[node.input[2]] == 0 for node in rounded)
    kernels = [name for name in original if f"{name}.int8" in stored]
    assert len(kernels) == len(convolutions(graph)) == 5
    for name in kernels:
        steps = np.abs(original[name]).max((1, 2, 3), keepdims=True) / WEIGHT_LEVELS
        assert stored[f"{name}.int8"].dtype == np.int8
        assert stored[f"{name}.steps"].shape == (original[name].shape[0],)
        np.testing.assert_allclose(stored[f"{name}.int8"] * steps, original[name], atol=steps.max() * 0.501)
    ends = (*whole.graph.input, *whole.graph.output)
    assert {value.type.tensor_type.elem_type for value in ends} == {TensorProto.FLOAT}


def test_onnx_runtime_computes_every_chosen_convolution_in_integers(whole: onnx.ModelProto, tmp_path: Path) -> None:
    """After ONNX Runtime's own fusions no convolution in float is left, but the one that gives the output."""
    onnxruntime = onnxruntime_session.load()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node)
    assert kinds["QLinearConv"] == 4
    assert kinds["Conv"] + kinds["FusedConv"] == 1


def test_openvino_computes_every_chosen_convolution_in_integers(whole: onnx.ModelProto) -> None:
    """In OpenVINO's compiled graph every convolution, the last one too, runs in 8 bits."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("needs openvino")
    openvino = openvino_session.load()
    core = openvino.Core()
    config = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(whole.SerializeToString(), b""), "CPU", config)
    about = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    kinds = [str(info["primitiveType"].value) for info in about if str(info["layerType"].value) == "Convolution"]
    assert len(kinds) == 5
    # The kernel's name, which depends on the CPU: jit_avx512_I8, brgconv_avx512_amx_i8.
    assert all(kind.lower().endswith(("_i8", "_u8")) for kind in kinds), kinds


def test_the_picture_stays_close(
    graph: onnx.ModelProto, whole: onnx.ModelProto, inputs: list[Floats], calibration: Calibration
) -> None:
    """With all convolutions in int8 the output is the float one's to a few parts in a hundred, and not exactly."""
    before = open_session(graph).run(None, {"latent_sample": inputs[0]})[0]
    after = open_session(whole).run(None, {"latent_sample": inputs[0]})[0]
    assert 1e-4 < np.abs(after - before).max() / before.std() < 0.2
    assert set(calibration.scales) == seams(graph)


def test_layers_left_out_are_stored_and_computed_as_w16(graph: onnx.ModelProto, calibration: Calibration) -> None:
    """With no layer chosen, an int8 graph is the w16 graph; widening that gives float32 weights back."""
    nothing = quantize_graph(graph, calibration.scales, [])
    assert nothing.graph == convert(graph, "w16").graph
    wide = widen(nothing)
    assert not [node for node in wide.graph.node if node.op_type == "Cast"]
    for tensor in wide.graph.initializer:
        original = next(item for item in graph.graph.initializer if item.name == tensor.name)
        assert tensor.data_type == original.data_type
        np.testing.assert_allclose(numpy_helper.to_array(tensor), numpy_helper.to_array(original), atol=1e-3)


def test_the_most_harmful_layers_are_found_by_measurement(inputs: list[Floats]) -> None:
    """The layers on both sides of a channel that is a thousand times larger than the others are the first to go."""
    torch.manual_seed(0)
    model = Residual().eval()
    model.one.weight.data[0] *= 1000
    model.one.bias.data[0] *= 1000  # type: ignore[union-attr] # these layers have biases
    model.two.weight.data[:, 0] /= 1000
    graph = trace(model, torch.zeros(2, 4, 3, 5), "latent_sample", "sample")
    around = {node.output[0] for node in convolutions(graph)[1:3]}
    order = calibrate(graph, inputs).harmful_first()
    assert {layer.output for layer in order[:2]} == around
    assert order[1].harm > 10 * order[2].harm


def test_a_scale_covers_what_is_common_and_clips_what_is_rare() -> None:
    """One outlier among eight thousand values does not stretch the steps; what is common is not clipped."""
    common = np.linspace(0, 1, 8000, dtype=np.float32)
    one = trace(nn.Conv2d(1, 1, 1), torch.zeros(2, 1, 3, 4), "sample", "latents")
    plain = calibrate(one, [common.reshape(1, 1, 80, 100)]).scales["sample"]
    outlier = calibrate(one, [np.append(common[:-1], np.float32(1.05)).reshape(1, 1, 80, 100)]).scales["sample"]
    assert abs(plain * LEVELS - 1) < 0.03
    assert outlier * LEVELS < 1.03


def test_sums_of_products_fit_processors_without_vnni(whole: onnx.ModelProto) -> None:
    """Two products of a weight and an activation of 0..255 stay within 16 bits, and the range is used to the full."""
    weights = [tensor for tensor in whole.graph.initializer if tensor.name.endswith(".weight.int8")]
    largest = max(int(np.abs(numpy_helper.to_array(tensor).astype(np.int32)).max()) for tensor in weights)
    assert (len(weights), largest) == (5, WEIGHT_LEVELS)
    assert 2 * 255 * largest <= np.iinfo(np.int16).max


@pytest.fixture
def photographs(tmp_path: Path, make_photo: Callable[[int, int], Any]) -> Path:
    """Five pictures of 64 pixels a side, one of which is kept apart."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    whole = make_photo(64, 320)
    for index in range(5):
        Image.fromarray(whole[:, index * 64 : index * 64 + 64]).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("told", [False, True], ids=["plain", "quality_input"])
def test_the_command_keeps_what_holds_and_says_how_well(
    make_pack: Callable[..., ModelPack],
    photographs: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    told: bool,
) -> None:
    """Both graphs are written, smaller than half of float32's, with their figures on other photographs than it saw."""
    monkeypatch.setattr(int8, "MAX_LOST_DB", 0.5)  # of its two or three layers none is a small part
    pack = make_pack("small", quality_input=told)
    assert main(["int8", str(pack.folder), "--images", str(photographs)]) == 0
    assert capsys.readouterr().out.count(": kept, ") == 2
    after = load_pack(pack.folder)
    assert after.precisions == ("w16", "int8")
    graphs = after.manifest["int8"]["graphs"]
    assert [entry["file"] for entry in graphs] == ["encoder.int8.onnx", "decoder.int8.onnx"]
    for entry in graphs:
        assert entry["kept"]
        assert entry["bytes"] == after.manifest["files"][entry["file"]]["bytes"]
        assert entry["likeness"]["psnr_db"] >= after.manifest["int8"]["bounds"]["psnr_db"]
        assert entry["lost_db"] <= after.manifest["int8"]["bounds"]["lost_db"]
        assert entry["photographs"] == 8
        assert len(entry["left_in_float"]) < entry["convolutions"]


def test_a_decoder_is_seen_at_all_its_quality_levels(
    make_pack: Callable[..., ModelPack], photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the finest step to the coarsest: an input that never changes is given a scale that holds it there."""
    pack = make_pack("small", quality_input=True)
    seen: list[list[float]] = []

    def watched(graph: onnx.ModelProto, inputs: list[Floats]) -> Calibration:
        seen.append([float(array[0, -1].min()) for array in inputs])
        return calibrate(graph, inputs)

    monkeypatch.setattr(int8, "calibrate", watched)
    int8.add_int8(pack, photographs)
    ends = [octaves(np.array(step_index)) for step_index in sorted(pack.quality_range)]
    assert np.allclose([seen[-1][0], seen[-1][-1]], ends) and len(set(seen[-1])) == len(seen[-1]) > 2


def test_the_command_refuses_what_does_not_hold(
    make_pack: Callable[..., ModelPack],
    photographs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A picture below the bound is refused with its figure and exit code 1; an older graph of that name goes too."""
    pack = make_pack("small")
    (pack.folder / "decoder.int8.onnx").write_bytes(b"older")
    monkeypatch.setattr(int8, "MIN_PSNR_DB", 90.0)
    assert main(["int8", str(pack.folder), "--images", str(photographs)]) == 1
    assert "REFUSED" in capsys.readouterr().out
    after = load_pack(pack.folder)
    assert after.precisions == ("w16",)
    assert not any(entry["kept"] for entry in after.manifest["int8"]["graphs"])


def test_too_little_to_go_by_is_one_line(
    make_pack: Callable[..., ModelPack], photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without photographs, or without an encoder, nothing is written."""
    pack = make_pack("small")
    empty = tmp_path / "empty"
    empty.mkdir()
    before = sorted(path.name for path in pack.folder.iterdir())
    assert main(["int8", str(pack.folder), "--images", str(empty)]) == 9
    assert sorted(path.name for path in pack.folder.iterdir()) == before
    (pack.folder / "decoder.onnx").unlink()
    capsys.readouterr()
    assert main(["int8", str(pack.folder), "--images", str(photographs)]) == 7
    assert capsys.readouterr().err.count("\n") == 1


def test_likeness_is_psnr_of_clamped_levels() -> None:
    """One level of 255 everywhere is 48.13 dB; what lies beyond [-1, 1] does not count; small sides have no LPIPS."""
    zeros = np.zeros((1, 3, 8, 8), np.float32)
    assert compare([zeros + np.float32(1 / 127.5)], [zeros]).psnr_db == 48.13
    beyond = compare([zeros + 3], [zeros + 1])
    assert (beyond.psnr_db, beyond.max_abs, beyond.lpips) == (150.0, 0.0, None)


def test_what_the_finest_files_lose_decides_what_stays_in_float(
    graph: onnx.ModelProto, inputs: list[Floats], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all else allowed, layers stay in float until a picture is hardly further from its photograph; or none is
    kept."""
    monkeypatch.setattr(int8, "MAX_SHARE", 1.0)
    monkeypatch.setattr(int8, "MIN_PSNR_DB", 0.0)
    session, random = open_session(graph), np.random.default_rng(1)
    outputs = [session.run(None, {"latent_sample": array})[0] for array in inputs]
    photographs = [np.asarray(x + random.normal(scale=0.005, size=x.shape), np.float32) for x in outputs]
    half = int8._Half(graph, lambda picture: picture, lambda picture: picture)
    judge = int8._Judge(half, inputs, inputs, photographs)

    def outcome(max_lost_db: float) -> int8.Outcome:
        monkeypatch.setattr(int8, "MAX_LOST_DB", max_lost_db)
        return int8._convert(tmp_path / "decoder.int8.onnx", 0.0, judge, judge)

    loose = outcome(1000.0)
    assert loose.kept and loose.left_in_float == () and loose.lost_db > 0.1
    strict = outcome(loose.lost_db / 2)
    assert strict.kept and 0 < len(strict.left_in_float) < 5 and strict.lost_db <= loose.lost_db / 8
    assert not outcome(-1.0).kept and not (tmp_path / "decoder.int8.onnx").exists()


def test_as_few_layers_as_hold_stay_in_float(
    graph: onnx.ModelProto, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond those that cost nothing, the most harmful layers go one by one until it holds, as far as is allowed."""
    order = [layer.output for layer in calibration.harmful_first()]

    def chosen(most_in_int8: int) -> list[str]:
        def holds(model: onnx.ModelProto) -> bool:
            return sum(tensor.name.endswith(".weight.int8") for tensor in model.graph.initializer) <= most_in_int8

        return int8._choose(graph, calibration, 0.0, holds)[1]

    monkeypatch.setattr(int8, "MAX_SHARE", 1.0)
    assert [chosen(most) for most in (5, 4, 3, 2, 1)] == [order[:count] for count in range(5)]
    assert chosen(0) == order[:4]
    monkeypatch.setattr(int8, "MAX_SHARE", sum(layer.work for layer in calibration.harmful_first()[:2]) / 1e9)
    assert chosen(1) == []
