"""Gradients of what slides a window over a picture: convolutions, pooling, nearest upsampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdrt_export.gradient.layout import scatter
from sdrt_export.gradient.writer import Rule, Step, Writer


@dataclass(frozen=True)
class _Window:
    """A node's window with ONNX's defaults written out; one number a side, pads two (all begins, then all ends)."""

    kernel: Sequence[int]
    strides: Sequence[int]
    dilations: Sequence[int]
    pads: Sequence[int]
    group: int

    @property
    def rank(self) -> int:
        return len(self.kernel)


def _window(graph: Writer, step: Step, weights: str = "") -> _Window:
    """The window of a node, of an AveragePool or with weights (out, in, sides...)."""
    given, dims = step.attributes, graph.dims(weights)
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise step.refuse("with automatic padding")
    kernel = given.get("kernel_shape", None if dims is None else dims[2:])
    if kernel is None or not all(isinstance(side, int) for side in kernel):
        raise step.refuse("with a kernel of unknown size")
    ones = [1] * len(kernel)
    strides, dilations = given.get("strides", ones), given.get("dilations", ones)
    return _Window(list(kernel), strides, dilations, given.get("pads", [0] * 2 * len(kernel)), given.get("group", 1))


def _conv(graph: Writer, step: Step) -> str:
    weights = step.input(1)
    window = _window(graph, step, weights)
    reach = [(side - 1) * dilation for side, dilation in zip(window.kernel, window.dilations, strict=True)]
    mirrored_pads = [far - pad for far, pad in zip(reach * 2, window.pads, strict=True)]
    if window.group > 1 or max(window.strides) > 1 or min(mirrored_pads) < 0:
        return _transposed(graph, step.g, weights, step.x, window)
    # The same as the transposed convolution, and faster in ONNX Runtime, which mirrors constant weights as it loads.
    if max(window.kernel) > 1:
        axes = list(range(2, 2 + window.rank))
        back, far_end = [-1] * window.rank, [np.iinfo(np.int64).min] * window.rank
        weights = graph.add("Slice", weights, *map(graph.constant, (back, far_end, axes, back)))
    turned = graph.add("Transpose", weights, perm=[1, 0, *range(2, 2 + window.rank)])
    return graph.add("Conv", step.g, turned, pads=mirrored_pads, dilations=window.dilations)


def _transposed(graph: Writer, gradient: str, weights: str, name: str, window: _Window) -> str:
    """The transposed convolution, as large as a forward value (N, C, sides...)."""
    # A stride s leaves up to s - 1 elements at the end of a side unseen. How many, the size of the output does not
    # tell: the largest size that fits is computed and cut.
    slack = [stride - 1 for stride in window.strides]
    ends = [pad - more for pad, more in zip(window.pads[window.rank :], slack, strict=True)]
    spread = graph.add(
        "ConvTranspose",
        gradient,
        weights,
        kernel_shape=window.kernel,
        strides=window.strides,
        dilations=window.dilations,
        group=window.group,
        pads=[*window.pads[: window.rank], *(max(end, 0) for end in ends)],
        output_padding=[max(-end, 0) for end in ends],
    )
    if not any(slack):
        return spread
    axes = graph.constant(range(2, 2 + window.rank))
    return graph.add("Slice", spread, graph.constant([0] * window.rank), graph.shape(name, 2), axes)


def _conv_transpose(graph: Writer, step: Step) -> str:
    window = _window(graph, step, step.input(1))
    more = step.attributes.get("output_padding", [0] * window.rank)
    if "output_shape" in step.attributes or np.any(np.array(more) >= window.strides):
        raise step.refuse("with output_shape, or with output_padding of a stride or more")
    return graph.add(
        "Conv",
        step.g,
        step.input(1),
        kernel_shape=window.kernel,
        strides=window.strides,
        dilations=window.dilations,
        group=window.group,
        pads=window.pads,
    )


def _max_pool(graph: Writer, step: Step) -> str:
    if step.attributes.get("storage_order", 0):
        raise step.refuse("with indices in column-major order")
    return scatter(graph, step.g, graph.optional_output(step.node, 1), step.x)


def _average_pool(graph: Writer, step: Step) -> str:
    window = _window(graph, step)
    if step.attributes.get("ceil_mode", 0):
        raise step.refuse("with ceil_mode")
    gradient, alone = step.g, graph.constant([1, 1])
    if any(window.pads) and not step.attributes.get("count_include_pad", 0):
        # Windows at the border hold fewer elements: the share of the whole that they hold is the mean of ones there.
        ones = graph.ones(step.x, graph.add("Concat", alone, graph.shape(step.x, 2), axis=0))
        share = graph.add("AveragePool", ones, **{**step.attributes, "count_include_pad": 1})
        gradient = graph.add("Div", gradient, share)
    # Every channel alone, as a batch: its weight is one kernel, whatever the number of channels.
    gradient = graph.add("Reshape", gradient, graph.constant([-1, 1, *[0] * window.rank]))
    kernel = graph.constant(np.full([1, 1, *window.kernel], 1 / np.prod(window.kernel)), like=step.x)
    return graph.add("Reshape", _transposed(graph, gradient, kernel, step.x, window), graph.shape(step.x))


def _resize(graph: Writer, step: Step) -> str:
    given = step.attributes
    mapping = given.get("coordinate_transformation_mode", b"half_pixel")
    rounding = given.get("nearest_mode", b"round_prefer_floor")
    # Both name the pixel at floor(position / scale) where the scale is an integer.
    floors = (mapping, rounding) == (b"asymmetric", b"floor")
    nearest = mapping == b"half_pixel" and rounding in (b"round_prefer_floor", b"round_prefer_ceil")
    if given.get("mode", b"nearest") != b"nearest" or not (floors or nearest):
        raise step.refuse(
            "other than to repeated pixels (mode nearest, asymmetric with floor, or half_pixel with rounding)"
        )
    rank = graph.rank(step, step.x)
    scales = np.ones(rank)
    found = graph.numbers(step.input(2))
    if found is None or found.size == 0:
        raise step.refuse("by anything but constant scales")
    scales[given.get("axes", list(range(rank)))] = found
    if np.any(scales != np.rint(scales)) or np.any(scales < 1) or np.any(scales[:2] != 1):
        raise step.refuse(f"by scales {scales.tolist()}: they must be whole, and 1 for batch and channels")
    kernel = scales[2:].astype(int).tolist()
    mean = graph.add("AveragePool", step.g, kernel_shape=kernel, strides=kernel)
    return graph.add("Mul", mean, graph.constant(np.prod(kernel), like=step.x))


FIRST: dict[str, Rule] = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "Resize": _resize,
}
