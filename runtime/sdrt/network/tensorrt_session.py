"""Compiles graphs to TensorRT engines and opens these in ONNX Runtime. ``tensorrt_cache`` knows where they are kept."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdrt.atomic import scratch
from sdrt.errors import EngineError
from sdrt.network import onnxruntime_session, tensorrt_cache
from sdrt.network.devices import Sides
from sdrt.network.graph import Floats, Runner, read_graph
from sdrt.network.installed import gpu_machine
from sdrt.network.tensorrt_cache import Machine

_BUILDING = threading.Lock()
"""One engine is built at a time: TensorRT chooses kernels by the time they take. Who waited finds it built."""


class Session(NamedTuple):
    """An opened engine. ``reason``: where it comes from, one line. ``sides``: the input sizes that it takes."""

    runner: Runner
    reason: str
    sides: Sides


def open_session(path: Path, threads: int | None, sides: Sides) -> Session:
    """Loads the engine of a graph for this machine's GPU. Where there is none it is built, after a warning.

    Args:
        path: The ONNX file.
        threads: Of ONNX Runtime.
        sides: The input sizes that an engine is built for; one that is there keeps its own.

    Raises as ``build_engine``.
    """
    machine = gpu_machine()
    place = tensorrt_cache.place_of(path, machine)
    found = tensorrt_cache.find(place)
    reason = f"the engine in {place}"
    if isinstance(found, str):
        import logging

        logging.getLogger("sdrt").warning(
            "no TensorRT engine for %s: %s; building one now, which takes minutes (%s does it in advance)",
            path.name,
            found,
            tensorrt_cache.COMMAND,
        )
        reason = f"{reason}, built now: {found}"
        build_engine(path, sides)
    else:
        sides = found
    context = place / tensorrt_cache.CONTEXT
    runner, _ = onnxruntime_session.open_session(context, "tensorrt", threads, optimize=True, options={})

    def run(array: Floats) -> NDArray[np.float32]:
        tensorrt_cache.check_sides(sides, array.shape, path.name)
        return np.concatenate([runner(array[item : item + 1]) for item in range(len(array))])

    return Session(run, reason, sides)


def build_engine(path: Path, sides: Sides, *, rebuild: bool = False) -> tuple[Path, bool]:
    """Compiles a graph for this machine's GPU, which takes minutes.

    Args:
        path: The ONNX file.
        sides: The input sizes that the engine takes.
        rebuild: Build again even if the cache has an engine of the same sides.

    Returns:
        The folder of the engine in the cache, and whether it was built now.

    Raises:
        EngineError: No TensorRT, no GPU, a graph that TensorRT cannot run as a whole, or not enough GPU memory.
        ModelError: As ``Engine``.
    """
    machine = gpu_machine()
    place = tensorrt_cache.place_of(path, machine)
    with _BUILDING:
        if not rebuild and tensorrt_cache.find(place) == sides:
            return place, False
        _build(path, place, machine, sides)
    return place, True


def _build(path: Path, place: Path, machine: Machine, sides: Sides) -> None:
    """Compiles into a folder of its own, which takes the place of an older engine when it is whole."""
    graph = read_graph(path)
    graph.check_alone()
    _, port = onnxruntime_session.open_session(graph, "cpu", 1, optimize=False, options={})
    if port.channels is None:
        raise EngineError(f"{path.name} has a dynamic channel dimension, for which TensorRT cannot build an engine")
    part = place.with_name(f".{place.name}.{os.urandom(8).hex()}")
    started_s = time.perf_counter()
    try:
        with scratch(part):
            part.mkdir(parents=True)
            tensorrt_cache.timing_folder(machine).mkdir(parents=True, exist_ok=True)
            options = tensorrt_cache.build_options(part, machine, sides, port.name, port.channels)
            run, _ = onnxruntime_session.open_session(path, "tensorrt", None, optimize=True, options=options)
            run(np.zeros((1, port.channels, sides.opt, sides.opt), np.float32))
            del run
            tensorrt_cache.write_record(part, path, sides, machine, time.perf_counter() - started_s)
            shutil.rmtree(place, ignore_errors=True)
            part.replace(place)
    except OSError as error:
        raise EngineError(f"cannot keep the TensorRT engine in {place}: {error.strerror or error}") from None
