"""Runs a graph on a device. Chooses device, threads and options of the inference engine.

A device requested by name is used or an error, never replaced: ONNX Runtime itself would warn and fall back to the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdrt.errors import EngineError
from sdrt.network import onnxruntime_session, openvino_session, tensorrt_session
from sdrt.network.devices import DEVICE_FACTS, PRECISIONS, Sides, check_threads, devices_to_try
from sdrt.network.graph import Floats, Graph, Runner, read_graph
from sdrt.network.installed import require, why_absent
from sdrt.packs.manifest import DEFAULT_PRECISION

DEFAULT_SIDES = Sides(1, 64, 256)

GraphOf = Callable[[str], Graph]
"""Maps a concrete device to the graph that it should run."""


@dataclass(frozen=True)
class _Opened:
    runner: Runner
    reason: str
    arithmetic: str | None = None
    longest_side: int | None = None


class Engine:
    """One graph with one input and one output, loaded on one device.

    Attributes:
        path: The file of the graph.
        device: The resolved device, never ``auto``.
        reason: Why it was chosen, one line.
        precision: Of the graph; "bf16" where OpenVINO computes in it.
        longest_side: Largest height and width of the input, in input cells; None: any. On a GPU larger pictures are
            run in tiles of exactly this side, because every new shape costs time or memory.
    """

    path: Path
    device: str
    reason: str
    precision: str
    longest_side: int | None

    def __init__(
        self,
        graph: Path | GraphOf,
        *,
        device: str = "auto",
        precision: str | None = None,
        threads: int | None = None,
        optimize: bool = True,
        sides: Sides = DEFAULT_SIDES,
        tf32: bool = True,
    ) -> None:
        """Loads the graph.

        Args:
            graph: Its path, or a function that returns the graph for the chosen device.
            device: One of ``devices.DEVICES``.
            precision: "bf16" requires it in OpenVINO; any other makes OpenVINO compute in float32. None: OpenVINO
                uses bf16 where the CPU has it. The graph's own precision does not depend on this.
            threads: 1 or more. None: one for each core that the process may use.
            optimize: False: run the graph as it was written, to tell the optimizer's faults from its own.
            sides: The input sizes to prepare a GPU for. A cached TensorRT engine keeps its own.
            tf32: False: CUDA multiplies float32 with full 24-bit mantissas instead of 11 bits.

        Raises:
            ArgumentError: Unknown device or precision, or ``threads`` not from 1 to MAX_THREADS.
            EngineError: The device is unavailable or cannot run the graph.
            ModelError: The graph cannot be read, is damaged, or refers to external data.

        And what ``graph`` raises.
        """
        candidates = devices_to_try(device, precision)
        check_threads(threads)
        settings = _Settings(precision, threads, optimize, sides, tf32)
        if len(candidates) == 1:
            require(candidates[0])  # before its graph is looked for: that would be an error about the pack
            self.device, found = candidates[0], _resolve(graph, candidates[0])
            opened = _open(found, self.device, settings)
        else:
            self.device, found, opened = _open_best(graph, candidates, settings)
        self.path = found.path
        self._runner, self.reason, self.longest_side = opened.runner, opened.reason, opened.longest_side
        self.precision = "bf16" if opened.arithmetic == "bf16" else precision_of(self.path)

    def run(self, array: Floats) -> NDArray[Any]:
        """Runs the graph once.

        Args:
            array: float32 or float16 (N, C, H, W), none of them 0.

        Returns:
            float32 (N, C, H, W); for graphs that end in pixels uint8 (N, H, W, 3).

        Raises:
            EngineError: The shape does not fit the graph, or the device fails (out of memory, for example).
        """
        if array.ndim != 4 or 0 in array.shape:
            raise EngineError(f"{self.path.name} expects a non-empty NCHW input, got {array.shape}")
        result = self._runner(array)
        return result if result.dtype == np.uint8 else result.astype(np.float32, copy=False)


def precision_of(path: Path) -> str:
    """The precision given by a graph's file name: ``decoder.fp16.onnx`` is fp16, ``decoder.onnx`` is w16."""
    parts = path.name.split(".")
    return parts[-2] if len(parts) > 2 and parts[-2] in PRECISIONS else DEFAULT_PRECISION


@dataclass(frozen=True)
class _Settings:
    precision: str | None
    threads: int | None
    optimize: bool
    sides: Sides
    tf32: bool


def _resolve(graph: Path | GraphOf, device: str) -> Graph:
    found = read_graph(graph) if isinstance(graph, Path) else graph(device)
    found.check_alone()
    return found


def _open_best(graph: Path | GraphOf, candidates: tuple[str, ...], settings: _Settings) -> tuple[str, Graph, _Opened]:
    passed_over: list[str] = []
    failures: list[str] = []
    for device in candidates:
        why = why_absent(device)
        if why is not None:
            passed_over.append(f"no {device} ({why})")
            continue
        found = _resolve(graph, device)
        try:
            opened = _open(found, device, settings)
        except EngineError as error:
            failures.append(str(error))
            passed_over.append(f"no {device} ({error})")
            continue
        reason = "; ".join(passed_over) or "first choice"
        return device, found, _Opened(opened.runner, reason, opened.arithmetic, opened.longest_side)
    if not failures:
        onnxruntime_session.load()  # its error states that nothing is installed
    raise EngineError("; ".join(failures or passed_over))


def _open(graph: Graph, device: str, settings: _Settings) -> _Opened:
    if device == "openvino":
        # By default an int8 graph runs as it was measured: what is not int8 stays float32, not bf16.
        precision = settings.precision or ("int8" if precision_of(graph.path) == "int8" else None)
        runner, arithmetic = openvino_session.open_session(graph, settings.threads, precision=precision)
        return _Opened(runner, "requested", arithmetic)
    if device == "tensorrt":
        tensorrt = tensorrt_session.open_session(graph.path, settings.threads, settings.sides)
        return _Opened(tensorrt.runner, tensorrt.reason, longest_side=tensorrt.sides.max)
    runner, _ = onnxruntime_session.open_session(
        graph,
        device,
        settings.threads,
        optimize=settings.optimize,
        options=onnxruntime_session.provider_options(device, tf32=settings.tf32),
    )
    return _Opened(runner, "requested", longest_side=settings.sides.max if DEVICE_FACTS[device].accelerator else None)
