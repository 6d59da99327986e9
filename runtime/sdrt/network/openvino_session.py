"""One graph in OpenVINO, on the CPU. The only import of openvino, of everything in this project."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdrt.errors import EngineError, first_line, raise_interrupt_behind
from sdrt.network.devices import INSTALL

Floats = NDArray[np.float32] | NDArray[np.float16]
Runner = Callable[[Floats], NDArray[Any]]


def open_session(path: Path, threads: int | None, *, precision: str | None) -> tuple[Runner, str]:
    """A graph and the arithmetic that it runs in: bf16 or fp32.

    ``precision`` bf16: that or nothing; None: bf16 where the CPU has it in hardware; any other: float32.

    Raises EngineError: no OpenVINO, no bf16, graph not readable.
    """
    openvino = load()
    # Its default cache keeps kernels and buffers for 5000 shapes.
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "CPU_RUNTIME_CACHE_CAPACITY": 32}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    try:
        core = openvino.Core()
        capable = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and not capable:
            raise EngineError("bf16 cannot be had: this CPU has no instructions for it")
        half = capable and precision in (None, "bf16")
        # Said outright: OpenVINO's own default is whatever it thinks fastest.
        config["INFERENCE_PRECISION_HINT"] = "bf16" if half else "f32"
        request = core.compile_model(core.read_model(str(path)), "CPU", config).create_infer_request()
    except EngineError:
        raise
    except Exception as error:  # openvino raises RuntimeError and its subclasses
        raise EngineError(f"device openvino cannot open {path}: {first_line(error)}") from None

    def run(array: Floats) -> NDArray[Any]:
        try:
            request.infer([np.ascontiguousarray(array, dtype=np.float32)])
            return np.array(request.get_output_tensor(0).data)
        except Exception as error:
            raise EngineError(f"{path.name} on openvino failed for input {array.shape}: {first_line(error)}") from None

    return run, "bf16" if half else "fp32"


def load() -> ModuleType:
    """The package, without its telemetry: importing openvino starts a process that reports to google-analytics.com.

    Where the package that does so is missing, openvino takes its own silent stand-in. Raises EngineError with the line
    that installs it.
    """
    hidden = "openvino" not in sys.modules and "openvino_telemetry" not in sys.modules
    if hidden:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # importing it then raises ImportError
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise_interrupt_behind(error)
        why = "is not installed" if error.name == "openvino" else f"does not load ({first_line(error)})"
        raise EngineError(f"device openvino cannot be had: OpenVINO {why}: {INSTALL['openvino']}") from None
    finally:
        if hidden:
            del sys.modules["openvino_telemetry"]
