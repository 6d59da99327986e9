"""TensorRT engines: which machine each one fits, where they are cached, and the provider options that build them.

An engine is compiled for one graph, one range of input sizes, one TensorRT and one GPU architecture. Its folder names
all of them, so that a change of any leads to another folder and never to a stale engine:

    <cache>/tensorrt/<graph's sha256, 16 digits>/ort1.31.0-trt10.13.2-sm90/
        context.onnx    a graph of one node that loads the engine
        *.engine        the engine
        built.json      the sizes; written last, so that an interrupted build is not taken for an engine
    <cache>/tensorrt/timing/ort1.31.0-trt10.13.2-sm90/    measured kernel times, shared by all graphs

<cache> is $SDRT_CACHE, or ``sdrt`` in the user's cache folder. docs/DEVICES.md has the details.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sdrt.errors import EngineError, first_line
from sdrt.network.devices import DEVICE_FACTS, Sides
from sdrt.user_folders import CACHE, user_folder

CONTEXT = "context.onnx"
RECORD = "built.json"
COMMAND = "python -m sdrt_export tensorrt PACK"
MAJOR = 10
"""ONNX Runtime's provider is linked against this major version of libnvinfer."""
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute in cuda.h


@dataclass(frozen=True)
class Machine:
    """What an engine is tied to, besides its graph. ``architecture``: compute capability, 90 for 9.0."""

    onnxruntime: str
    tensorrt: str
    architecture: int

    @property
    def folder_name(self) -> str:
        return f"ort{self.onnxruntime}-trt{self.tensorrt}-sm{self.architecture}"


def cache_root() -> Path:
    """$SDRT_CACHE, or ``sdrt`` in the user's cache folder. Raises EngineError if neither is known."""
    named = os.environ.get("SDRT_CACHE")
    try:
        if named:
            return Path(named).expanduser()
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "sdrt" / "cache"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "sdrt"
        return Path(user_folder(*CACHE)).expanduser() / "sdrt"
    except RuntimeError as error:  # this user, or the one that a ~ names, has no home
        raise EngineError(f"no cache folder for TensorRT engines: {first_line(error)} Set SDRT_CACHE") from None


def this_machine(onnxruntime: str) -> Machine:
    """The installed TensorRT and the GPU. Loads libnvinfer, from its Python package if the system has none.

    Raises EngineError: no TensorRT, another major version, no GPU.
    """
    return Machine(onnxruntime, _tensorrt_version(), _architecture())


def place_of(graph: Path, machine: Machine) -> Path:
    """The folder of the engine of ``graph`` for ``machine``, whether it exists or not."""
    digest = hashlib.sha256()
    with graph.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return cache_root() / "tensorrt" / digest.hexdigest()[:16] / machine.folder_name


def timing_folder(machine: Machine) -> Path:
    """The cache of kernel timings, shared by all graphs on this machine."""
    return cache_root() / "tensorrt" / "timing" / machine.folder_name


def find(place: Path) -> Sides | str:
    """The sizes of the engine in ``place``, or the reason why there is no usable one."""
    if not place.parent.is_dir():
        return "none was ever built for this graph"
    if not place.is_dir():
        others = sorted(entry.parent.name for entry in place.parent.glob(f"*/{RECORD}"))
        return f"none for {place.name}" + (f" (there is one for {', '.join(others)})" if others else "")
    try:
        record = json.loads((place / RECORD).read_text(encoding="utf-8"))
        sides = Sides(*(int(record["sides"][key]) for key in ("min", "opt", "max")))
        complete = all((place / name).stat().st_size == size for name, size in record["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EngineError):
        return f"the one in {place} is damaged"
    return sides if complete and CONTEXT in record["files"] else f"the one in {place} is damaged"


def write_record(folder: Path, graph: Path, sides: Sides, machine: Machine, seconds: float) -> None:
    """Completes a built engine: from here on ``find`` gives it.

    Raises EngineError where the provider left no context graph or no engine.
    """
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != RECORD}
    if CONTEXT not in files or not any(name.endswith(".engine") for name in files):
        raise EngineError(
            f"TensorRT built no engine for the whole of {graph.name} (it left {', '.join(files) or 'nothing'}): use "
            "device cuda"
        )
    record = {
        "graph": graph.name,
        "sides": asdict(sides),
        "machine": asdict(machine),
        "seconds": round(seconds, 1),
        "files": files,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def build_options(folder: Path, machine: Machine, sides: Sides, name: str, channels: int) -> dict[str, str]:
    """The provider's options that build an engine into ``folder`` for inputs (1, channels, side, side).

    ``name``: the graph's input. The engine computes in the types that the graph names: fp16 where it says fp16, float32
    in the normalizations, which sum over many numbers. With ``trt_fp16_enable`` the network would be weakly typed, and
    TensorRT free to compute those in fp16 too.
    """

    def shape(side: int) -> str:
        return f"{name}:1x{channels}x{side}x{side}"

    # The binding wants True and False for switches and throws at 1 and 0. trt_engine_cache_path is left out: with a
    # context graph the engine goes to that graph's folder, and an absolute path or an empty one is refused.
    return {
        "trt_profile_min_shapes": shape(sides.min),
        "trt_profile_opt_shapes": shape(sides.opt),
        "trt_profile_max_shapes": shape(sides.max),
        "trt_fp16_enable": "False",
        "trt_layer_norm_fp32_fallback": "True",
        "trt_engine_cache_enable": "True",
        "trt_dump_ep_context_model": "True",
        "trt_ep_context_embed_mode": "0",
        "trt_ep_context_file_path": str(folder / CONTEXT),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(timing_folder(machine)),
    }


def check_sides(sides: Sides, shape: Sequence[int], where: str) -> None:
    """Raises EngineError for an input (N, C, H, W) that the engine was not built for: the provider only crashes."""
    if not all(sides.min <= side <= sides.max for side in shape[2:]):
        raise EngineError(
            f"{where}: the TensorRT engine takes sides from {sides.min} to {sides.max}, got "
            f"{tuple(shape)}: {COMMAND} --sides MIN OPT MAX builds another"
        )


def _tensorrt_version() -> str:
    library = _load_tensorrt()
    number = int(library.getInferLibVersion())
    # 10.13.2 is 101302 since TensorRT 10, 8.6.1 was 8601.
    major, minor, patch = (
        (number // 10000, number // 100 % 100, number % 100)
        if number >= 10**5
        else (number // 1000, number // 100 % 10, number % 100)
    )
    if major != MAJOR:
        raise EngineError(
            f"TensorRT {major}.{minor}.{patch} is installed, {MAJOR} is required: {DEVICE_FACTS['tensorrt'].install}"
        )
    return f"{major}.{minor}.{patch}"


def _load_tensorrt() -> ctypes.CDLL:
    windows = sys.platform == "win32"
    names = [f"nvinfer_{MAJOR}.dll"] if windows else [f"libnvinfer.so.{MAJOR}"]
    parsers = [f"nvonnxparser_{MAJOR}.dll"] if windows else [f"libnvonnxparser.so.{MAJOR}"]
    package = importlib.util.find_spec("tensorrt_libs")
    folders = list(package.submodule_search_locations or []) if package is not None else []
    failure = "no library was found"
    for folder in (None, *folders):
        try:
            libraries = [
                ctypes.CDLL(name if folder is None else str(Path(folder) / name), mode=ctypes.RTLD_GLOBAL)
                for name in names + parsers
            ]
        except OSError as error:
            failure = str(error)
            continue
        # Loaded once, they are found by ONNX Runtime's provider wherever they lie.
        return libraries[0]
    install = DEVICE_FACTS["tensorrt"].install
    raise EngineError(f"TensorRT does not load ({failure}): {install}")


def _architecture() -> int:
    """The compute capability of the first visible GPU, asked of the driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        raise EngineError(f"no NVIDIA driver ({error})") from None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    for code in (
        driver.cuInit(0),
        driver.cuDeviceGet(ctypes.byref(device), 0),
        driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device),
    ):
        if code:
            raise EngineError(f"the NVIDIA driver finds no GPU (error {code})")
    return 10 * major.value + minor.value
