"""Decoders that return pixels: clamping, rounding and channels-last order inside the graph.

``python -m sdrt_export output PACK uint8`` rewrites the decoders of a pack, ``float32`` takes it back. A GPU then sends
a quarter of the bytes. The pixels are those that ``sdrt.pixels.tensors.from_sample`` would compute.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sdrt.atomic import write_atomic
from sdrt.errors import ModelError
from sdrt.packs.manifest import ModelPack
from sdrt.packs.search import read_verified
from sdrt_export.pack_writer import update_manifest
from sdrt_export.precision import drop_unused, replace_nodes

OUTPUTS = ("uint8", "float32")
_OWN = "pixels/"
"""Prefix of the names of added nodes and constants."""


def with_pixels(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph with the output ``sample``, float32 (N, 3, H, W) -> one with ``pixels``, uint8 (N, H, W, 3)."""
    painted = onnx.ModelProto()
    painted.CopyFrom(model)
    graph = painted.graph
    sample = graph.output[0]
    low, high, half = (f"{_OWN}{name}" for name in ("low", "high", "half"))
    for name, number in ((low, -1.0), (high, 1.0), (half, 127.5)):
        graph.initializer.append(numpy_helper.from_array(np.float32(number), name))
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        # Clamped first: else the scaling is folded into the last convolution, which rounds differently.
        ("Clip", [sample.name, low, high], {}),
        ("Mul", [f"{_OWN}Clip", half], {}),
        ("Add", [f"{_OWN}Mul", half], {}),
        ("Round", [f"{_OWN}Add"], {}),
        # In float32: TensorRT knows uint8 at a graph's ends only.
        ("Transpose", [f"{_OWN}Round"], {"perm": [0, 2, 3, 1]}),
        ("Cast", [f"{_OWN}Transpose"], {"to": TensorProto.UINT8}),
    ]
    for kind, inputs, attributes in steps:
        output = "pixels" if kind == "Cast" else f"{_OWN}{kind}"
        graph.node.append(helper.make_node(kind, inputs, [output], name=f"{_OWN}{kind}", **attributes))
    batch, channels, height, width = sample.type.tensor_type.shape.dim
    sides = [side.dim_param or side.dim_value for side in (batch, height, width, channels)]
    graph.output[0].CopyFrom(helper.make_tensor_value_info("pixels", TensorProto.UINT8, sides))
    return painted


def without_pixels(model: onnx.ModelProto) -> onnx.ModelProto:
    """The inverse of ``with_pixels``; a graph that returns samples is copied."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    graph = plain.graph
    if gives_pixels(model):
        batch, height, width, channels = graph.output[0].type.tensor_type.shape.dim
        sides = [side.dim_param or side.dim_value for side in (batch, channels, height, width)]
        graph.output[0].CopyFrom(helper.make_tensor_value_info("sample", TensorProto.FLOAT, sides))
        replace_nodes(graph, [node for node in graph.node if not node.name.startswith(_OWN)])
        drop_unused(graph)
    return plain


def gives_pixels(model: onnx.ModelProto) -> bool:
    """Whether the graph ends in pixels."""
    return bool(model.graph.output[0].type.tensor_type.elem_type == TensorProto.UINT8)


def set_output(pack: ModelPack, output: str) -> list[str]:
    """Makes every decoder of the pack return ``output``, one of OUTPUTS; returns the names of the changed files.

    Raises ModelError if a decoder is altered or the output unknown, OutputError if the pack cannot be written.
    """
    if output not in OUTPUTS:
        raise ModelError(f"unknown output {output!r}; choose one of {', '.join(OUTPUTS)}")
    changed: dict[Path, onnx.ModelProto] = {}
    for precision in pack.precisions:
        path = pack.decoder_path(precision)
        model = onnx.load_model_from_string(read_verified(pack, path.name))
        if gives_pixels(model) != (output == "uint8"):
            changed[path] = with_pixels(model) if output == "uint8" else without_pixels(model)
    for path, model in changed.items():
        onnx.checker.check_model(model)
        write_atomic(path, model.SerializeToString(deterministic=True))
    update_manifest(pack.folder)
    return [path.name for path in changed]
