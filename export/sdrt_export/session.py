"""ONNX Runtime sessions on graphs in memory, for looking inside; the runtime's own engine runs files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from sdrt.network import onnxruntime_session
from sdrt.parallel import usable_cores


def open_session(model: onnx.ModelProto, *, optimize: bool = True, basic_into: Path | None = None) -> Any:
    """The graph on the CPU, an onnxruntime.InferenceSession. ``optimize`` False: as it was written.

    ``basic_into``: only what keeps the graph standard ONNX is optimized, and the result is written to this file.
    """
    onnxruntime = onnxruntime_session.load()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # A number of threads that is given keeps them from being pinned to cores that other work may hold.
    options.intra_op_num_threads = usable_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    if basic_into is not None:
        options.graph_optimization_level = levels.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(basic_into)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
