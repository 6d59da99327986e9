"""How much arithmetic a graph does, and how fast this machine multiplies matrices: the limit of any runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

_COUNTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")


def _shapes(model: onnx.ModelProto, input_shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Static shapes of all tensors when the graph's only input has ``input_shape``."""
    import onnx

    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(dims, input_shape, strict=True):
        dim.ClearField("dim_param")
        dim.dim_value = size
    for output in model.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {i.name: tuple(i.dims) for i in inferred.initializer}
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    return shapes


def _product(values: Sequence[int]) -> int:
    result = 1
    for value in values:
        result *= value
    return result


def _multiplications(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    first, second, out = (shapes.get(n, ()) for n in (node.input[0], node.input[1], node.output[0]))
    if not first or not second or not out or 0 in (*first, *out):
        raise ValueError(f"the shapes of {node.op_type} {node.name} are not known")
    if node.op_type == "Conv":  # weights (out, in / groups, kh, kw), once per output position
        return _product(out[:1] + out[2:]) * _product(second)
    if node.op_type == "ConvTranspose":  # weights (in, out / groups, kh, kw), once per input position
        return _product(first[:1] + first[2:]) * _product(second)
    return _product(out) * first[-1]


def gflop(path: Path, input_shape: Sequence[int]) -> float:
    """Billions of multiplications and additions (two for each pair) in convolutions and matrix products.

    Raises ValueError where a shape stays unknown.
    """
    import onnx

    model = onnx.load(str(path))
    shapes: dict[str, Any] = dict(_shapes(model, input_shape))
    # Weights may be stored in half precision behind a Cast, which keeps the shape.
    for node in model.graph.node:
        if node.op_type == "Cast" and node.output[0] not in shapes:
            shapes[node.output[0]] = shapes.get(node.input[0], ())
    pairs = sum(_multiplications(n, shapes) for n in model.graph.node if n.op_type in _COUNTED)
    return 2 * pairs / 1e9


def matrix_product(dtype: str, size: int = 2048) -> tuple[Callable[[], object], float]:
    """A product of two ``size`` x ``size`` matrices in torch, and its billions of operations.

    ``dtype``: float32 or bfloat16.
    """
    import torch

    matrix = torch.randn(size, size).to(getattr(torch, dtype))
    return lambda: matrix @ matrix, 2 * size**3 / 1e9
