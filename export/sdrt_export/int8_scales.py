"""Calibration of int8 graphs by running them on real inputs: ranges, and the error that each layer adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from sdrt_export.int8_graph import LEVELS, convolutions, quantize_graph, seams
from sdrt_export.session import open_session

Floats = NDArray[np.float32]

_SAMPLES = 8192
"""Values of a tensor that are kept of each input: enough to place a clipping point."""
_CLIPS = np.linspace(0.3, 1.0, 36)
"""Where to clip, as parts of the largest magnitude."""


_HARMED = 2
"""Number of inputs on which each convolution is tried alone: most of the time goes there."""


@dataclass(frozen=True)
class Layer:
    """One convolution and what 8 bits would do there."""

    output: str
    work: int
    """Multiplications in all inputs together."""
    harm: float
    """Mean squared error of the graph's output when this convolution alone computes in int8."""


@dataclass(frozen=True)
class Calibration:
    """What was seen of a float32 graph."""

    scales: dict[str, float]
    """The size of one int8 step for each name of ``seams``."""
    layers: tuple[Layer, ...]

    def harmful_first(self) -> list[Layer]:
        """The layers by the benefit of float: by error per multiplication, largest first."""
        return sorted(self.layers, key=lambda layer: (-layer.harm / layer.work, layer.output))


def calibrate(model: onnx.ModelProto, inputs: Sequence[Floats]) -> Calibration:
    """Scales and the harm of each convolution of a float32 graph, on inputs as it will meet them.

    A scale is the one with the least squared error over the values seen, clipped ones included.
    """
    source = model.graph.input[0].name
    names = sorted(seams(model) - {source})
    kernels = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    seen: dict[str, list[Floats]] = {}
    work: dict[str, int] = {}
    random = np.random.default_rng(0)
    observer = open_session(_observed(model, names))
    outputs: list[Floats] = []
    for array in inputs:
        result, *inner = observer.run([model.graph.output[0].name, *names], {source: array})
        outputs.append(result)
        values = {source: array, **dict(zip(names, inner, strict=True))}
        for name, value in values.items():
            magnitudes = np.abs(value).ravel()
            kept = magnitudes[random.integers(magnitudes.size, size=_SAMPLES)]
            seen.setdefault(name, []).append(np.append(kept, magnitudes.max()))
        for node in convolutions(model):
            per_value = int(np.prod(kernels[node.input[1]][1:]))
            work[node.output[0]] = work.get(node.output[0], 0) + values[node.output[0]].size * per_value
    scales = {name: _scale(np.concatenate(magnitudes)) for name, magnitudes in seen.items()}
    layers = [
        Layer(
            output,
            multiplications,
            error_of(quantize_graph(model, scales, [output]), inputs[:_HARMED], outputs[:_HARMED]),
        )
        for output, multiplications in work.items()
    ]
    return Calibration(scales, tuple(layers))


def error_of(model: onnx.ModelProto, inputs: Sequence[Floats], expected: Sequence[Floats]) -> float:
    """Mean squared error of a graph's outputs."""
    changed = open_session(model)
    source = model.graph.input[0].name
    pairs = zip(inputs, expected, strict=True)
    return float(np.mean([np.square(changed.run(None, {source: array})[0] - other).mean() for array, other in pairs]))


def _scale(values: Floats) -> float:
    largest = float(values.max())
    if largest == 0:
        return 1.0
    steps = largest * _CLIPS / LEVELS
    errors = [np.square(np.minimum(np.rint(values / step), LEVELS) * step - values).mean() for step in steps]
    return float(steps[int(np.argmin(errors))])


def _observed(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    own = {value.name for value in model.graph.output}
    observed.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in own
    )
    return observed
