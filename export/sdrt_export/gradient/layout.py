"""Gradients of operators that only move elements: reshape, permute, join, cut, pad, pick and copy."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from sdrt_export.gradient.shapes import FLOATS
from sdrt_export.gradient.writer import Rule, RuleOfEach, Step, Writer


def _reshape(graph: Writer, step: Step) -> str:
    return graph.add("Reshape", step.g, graph.shape(step.x))


def _cast(graph: Writer, step: Step) -> str:
    if graph.element(step.y) not in FLOATS:
        raise step.refuse("to a type that is not of floating point")
    return graph.add("Cast", step.g, to=graph.element(step.x))


def _transpose(graph: Writer, step: Step) -> str:
    if "perm" not in step.attributes:
        return graph.add("Transpose", step.g)
    return graph.add("Transpose", step.g, perm=np.argsort(step.attributes["perm"]).tolist())


def _depth_to_space(graph: Writer, step: Step) -> str:
    block = step.attributes["blocksize"]
    back = graph.add("SpaceToDepth", step.g, blocksize=block)
    if step.attributes.get("mode", b"DCR") == b"DCR":
        return back
    # SpaceToDepth has the depth within a block outermost; mode CRD has it innermost.
    dims = graph.dims(step.x)
    if dims is None or not isinstance(dims[1], int):
        raise step.refuse("of mode CRD with a free number of channels")
    return graph.add("Gather", back, graph.constant(np.arange(dims[1]).reshape(block**2, -1).T.ravel()), axis=1)


def _space_to_depth(graph: Writer, step: Step) -> str:
    return graph.add("DepthToSpace", step.g, blocksize=step.attributes["blocksize"], mode="DCR")


def _concat(graph: Writer, step: Step, position: int) -> str:
    axis = step.attributes["axis"]
    sides = [graph.shape(name, axis, axis + 1 or None) for name in step.node.input]
    split = graph.add("Concat", *sides, axis=0)
    return graph.add_split(len(sides), "Split", step.g, split, axis=axis)[position]


def _split(graph: Writer, step: Step) -> str:
    parts = [given or graph.zeros(name) for given, name in zip(step.gradients, step.node.output, strict=True)]
    return graph.add("Concat", *parts, axis=step.attributes.get("axis", 0))


def _slice(graph: Writer, step: Step) -> str:
    steps = graph.numbers(step.input(4)) if step.input(4) else np.ones(1)
    if steps is None or np.any(steps != 1):
        return _copies(graph, step)
    # Zeros around it: as many before as the start says, after as many as are missing then.
    axes = step.input(3) or graph.constant(range(graph.length(step, step.input(1))))
    pads = _known_pads(graph, step)
    return graph.add("Pad", step.g, graph.constant(pads) if pads else _computed_pads(graph, step, axes), "", axes)


def _known_pads(graph: Writer, step: Step) -> list[int] | None:
    """What a Slice with steps of 1 removes, before and after, if starts and sides are known."""
    starts, axes = graph.numbers(step.input(1)), graph.numbers(step.input(3))
    full, cut = graph.dims(step.x), graph.dims(step.y)
    if starts is None or full is None or cut is None or (axes is None and step.input(3)):
        return None
    before, after = [], []
    for axis, start in zip(range(len(starts)) if axes is None else axes, starts, strict=True):
        side, left = full[axis], cut[axis]
        if not isinstance(side, int) or not isinstance(left, int):
            return None
        before.append(int(max(start + side, 0) if start < 0 else start))
        after.append(side - left - before[-1])
    return before + after


def _computed_pads(graph: Writer, step: Step, axes: str) -> str:
    """The same when the graph runs."""
    full, cut = (graph.add("Gather", graph.shape(name), axes) for name in (step.x, step.y))
    before, zero = graph.add("Cast", step.input(1), to=TensorProto.INT64), graph.constant([0])
    from_end = graph.add("Max", graph.add("Add", before, full), zero)
    before = graph.add("Where", graph.add("Less", before, zero), from_end, before)
    after = graph.add("Sub", graph.add("Sub", full, cut), before)
    return graph.add("Concat", before, after, axis=0)


def _pad(graph: Writer, step: Step) -> str:
    if step.attributes.get("mode", b"constant") != b"constant":
        return _copies(graph, step)
    return graph.add("Pad", step.g, graph.add("Neg", step.input(1)), "", step.input(3))


def _copies(graph: Writer, step: Step) -> str:
    """Whatever copies elements to new places also copies their positions, which say where each gradient belongs."""
    size = graph.add("Size", step.x)
    count = graph.add("Range", graph.constant(0), size, graph.constant(1))
    positions = graph.add("Reshape", count, graph.shape(step.x))
    copied = graph.add(step.node.op_type, positions, *step.node.input[1:], **step.attributes)
    return scatter(graph, step.g, copied, step.x)


def scatter(graph: Writer, gradient: str, positions: str, name: str) -> str:
    """A gradient of the shape of a forward value: sums at positions in its row-major order, zero elsewhere."""
    flat = graph.constant([-1])
    parts = [graph.add("Reshape", part, flat) for part in (graph.zeros(name), positions, gradient)]
    return graph.add("Reshape", graph.add("ScatterElements", *parts, reduction="add"), graph.shape(name))


FIRST: dict[str, Rule] = {
    "Cast": _cast,
    "DepthToSpace": _depth_to_space,
    "Expand": lambda graph, step: graph.sum_to(step.g, graph.dims(step.y), step.x),
    "Flatten": _reshape,
    "Gather": _copies,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _reshape,
    "Tile": _copies,
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}

EACH: dict[str, RuleOfEach] = {"Concat": _concat}
