"""sdrt.network.engine: devices are used or refused, never replaced; memory stays; damage is one line."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tests.fake_onnxruntime import FakeRuntime, provider_of

from sdrt.errors import ArgumentError, EngineError, ModelError
from sdrt.network import engine, openvino_session
from sdrt.network.devices import DEVICE_FACTS, Sides
from sdrt.network.engine import Engine
from sdrt.network.graph import Graph, read_graph
from sdrt.network.installed import WHEELS, available_devices, installed_onnxruntimes
from sdrt.network.transform import to_pixels
from sdrt.packs.search import load_pack


def write_graph(path: Path, *, half: bool = False, layers: int = 1, width: int = 3) -> Path:
    """A stack of 3x3 convolutions (N, 3, H, W) -> (N, 3, H, W) with fixed weights."""
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    rng = np.random.default_rng(3)
    widths = [3, *[width] * (layers - 1), 3]
    weights = [rng.normal(0, 0.2, (b, a, 3, 3)) for a, b in pairwise(widths)]
    tensors = [
        numpy_helper.from_array(weight.astype(np.float16 if half else np.float32), f"w{index}")
        for index, weight in enumerate(weights)
    ]
    names = ["sample", *[f"x{index}" for index in range(layers - 1)], "latents"]
    nodes = [
        helper.make_node("Conv", [names[index], f"w{index}"], [names[index + 1]], pads=[1] * 4)
        for index in range(layers)
    ]
    sides: list[str | int | None] = ["batch", 3, "height", "width"]
    graph = helper.make_graph(
        nodes,
        "stack",
        [helper.make_tensor_value_info("sample", kind, sides)],
        [helper.make_tensor_value_info("latents", kind, sides)],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """``fake(Provider="message", ...)``: an onnxruntime with every provider, those named do not start."""

    def install(**broken: str) -> FakeRuntime:
        return FakeRuntime.install(monkeypatch, tmp_path / "cache", **broken)

    return install


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return write_graph(tmp_path / "decoder.onnx")


@pytest.fixture
def sample() -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(4).normal(size=(2, 3, 5, 9)).astype(np.float32)


def test_it_computes_what_the_graph_says(graph: Path, sample: Any) -> None:
    """The result is the graph's, for any batch and size, in float32, with and without the optimizer."""
    (reference,) = map(np.asarray, ReferenceEvaluator(str(graph)).run(None, {"sample": sample}))
    for optimize in (True, False):
        result = Engine(graph, device="cpu", threads=1, optimize=optimize).run(sample)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, reference, atol=1e-5)


def test_either_float_type_goes_into_either_graph(tmp_path: Path, sample: Any) -> None:
    """float16 and float32 arrays run through float16 and float32 graphs, and float32 comes out."""
    for half in (False, True):
        session = Engine(write_graph(tmp_path / "g.onnx", half=half), device="cpu", threads=1)
        wide, narrow = session.run(sample), session.run(sample.astype(np.float16))
        assert wide.dtype == narrow.dtype == np.float32
        np.testing.assert_allclose(wide, narrow, atol=0.02)


def test_a_view_that_is_not_contiguous_runs(graph: Path, sample: Any) -> None:
    """A transposed view gives what its copy gives."""
    turned = sample.transpose(0, 1, 3, 2)
    session = Engine(graph, device="cpu", threads=1)
    np.testing.assert_array_equal(session.run(turned), session.run(turned.copy()))


def test_auto_says_what_it_chose(graph: Path) -> None:
    """``auto`` is never the answer to which device is used, and what was passed over is named."""
    session = Engine(graph, threads=1)
    offered = {report.device for report in available_devices() if report.available}
    assert session.device in offered
    assert session.reason


@pytest.mark.parametrize("device", [name for name, facts in DEVICE_FACTS.items() if facts.accelerator])
def test_a_device_that_is_not_here_is_refused_before_all_else(
    fake: Any, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """With the line that installs it, before its graph is looked for; what has the same files has to go first."""
    runtime, facts = fake(), DEVICE_FACTS[device]
    monkeypatch.setattr(runtime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    if facts.plugin is not None:
        monkeypatch.setitem(sys.modules, facts.plugin, None)
    for told in (*WHEELS, ""):
        monkeypatch.setattr(runtime, "package_name", told, raising=False)
        package = told or "onnxruntime"
        swap = "" if package == facts.wheel else f"pip uninstall {package}; "
        with pytest.raises(EngineError, match=f"^device {device} is unavailable: ") as caught:
            Engine(lambda _device: pytest.fail("its graph is looked for"), device=device)
        assert str(caught.value).endswith(f": {swap}{facts.install}") and "\n" not in str(caught.value)
    assert not runtime.opened


def test_without_onnxruntime_the_install_line_is_the_error(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without any engine both auto and cpu say what to install."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    for device in ("auto", "cpu"):
        with pytest.raises(EngineError, match=r"pip install 'sdrt\[cpu\]'"):
            Engine(graph, device=device)
    with pytest.raises(EngineError, match=r"pip install 'sdrt\[openvino\]'"):
        Engine(graph, device="openvino")
    assert not any(report.available for report in available_devices())


def test_a_gpu_without_driver_is_an_error_when_asked_for(graph: Path, fake: Any) -> None:
    """A provider that is offered but fails to start is refused by name, in one line."""
    fake(CUDAExecutionProvider="CUDA failure 35: driver too old")
    with pytest.raises(EngineError, match=r"device cuda cannot open .* driver too old") as caught:
        Engine(graph, device="cuda")
    assert "\n" not in str(caught.value)


def test_auto_falls_back_and_says_why(graph: Path, fake: Any) -> None:
    """Only ``auto`` may go on to the next device, and its reason holds the first one's error."""
    fake(CUDAExecutionProvider="CUDA failure 35: driver too old")
    session = Engine(graph)
    assert session.device == "cpu"
    assert "driver too old" in session.reason


@pytest.mark.parametrize("device", [name for name, facts in DEVICE_FACTS.items() if facts.accelerator])
def test_onnxruntime_is_told_not_to_fall_back(graph: Path, fake: Any, device: str) -> None:
    """Both of ONNX Runtime's silent roads to the CPU are closed for a device asked for by name, with its options."""
    runtime = fake()
    session = Engine(graph, device=device, threads=3, sides=Sides(1, 8, 16))
    session.run(np.zeros((1, 4, 8, 8), np.float32))  # a session of fixed shapes is opened with its first input
    assert (session.device, session.longest_side) == (device, 16)
    opened = runtime.opened[-1]
    assert opened.providers[0] == (provider_of(device), {} if device == "tensorrt" else DEVICE_FACTS[device].options)
    assert "CPUExecutionProvider" not in dict(opened.providers)
    assert getattr(opened.options, "session.disable_cpu_ep_fallback") == "1"
    assert opened.enable_fallback == 0
    assert (opened.options.intra_op_num_threads, opened.options.inter_op_num_threads) == (3, 1)


def test_a_gpu_sees_few_shapes_and_keeps_little(graph: Path, fake: Any) -> None:
    """On CUDA the session is told not to search or hoard, and the engine says how long a tile may be; a CPU takes all.

    The search and the doubling arena are why memory grows with every new input shape.
    """
    runtime = fake()
    assert Engine(graph, device="cuda", sides=Sides(1, 8, 16)).longest_side == 16
    options = dict(runtime.opened[-1].providers)["CUDAExecutionProvider"]
    assert options == {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
    assert Engine(graph, device="cpu").longest_side is None


def test_the_graph_is_chosen_by_the_device_that_is_taken(tmp_path: Path, fake: Any) -> None:
    """Where ``auto`` falls from CUDA to the CPU, the graph falls with it: fp16 for the one, w16 for the other."""
    paths = {name: write_graph(tmp_path / f"decoder{name}.onnx") for name in ("", ".fp16")}
    asked: list[str] = []

    def choose(device: str) -> Graph:
        asked.append(device)
        return read_graph(paths[".fp16" if device == "cuda" else ""])

    fake()
    session = Engine(choose)
    assert (session.device, session.precision, session.path) == ("cuda", "fp16", paths[".fp16"])
    fake(CUDAExecutionProvider="CUDA failure 35: driver too old")
    session = Engine(choose)
    assert (session.device, session.precision, session.path) == ("cpu", "w16", paths[""])
    assert asked == ["cuda", "cuda", "cpu"]


def test_a_runtime_that_swaps_the_provider_is_caught(graph: Path, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the runtime was told, the provider it reports is compared with the one asked for."""
    runtime = fake()
    swapped = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(runtime, "InferenceSession", lambda *_, **__: swapped)
    with pytest.raises(EngineError, match="ONNX Runtime chose CPUExecutionProvider"):
        Engine(graph, device="cuda")


@pytest.mark.parametrize("disease", ["empty", "text", "truncated", "flipped"])
def test_a_damaged_graph_is_one_line(graph: Path, disease: str) -> None:
    """Damage in a graph file is an error of one line, on every way to open it."""
    data = graph.read_bytes()
    damaged = {
        "empty": b"",
        "text": b"this is no graph\n" * 9,
        "truncated": data[: len(data) // 2],
        "flipped": bytes([data[0] ^ 0x0F]) + data[1:],
    }
    graph.write_bytes(damaged[disease])
    for device in ("auto", "cpu"):
        with pytest.raises((EngineError, ModelError)) as caught:
            Engine(graph, device=device, threads=1)
        assert "\n" not in str(caught.value)
        assert graph.name in str(caught.value)


def test_a_missing_graph_is_named(tmp_path: Path) -> None:
    """The path that was wanted is in the message."""
    with pytest.raises(ModelError, match=r"gone\.onnx cannot be read"):
        Engine(tmp_path / "gone.onnx")


def test_bad_requests_are_refused(graph: Path, sample: Any) -> None:
    """Unknown device, no threads, wrong rank, empty side, wrong channels: each is an SdrtError, not a crash."""
    with pytest.raises(ArgumentError, match="unknown device 'npu'"):
        Engine(graph, device="npu")
    for threads in (0, 10**30):
        with pytest.raises(ArgumentError, match="threads"):
            Engine(graph, threads=threads)
    session = Engine(graph, device="cpu", threads=1)
    for shape in ((3, 5, 9), (1, 3, 0, 9)):
        with pytest.raises(EngineError, match="NCHW"):
            session.run(np.zeros(shape, np.float32))
    with pytest.raises(EngineError, match=r"decoder\.onnx on cpu failed"):
        session.run(np.zeros((1, 4, 5, 9), np.float32))


SIZES_IN_TURN = """
import sys
from pathlib import Path
import numpy as np
from sdrt.network.engine import Engine
session = Engine(Path(sys.argv[1]), device="cpu", threads=1)
for height, width in [(320, 320), *np.random.default_rng(0).integers(16, 320, size=(220, 2)).tolist()]:
    session.run(np.zeros((1, 3, height, width), np.float32))
    print(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_memory_does_not_grow_with_new_shapes(tmp_path: Path) -> None:
    """Two hundred more pictures of as many new sizes leave a process as large as the first twenty did. It is a process
    of its own: in one that has done much before, memory moves for other reasons."""
    command = [sys.executable, "-c", SIZES_IN_TURN, write_graph(tmp_path / "g.onnx", layers=6, width=16)]
    root = Path(engine.__file__).parents[2]
    resident = [int(line) for line in subprocess.check_output(command, cwd=root, text=True).split()]
    assert resident[-1] - resident[20] < 4 << 20


def test_importing_the_engine_loads_no_engine() -> None:
    """``import sdrt.network.engine`` is free: the libraries come with the first graph."""
    code = "import sys, sdrt.network.engine; assert not {'onnxruntime', 'openvino', 'torch'} & set(sys.modules)"
    root = Path(engine.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def has_bf16() -> bool:
    """Whether OpenVINO is here and this CPU has instructions for bf16."""
    if importlib.util.find_spec("openvino") is None:
        return False
    return "BF16" in openvino_session.load().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def signal_to_noise_db(reference: Any, other: Any) -> float:
    return float(20 * np.log10(reference.std() / max(float((other - reference).std()), 1e-12)))


def test_openvino_gives_what_onnxruntime_gives(graph: Path, sample: Any) -> None:
    """The same graph gives the same picture through OpenVINO: in float32 when any other precision is asked for."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    session = Engine(graph, device="openvino", precision="w16", threads=1)
    assert (session.device, session.precision) == ("openvino", "w16")
    result = session.run(sample)
    reference = Engine(graph, device="cpu", threads=1).run(sample)
    np.testing.assert_allclose(result, reference, atol=1e-5)
    again = session.run(sample[:1, :, :4, :4])
    assert again.shape == (1, 3, 4, 4)
    assert result.base is None or not np.shares_memory(result, again)


def test_openvino_computes_in_bf16_where_the_cpu_can(graph: Path, sample: Any) -> None:
    """Unasked and asked for, bf16 is used and said, at its 8 bits of accuracy; without it, asking is an error."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    if not has_bf16():
        assert Engine(graph, device="openvino", threads=1).precision == "w16"
        with pytest.raises(EngineError, match="this CPU has no instructions"):
            Engine(graph, device="openvino", precision="bf16", threads=1)
        return
    reference = Engine(graph, device="cpu", threads=1).run(sample)
    for asked in (None, "bf16"):
        session = Engine(graph, device="openvino", precision=asked, threads=1)
        assert session.precision == "bf16"
        assert 35 < signal_to_noise_db(reference, session.run(sample)) < 70


def test_an_int8_graph_is_run_and_named_as_it_was_measured(tmp_path: Path, sample: Any) -> None:
    """Unasked, OpenVINO computes what an int8 graph leaves in float in float32, as PACKS.md says, bf16 or not."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    path = write_graph(tmp_path / "decoder.int8.onnx")
    unasked, asked = (Engine(path, device="openvino", precision=wish, threads=1) for wish in (None, "int8"))
    assert unasked.precision == asked.precision == "int8"
    np.testing.assert_array_equal(unasked.run(sample), asked.run(sample))
    wide = Engine(path, device="cpu", threads=1).run(sample)
    np.testing.assert_allclose(unasked.run(sample), wide, atol=1e-5)


def test_openvino_says_what_it_does_not_know(tmp_path: Path) -> None:
    """A graph that OpenVINO refuses is one line with its reason, not with a place in OpenVINO's source."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("NoSuchThing", ["x"], ["y"])], "g", ports[:1], ports[1:])
    path = tmp_path / "decoder.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    with pytest.raises(EngineError, match=r"decoder\.onnx: .*NoSuchThing") as caught:
        Engine(path, device="openvino", threads=1)
    assert "\n" not in str(caught.value) and ".cpp" not in str(caught.value)


def test_bf16_sums_in_float32(tmp_path: Path) -> None:
    """Normalization in bf16 loses what rounding its input loses, 8 bits of each value, and nothing in its sums.

    65,536 values around 10 with a deviation of 1: summed in bf16, mean and variance would be far off.
    """
    if not has_bf16():
        pytest.skip("no openvino, or no bf16 on this CPU")
    kind, sides = TensorProto.FLOAT, ["n", 4, "h", "w"]
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    passing = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    tensors = [numpy_helper.from_array(a, n) for n, a in (("ones", ones), ("zeros", zeros), ("eye", passing))]
    nodes = [
        helper.make_node("Conv", ["x", "eye"], ["a"]),
        helper.make_node("InstanceNormalization", ["a", "ones", "zeros"], ["b"]),
        helper.make_node("Conv", ["b", "eye"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(name, kind, sides) for name in "xy"]
    path = tmp_path / "norm.onnx"
    model = helper.make_graph(nodes, "norm", ports[:1], ports[1:], tensors)
    onnx.save(helper.make_model(model, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    values = (10 + np.random.default_rng(1).standard_normal((1, 4, 256, 256))).astype(np.float32)
    rounded = (values.view(np.uint32) + 0x8000 & 0xFFFF0000).view(np.float32)
    wide = Engine(path, device="cpu", threads=1)
    reference = wide.run(values)
    narrow = Engine(path, device="openvino", precision="bf16", threads=1).run(values)
    only_input = signal_to_noise_db(reference, wide.run(rounded))
    assert signal_to_noise_db(reference, narrow) > only_input - 2
    assert abs(float(narrow.mean())) < 0.01


def test_bf16_paints_the_same_picture() -> None:
    """The default pack decodes through OpenVINO in bf16 to within two levels of float32 (one was measured)."""
    if not has_bf16():
        pytest.skip("no openvino, or no bf16 on this CPU")
    pack = load_pack("tiny")
    latents = np.random.default_rng(2).integers(-3, 4, (pack.space.channels, 12, 9)).astype(np.float32)
    crop = (0, 0, 9 * pack.space.downscale, 12 * pack.space.downscale)
    pictures = {
        device: to_pixels(latents, pack, Engine(pack.decoder_path(), device=device, threads=1), crop)
        for device in ("cpu", "openvino")
    }
    apart = np.abs(pictures["cpu"].astype(int) - pictures["openvino"])
    assert apart.max() <= 2
    assert np.ptp(pictures["cpu"]) > 100


def test_openvino_reports_to_nobody(graph: Path) -> None:
    """The runtime opens no socket: openvino's telemetry is not loaded, and its own silent stand-in is."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    code = (
        "import sys; from pathlib import Path; from sdrt.network.engine import Engine;"
        f"Engine(Path({str(graph)!r}), device='openvino');"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')];"
        "assert sys.modules['openvino.tools.ovc.telemetry_utils'].tm.__name__.endswith('telemetry_stub')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(engine.__file__).parents[2])


def test_every_installed_onnxruntime_is_listed() -> None:
    """Two ONNX Runtime packages at once overwrite each other: doctor needs to see every one."""
    names = [line.split()[0] for line in installed_onnxruntimes()]
    assert len(names) == len(set(names)) and len(WHEELS) == len(set(WHEELS))
    assert set(names) <= set(WHEELS)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in Linux's /proc")
def test_threads_are_honoured(graph: Path) -> None:
    """A session of N threads starts N - 1 beside the caller's, and a session of one starts none."""
    code = (
        "import os; from pathlib import Path; from sdrt.network.engine import Engine\n"
        f"path, kept = Path({str(graph)!r}), []\n"
        "kept.append(Engine(path, device='cpu', threads=1)); before = len(os.listdir('/proc/self/task'))\n"
        "for threads in (1, 4):\n"
        "    kept.append(Engine(path, device='cpu', threads=threads))\n"
        "    print(len(os.listdir('/proc/self/task')) - before)\n"
    )
    root = Path(engine.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=root, capture_output=True, text=True)
    assert done.stdout.split() == ["0", "3"]
