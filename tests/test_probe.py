"""network.probe and plugins: a device is believed when it has run a graph; plugins are loaded, once, when asked for."""

from __future__ import annotations

import dataclasses
import importlib.util
import platform
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.fake_onnxruntime import FakeRuntime, provider_of

from sdrt.command import cli, doctor
from sdrt.errors import EngineError
from sdrt.network import installed, probe
from sdrt.network.devices import AUTO_ORDER, DEVICE_FACTS
from sdrt.network.engine import Engine
from sdrt.packs import search

PLUGINS = {device: facts.plugin for device, facts in DEVICE_FACTS.items() if facts.plugin is not None}
FIXED = [device for device, facts in DEVICE_FACTS.items() if facts.fixed_shapes]


def test_the_one_node_is_what_onnx_writes() -> None:
    """The bytes in the runtime, which has no package onnx, are a valid graph of one Relu with free sides."""

    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "c", "h", "w"])

    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [value("x")], [value("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    assert model.SerializeToString(deterministic=True) == probe.ONE_NODE
    onnx.checker.check_model(onnx.load_model_from_string(probe.ONE_NODE), full_check=True)


def test_the_one_node_in_8_bits_is_what_onnx_writes(tmp_path: Path) -> None:
    """The same between QuantizeLinear and DequantizeLinear; what it is probed with comes through exactly."""

    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "c", "h", "w"])

    ways = ("QuantizeLinear", "xa"), ("DequantizeLinear", "ab"), ("Relu", "bc")
    ways += ("QuantizeLinear", "cd"), ("DequantizeLinear", "dy")
    scale = ["s", "z"]
    nodes = [helper.make_node(kind, [ends[0], *(scale if kind != "Relu" else [])], [ends[1]]) for kind, ends in ways]
    tensors = [numpy_helper.from_array(np.float32(0.25), "s"), numpy_helper.from_array(np.int8(0), "z")]
    graph = helper.make_graph(nodes, "relu", [value("x")], [value("y")], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    assert model.SerializeToString(deterministic=True) == probe.ONE_NODE_INT8
    onnx.checker.check_model(onnx.load_model_from_string(probe.ONE_NODE_INT8), full_check=True)
    (tmp_path / "relu.onnx").write_bytes(probe.ONE_NODE_INT8)
    given = Engine(tmp_path / "relu.onnx", device="cpu", threads=1).run(np.array([[[[-1.0, 2.0]]]], np.float32))
    assert given.ravel().tolist() == [0.0, 2.0]


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_a_device_that_works_has_no_failure(device: str) -> None:
    """What is here computes the one node, and nothing is said."""
    if not any(report.device == device and report.available for report in installed.available_devices()):
        pytest.skip(f"{device} is not here")
    assert probe.failure(device) is None


def test_a_device_that_only_has_its_name_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A provider without a driver, one that runs and gives something else, and no libraries: each is one line."""
    FakeRuntime.install(monkeypatch, tmp_path, CUDAExecutionProvider="CUDA failure 35: driver too old")
    assert "driver too old" in (probe.failure("cuda") or "")
    assert "computes relu(-1, 2) as" in (probe.failure("cpu") or ""), "the stand-in gives zeros"
    monkeypatch.setitem(sys.modules, PLUGINS["webgpu"], None)
    assert "pip install 'sdrt[webgpu]'" in (probe.failure("webgpu") or "")


@pytest.mark.parametrize(
    ("only_these", "graph"), [(False, probe.ONE_NODE), (True, probe.ONE_NODE_INT8)], ids=["any", "int8"]
)
def test_a_device_is_probed_in_what_it_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, only_these: bool, graph: bytes
) -> None:
    """A float graph would say nothing of a device that takes 8 bits alone."""
    runtime = FakeRuntime.install(monkeypatch, tmp_path)
    facts = dataclasses.replace(DEVICE_FACTS["cuda"], graphs=("int8", "fp16")[: 2 - only_these], only_these=only_these)
    monkeypatch.setitem(DEVICE_FACTS, "cuda", facts)
    assert "computes relu(-1, 2) as" in (probe.failure("cuda") or ""), "the stand-in gives zeros"
    assert runtime.opened[-1].data == graph


def test_tensorrt_is_probed_without_a_trace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its engine for the one node is built in memory: no cache is written, no option of a pack's engine is given."""
    runtime = FakeRuntime.install(monkeypatch, tmp_path / "cache")
    probe.failure("tensorrt")
    assert dict(runtime.opened[-1].providers)["TensorrtExecutionProvider"] == {}
    assert not (tmp_path / "cache").exists()


def test_doctor_tells_of_a_device_that_does_not_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Libraries that are installed and do not work are a problem; those that are not installed are none."""
    monkeypatch.setattr(search, "search_paths", lambda: [Path(__file__).parent / "data"])
    reports = [installed.DeviceReport("cpu", True, "1.0"), installed.DeviceReport("cuda", True, "1.0")]
    monkeypatch.setattr(installed, "available_devices", lambda: reports)
    monkeypatch.setattr(probe, "failure", lambda device: "no driver" if device == "cuda" else None)
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "! device cuda     no, no driver" in out
    assert "  device cpu      yes, 1.0" in out
    for device in DEVICE_FACTS:
        assert len(f"device {device}") <= doctor.COLUMN


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A graph of one node."""
    (tmp_path / "decoder.onnx").write_bytes(probe.ONE_NODE)
    return tmp_path / "decoder.onnx"


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRuntime:
    return FakeRuntime.install(monkeypatch, tmp_path / "cache")


@pytest.mark.parametrize("device", PLUGINS)
def test_a_plugin_is_registered_once_and_runs_on_its_hardware(path: Path, runtime: FakeRuntime, device: str) -> None:
    """Two graphs, one registration; the session gets the plugin's hardware of one type alone, of those that it offers.

    Qualcomm's, for one, offers the CPU and the GPU beside the NPU.
    """
    name, kind = PLUGINS[device], DEVICE_FACTS[device].hardware
    runtime.hardware = [(name, each) for each in ("CPU", "GPU", "NPU")]
    for _ in range(2):
        Engine(path, device=device).run(np.zeros((1, 4, 8, 8), np.float32))
    assert runtime.plugins == [(name, f"/a/{name}.so")]
    assert runtime.opened[-1].options.runs_on == [kind]
    runtime.hardware = [each for each in runtime.hardware if each[1] != kind]
    runtime.opened.clear()
    with pytest.raises(EngineError, match=f"device {device} is unavailable: {name} loads but finds no supported hard"):
        Engine(path, device=device)
    assert not runtime.opened


@pytest.mark.parametrize("device", PLUGINS)
def test_a_plugin_that_cannot_serve_says_why(
    path: Path, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """A library that does not load, an onnxruntime without plugins: an error each, never the CPU."""
    runtime.broken = {PLUGINS[device]: "libvulkan.so.1: cannot open shared object file"}
    with pytest.raises(EngineError, match=rf"device {device} is unavailable: .* does not load: libvulkan\.so\.1"):
        Engine(path, device=device)
    monkeypatch.delattr(FakeRuntime, "register_execution_provider_library")
    with pytest.raises(EngineError, match=re.escape(f"too old: {DEVICE_FACTS[device].install}")):
        Engine(path, device=device)
    assert not runtime.opened
    assert device not in AUTO_ORDER, "auto never takes one"


@pytest.mark.parametrize("device", FIXED)
def test_a_device_of_fixed_shapes_gets_a_session_for_each(path: Path, runtime: FakeRuntime, device: str) -> None:
    """Its graphs have no free dimensions: a shape's session is opened when it comes, and kept."""
    session = Engine(path, device=device)
    assert [opened.providers[0][0] for opened in runtime.opened] == ["CPUExecutionProvider"], "which reads the ports"
    shapes = (1, 4, 8, 9), (1, 4, 2, 3)
    for shape in (*shapes, *shapes):
        session.run(np.zeros(shape, np.float32))
    _, *opened = runtime.opened
    assert [each.options.sizes for each in opened] == [{"n": 1, "h": 8, "w": 9}, {"n": 1, "h": 2, "w": 3}]
    assert [each.shapes for each in opened] == [[shape] * 2 for shape in shapes]
    for side in range(10, 20):
        session.run(np.zeros((1, 4, side, side), np.float32))
    session.run(np.zeros(shapes[0], np.float32))
    assert len(runtime.opened) == 1 + 2 + 10 + 1, "a few are kept"


@pytest.mark.parametrize("device", FIXED)
@pytest.mark.parametrize("only_these", [False, True])
def test_a_graph_that_is_not_taken_whole_is_one_line(
    path: Path, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch, device: str, only_these: bool
) -> None:
    """What would leave a node to the CPU is refused when the first input comes; with what may help, if that is here."""
    monkeypatch.setitem(DEVICE_FACTS, device, dataclasses.replace(DEVICE_FACTS[device], only_these=only_these))
    session = Engine(path, device=device)
    runtime.broken = {provider_of(device): "fallback to CPU EP has been explicitly disabled by the user."}
    hint = "" if only_these else ": try another --precision"
    with pytest.raises(EngineError, match=rf"device {device} cannot open .*\(the .* of the graph{hint}\)$") as caught:
        session.run(np.zeros((1, 4, 8, 8), np.float32))
    assert "\n" not in str(caught.value)


def test_a_dimension_without_a_name_cannot_be_fixed(runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime fixes dimensions by their names: a graph whose input has none is refused when it is opened."""
    port = SimpleNamespace(name="x", type="tensor(float)", shape=["n", 4, None, None])
    ports = SimpleNamespace(
        get_providers=lambda: ["CPUExecutionProvider"], get_inputs=lambda: [port], get_outputs=lambda: [port]
    )
    monkeypatch.setattr(runtime, "InferenceSession", lambda *_, **__: ports)
    assert "neither size nor name" in (probe.failure("qnn") or "")


def test_qualcomm_s_emulator_paints_the_same_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Linux on x86 the real plugin emulates an NPU: the default pack decodes there, in 8 bits and in fp16."""
    here = platform.system(), platform.machine()
    if here != ("Linux", "x86_64") or importlib.util.find_spec("onnxruntime_qnn") is None:
        pytest.skip("onnxruntime_qnn is not installed on Linux on x86")
    monkeypatch.setitem(DEVICE_FACTS, "qnn", dataclasses.replace(DEVICE_FACTS["qnn"], hardware="CPU"))
    pack = search.load_pack("tiny")
    latents = np.random.default_rng(2).integers(-1, 2, (1, pack.space.channels, 4, 6)).astype(np.float32)
    for precision in ("int8", "w16"):
        path = pack.decoder_path(precision)
        near, far = (Engine(path, device=device, threads=1).run(latents) for device in ("cpu", "qnn"))
        assert 20 * np.log10(2 / np.sqrt(np.square(near - far).mean())) > 35, precision


@pytest.mark.parametrize("device", PLUGINS)
def test_the_real_plugin_loads(device: str) -> None:
    """Where it is installed it is registered with the real ONNX Runtime, and then works or finds no hardware."""
    if importlib.util.find_spec(PLUGINS[device]) is None:
        pytest.skip(f"{PLUGINS[device]} is not installed")
    why = probe.failure(device)
    assert why is None or "finds no supported hardware" in why


def test_verify_computes_float32_in_full_on_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``tf32=False`` reaches the provider; otherwise its default stays."""
    runtime = FakeRuntime.install(monkeypatch, tmp_path)
    path = tmp_path / "decoder.onnx"
    path.write_bytes(probe.ONE_NODE)
    for tf32, told in ((True, None), (False, "0")):
        Engine(path, device="cuda", tf32=tf32).run(np.zeros((1, 4, 8, 8), np.float32))
        options = dict(runtime.opened[-1].providers)["CUDAExecutionProvider"]
        assert options.get("use_tf32") == told
        assert options["cudnn_conv_algo_search"] == "HEURISTIC"
