"""The precisions of a graph: what is stored and what is computed in half precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sdrt.errors import ModelError

PRECISIONS = {
    "w16": "weights stored in fp16, all arithmetic in fp32 (any CPU)",
    "fp16": "weights and arithmetic in fp16, normalization and softmax in fp32 (GPU)",
    "fp32": "weights and arithmetic in fp32 (reference)",
}
ISLANDS = frozenset(
    {"InstanceNormalization", "GroupNormalization", "LayerNormalization", "BatchNormalization", "Softmax",
     "ReduceMean", "ReduceSum", "ReduceL2", "Exp", "Pow", "Sqrt"}
)  # fmt: skip
"""Sums over many numbers, and functions that leave fp16's range at moderate arguments."""

WIDE_SCOPE = "in_float32"
"""Nodes traced inside a submodule of this name are islands too, whatever they compute."""

SMALL = 64
"""Tensors of fewer numbers (and all biases) stay in fp32 under w16: rounding them saves nothing."""

Array = NDArray[np.generic]


def convert(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """A float32 graph in another precision; input and output stay float32. The given model is not changed.

    Raises ModelError for an unknown precision or a weight that fp16 cannot hold.
    """
    if precision not in PRECISIONS:
        raise ModelError(f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    if precision == "w16":
        _store_half(converted.graph)
    elif precision == "fp16":
        _compute_half(converted)
    return converted


def widen(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph of precision w16 with its weights in float32 again, as fp16 rounded them; others are copied."""
    widened = onnx.ModelProto()
    widened.CopyFrom(model)
    graph = widened.graph
    halves = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    casts = [node for node in graph.node if node.op_type == "Cast" and node.input[0] in halves]
    for node in casts:
        wide = numpy_helper.to_array(halves[node.input[0]]).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(wide, node.output[0]))
    done = {node.output[0] for node in casts}
    replace_nodes(graph, [node for node in graph.node if node.output[0] not in done])
    drop_unused(graph)
    return widened


def _store_half(graph: onnx.GraphProto) -> None:
    casts: list[onnx.NodeProto] = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2 or np.prod(tensor.dims) < SMALL:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(_half(numpy_helper.to_array(tensor), name), f"{name}.fp16"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}.widen", to=TensorProto.FLOAT))
    replace_nodes(graph, casts + list(graph.node))


def _compute_half(model: onnx.ModelProto) -> None:
    """Everything float becomes fp16 but what an island reads or writes; the islands get Casts at their shores."""
    graph = model.graph
    floats = _float_tensors(model)
    narrow = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    wide: dict[str, onnx.TensorProto] = {}
    for tensor in graph.initializer:
        if tensor.name in narrow:
            original = onnx.TensorProto()
            original.CopyFrom(tensor)
            wide[tensor.name] = original
            tensor.CopyFrom(numpy_helper.from_array(_half(numpy_helper.to_array(tensor), tensor.name), tensor.name))
    floats |= narrow
    nodes: list[onnx.NodeProto] = []
    entry, leave = graph.input[0].name, graph.output[0].name
    nodes.append(helper.make_node("Cast", [entry], [f"{entry}.fp16"], name="enter", to=TensorProto.FLOAT16))
    renamed = {entry: f"{entry}.fp16"}
    kept: set[str] = set()
    for node in graph.node:
        if _is_island(node):
            nodes += _island(graph, node, floats, wide, renamed=renamed, kept=kept)
            continue
        _retype(node)
        for position, name in enumerate(node.input):
            # Resize takes its scales in float32 whatever it resizes.
            if node.op_type == "Resize" and position > 0 and name in wide:
                node.input[position] = _keep_wide(graph, wide[name])
            else:
                node.input[position] = renamed.get(name, name)
        nodes.append(node)
    last = next(node for node in nodes if leave in node.output)
    last.output[list(last.output).index(leave)] = f"{leave}.fp16"
    for node in nodes:
        for position, name in enumerate(node.input):
            if name == leave:
                node.input[position] = f"{leave}.fp16"
    nodes.append(helper.make_node("Cast", [f"{leave}.fp16"], [leave], name="leave", to=TensorProto.FLOAT))
    del graph.value_info[:]
    used = {name for node in nodes for name in node.input} | {leave}
    # Between islands nobody reads the narrow value.
    replace_nodes(graph, [node for node in nodes if used & set(node.output)])
    drop_unused(graph)


def wide_values(graph: onnx.GraphProto) -> set[str]:
    """Values that stay float32 in the fp16 form of a graph: those that only float32 operators write and read."""
    given = {name for node in graph.node if _is_island(node) for name in node.output}
    read_narrow = {name for node in graph.node if not _is_island(node) for name in node.input}
    return given - read_narrow - {value.name for value in graph.output}


def _is_island(node: onnx.NodeProto) -> bool:
    return node.op_type in ISLANDS or f"/{WIDE_SCOPE}/" in node.name


def _island(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    floats: set[str],
    wide: dict[str, onnx.TensorProto],
    *,
    renamed: dict[str, str],
    kept: set[str],
) -> list[onnx.NodeProto]:
    """The node and the Casts around it. ``kept``: values that an island gave, which the next takes as they are."""
    nodes: list[onnx.NodeProto] = []
    for position, name in enumerate(node.input):
        if name in wide:
            node.input[position] = _keep_wide(graph, wide[name])
        elif name in kept:
            node.input[position] = f"{name}.fp32"
        elif name in floats:
            source = renamed.get(name, name)
            node.input[position] = f"{node.output[0]}.in{position}"
            nodes.append(_cast(source, node.input[position], TensorProto.FLOAT))
    nodes.append(node)
    for position, name in enumerate(node.output):
        if name in floats:
            node.output[position] = f"{name}.fp32"
            kept.add(name)
            nodes.append(_cast(f"{name}.fp32", name, TensorProto.FLOAT16))
    return nodes


def _cast(source: str, target: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}.cast", to=to)


def _keep_wide(graph: onnx.GraphProto, tensor: onnx.TensorProto) -> str:
    name = f"{tensor.name}.fp32"
    if all(item.name != name for item in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(tensor), name))
    return name


def _retype(node: onnx.NodeProto) -> None:
    """Casts to float32 inside the graph become casts to fp16; constants too."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            half = _half(numpy_helper.to_array(attribute.t), node.output[0])
            attribute.t.CopyFrom(numpy_helper.from_array(half, attribute.t.name))


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of the float32 values between the nodes, by ONNX's own shape and type inference."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    return {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}


def _half(values: Array, name: str) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise ModelError(f"a weight of {name} is beyond the range of fp16 (65504): use another precision")
    return half


def replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """The graph computes with these nodes, which may be its own, instead of those that it has."""
    copies = []
    for node in nodes:
        duplicate = onnx.NodeProto()
        duplicate.CopyFrom(node)
        copies.append(duplicate)
    del graph.node[:]
    graph.node.extend(copies)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Removes initializers that no node reads."""
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    copies = []
    for tensor in kept:
        duplicate = onnx.TensorProto()
        duplicate.CopyFrom(tensor)
        copies.append(duplicate)
    del graph.initializer[:]
    graph.initializer.extend(copies)
