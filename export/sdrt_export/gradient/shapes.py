"""Element types and symbolic shapes of all values of a graph.

ONNX's own inference finds most of it, node by node, but loses dynamic dimensions in every window: after a convolution
of dynamic height it does not know that the height is the same, and a residual sum looks as if it might broadcast. So
dimensions that ONNX leaves open get names here, and equal arithmetic on equal names gives equal names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, TypeProto, helper, numpy_helper

Dim = int | str
Dims = tuple[Dim, ...]

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_CONSTANT_FORMS = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
_SHAPE_INPUTS = 64  # constants of at most so many numbers may be shapes, axes or scales, which inference reads


@dataclass(frozen=True)
class Value:
    """What is known of a value at export time.

    Attributes:
        element: ONNX's number of the element type, ``TensorProto.UNDEFINED`` if unknown.
        dims: sides, names for free ones: sides of one name are equal in every run. None if the rank is unknown.
    """

    element: int = TensorProto.UNDEFINED
    dims: Dims | None = None


UNKNOWN = Value()


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes that are set, as Python values; strings are bytes."""
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def constants_of(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    """Initializers that no input overrides, and the tensors of Constant nodes."""
    inputs = {item.name for item in graph.input}
    constants = {item.name: item for item in graph.initializer if item.name not in inputs}
    for node in graph.node:
        if node.op_type == "Constant":
            ((form, value),) = attributes_of(node).items()
            if form == "value":
                constants[node.output[0]] = value
            elif form in _CONSTANT_FORMS:
                constants[node.output[0]] = numpy_helper.from_array(np.asarray(value, _CONSTANT_FORMS[form]))
    return constants


def infer(model: onnx.ModelProto, opset: int) -> dict[str, Value]:
    """Types and shapes by the value's name.

    Args:
        model: nodes in topological order, as the checker demands.
        opset: the version of ONNX's own operators.

    Returns:
        A value for each name that the graph gives to an input, an initializer or a node's output.
    """
    graph = model.graph
    fresh = (f"?{number}" for number in count())
    values = {item.name: Value(item.data_type, tuple(item.dims)) for item in graph.initializer}
    values |= {item.name: _value(item.type, fresh) for item in graph.input}
    constants = {name: item for name, item in constants_of(graph).items() if sum(item.dims) <= _SHAPE_INPUTS}
    shape_of: dict[str, str] = {}  # the output of a Shape -> whose shape it is
    for node in graph.node:
        if node.op_type == "Shape" and not any(item.i for item in node.attribute):
            shape_of[node.output[0]] = node.input[0]
        sides: Sequence[Dim | None] | None = _sides(node, values, constants)
        if node.op_type == "Reshape" and node.input[1] in shape_of:
            sides = values.get(shape_of[node.input[1]], UNKNOWN).dims
        inferred = _inferred(node, opset, values, constants)
        for name in filter(None, node.output):
            values[name] = _value(inferred.get(name, TypeProto()), fresh, sides)
    return values


def _inferred(
    node: onnx.NodeProto, opset: int, values: Mapping[str, Value], constants: Mapping[str, TensorProto]
) -> dict[str, TypeProto]:
    """ONNX's inference for one node; empty if it fails."""
    known = {name: values.get(name, UNKNOWN) for name in node.input if name}
    if any(value.element == TensorProto.UNDEFINED for value in known.values()):
        return {}
    data = {name: constants[name] for name in known if name in constants}
    version = [helper.make_opsetid(node.domain, opset)]
    # Shapes may contradict where the graph declares them wrongly; the types are known all the same.
    for with_shapes in (True, False):
        types = {
            name: helper.make_tensor_type_proto(value.element, value.dims if with_shapes else None)
            for name, value in known.items()
        }
        with suppress(onnx.defs.SchemaError, onnx.shape_inference.InferenceError):
            schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
            return dict(onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=version))
    return {}


def _value(described: TypeProto, fresh: Iterator[str], sides: Sequence[Dim | None] | None = None) -> Value:
    """From ONNX's description. What it leaves open is named by ``sides``, if they say it, or else anew."""
    tensor = described.tensor_type
    if not tensor.HasField("shape"):
        return Value(tensor.elem_type)
    dims: list[Dim] = []
    for axis, dim in enumerate(tensor.shape.dim):
        told = sides[axis] if sides is not None and len(sides) == len(tensor.shape.dim) else None
        dims.append(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or told or next(fresh))
    return Value(tensor.elem_type, tuple(dims))


def _sides(
    node: onnx.NodeProto, values: Mapping[str, Value], constants: Mapping[str, TensorProto]
) -> list[Dim | None] | None:
    """Sides of the first output, where ONNX loses dynamic ones; None for an unknown side."""
    dims = values.get(node.input[0], UNKNOWN).dims if node.input else None
    if dims is None:
        return None
    attributes = attributes_of(node)
    if node.op_type in ("DepthToSpace", "SpaceToDepth"):
        sign = "*" if node.op_type == "DepthToSpace" else "//"
        return [None, None, *(_scaled(side, sign, attributes["blocksize"]) for side in dims[2:])]
    if node.op_type == "Resize" and len(node.input) > 2 and node.input[2] in constants:
        scales = numpy_helper.to_array(constants[node.input[2]])
        whole = len(scales) == len(dims) and np.array_equal(scales, np.rint(scales)) and "axes" not in attributes
        return [_scaled(side, "*", int(scale)) for side, scale in zip(dims, scales, strict=True)] if whole else None
    if node.op_type in ("Conv", "MaxPool", "AveragePool"):
        plain = attributes.get("auto_pad", b"NOTSET") == b"NOTSET" and not attributes.get("ceil_mode", 0)
        weights = values.get(node.input[1], UNKNOWN).dims if node.op_type == "Conv" else None
        kernel = attributes.get("kernel_shape", weights[2:] if weights is not None else None)
        return [None, None, *_windows(attributes, dims[2:], kernel)] if plain and kernel is not None else None
    return None


def _windows(attributes: Mapping[str, Any], sides: Dims, kernel: Sequence[Any]) -> list[Dim]:
    """How many windows fit each side: (side + pads - reach) // stride + 1."""
    rank = len(sides)
    pads, ones = attributes.get("pads", [0] * 2 * rank), [1] * rank
    strides, dilations = attributes.get("strides", ones), attributes.get("dilations", ones)
    fitting: list[Dim] = []
    for axis, side in enumerate(sides):
        stride = strides[axis]
        extra = pads[axis] + pads[rank + axis] - (kernel[axis] - 1) * dilations[axis] - 1
        if stride == 1:
            fitting.append(side if extra == -1 else f"({side}{extra + 1:+d})")
        else:
            fitting.append(_scaled(side, "//", stride) if extra == -stride else f"(({side}{extra:+d})//{stride}+1)")
    return fitting


def _scaled(side: Dim, sign: str, factor: int) -> Dim:
    """``height*2`` times 2 is ``height*4``, and ``height//2`` by 2 is ``height//4``."""
    if factor == 1:
        return side
    base, _, last = str(side).rpartition(sign)
    return f"{base}{sign}{int(last) * factor}" if base and last.isdigit() else f"{side}{sign}{factor}"
