"""Rewrites the convolutions of a float32 graph for 8-bit integers: QuantizeLinear and DequantizeLinear around each.

One form for every engine: weights int8 with a scale for each output channel, activations int8 with one scale, every
zero point 0, biases in float. ONNX Runtime turns it into QLinearConv (on x86 by way of uint8), OpenVINO into its own
integer convolutions, and TensorRT takes nothing but this. What is not a convolution stays float.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sdrt_export.precision import convert, drop_unused, replace_nodes

LEVELS = 127
"""Of activations: -127..127, so that zero is in the middle."""
WEIGHT_LEVELS = 64
"""-64..64: x86 without VNNI adds two products of 8-bit numbers in 16 bits, and 2 * 255 * 64 is what fits there. With
more, pictures break on those processors and on no other."""


def convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The convolutions with constant weights, in graph order; each identified by the name of its output."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in constants]


def seams(model: onnx.ModelProto) -> set[str]:
    """Names of the values to quantize: inputs and outputs of convolutions."""
    ends = {name for node in convolutions(model) for name in (node.input[0], node.output[0])}
    return ends | set(_rectified(model).values())


def quantize_graph(model: onnx.ModelProto, scales: Mapping[str, float], layers: Collection[str]) -> onnx.ModelProto:
    """A copy of a float32 graph in which the convolutions ``layers`` (names of their outputs) compute in int8.

    ``scales``: the size of one int8 step for each name of ``seams``. Weights of the other layers are stored in fp16.
    Raises ModelError for a weight that fp16 cannot hold.
    """
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    graph = quantized.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    rectified, readers = _rectified(model), _readers(model)
    chosen = {node.output[0] for node in convolutions(model)} & set(layers)
    nodes: list[onnx.NodeProto] = []
    rounded: dict[str, str] = {}
    """A value -> the output of its DequantizeLinear."""
    seen_as: dict[str, str] = {}
    """Outputs of chosen convolutions -> what their readers see: the engines' fused convolution gives nothing else."""

    def constant(name: str, array: NDArray[np.generic]) -> str:
        graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def round_off(name: str, scale: float) -> str:
        if name not in rounded:
            step, zero = constant(f"{name}.step", np.float32(scale)), constant(f"{name}.zero", np.int8(0))
            integers, rounded[name] = f"{name}.int8", f"{name}.rounded"
            nodes.append(helper.make_node("QuantizeLinear", [name, step, zero], [integers], name=integers))
            back = helper.make_node("DequantizeLinear", [integers, step, zero], [rounded[name]], name=rounded[name])
            nodes.append(back)
        return rounded[name]

    for node in graph.node:
        source, output = node.input[0] if node.input else "", node.output[0]
        for position, name in enumerate(node.input):
            node.input[position] = seen_as.get(name, name)
        if output not in chosen:
            nodes.append(node)
            continue
        if node.input[0] not in rounded.values():
            node.input[0] = round_off(node.input[0], scales[source])
        channels = len(weights[node.input[1]])
        node.input[1] = _round_weights(node.input[1], weights[node.input[1]], constant, nodes)
        nodes.append(node)
        if output == graph.output[0].name:
            continue
        # Where only a ReLU reads it, the ReLU's own steps: what it rounds is then on its grid already.
        seen_as[output] = round_off(output, scales[rectified.get(output, output)])
        if len(readers[output]) > 1:
            # ONNX Runtime splits a DequantizeLinear with several readers, and then fuses the convolution no more: a
            # product with ones reads it alone, and is not removed as one with a scalar would be. Measured on the SD
            # VAE's shape: 2.3 times faster.
            ones = constant(f"{output}.ones", np.ones((1, channels, 1, 1), np.float32))
            nodes.append(helper.make_node("Mul", [seen_as[output], ones], [f"{output}.shared"], f"{output}.shared"))
            seen_as[output] = f"{output}.shared"
    replace_nodes(graph, nodes)
    drop_unused(graph)
    return convert(quantized, "w16")


def _rectified(model: onnx.ModelProto) -> dict[str, str]:
    """Outputs of convolutions that one ReLU reads and nothing else -> the ReLU's output."""
    readers = _readers(model)
    single = {node.output[0]: readers.get(node.output[0], []) for node in convolutions(model)}
    return {
        name: nodes[0].output[0] for name, nodes in single.items() if len(nodes) == 1 and nodes[0].op_type == "Relu"
    }


def _readers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _round_weights(
    name: str,
    weights: NDArray[np.float32],
    constant: Callable[[str, NDArray[np.generic]], str],
    nodes: list[onnx.NodeProto],
) -> str:
    """Appends the node that widens the rounded weights (out, in, h, w); returns the name of its output."""
    output = f"{name}.rounded"
    if any(output in node.output for node in nodes):
        return output
    largest = np.abs(weights).max(axis=(1, 2, 3))
    steps = (np.where(largest > 0, largest, 1) / WEIGHT_LEVELS).astype(np.float32)
    integers = np.clip(np.rint(weights / steps[:, None, None, None]), -WEIGHT_LEVELS, WEIGHT_LEVELS).astype(np.int8)
    # Zero points of zero may go unsaid, but ONNX Runtime's option x64quantprecision trips over that.
    zeros = constant(f"{name}.zeros", np.zeros(len(steps), np.int8))
    inputs = [constant(f"{name}.int8", integers), constant(f"{name}.steps", steps), zeros]
    nodes.append(helper.make_node("DequantizeLinear", inputs, [output], name=output, axis=0))
    return output
