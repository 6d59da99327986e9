"""One graph in ONNX Runtime. The only import of onnxruntime, of everything in this project."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdrt.errors import EngineError, ModelError, first_line, raise_interrupt_behind
from sdrt.network.devices import DEVICE_FACTS
from sdrt.network.graph import Floats, Graph, Runner, check_ports
from sdrt.parallel import usable_cores

_SESSIONS_KEPT = 4
"""Of a device that needs one for each shape, which takes a second and memory to compile."""

Named = Mapping[str, NDArray[np.float32]]
"""Arrays by the names of a graph's inputs or outputs."""
NamedRunner = Callable[[Named], Named]


def provider_options(device: str, *, tf32: bool = True) -> dict[str, str]:
    """The options of a device's execution provider. ``tf32`` False: CUDA's float32 products keep full accuracy."""
    exact = {} if tf32 or device != "cuda" else {"use_tf32": "0"}
    return {**DEVICE_FACTS[device].options, **exact}


@dataclass(frozen=True)
class Port:
    """A graph's only input. ``channels`` None: the dimension is dynamic."""

    name: str
    channels: int | None


def load() -> ModuleType:
    """Imports onnxruntime with its telemetry off. Raises EngineError, with the command that installs it.

    From 1.29 on the package leaves a device's id and a list of events in the user's cache folder and, in a process that
    lives some seconds, calls its vendor. It reads this variable when it is imported.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise_interrupt_behind(error)
        why = "is not installed" if error.name == "onnxruntime" else f"does not load ({first_line(error)})"
        plain, cuda = DEVICE_FACTS["cpu"].install, DEVICE_FACTS["cuda"].install
        raise EngineError(f"ONNX Runtime {why}: {plain} (or {cuda} for NVIDIA GPUs)") from None


def find_plugin(device: str, module: str, ort: ModuleType) -> list[Any]:
    """The hardware for ``device`` that ``module``, its plugin, finds. Registers the plugin where it is not yet.

    Raises EngineError: the plugin does not load, or finds no such hardware.
    """
    try:
        plugin = importlib.import_module(module)
        name = plugin.get_ep_name()
        if name not in _registered:
            ort.register_execution_provider_library(name, plugin.get_library_path())
            _registered.add(name)
    except Exception as error:  # onnxruntime raises a dozen unrelated classes here, the plugin its own
        raise_interrupt_behind(error)
        raise EngineError(f"device {device} is unavailable: {module} does not load: {first_line(error)}") from None
    hardware = DEVICE_FACTS[device].hardware
    found = [each for each in ort.get_ep_devices() if each.ep_name == name and each.device.type.name == hardware]
    if not found:
        raise EngineError(f"device {device} is unavailable: {module} loads but finds no supported hardware")
    return found


_registered: set[str] = set()
"""Plugins that this process has registered: onnxruntime accepts each once."""


def open_session(
    graph: Graph | Path, device: str, threads: int | None, *, optimize: bool, options: Mapping[str, str]
) -> tuple[Runner, Port]:
    """Loads a graph with one input and one output. That its device is here is for ``installed.require`` to say.

    Args:
        graph: The graph; for TensorRT the path of a context graph, which finds its engine beside it.
        device: Any device but "auto" and "openvino".
        threads: 1 or more; None: one for each core that the process may use.
        optimize: Whether ONNX Runtime may rewrite the graph.
        options: Options of the execution provider.

    Returns:
        What runs it, and its input.

    Raises:
        EngineError: The device does not start, the graph cannot be loaded, or it does not have one float input and one
            float or uint8 output.
    """
    path = graph if isinstance(graph, Path) else graph.path
    facts = DEVICE_FACTS[device]
    open_with = functools.partial(_inference_session, graph, device, threads, optimize=optimize, options=options)
    for_ports = functools.partial(_inference_session, graph, "cpu", 1, optimize=False, options={})
    session = for_ports() if facts.fixed_shapes else open_with()
    inputs, outputs = session.get_inputs(), session.get_outputs()
    check_ports(path, [port.type for port in inputs], [port.type for port in outputs])
    name, wanted = inputs[0].name, np.float16 if inputs[0].type == "tensor(float16)" else np.float32
    shape = inputs[0].shape
    if facts.fixed_shapes and None in shape:
        raise EngineError(f"device {device} cannot open {path}: a dimension of its input has neither size nor name")
    session_for = _one_for_each(shape, open_with) if facts.fixed_shapes else lambda _shape: session

    def run(array: Floats) -> NDArray[Any]:
        fitting = session_for(array.shape)
        try:
            result: NDArray[Any] = fitting.run(None, {name: np.ascontiguousarray(array, dtype=wanted)})[0]
        except Exception as error:
            raise EngineError(f"{path.name} on {device} failed for input {array.shape}: {first_line(error)}") from None
        return result

    channels = shape[1] if len(shape) == 4 and isinstance(shape[1], int) else None
    return run, Port(name, channels)


def _one_for_each(dimensions: Sequence[int | str], open_with: Callable[..., Any]) -> Callable[[tuple[int, ...]], Any]:
    """Maps a shape of input to its session. ``dimensions``: of the graph's input, the free ones by their names."""

    @functools.lru_cache(_SESSIONS_KEPT)
    def session_for(shape: tuple[int, ...]) -> Any:
        pairs = zip(dimensions, shape, strict=False)  # another rank is refused when it runs
        return open_with(sizes={name: size for name, size in pairs if isinstance(name, str)})

    return session_for


def open_named(
    graph: Graph, device: str, threads: int | None, *, inputs: Sequence[str], outputs: Sequence[str]
) -> NamedRunner:
    """Loads a float32 graph with several inputs and outputs.

    Args:
        graph, device, threads: As for ``open_session``.
        inputs: The names of all its inputs.
        outputs: The names of the outputs to compute.

    Raises:
        EngineError: As ``open_session``.
        ModelError: The graph has other inputs, or lacks an output.
    """
    session = _inference_session(graph, device, threads, optimize=True, options=provider_options(device))
    found = {port.name for port in session.get_inputs()}, {port.name for port in session.get_outputs()}
    if found[0] != set(inputs) or not found[1].issuperset(outputs):
        raise ModelError(
            f"{graph.path} has inputs {', '.join(sorted(found[0]))} and outputs {', '.join(sorted(found[1]))}; "
            f"expected {', '.join(inputs)} and {', '.join(outputs)}"
        )
    names = list(outputs)

    def run(arrays: Named) -> Named:
        try:
            results = session.run(names, dict(arrays))
        except Exception as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise EngineError(f"{graph.path.name} on {device} failed for {shapes}: {first_line(error)}") from None
        return dict(zip(names, results, strict=True))

    return run


def _inference_session(
    graph: Graph | Path,
    device: str,
    threads: int | None,
    *,
    optimize: bool,
    options: Mapping[str, str],
    sizes: Mapping[str, int] | None = None,
) -> Any:
    """The session itself, with ``sizes`` for free dimensions of its inputs. Raises EngineError as ``open_session``."""
    facts = DEVICE_FACTS[device]
    path, source = (graph, str(graph)) if isinstance(graph, Path) else (graph.path, graph.data)
    ort = load()
    settings = _session_options(ort, device, threads, optimize)
    for dimension, size in (sizes or {}).items():
        settings.add_free_dimension_override_by_name(dimension, size)
    # enable_fallback=0: otherwise a provider that fails to start is replaced, with a print on stdout.
    choice: dict[str, Any] = {"enable_fallback": 0}
    provider = facts.provider
    if facts.plugin is not None:
        hardware = find_plugin(device, facts.plugin, ort)[:1]
        provider = hardware[0].ep_name
        settings.add_provider_for_devices(hardware, dict(options))
    else:
        choice["providers"] = [(provider, dict(options))]
    if device == "tensorrt":
        choice["providers"].append((DEVICE_FACTS["cuda"].provider, provider_options("cuda")))
    if facts.wheel == "onnxruntime-gpu":
        _preload(ort)
    try:
        session = ort.InferenceSession(source, sess_options=settings, **choice)
    except Exception as error:  # onnxruntime raises a dozen unrelated classes here
        raise EngineError(f"device {device} cannot open {path}: {first_line(error)}{_advice(error, device)}") from None
    if session.get_providers()[0] != provider:
        raise EngineError(f"device {device} is unavailable: ONNX Runtime chose {session.get_providers()[0]}")
    session._model_bytes = None  # it would hold the graph's bytes for as long as it lives, for a fallback that is off
    return session


def _preload(ort: ModuleType) -> None:
    """CUDA and cuDNN from their Python packages, where the system has none. What it prints is for stderr."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(sys.stderr):
            ort.preload_dlls()


def _session_options(ort: ModuleType, device: str, threads: int | None, optimize: bool) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # Never ONNX Runtime's own format, which it detects by the first bytes: what was checked is ONNX.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.inter_op_num_threads = 1
    # By default ONNX Runtime pins its threads to cores: beside any other busy process that is 2 to 3 times slower.
    options.intra_op_num_threads = threads if threads is not None else usable_cores()
    # It would keep a memory plan for every shape: a thousand pictures of a thousand sizes would fill the memory.
    # The arena stays: without it the peak is half as high again, and it stops growing at the largest picture.
    options.enable_mem_pattern = False
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    # Idle threads that spin burn a core between pictures for a gain of a few microseconds a node.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if DEVICE_FACTS[device].accelerator:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def _advice(error: Exception, device: str) -> str:
    facts, text = DEVICE_FACTS[device], str(error)
    if any(word in text for word in ("INVALID_PROTOBUF", "Protobuf parsing failed", "INVALID_GRAPH", "ModelProto")):
        return " (the graph is damaged: install the model pack again)"
    if "fallback to CPU EP has been explicitly disabled" in text:
        return f" (the device does not know all of the graph{'' if facts.only_these else ': try another --precision'})"
    return f" ({facts.install})" if facts.accelerator else ""
