"""One graph in OpenVINO, on the CPU. The only import of openvino, of everything in this project."""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdrt.errors import EngineError, first_line, raise_interrupt_behind
from sdrt.network.devices import DEVICE_FACTS
from sdrt.network.graph import Floats, Graph, Runner, check_ports


def open_session(graph: Graph, threads: int | None, *, precision: str | None) -> tuple[Runner, str]:
    """Loads a graph.

    Args:
        graph: The graph.
        threads: 1 or more; None: OpenVINO's choice.
        precision: "bf16": required; None: bf16 where the CPU has it in hardware; any other: float32.

    Returns:
        What runs it, and the arithmetic used: "bf16" or "fp32".

    Raises:
        EngineError: OpenVINO or bf16 is unavailable, the graph cannot be read, or it does not have one float input and
            one float or uint8 output.
    """
    openvino, path = load(), graph.path
    # Its default cache keeps kernels and buffers for 5000 shapes.
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "CPU_RUNTIME_CACHE_CAPACITY": 32}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    try:
        core = openvino.Core()
        capable = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and not capable:
            raise EngineError("bf16 is unavailable: this CPU has no instructions for it")
        half = capable and precision in (None, "bf16")
        # Explicit, because OpenVINO's own default is whatever it considers fastest.
        config["INFERENCE_PRECISION_HINT"] = "bf16" if half else "f32"
        compiled = core.compile_model(core.read_model(graph.data, b""), "CPU", config)
        sides = ([port.get_element_type().to_string() for port in side] for side in (compiled.inputs, compiled.outputs))
        check_ports(path, *sides)
        request = compiled.create_infer_request()
    except EngineError:
        raise
    except Exception as error:  # openvino raises RuntimeError and its subclasses
        raise EngineError(f"device openvino cannot open {path}: {_reason(error)}") from None

    one_at_a_time = threading.Lock()  # a request has one set of tensors

    def run(array: Floats) -> NDArray[Any]:
        try:
            with one_at_a_time:
                request.infer([np.ascontiguousarray(array, dtype=np.float32)])
                return np.array(request.get_output_tensor(0).data)
        except Exception as error:
            raise EngineError(f"{path.name} on openvino failed for input {array.shape}: {_reason(error)}") from None

    return run, "bf16" if half else "fp32"


def _reason(error: Exception) -> str:
    """OpenVINO's message in one line, without the source locations at its start."""
    lines = [line.strip() for line in str(error).splitlines()]
    words = [line for line in lines if line and not line.startswith(("Exception from ", "Check '"))]
    return " ".join(words)[:300] or first_line(error)


def load() -> ModuleType:
    """The package, without its telemetry: importing openvino starts a process that reports to google-analytics.com.

    Without the package that reports, openvino uses its own silent substitute. Raises EngineError, with the command that
    installs openvino, if it is missing or does not load.
    """
    hidden = "openvino" not in sys.modules and "openvino_telemetry" not in sys.modules
    if hidden:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # importing it then raises ImportError
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise_interrupt_behind(error)
        why = "is not installed" if error.name == "openvino" else f"does not load ({first_line(error)})"
        install = DEVICE_FACTS["openvino"].install
        raise EngineError(f"device openvino is unavailable: OpenVINO {why}: {install}") from None
    finally:
        if hidden:
            del sys.modules["openvino_telemetry"]
