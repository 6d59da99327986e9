"""network.probe and plugins: a device is believed when it has run a graph; plugins are loaded, once, when asked for."""

from __future__ import annotations

import dataclasses
import importlib.util
import platform
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.fake_onnxruntime import FakeRuntime

from sdrt.command import cli
from sdrt.errors import EngineError
from sdrt.network import installed, onnxruntime_session, probe
from sdrt.network.devices import AUTO_ORDER, DEVICE_FACTS, Sides
from sdrt.network.engine import Engine
from sdrt.packs import search

PLUGINS = {device: facts.plugin for device, facts in DEVICE_FACTS.items() if facts.plugin is not None}


def test_the_one_node_is_what_onnx_writes() -> None:
    """The bytes in the runtime, which has no package onnx, are a valid graph of one Relu with free sides."""

    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "c", "h", "w"])

    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [value("x")], [value("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    assert model.SerializeToString(deterministic=True) == probe.ONE_NODE
    onnx.checker.check_model(onnx.load_model_from_string(probe.ONE_NODE), full_check=True)


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
    assert "! device cuda    no, no driver" in out
    assert "  device cpu     yes, 1.0" in out


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> str:
    """A stand-in for the plugin of device webgpu; its provider's name."""
    name = "WebGpuExecutionProvider"
    module = SimpleNamespace(
        get_ep_name=lambda: name, get_library_path=lambda: "/a/plugin.so", __spec__=SimpleNamespace()
    )
    monkeypatch.setitem(sys.modules, PLUGINS["webgpu"], module)  # type: ignore[arg-type]
    monkeypatch.setattr(onnxruntime_session, "_registered", set())
    return name


def test_a_plugin_is_registered_once_and_runs_on_its_hardware(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, plugin: str
) -> None:
    """Two graphs, one registration; the session gets the plugin's hardware, nothing of the CPU, and a GPU's tiles."""
    runtime = FakeRuntime.install(monkeypatch, tmp_path)
    runtime.hardware = [(plugin, "GPU")]
    path = tmp_path / "decoder.onnx"
    path.write_bytes(probe.ONE_NODE)
    for _ in range(2):
        session = Engine(path, device="webgpu", sides=Sides(1, 64, 128))
        assert (session.device, session.longest_side) == ("webgpu", 128)
    assert runtime.plugins == [(plugin, "/a/plugin.so")]
    assert runtime.opened[-1].providers == [(plugin, {})]
    assert vars(runtime.opened[-1].options)["session.disable_cpu_ep_fallback"] == "1"


def test_a_plugin_that_cannot_serve_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, plugin: str) -> None:
    """No hardware, a library that does not load, an onnxruntime without plugins: an error each, never the CPU."""
    path = tmp_path / "decoder.onnx"
    path.write_bytes(probe.ONE_NODE)
    runtime = FakeRuntime.install(monkeypatch, tmp_path)
    with pytest.raises(EngineError, match="onnxruntime_ep_webgpu loads but finds no supported hardware"):
        Engine(path, device="webgpu")
    runtime.broken = {plugin: "libvulkan.so.1: cannot open shared object file"}
    monkeypatch.setattr(onnxruntime_session, "_registered", set())
    with pytest.raises(EngineError, match=r"does not load: libvulkan\.so\.1"):
        Engine(path, device="webgpu")
    monkeypatch.delattr(FakeRuntime, "register_execution_provider_library")
    with pytest.raises(EngineError, match=r"too old: pip install 'sdrt\[webgpu\]'"):
        Engine(path, device="webgpu")
    assert not runtime.opened
    assert not set(AUTO_ORDER) & set(PLUGINS), "auto never takes one"


@pytest.fixture
def qnn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRuntime:
    """A stand-in for Qualcomm's plugin, which offers the CPU and the GPU before the NPU."""
    name = "QNNExecutionProvider"
    module = SimpleNamespace(get_ep_name=lambda: name, get_library_path=lambda: "/a/qnn.so", __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "onnxruntime_qnn", module)  # type: ignore[arg-type]
    monkeypatch.setattr(onnxruntime_session, "_registered", set())
    runtime = FakeRuntime.install(monkeypatch, tmp_path)
    runtime.hardware = [(name, kind) for kind in ("CPU", "GPU", "NPU")]
    return runtime


def test_an_npu_gets_a_session_for_each_shape(qnn: FakeRuntime, tmp_path: Path) -> None:
    """Its graphs have no free dimensions: a shape's session is opened when it comes, for the NPU alone, and kept."""
    path = tmp_path / "decoder.onnx"
    path.write_bytes(probe.ONE_NODE)
    session = Engine(path, device="qnn", sides=Sides(1, 64, 128))
    assert session.longest_side == 128
    assert [opened.providers[0][0] for opened in qnn.opened] == ["CPUExecutionProvider"], "which reads the ports"
    shapes = (1, 4, 8, 9), (1, 4, 2, 3)
    for shape in (*shapes, *shapes):
        session.run(np.zeros(shape, np.float32))
    _, *opened = qnn.opened
    assert [each.options.sizes for each in opened] == [{"n": 1, "h": 8, "w": 9}, {"n": 1, "h": 2, "w": 3}]
    assert [each.shapes for each in opened] == [[shape] * 2 for shape in shapes]
    for each in opened:
        assert each.options.runs_on == ["NPU"]
        assert each.providers == [("QNNExecutionProvider", {"backend_type": "htp"})]
        assert vars(each.options)["session.disable_cpu_ep_fallback"] == "1"
    for side in range(10, 20):
        session.run(np.zeros((1, 4, side, side), np.float32))
    session.run(np.zeros(shapes[0], np.float32))
    assert len(qnn.opened) == 1 + 2 + 10 + 1, "a few are kept"


def test_a_machine_without_an_npu_is_refused(qnn: FakeRuntime, tmp_path: Path) -> None:
    """Qualcomm's plugin finds a CPU on every machine: that is not the device, and no graph is opened."""
    path = tmp_path / "decoder.onnx"
    path.write_bytes(probe.ONE_NODE)
    qnn.hardware = qnn.hardware[:2]
    with pytest.raises(EngineError, match="onnxruntime_qnn loads but finds no supported hardware"):
        Engine(path, device="qnn")
    assert not qnn.opened


def test_a_graph_that_the_npu_does_not_take_whole_is_one_line(qnn: FakeRuntime, tmp_path: Path) -> None:
    """What would leave a node to the CPU is refused, with a word on what may help, when the first input comes."""
    path = tmp_path / "decoder.onnx"
    path.write_bytes(probe.ONE_NODE)
    session = Engine(path, device="qnn")
    qnn.broken = {"QNNExecutionProvider": "fallback to CPU EP has been explicitly disabled by the user."}
    with pytest.raises(EngineError, match=r"device qnn cannot open .*try another --precision\)$") as caught:
        session.run(np.zeros((1, 4, 8, 8), np.float32))
    assert "\n" not in str(caught.value)


def test_a_dimension_without_a_name_cannot_be_fixed(qnn: FakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime fixes dimensions by their names: a graph whose input has none is refused when it is opened."""
    port = SimpleNamespace(name="x", type="tensor(float)", shape=["n", 4, None, None])
    ports = SimpleNamespace(
        get_providers=lambda: ["CPUExecutionProvider"], get_inputs=lambda: [port], get_outputs=lambda: [port]
    )
    monkeypatch.setattr(qnn, "InferenceSession", lambda *_, **__: ports)
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
