"""How far a convolution-only graph looks: the halo with which a tile equals the whole picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Constants = Mapping[str, NDArray[Any]]
Interval = tuple[float, float]
"""Positions first..last, both included, on one spatial axis; floats only for the empty interval (inf, -inf)."""

POINTWISE = frozenset(
    {"Add", "Sub", "Mul", "Div", "Relu", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Clip", "Cast", "Identity", "Neg",
     "Exp", "Sqrt", "Pow", "Abs", "Min", "Max", "Gelu", "Erf", "HardSigmoid", "HardSwish", "Softplus", "Elu"}
)  # fmt: skip


_NO_END = 2**31 - 1
"""Exporters say at least this for a slice that goes on to the last row."""


def dependence(model: onnx.ModelProto, output_block: int) -> int | None:
    """How far outside itself a block of the output looks in the input, in input positions, on the worst of four sides.

    ``output_block``: a block of this many output positions that starts at a multiple of it is what a tile is made of:
    1 latent for an encoder, the downscale factor for a decoder. None if the graph holds an operation that looks
    further than a window (a normalization over the picture, attention) or one that is not known here.
    """
    sides: list[int] = []
    for axis in (0, 1):
        first_block = _needed(model, axis, (0, output_block - 1))
        if first_block is None:
            return None
        interval, block = first_block
        sides += [int(-interval[0]), int(interval[1] - (block - 1))]
    return max(0, *sides)


def _needed(model: onnx.ModelProto, axis: int, wanted: Interval) -> tuple[Interval, int] | None:
    """Walks back from the output; returns the interval of the input and the number of input positions of the block."""
    graph = model.graph
    constants: dict[str, NDArray[Any]] = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    need: dict[str, Interval] = {graph.output[0].name: wanted}
    covers: dict[str, Interval] = {graph.output[0].name: wanted}
    for node in reversed(graph.node):
        if node.output[0] in constants:
            continue
        back = _window(node, axis, constants)
        if back is None:
            return None
        look, own = back
        if node.output[0] not in need:
            continue
        for name in node.input:
            if name and name not in constants:
                need[name] = _union(need.get(name), look(need[node.output[0]]))
                covers[name] = _union(covers.get(name), own(covers[node.output[0]]))
    source = next(item.name for item in graph.input if item.name not in constants)
    return need[source], int(covers[source][1] - covers[source][0]) + 1


def _union(one: Interval | None, other: Interval) -> Interval:
    low, high = one if one is not None else (inf, -inf)
    return min(low, other[0]), max(high, other[1])


Step = Callable[[Interval], Interval]


def _window(node: onnx.NodeProto, axis: int, constants: Constants) -> tuple[Step, Step] | None:
    """Two maps from an interval of the output to one of the input: all that is looked at, and the same area only."""
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if node.op_type in POINTWISE or (node.op_type == "Concat" and attributes["axis"] == 1):
        return _same, _same
    if node.op_type == "Conv" and node.input[1] in constants and attributes.get("auto_pad", b"NOTSET") == b"NOTSET":
        kernel = constants[node.input[1]].shape[2 + axis]
        defaults = {"strides": 1, "dilations": 1, "pads": 0}
        stride, dilation, pad = (attributes.get(key, [default] * 4)[axis] for key, default in defaults.items())
        reach = (kernel - 1) * dilation - pad
        return (
            lambda out: (out[0] * stride - pad, out[1] * stride + reach),
            lambda out: (out[0] * stride, out[1] * stride + stride - 1),
        )
    if node.op_type == "Slice":
        return _sliced(node, axis, constants)
    if node.op_type == "DepthToSpace":
        return _shrunk(attributes["blocksize"])
    if node.op_type == "SpaceToDepth":
        block = attributes["blocksize"]
        grown: Step = lambda out: (out[0] * block, out[1] * block + block - 1)  # noqa: E731
        return grown, grown
    if node.op_type == "Resize" and attributes.get("mode", b"nearest") == b"nearest":
        modes = attributes.get("coordinate_transformation_mode"), attributes.get("nearest_mode")
        scales = constants.get(node.input[2]) if len(node.input) > 2 else None
        if modes == (b"asymmetric", b"floor") and scales is not None:
            scale = float(scales[2 + axis])
            if scale.is_integer():
                return _shrunk(int(scale))
    return None


def _sliced(node: onnx.NodeProto, axis: int, constants: Constants) -> tuple[Step, Step] | None:
    """Slices over channels, and every n-th row or column from the first to the last."""
    given = [constants[name].tolist() if name in constants else [] for name in node.input[1:5]]
    starts, ends, axes, steps = given + [[]] * (4 - len(given))  # axes and steps may be absent
    if not starts or not ends or not axes:
        return None
    stride = 1
    for start, end, where, step in zip(starts, ends, axes, steps or [1] * len(axes), strict=True):
        if where in (2 + axis, axis - 2):
            if start != 0 or step < 1 or end < _NO_END:
                return None
            stride = int(step)
    # A cell's first value stands for all of it.
    return (
        lambda out: (out[0] * stride, out[1] * stride),
        lambda out: (out[0] * stride, out[1] * stride + stride - 1),
    )


def _same(out: Interval) -> Interval:
    return out


def _shrunk(block: int) -> tuple[Step, Step]:
    step: Step = lambda out: (out[0] // block, out[1] // block)  # noqa: E731
    return step, step
