"""Laws of bench.contest, arithmetic, process and neighbors: what a time is compared with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench import contest, process, speed
from bench.contest import Contestant, Timing
from sdrt.errors import EngineError
from sdrt.network.engine import Engine
from sdrt.network.installed import DeviceReport
from sdrt.packs.manifest import ModelPack


def test_all_run_in_turn_after_one_untimed_run() -> None:
    """Each round runs every contestant once, in order; the first run of each is not counted."""
    calls: list[str] = []
    contestants = [Contestant(name, lambda n=name: calls.append(n)) for name in "abc"]  # type: ignore[misc]
    timings = contest.race(contestants, rounds=4, limit_s=60)
    assert calls == list("abc") * 5
    assert [len(t.times_s) for t in timings] == [4, 4, 4]


def test_the_slow_one_sits_out_after_three() -> None:
    """A contestant beyond its time runs three counted rounds, the others all of them."""
    timings = contest.race([Contestant("fast", int), Contestant("slow", lambda: sum(range(10**5)))], 6, limit_s=1e-4)
    assert len(timings[1].times_s) == 3
    assert len(timings[0].times_s) == 6


def test_ratios_are_to_the_first_and_the_share_is_of_the_limit() -> None:
    """2 s against 0.5 s is 4x; 100 GFLOP at 200 GFLOP/s take 0.5 s at least, a quarter of 2 s."""
    timings = [Timing("ours", (0.5, 0.4, 0.9), 50), Timing("theirs", (2.0,), 100), Timing("rate", (0.1,), 20)]
    ours, theirs, _ = contest.table(timings, "rate").splitlines()[1:]
    assert " 1x" in ours
    assert "0.400-0.900" in ours
    assert "50%" in ours
    assert " 4x" in theirs
    assert "25%" in theirs


def test_the_arithmetic_of_a_known_graph(tmp_path: Path) -> None:
    """Convolution, strided, grouped and transposed, and a matrix product: two operations per weight and place."""
    onnx = pytest.importorskip("onnx")
    from bench.arithmetic import gflop

    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    shapes = {"a": (8, 4, 3, 3), "b": (8, 2, 2, 2), "c": (8, 3, 4, 4), "d": (12, 5)}
    weights = [onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["p"], pads=[1] * 4),  # 20x12 places, 8*4*9 weights
        helper.make_node("Conv", ["p", "b"], ["q"], strides=[2, 2], group=4),  # 10x6 places, 8*2*4 weights
        helper.make_node("ConvTranspose", ["q", "c"], ["r"], strides=[2, 2], pads=[1] * 4),  # 10x6 in, 8*3*16 weights
        helper.make_node("MatMul", ["r", "d"], ["y"]),  # 3*20 rows, 12*5 weights
    ]
    source = helper.make_tensor_value_info("x", floats, ["n", 4, "height", 12])
    target = helper.make_tensor_value_info("y", floats, ["n", 3, "rows", 5])
    path = tmp_path / "graph.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "graph", [source], [target], weights)), path)
    pairs = 240 * 288 + 60 * 64 + 60 * 384 + 60 * 60
    assert gflop(path, (1, 4, 20, 12)) == pytest.approx(2 * pairs / 1e9)
    assert gflop(path, (1, 4, 40, 12)) == pytest.approx(4 * pairs / 1e9)


def test_a_process_is_measured_whole() -> None:
    """Memory that a process takes shows in its peak, time in its wall time."""
    small = process.measure("small", [sys.executable, "-c", "pass"], 1)
    code = "import time; b = b'1' * 80_000_000; time.sleep(0.3)"
    large = process.measure("large", [sys.executable, "-c", code], 1)
    assert 75 < large.peak_mb - small.peak_mb < 100
    assert large.wall_s >= 0.3


def test_a_process_that_fails_is_no_figure() -> None:
    """A command that ends with an error gives its last words instead of a time."""
    with pytest.raises(RuntimeError, match=r"ended with 1.*no such luck"):
        process.measure("bad", [sys.executable, "-c", "raise SystemExit('no such luck')"], 1)


def test_the_neighbors_paint_sixteen_fold() -> None:
    """CompressAI's decoders take latents to a picture of 16 times their size, of three channels."""
    torch = pytest.importorskip("torch")
    from bench import neighbors

    with torch.no_grad():
        assert neighbors.mbt2018_mean()(torch.zeros(1, 192, 2, 3)).shape == (1, 3, 32, 48)
        assert neighbors.cheng2020_anchor()(torch.zeros(1, 128, 2, 3)).shape == (1, 3, 32, 48)


def test_the_headlines_are_ratios_of_medians() -> None:
    """Each line compares what it names: ours against diffusers and TAESD, our best SD option against theirs."""
    medians = {
        "sdrt tiny, cpu w16: decoder network": 0.1,
        "SD 1.5 VAE, diffusers float32": 9.0,
        "SD 1.5 VAE, diffusers bfloat16": 5.0,
        "SD 1.5 VAE, ONNX Runtime": 8.0,
        "SD 1.5 VAE, OpenVINO": 3.2,
        "TAESD's architecture, ONNX Runtime": 0.6,
        "sdrt SD 1.5 pack, cpu w16": 7.0,
        "sdrt SD 1.5 pack, openvino bf16": 3.0,
    }
    timings = [Timing(name, (median,), None) for name, median in medians.items()]
    tiny, taesd, sd, rival = speed.headlines(timings)
    assert "SD 1.5 VAE, diffusers float32: 90.0 times" in tiny
    assert "TAESD's architecture, ONNX Runtime: 6.0 times" in taesd
    assert sd.startswith("sdrt SD 1.5 pack, openvino bf16 against") and "3.0 times" in sd
    assert "SD 1.5 VAE, OpenVINO: 0.94 of its time" in rival
    assert speed.headlines(timings[:1]) == []


def test_what_a_machine_cannot_do_is_left_out(
    monkeypatch: pytest.MonkeyPatch, testpack: ModelPack, capsys: pytest.CaptureFixture[str]
) -> None:
    """A precision or device that fails to open costs its own row and a line on stderr, never the race."""

    class Machine(Engine):
        def __init__(self, graph: Path, *, device: str, precision: str, **settings: Any) -> None:
            if precision == "bf16":
                raise EngineError("bf16 is unavailable: this CPU has no instructions for it")
            super().__init__(graph, device="cpu", precision=precision, **settings)

    monkeypatch.setattr(speed, "Engine", Machine)
    monkeypatch.setattr(speed, "DEFAULT_PACK", testpack.name)
    monkeypatch.setattr(speed.search, "list_packs", lambda: [testpack])
    monkeypatch.setattr(speed, "_our_ways", lambda _: [("cpu", "w16"), ("openvino", "bf16"), ("openvino", "w16")])
    names = [c.name for c in speed.our_contestants(Image.new("RGB", (96, 96)), 1, lambda _path, _shape: None)]
    assert [name for name in names if "network" in name] == [
        f"sdrt testpack, {way}: decoder network" for way in ("cpu w16", "openvino w16")
    ]
    graph = testpack.decoder_path()
    rows = speed.sd_contestants(graph, (1, 12, 2, 2), 1, lambda _path, _shape: None)
    assert [row.name for row in rows] == [f"{speed.OURS_SD}, cpu w16"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("openvino bf16" in line and "no instructions" in line for line in lines)


def test_every_precision_and_device_of_ours_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """All graphs on the CPU but fp16, OpenVINO's arithmetics, and a GPU's own choice where there is one."""
    here = [DeviceReport(name, True, "") for name in ("cpu", "cuda", "tensorrt", "openvino")]
    monkeypatch.setattr(speed, "available_devices", lambda: here)
    assert speed._our_ways(("w16", "fp16", "int8")) == [
        ("cpu", "int8"),
        ("cpu", "w16"),
        ("cuda", "fp16"),
        ("tensorrt", "fp16"),
        ("openvino", "w16"),
        ("openvino", "bf16"),
        ("openvino", "int8"),
    ]
    monkeypatch.setattr(speed, "available_devices", lambda: here[:1])
    assert speed._our_ways(("w16",)) == [("cpu", "w16")]
