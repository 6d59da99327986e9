"""Runs a graph: device choice, threads, bounded memory. The only import of onnxruntime and openvino.

A device asked for by name is used or refused, never replaced: ONNX Runtime on its own would warn and run on the CPU.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdrt.errors import EngineError

DEVICES = ("auto", "cpu", "cuda", "tensorrt", "openvino")
AUTO_ORDER = ("cuda", "cpu", "openvino")
"""``auto`` takes the first that works. TensorRT stays a choice: its engines take minutes to build."""

INSTALL = {
    "cpu": "pip install 'sdrt[cpu]'",
    "cuda": "pip install 'sdrt[gpu]'",
    "tensorrt": "pip install 'sdrt[gpu]' 'tensorrt-cu13>=10.13,<11'",
    "openvino": "pip install 'sdrt[openvino]'",
}
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
ORT_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")

Floats = NDArray[np.float32] | NDArray[np.float16]
Runner = Callable[[Floats], NDArray[Any]]


@dataclass(frozen=True)
class DeviceReport:
    """What ``sdrt doctor`` says about one device."""

    device: str
    available: bool
    detail: str


class Engine:
    """One graph with one input and one output, ready to run on one device.

    ``device`` is what is used in truth (never ``auto``), ``reason`` says in one line why.
    """

    device: str
    reason: str

    def __init__(
        self,
        path: Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        optimise: bool = True,
        provider_options: Mapping[str, str] | None = None,
    ) -> None:
        """Loads the graph.

        ``threads`` 1 or more; None takes every core that the process may use. ``optimise`` False keeps the
        graph as it was written, to tell an optimiser's fault from the graph's. ``provider_options`` go to the CUDA or
        TensorRT provider as they are.

        Raises EngineError: unknown device, device not to be had, graph missing or not readable.
        """
        if device not in DEVICES:
            raise EngineError(f"unknown device {device!r}; choose one of {', '.join(DEVICES)}")
        if threads is not None and threads < 1:
            raise EngineError(f"threads must be at least 1, got {threads}")
        if not path.is_file():
            raise EngineError(f"no graph at {path}")
        self.path = path
        if device == "auto":
            self.device, self._runner, self.reason = _open_best(path, threads, optimise)
        else:
            self._runner = _open(path, device, threads, optimise, provider_options or {})
            self.device, self.reason = device, "asked for"

    def run(self, array: Floats) -> NDArray[np.float32]:
        """NCHW in float32 or float16 -> NCHW in float32.

        Raises EngineError if the shape does not fit the graph or the device gives up (memory, for example).
        """
        if array.ndim != 4 or 0 in array.shape:
            raise EngineError(f"{self.path.name} takes four dimensions NCHW, none of them empty; got {array.shape}")
        return self._runner(array).astype(np.float32, copy=False)


def available_devices() -> list[DeviceReport]:
    """Every device but auto, whether its libraries are here, and what to do where they are not.

    A device whose libraries are here may still fail to open a graph (no driver, for example): only ``Engine`` can tell.
    """
    reports: list[DeviceReport] = []
    offered: list[str] = []
    version = ""
    if importlib.util.find_spec("onnxruntime") is not None:
        ort = _import_ort()
        offered, version = ort.get_available_providers(), str(ort.__version__)
    for device, provider in PROVIDERS.items():
        here = provider in offered
        detail = f"onnxruntime {version}" if here else _absent(device, version)
        reports.append(DeviceReport(device, here, detail))
    if importlib.util.find_spec("openvino") is None:
        reports.append(DeviceReport("openvino", False, INSTALL["openvino"]))
    else:
        reports.append(DeviceReport("openvino", True, f"openvino {importlib.metadata.version('openvino')}"))
    return reports


def installed_onnxruntimes() -> list[str]:
    """The ONNX Runtime distributions installed here; more than one overwrite each other's files."""
    found: list[str] = []
    for name in ORT_PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _absent(device: str, version: str) -> str:
    if not version:
        return f"ONNX Runtime is not installed: {INSTALL[device]}"
    swap = "pip uninstall onnxruntime; " if device in ("cuda", "tensorrt") else ""
    return f"onnxruntime {version} here has no {PROVIDERS[device]}: {swap}{INSTALL[device]}"


def _import_ort() -> ModuleType:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        why = "is not installed" if error.name == "onnxruntime" else f"does not load ({_line(error)})"
        raise EngineError(f"ONNX Runtime {why}: {INSTALL['cpu']} (or {INSTALL['cuda']} for NVIDIA GPUs)") from None


def _open_best(path: Path, threads: int | None, optimise: bool) -> tuple[str, Runner, str]:
    reports = {report.device: report for report in available_devices()}
    if not any(reports[device].available for device in AUTO_ORDER):
        _import_ort()
    passed_over: list[str] = []
    failures: list[str] = []
    for device in AUTO_ORDER:
        if not reports[device].available:
            passed_over.append(f"no {device} ({reports[device].detail})")
            continue
        try:
            return device, _open(path, device, threads, optimise, {}), "; ".join(passed_over) or "first choice"
        except EngineError as error:
            failures.append(str(error))
            passed_over.append(f"no {device} ({error})")
    raise EngineError("; ".join(failures or passed_over))


def _open(path: Path, device: str, threads: int | None, optimise: bool, options: Mapping[str, str]) -> Runner:
    if device == "openvino":
        return _open_openvino(path, threads)
    return _open_ort(path, device, threads, optimise, options)


def _open_ort(path: Path, device: str, threads: int | None, optimise: bool, options: Mapping[str, str]) -> Runner:
    ort = _import_ort()
    provider = PROVIDERS[device]
    providers: list[Any] = [(provider, dict(options))]
    if device == "tensorrt":
        providers.append(PROVIDERS["cuda"])
    if provider not in ort.get_available_providers():
        raise EngineError(f"device {device} cannot be had: {_absent(device, str(ort.__version__))}")
    try:
        # enable_fallback=0: else a provider that fails to start is replaced with a print on stdout.
        session = ort.InferenceSession(
            str(path),
            sess_options=_session_options(ort, device, threads, optimise),
            providers=providers,
            enable_fallback=0,
        )
    except Exception as error:  # onnxruntime raises a dozen unrelated classes here
        raise EngineError(f"device {device} cannot open {path}: {_line(error)}{_advice(error, device)}") from None
    if session.get_providers()[0] != provider:
        raise EngineError(f"device {device} cannot be had: ONNX Runtime chose {session.get_providers()[0]}")
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise EngineError(f"{path} has {len(inputs)} inputs and {len(outputs)} outputs, one of each was expected")
    name, wanted = inputs[0].name, np.float16 if inputs[0].type == "tensor(float16)" else np.float32

    def run(array: Floats) -> NDArray[Any]:
        try:
            result: NDArray[Any] = session.run(None, {name: np.ascontiguousarray(array, dtype=wanted)})[0]
        except Exception as error:
            raise EngineError(f"{path.name} on {device} failed for input {array.shape}: {_line(error)}") from None
        return result

    return run


def _session_options(ort: ModuleType, device: str, threads: int | None, optimise: bool) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.inter_op_num_threads = 1
    # Left to itself, ONNX Runtime pins its threads to cores: beside any other busy process that is 2 to 3 times slower.
    options.intra_op_num_threads = threads if threads is not None else _usable_cores()
    # A memory plan is kept for every shape ever seen: a thousand pictures of a thousand sizes fill the memory.
    # The arena stays: without it the peak is half as high again, and it stops growing at the largest picture.
    options.enable_mem_pattern = False
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    # Idle threads that spin burn a core between pictures for a gain of a few microseconds a node.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if device != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def _usable_cores() -> int:
    """The cores that this process may use: fewer than the machine has inside some containers and job queues."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _import_openvino() -> ModuleType:
    """Without its telemetry: importing openvino starts a process that reports to google-analytics.com.

    Where that package is missing, openvino takes its own silent stand-in.
    """
    hidden = "openvino" not in sys.modules and "openvino_telemetry" not in sys.modules
    if hidden:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # importing it then raises ImportError
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        why = "is not installed" if error.name == "openvino" else f"does not load ({_line(error)})"
        raise EngineError(f"device openvino cannot be had: OpenVINO {why}: {INSTALL['openvino']}") from None
    finally:
        if hidden:
            del sys.modules["openvino_telemetry"]


def _open_openvino(path: Path, threads: int | None) -> Runner:
    openvino = _import_openvino()
    # Its default cache keeps kernels and buffers for 5000 shapes.
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "CPU_RUNTIME_CACHE_CAPACITY": 32}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    try:
        core = openvino.Core()
        request = core.compile_model(core.read_model(str(path)), "CPU", config).create_infer_request()
    except Exception as error:  # openvino raises RuntimeError and its subclasses
        raise EngineError(f"device openvino cannot open {path}: {_line(error)}{_advice(error, 'openvino')}") from None

    def run(array: Floats) -> NDArray[Any]:
        try:
            request.infer([np.ascontiguousarray(array, dtype=np.float32)])
            return np.array(request.get_output_tensor(0).data)
        except Exception as error:
            raise EngineError(f"{path.name} on openvino failed for input {array.shape}: {_line(error)}") from None

    return run


def _advice(error: Exception, device: str) -> str:
    text = str(error)
    if any(word in text for word in ("INVALID_PROTOBUF", "Protobuf parsing failed", "INVALID_GRAPH", "ModelProto")):
        return " (the graph is damaged: install the model pack again)"
    return f" ({INSTALL[device]})" if device in ("cuda", "tensorrt") else ""


def _line(error: Exception) -> str:
    """The first line of a message, at most 300 characters: the rest is the engine's own stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
