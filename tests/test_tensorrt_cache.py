"""TensorRT engines and their command: an engine is used where it fits and nowhere else, every build is announced."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.fake_onnxruntime import MACHINE, FakeRuntime

from sdrt.codec import Codec
from sdrt.errors import EngineError
from sdrt.network import installed, onnxruntime_session, tensorrt_cache
from sdrt.network.devices import Sides
from sdrt.network.engine import Engine
from sdrt.network.tensorrt_cache import Machine
from sdrt.network.tensorrt_session import build_engine
from sdrt.network.transform import accelerator_sides
from sdrt.packs.manifest import ModelPack
from sdrt_export.__main__ import main
from sdrt_export.build_tensorrt import sides_in_cells

SIDES = Sides(1, 64, 128)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRuntime:
    return FakeRuntime.install(monkeypatch, tmp_path / "cache")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "decoder.fp16.onnx"
    path.write_bytes(b"\x08\x09")  # by its form an ONNX message: the version and nothing else
    return path


def tensorrt_options(runtime: FakeRuntime, index: int) -> dict[str, str]:
    return dict(runtime.opened[index].providers)["TensorrtExecutionProvider"]


def test_what_the_provider_is_told(tmp_path: Path) -> None:
    """The options by their names in ONNX Runtime: three profiles, the graph's own types, engine, timings, context.

    fp16 is not enabled: that would let TensorRT compute in fp16 what a graph in fp16 keeps in float32.
    """
    options = tensorrt_cache.build_options(tmp_path, MACHINE, SIDES, "latent_sample", 4)
    assert options == {
        "trt_profile_min_shapes": "latent_sample:1x4x1x1",
        "trt_profile_opt_shapes": "latent_sample:1x4x64x64",
        "trt_profile_max_shapes": "latent_sample:1x4x128x128",
        "trt_fp16_enable": "False",
        "trt_layer_norm_fp32_fallback": "True",
        "trt_engine_cache_enable": "True",
        "trt_dump_ep_context_model": "True",
        "trt_ep_context_embed_mode": "0",
        "trt_ep_context_file_path": str(tmp_path / "context.onnx"),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(tensorrt_cache.timing_folder(MACHINE)),
    }
    wide = tensorrt_cache.build_options(tmp_path, MACHINE, SIDES, "sample", 3)
    assert wide["trt_profile_max_shapes"] == "sample:1x3x128x128"


def test_the_key_has_all_that_an_engine_is_tied_to(graph: Path, tmp_path: Path) -> None:
    """Another graph, ONNX Runtime, TensorRT or architecture is another folder; another path of the graph is not."""
    twin, other = tmp_path / "twin.onnx", tmp_path / "other.onnx"
    twin.write_bytes(graph.read_bytes())
    other.write_bytes(b"\x08\x0a")
    place = tensorrt_cache.place_of(graph, MACHINE)
    assert tensorrt_cache.place_of(twin, MACHINE) == place
    machines = [Machine("1.32.0", "10.13.2", 90), Machine("1.31.0", "10.14.0", 90), Machine("1.31.0", "10.13.2", 89)]
    places = {place, tensorrt_cache.place_of(other, MACHINE), *(tensorrt_cache.place_of(graph, m) for m in machines)}
    assert len(places) == 5
    assert place.parts[-3:] == ("tensorrt", place.parts[-2], "ort1.31.0-trt10.13.2-sm90")
    assert len(place.parts[-2]) == 16


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """$SDRT_CACHE first, then the desktop's convention, then the home folder."""
    monkeypatch.setattr(tensorrt_cache.sys, "platform", "linux")
    monkeypatch.setenv("SDRT_CACHE", str(tmp_path / "here"))
    assert tensorrt_cache.cache_root() == tmp_path / "here"
    monkeypatch.delenv("SDRT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tensorrt_cache.cache_root() == tmp_path / "xdg" / "sdrt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert tensorrt_cache.cache_root() == Path.home() / ".cache" / "sdrt"


def test_an_engine_is_built_once_and_then_loaded(
    runtime: FakeRuntime, graph: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first session builds and says so beforehand; the second opens the context graph in silence."""
    with caplog.at_level(logging.WARNING, "sdrt"):
        first = Engine(graph, device="tensorrt", sides=SIDES)
    (record,) = caplog.records
    assert "no TensorRT engine for decoder.fp16.onnx: none was ever built for this graph" in record.getMessage()
    assert "python -m sdrt_export tensorrt" in record.getMessage()
    assert "built now" in first.reason
    ports, build, load = runtime.opened
    assert [name for name, _ in ports.providers] == ["CPUExecutionProvider"]
    assert build.path == graph
    assert build.shapes == [(1, 4, 64, 64)]
    assert tensorrt_options(runtime, 1)["trt_fp16_enable"] == "False"
    place = tensorrt_cache.place_of(graph, MACHINE)
    assert (load.path, tensorrt_options(runtime, 2)) == (place / "context.onnx", {})

    caplog.clear()
    second = Engine(graph, device="tensorrt", sides=Sides(1, 2, 3))
    assert len(runtime.opened) == 4
    assert runtime.opened[3].path == place / "context.onnx"
    assert not caplog.records
    assert str(place) in second.reason and "built now" not in second.reason
    assert second.longest_side == SIDES.max, "the engine that is here keeps its own sizes"
    assert sorted(entry.name for entry in place.parent.iterdir()) == [place.name]


@pytest.mark.parametrize("disease", ["record", "engine", "context", "sides"])
def test_a_damaged_engine_is_built_again(
    runtime: FakeRuntime, graph: Path, caplog: pytest.LogCaptureFixture, disease: str
) -> None:
    """A record that is cut, an engine of another size, a missing context, sides that fall: said, and built again."""
    build_engine(graph, SIDES)
    place = tensorrt_cache.place_of(graph, MACHINE)
    if disease == "record":
        (place / "built.json").write_text((place / "built.json").read_text()[:40])
    elif disease == "engine":
        (place / "all_sm90.engine").write_bytes(b"half")
    elif disease == "context":
        (place / "context.onnx").unlink()
    else:
        record = json.loads((place / "built.json").read_text())
        (place / "built.json").write_text(json.dumps({**record, "sides": {"min": 9, "opt": 3, "max": 4}}))
    Engine(graph, device="tensorrt", sides=SIDES)
    assert "is damaged; building one now" in caplog.text
    assert tensorrt_cache.find(place) == SIDES


def test_an_engine_of_another_machine_is_named(
    runtime: FakeRuntime, graph: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After an update of TensorRT the old engine is not loaded, and the message says for what it was built."""
    build_engine(graph, SIDES)
    monkeypatch.setattr(tensorrt_cache, "this_machine", lambda version: Machine(version, "10.14.1", 90))
    Engine(graph, device="tensorrt", sides=SIDES)
    assert "none for ort1.31.0-trt10.14.1-sm90 (there is one for ort1.31.0-trt10.13.2-sm90)" in caplog.text
    assert runtime.opened[-1].path.parent.name == "ort1.31.0-trt10.14.1-sm90"


def test_a_build_that_fails_leaves_nothing(runtime: FakeRuntime, graph: Path) -> None:
    """Neither a provider that does not start nor a graph that TensorRT takes in part leaves an engine behind."""
    place = tensorrt_cache.place_of(graph, MACHINE)
    runtime.partial = True
    with pytest.raises(EngineError, match=r"no engine for the whole of decoder\.fp16\.onnx .*use device cuda"):
        Engine(graph, device="tensorrt")
    runtime.broken = {"TensorrtExecutionProvider": "Failed to create builder"}
    with pytest.raises(EngineError, match=r"device tensorrt cannot open .* Failed to create builder"):
        Engine(graph, device="tensorrt")
    assert list(place.parent.iterdir()) == []


def test_threads_that_need_one_engine_build_it_once(
    runtime: FakeRuntime, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two codecs in two threads do not build into one folder, nor the same engine twice."""
    both_build = threading.Barrier(2)
    open_session = onnxruntime_session.open_session

    def slow(source: Any, device: str, *arguments: Any, **options: Any) -> Any:
        if device == "tensorrt":
            with contextlib.suppress(threading.BrokenBarrierError):
                both_build.wait(0.3)
        return open_session(source, device, *arguments, **options)

    monkeypatch.setattr(onnxruntime_session, "open_session", slow)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: build_engine(graph, SIDES), range(2)))
    place = tensorrt_cache.place_of(graph, MACHINE)
    assert sorted(results) == [(place, False), (place, True)] and tensorrt_cache.find(place) == SIDES
    assert [entry.name for entry in place.parent.iterdir()] == [place.name]


def test_sizes_outside_the_profile_are_refused_before_the_provider_sees_them(runtime: FakeRuntime, graph: Path) -> None:
    """Too large or too small: one line that says what the engine takes and how to build another.

    Several pictures at once are run one by one: engines are built for one.
    """
    session = Engine(graph, device="tensorrt", sides=Sides(2, 64, 128))
    session.run(np.zeros((1, 4, 2, 128), np.float32))
    ran = list(runtime.opened[-1].shapes)
    for shape in ((1, 4, 64, 129), (1, 4, 1, 64)):
        with pytest.raises(EngineError, match=r"sides from 2 to 128, got .* --sides MIN OPT MAX"):
            session.run(np.zeros(shape, np.float32))
    assert runtime.opened[-1].shapes == ran == [(1, 4, 2, 128)]
    assert session.run(np.zeros((2, 4, 64, 64), np.float32)).shape[0] == 2
    assert runtime.opened[-1].shapes[1:] == [(1, 4, 64, 64)] * 2


@pytest.mark.parametrize("numbers", [(0, 1, 2), (4, 3, 5), (1, 9, 8), (1, 2, 1 << 17)])
def test_sides_that_do_not_rise_are_refused(numbers: tuple[int, int, int]) -> None:
    """Minimum, optimum and maximum come in this order, from 1 on."""
    with pytest.raises(EngineError, match="sides must be 1 <= min"):
        Sides(*numbers)


class FakeLibrary(SimpleNamespace):
    """libnvinfer of one version, or a driver with one GPU."""

    @staticmethod
    def loader(*, version: int, gpus: int = 1) -> Any:
        def attribute(pointer: Any, which: int, _device: Any) -> int:
            pointer._obj.value = {75: 8, 76: 9}[which]
            return 0

        driver = FakeLibrary(
            cuInit=lambda _flags: 0,
            cuDeviceGet=lambda _pointer, _index: 0 if gpus else 101,
            cuDeviceGetAttribute=attribute,
        )
        return lambda name, mode=0: driver if "cuda" in name else FakeLibrary(getInferLibVersion=lambda: version)


def test_the_machine_is_asked_of_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT's version as libnvinfer packs it into a number, the architecture as the driver says it."""
    monkeypatch.setattr(ctypes, "CDLL", FakeLibrary.loader(version=101302))
    assert tensorrt_cache.this_machine("1.31.0") == Machine("1.31.0", "10.13.2", 89)


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (FakeLibrary.loader(version=8601), r"TensorRT 8\.6\.1 is installed, 10 is required: pip install"),
        (FakeLibrary.loader(version=110000), r"TensorRT 11\.0\.0 is installed, 10 is required: pip install"),
        (FakeLibrary.loader(version=101302, gpus=0), r"the NVIDIA driver finds no GPU \(error 101\)"),
    ],
)
def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, loader: Any, words: str) -> None:
    """Another generation of TensorRT and no GPU are one line each; the former says what installs the right one."""
    monkeypatch.setattr(ctypes, "CDLL", loader)
    with pytest.raises(EngineError, match=f"^{words}") as caught:
        tensorrt_cache.this_machine("1.31.0")
    assert "\n" not in str(caught.value)


def test_without_tensorrt_the_install_line_has_the_pins() -> None:
    """PyPI's newest TensorRT is of a generation that ONNX Runtime cannot load: the advice pins it."""
    if any(report.device == "tensorrt" and report.available for report in installed.available_devices()):
        pytest.skip("TensorRT is here")
    with pytest.raises(EngineError, match=r"'tensorrt-cu13>=10\.13,<11'"):
        tensorrt_cache._load_tensorrt()


def test_the_command_builds_both_halves(
    runtime: FakeRuntime, testpack: ModelPack, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every half of the pack gets an engine of the sizes that the runtime will send it; a second call keeps them."""
    for word in ("built", "already built"):
        assert main(["tensorrt", "testpack"]) == 0
        said = capsys.readouterr().out
        assert said.count(word) == 2, said
    for half in ("encoder", "decoder"):
        path = testpack.folder / f"{half}.onnx"
        assert tensorrt_cache.find(tensorrt_cache.place_of(path, MACHINE)) == accelerator_sides(testpack, half)
    assert main(["tensorrt", str(testpack.folder), "--half", "decoder", "--sides", "8", "256", "512"]) == 0
    assert "decoder.onnx: built" in capsys.readouterr().out
    place = tensorrt_cache.place_of(testpack.folder / "decoder.onnx", MACHINE)
    assert tensorrt_cache.find(place) == Sides(1, 32, 64)


def test_the_command_says_what_is_wrong(
    runtime: FakeRuntime, testpack: ModelPack, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sizes between the cells and a precision that the pack lacks are one line and an exit code."""
    assert main(["tensorrt", "testpack", "--sides", "8", "100", "512"]) == EngineError.exit_code
    assert "a multiple of 8" in capsys.readouterr().err
    assert main(["tensorrt", "testpack", "--precision", "fp16"]) == 7
    assert "no encoder.fp16.onnx" in capsys.readouterr().err


def test_the_command_without_tensorrt_says_so(testpack: ModelPack, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no TensorRT provider, the command ends with the line that installs it."""
    if any(report.device == "tensorrt" and report.available for report in installed.available_devices()):
        pytest.skip("TensorRT is here")
    assert main(["tensorrt", "testpack"]) == EngineError.exit_code
    assert "device tensorrt is unavailable" in capsys.readouterr().err


def test_sides_are_pixels_for_people_and_cells_for_graphs(testpack: ModelPack) -> None:
    """The encoder's input is pixels, the decoder's latents: the same wish is one number of pixels."""
    assert sides_in_cells([8, 512, 1024], testpack, "encoder") == Sides(8, 512, 1024)
    assert sides_in_cells([8, 512, 1024], testpack, "decoder") == Sides(1, 64, 128)
    assert sides_in_cells(None, testpack, "decoder") == accelerator_sides(testpack, "decoder")


def test_the_codec_cuts_large_pictures_to_the_engine(
    runtime: FakeRuntime, testpack: ModelPack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an engine of at most 64 cells a picture of 100 x 30 is run in tiles of 64 x 30, all of one shape."""
    codec = Codec("testpack", device="tensorrt")
    build_engine(testpack.folder / "decoder.onnx", Sides(1, 32, 64))
    decoder = codec._engine(testpack, "decoder")
    shapes: list[tuple[int, ...]] = []

    def run(array: Any) -> Any:
        shapes.append(array.shape)
        return np.zeros((1, 3, array.shape[2] * 8, array.shape[3] * 8), np.float32)

    monkeypatch.setattr(decoder, "run", run)
    from sdrt.network.transform import to_pixels

    latents = np.random.default_rng(0).normal(size=(12, 100, 30)).astype(np.float32)  # equal tiles would run once
    assert to_pixels(latents, testpack, decoder, (0, 0, 240, 800)).shape == (800, 240, 3)
    assert set(shapes) == {(1, 12, 64, 30)}
    assert len(shapes) == 2
    assert (codec.used_device, codec.used_precision) == ("tensorrt", "w16")
