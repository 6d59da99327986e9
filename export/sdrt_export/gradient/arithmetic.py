"""Gradients of elementwise operators, sums, matrix products and normalizations.

``FIRST`` holds operators that are differentiated in their first input alone, ``EACH`` those in any input. Where a
derivative can be told from the output it is: the engine may then fuse the forward pass as before.
"""

from __future__ import annotations

import math

import numpy as np

from sdrt_export.gradient.writer import Rule, RuleOfEach, Step, Writer


def _identity(_: Writer, step: Step) -> str:
    return step.g


def _negative(graph: Writer, step: Step) -> str:
    return graph.add("Neg", step.g)


def _relu(graph: Writer, step: Step) -> str:
    return _masked(graph, step, graph.add("Greater", step.y, graph.constant(0, like=step.y)))


def _leaky_relu(graph: Writer, step: Step) -> str:
    slope = graph.constant(step.attributes.get("alpha", 0.01), like=step.x)
    positive = graph.add("Greater", step.x, graph.constant(0, like=step.x))
    return graph.add("Where", positive, step.g, graph.add("Mul", step.g, slope))


def _clip(graph: Writer, step: Step) -> str:
    # As torch has it, 1 on the bounds themselves.
    return _masked(graph, step, graph.add("Equal", step.x, step.y))


def _masked(graph: Writer, step: Step, mask: str) -> str:
    # ONNX Runtime multiplies by 0 and 1 faster than it selects (Where).
    return graph.add("Mul", step.g, graph.add("Cast", mask, to=graph.element(step.x)))


def _absolute(graph: Writer, step: Step) -> str:
    return graph.add("Mul", step.g, graph.add("Sign", step.x))


def _sigmoid(graph: Writer, step: Step) -> str:
    slope = graph.add("Mul", step.y, graph.add("Sub", graph.constant(1, like=step.y), step.y))
    return graph.add("Mul", step.g, slope)


def _tanh(graph: Writer, step: Step) -> str:
    slope = graph.add("Sub", graph.constant(1, like=step.y), graph.add("Mul", step.y, step.y))
    return graph.add("Mul", step.g, slope)


def _exp(graph: Writer, step: Step) -> str:
    return graph.add("Mul", step.g, step.y)


def _log(graph: Writer, step: Step) -> str:
    return graph.add("Div", step.g, step.x)


def _sqrt(graph: Writer, step: Step) -> str:
    # A deviation or a length of 0 takes no gradient, as in torch.std and torch.norm: over infinity, not over 0.
    at_zero = graph.add("Equal", step.y, graph.constant(0, like=step.y))
    root = graph.add("Where", at_zero, graph.constant(np.inf, like=step.y), step.y)
    return graph.add("Div", graph.add("Mul", step.g, graph.constant(0.5, like=step.x)), root)


def _reciprocal(graph: Writer, step: Step) -> str:
    return graph.add("Neg", graph.add("Mul", step.g, graph.add("Mul", step.y, step.y)))


def _erf(graph: Writer, step: Step) -> str:
    bell = graph.add("Exp", graph.add("Neg", graph.add("Mul", step.x, step.x)))
    return graph.add("Mul", step.g, graph.add("Mul", bell, graph.constant(2 / math.sqrt(math.pi), like=step.x)))


def _power(graph: Writer, step: Step) -> str:
    exponent = graph.numbers(step.input(1))
    if exponent is None:
        raise step.refuse("with an exponent that is computed")
    if np.all(exponent == 2):
        slope = graph.add("Add", step.x, step.x)
    else:
        less = graph.add("Pow", step.x, graph.constant(exponent - 1.0, like=step.x))
        slope = graph.add("Mul", less, graph.constant(exponent, like=step.x))
    return graph.sum_to(graph.add("Mul", step.g, slope), graph.dims(step.y), step.x)


def _softmax(graph: Writer, step: Step) -> str:
    weighted = graph.add("Mul", step.g, step.y)
    axis = graph.constant([step.attributes.get("axis", -1)])
    total = graph.add("ReduceSum", weighted, axis, keepdims=1)
    return graph.add("Mul", step.y, graph.add("Sub", step.g, total))


def _instance_normalization(graph: Writer, step: Step) -> str:
    # (s g - mean(s g) - n mean(n s g)) / deviation, with s the scale and n the normalized input.
    rank = graph.rank(step, step.x)
    axes = graph.constant(range(2, rank))

    def mean(value: str) -> str:
        return graph.add("ReduceMean", value, axes, keepdims=1)

    centered = graph.add("Sub", step.x, mean(step.x))
    variance = mean(graph.add("Mul", centered, centered))
    epsilon = graph.constant(step.attributes.get("epsilon", 1e-5), like=step.x)
    deviation = graph.add("Sqrt", graph.add("Add", variance, epsilon))
    scale, bias = (graph.numbers(step.input(position)) for position in (1, 2))
    unscaled = scale is not None and np.all(scale == 1)
    unbiased = bias is not None and not np.any(bias)
    normalized = step.y if unscaled and unbiased else graph.add("Div", centered, deviation)
    scaled = step.g
    if not unscaled:
        sides = graph.constant([1, -1, *[1] * (rank - 2)])
        scaled = graph.add("Mul", step.g, graph.add("Reshape", step.input(1), sides))
    along = graph.add("Mul", normalized, mean(graph.add("Mul", normalized, scaled)))
    return graph.add("Div", graph.add("Sub", graph.add("Sub", scaled, mean(scaled)), along), deviation)


def _reduce_sum(graph: Writer, step: Step) -> str:
    axes, attributes = step.input(1), step.attributes
    numbers = graph.numbers(axes)
    every = not axes or (numbers is not None and numbers.size == 0)
    if every and attributes.get("noop_with_empty_axes", 0):
        return step.g
    kept = every or attributes.get("keepdims", 1)
    return graph.add("Expand", step.g if kept else graph.add("Unsqueeze", step.g, axes), graph.shape(step.x))


def _reduce_mean(graph: Writer, step: Step) -> str:
    count = graph.add("Div", graph.add("Size", step.x), graph.add("Size", step.y))
    divided = graph.add("Div", step.g, graph.add("Cast", count, to=graph.element(step.x)))
    return _reduce_sum(graph, Step(step.node, [divided]))


def _add(graph: Writer, step: Step, position: int) -> str:
    return graph.sum_to(step.g, graph.dims(step.y), step.input(position))


def _subtract(graph: Writer, step: Step, position: int) -> str:
    return _add(graph, step if position == 0 else Step(step.node, [_negative(graph, step)]), position)


def _multiply(graph: Writer, step: Step, position: int) -> str:
    product = graph.add("Mul", step.g, step.input(1 - position))
    return graph.sum_to(product, graph.dims(step.y), step.input(position))


def _divide(graph: Writer, step: Step, position: int) -> str:
    quotient = graph.add("Div", step.g, step.input(1))
    if position == 1:
        quotient = graph.add("Neg", graph.add("Mul", quotient, step.y))
    return graph.sum_to(quotient, graph.dims(step.y), step.input(position))


def _where(graph: Writer, step: Step, position: int) -> str:
    zero = graph.constant(0, like=step.y)
    branches = (step.g, zero) if position == 1 else (zero, step.g)
    return graph.sum_to(graph.add("Where", step.x, *branches), graph.dims(step.y), step.input(position))


def _matrix_product(graph: Writer, step: Step, position: int) -> str:
    own, other = step.input(position), step.input(1 - position)
    if min(graph.rank(step, own), graph.rank(step, other)) < 2:
        raise step.refuse("of a vector")
    order = list(range(graph.rank(step, other)))
    turned = graph.add("Transpose", other, perm=[*order[:-2], order[-1], order[-2]])
    product = graph.add("MatMul", *((step.g, turned) if position == 0 else (turned, step.g)))
    batch, sides = graph.dims(step.y), graph.dims(own)
    assert sides is not None, "its rank is known"
    return graph.sum_to(product, None if batch is None else (*batch[:-2], *sides[-2:]), own)


FIRST: dict[str, Rule] = {
    "Abs": _absolute,
    "Clip": _clip,
    "Erf": _erf,
    "Exp": _exp,
    "Identity": _identity,
    "InstanceNormalization": _instance_normalization,
    "LeakyRelu": _leaky_relu,
    "Log": _log,
    "Neg": _negative,
    "Pow": _power,
    "Reciprocal": _reciprocal,
    "ReduceMean": _reduce_mean,
    "ReduceSum": _reduce_sum,
    "Relu": _relu,
    "Sigmoid": _sigmoid,
    "Softmax": _softmax,
    "Sqrt": _sqrt,
    "Tanh": _tanh,
}

EACH: dict[str, RuleOfEach] = {
    "Add": _add,
    "Div": _divide,
    "MatMul": _matrix_product,
    "Mul": _multiply,
    "Sub": _subtract,
    "Where": _where,
}
