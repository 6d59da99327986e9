"""Tests a device by running a graph of one node on it: installed libraries do not prove that it works."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from sdrt.errors import EngineError
from sdrt.network import onnxruntime_session
from sdrt.network.devices import DEVICE_FACTS, Sides
from sdrt.network.engine import Engine
from sdrt.network.installed import require

ONE_NODE = bytes.fromhex(
    "08083a560a0c0a0178120179220452656c75120472656c755a1f0a0178121a0a18080112140a0312016e0a031201630a0312"
    "01680a03120177621f0a0179121a0a18080112140a0312016e0a031201630a031201680a0312017742040a00100d"
)
"""y = Relu(x) in ONNX: float32, four free dimensions. tests/test_probe.py writes it with the package onnx."""
ONE_NODE_INT8 = bytes.fromhex(
    "08083ae9010a1c0a01780a01730a017a120161220e5175616e74697a654c696e6561720a1e0a01610a01730a017a12016222"
    "1044657175616e74697a654c696e6561720a0c0a0162120163220452656c750a1c0a01630a01730a017a120164220e517561"
    "6e74697a654c696e6561720a1e0a01640a01730a017a120179221044657175616e74697a654c696e656172120472656c752a"
    "0b10014201734a040000803e2a08100342017a4a01005a1f0a0178121a0a18080112140a0312016e0a031201630a03120168"
    "0a03120177621f0a0179121a0a18080112140a0312016e0a031201630a031201680a0312017742040a00100d"
)
"""The same between numbers of 8 bits, in steps of 1/4, for devices that take nothing else."""


def failure(device: str) -> str | None:
    """Why ``device`` (not ``auto``) cannot run a graph; None if it can.

    TensorRT builds a small engine for it, which is not kept and takes seconds.
    """
    sample = np.array([-1.0, 2.0], np.float32).reshape(1, 1, 1, 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "relu.onnx"
        path.write_bytes(ONE_NODE if any(map(DEVICE_FACTS[device].takes, ("w16", "fp32"))) else ONE_NODE_INT8)
        try:
            require(device)
            if device == "tensorrt":
                run, _ = onnxruntime_session.open_session(path, device, 1, optimize=True, options={})
            else:
                run = Engine(path, device=device, threads=1, sides=Sides(1, 1, 2)).run
            given = run(sample)
        except EngineError as error:
            return str(error)
    return None if given.ravel().tolist() == [0.0, 2.0] else f"device {device} computes relu(-1, 2) as {given.ravel()}"
