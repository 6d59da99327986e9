"""The walk: from an output back to the inputs, through every node on a path between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
from onnx import helper

from sdrt.errors import ModelError
from sdrt_export.gradient import arithmetic, layout, windows
from sdrt_export.gradient.shapes import FLOATS, constants_of, infer
from sdrt_export.gradient.writer import Step, Writer

OLDEST_OPSET = 18
"""What the rules write: axes of sums and of Pad as inputs."""

OWN_DOMAIN = ("", "ai.onnx")

FIRST = {**arithmetic.FIRST, **layout.FIRST, **windows.FIRST}
EACH = {**arithmetic.EACH, **layout.EACH}

FLAT = frozenset(
    {"Shape", "Size", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Xor",
     "IsInf", "IsNaN", "NonZero", "ArgMax", "ArgMin"}
)  # fmt: skip
"""Operators whose outputs do not follow small changes of their inputs: paths end there."""


def add_gradient(model: onnx.ModelProto, *, output: str, inputs: Sequence[str]) -> onnx.ModelProto:
    """Extends a graph by its vector-Jacobian product: reverse-mode differentiation, as nodes.

    For an output y = f(x, ...) the result has one more input, ``y.gradient`` of y's shape, and one more output for each
    x of ``inputs``, ``x.gradient`` of x's shape: sum over i of y.gradient[i] * dy[i]/dx. For a scalar y feed 1 to get
    its gradient; for a picture feed the gradient of whatever is measured on it.

    All that the graph had is still there: nodes, weights (none is stored twice), inputs, outputs, free dimensions.
    Arithmetic is in the type of the forward value, so float32 where weights alone are stored in fp16.

    Where there is no derivative: Relu has slope 0 at 0, Clip has 1 on its bounds, MaxPool's gradient goes to the first
    of equal maxima, all as in torch; Sqrt has 0 at 0, as torch.std and torch.norm have and torch.sqrt has not.

    Args:
        model: opset 18 or newer, nodes in topological order, without functions. It is not changed. Free dimensions of
            its inputs that have one name must be equal whenever it runs; a name may be a multiple of another
            (``height*16``). What cannot be told from the names is decided by nodes when it runs.
        output: a graph output of floating-point type.
        inputs: graph inputs of floating-point type, each once.

    Returns:
        The extended graph.

    Raises:
        ModelError: a name is not there or taken, the output does not depend on an input, or an operator between
            them has no rule or appears in a form that has none; operators without a rule are named before
            anything is built.
    """
    opset = _opset(model)
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    graph = extended.graph
    ends = _ends(graph, output, inputs)
    path = _between(graph, output, inputs)
    _refuse_unknown(graph, path)

    writer = Writer(graph, infer(model, opset), constants_of(graph))
    arrived: dict[str, list[str]] = {output: [_gradient_of(output)]}

    def total(name: str) -> str | None:
        parts = arrived.get(name, [])
        if len(parts) > 1:
            arrived[name] = parts = [writer.add("Sum", *parts)]
        return parts[0] if parts else None

    for node in reversed(list(graph.node)):
        step = Step(node, [total(name) for name in node.output])
        if not any(step.gradients):
            continue
        for position, name in enumerate(node.input):
            if name in path:
                each = EACH.get(node.op_type)
                gradient = each(writer, step, position) if each else FIRST[node.op_type](writer, step)
                arrived.setdefault(name, []).append(gradient)
    for name in inputs:
        came = total(name)
        assert came is not None, "there is a path"
        graph.node.append(helper.make_node("Identity", [came], [_gradient_of(name)]))
    graph.input.append(_renamed(ends[output]))
    graph.output.extend(_renamed(ends[name]) for name in inputs)
    return extended


def _gradient_of(name: str) -> str:
    return f"{name}.gradient"


def _opset(model: onnx.ModelProto) -> int:
    opset = max((entry.version for entry in model.opset_import if entry.domain in OWN_DOMAIN), default=0)
    if opset < OLDEST_OPSET:
        raise ModelError(f"gradients need opset {OLDEST_OPSET} or newer, the graph has {opset}")
    return opset


def _ends(graph: onnx.GraphProto, output: str, inputs: Sequence[str]) -> dict[str, onnx.ValueInfoProto]:
    """Descriptions of the output and the inputs, by name."""
    ends: dict[str, onnx.ValueInfoProto] = {}
    taken = {name for node in graph.node for name in node.output}
    taken.update(item.name for item in (*graph.input, *graph.initializer))
    wanted = [("output", output, graph.output), *(("input", name, graph.input) for name in inputs)]
    for kind, name, values in wanted:
        found = next((item for item in values if item.name == name), None)
        if found is None:
            raise ModelError(f"the graph has no {kind} {name}; it has {', '.join(item.name for item in values)}")
        if found.type.tensor_type.elem_type not in FLOATS:
            raise ModelError(f"{kind} {name} is not of a floating-point type")
        if name in ends:
            raise ModelError(f"{kind} {name} is given twice")
        if _gradient_of(name) in taken:
            raise ModelError(f"the graph has a {_gradient_of(name)} already")
        ends[name] = found
    return ends


def _between(graph: onnx.GraphProto, output: str, inputs: Sequence[str]) -> set[str]:
    """Values that depend on an input and on which the output depends. Raises ModelError if an input is not one."""
    depend = set(inputs)
    for node in graph.node:
        if node.op_type not in FLAT and depend.intersection(_reads(node)):
            depend.update(name for name in node.output if name)
    path = {output} & depend
    for node in reversed(graph.node):
        if path.intersection(node.output):
            path |= depend.intersection(_reads(node))
    for name in inputs:
        if name not in path:
            raise ModelError(f"{output} does not depend on {name}")
    return path


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The names of a node's inputs, and for control flow of all that its subgraphs read."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _reads(inner)


def _refuse_unknown(graph: onnx.GraphProto, path: set[str]) -> None:
    unknown: set[str] = set()
    for node in graph.node:
        if not path.intersection(node.output):
            continue
        own = node.domain in OWN_DOMAIN
        if not own or node.op_type not in FIRST.keys() | EACH.keys():
            unknown.add(node.op_type if own else f"{node.domain}.{node.op_type}")
        elif node.op_type in FIRST and path.intersection(node.input[1:]):
            raise ModelError(
                f"{node.op_type} has a gradient for its first input only, but another of {node.output[0]} depends "
                "on the tensors to differentiate by"
            )
    if unknown:
        raise ModelError(f"no gradient is implemented for {', '.join(sorted(unknown))}")


def _renamed(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    renamed = onnx.ValueInfoProto()
    renamed.CopyFrom(value)
    renamed.name = _gradient_of(value.name)
    return renamed
