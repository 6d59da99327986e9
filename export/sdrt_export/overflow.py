"""Largest activations of a graph: whether half precision can hold them.

No CPU run of an fp16 graph shows an overflow, as ONNX Runtime computes it in float32 there. So the float32 graph is run
with every intermediate value as an output, and the largest magnitude is compared with what fp16 holds.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from sdrt_export.made_pictures import decoder_input
from sdrt_export.precision import wide_values
from sdrt_export.session import open_session

FP16_MAX = 65504.0
MAX_PEAK = FP16_MAX / 2
"""Limit of the activations: other pictures may reach more, so half of the range is kept free."""


def peak(model: onnx.ModelProto, array: NDArray[np.float32]) -> tuple[float, NDArray[np.float32]]:
    """The largest magnitude inside the float32 graph of what would be fp16, for this input; and the output.

    NaN where any of them is NaN, for which Python's ``max`` would return another number.
    """
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    graph = observed.graph
    types = onnx.shape_inference.infer_shapes(observed, strict_mode=True).graph.value_info
    wide = wide_values(graph)
    floats = [value.name for value in types if value.type.tensor_type.elem_type == TensorProto.FLOAT]
    floats = [name for name in floats if name not in wide]
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in floats)
    session = open_session(observed, optimize=False)
    values = session.run(None, {graph.input[0].name: array})
    return float(np.max([np.abs(value).max() for value in values])), values[0]


def peak_of_pair(
    encoder: onnx.ModelProto,
    decoder: onnx.ModelProto,
    sample: NDArray[np.float32],
    channels: int,
    *,
    quality_input: bool = False,
) -> float:
    """The largest magnitude inside both float32 graphs, the decoder on the encoder's latents.

    Args:
        encoder: gives ``channels`` latents, or as many means and then log-variances.
        decoder: takes latents.
        sample: a picture (N, 3, H, W) in [-1, 1].
        channels: of the latents.
        quality_input: whether the decoder takes the quality level too.
    """
    first, latents = peak(encoder, sample)
    second, _ = peak(decoder, decoder_input(latents[:, :channels], quality_input))
    return float(np.max([first, second]))
