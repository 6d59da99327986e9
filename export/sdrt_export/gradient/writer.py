"""Appends nodes and constants to a graph, each only once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from sdrt.errors import ModelError
from sdrt_export.gradient.shapes import UNKNOWN, Dims, Value, attributes_of


@dataclass(frozen=True)
class Step:
    """A node of the forward pass and what has come back to its outputs.

    Attributes:
        node: the node, part of the graph that is being extended.
        gradients: names of the gradients of its outputs, each of its output's shape and type; None for outputs that
            do not matter. The first is there for every operator but Split.
    """

    node: onnx.NodeProto
    gradients: Sequence[str | None]

    @property
    def x(self) -> str:
        """The first input."""
        name: str = self.node.input[0]
        return name

    @property
    def y(self) -> str:
        """The first output."""
        name: str = self.node.output[0]
        return name

    @property
    def g(self) -> str:
        """The gradient of the first output."""
        assert self.gradients[0] is not None
        return self.gradients[0]

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes that are set; strings are bytes."""
        return attributes_of(self.node)

    def input(self, position: int) -> str:
        """The name of an input; "" for an absent optional one."""
        return self.node.input[position] if position < len(self.node.input) else ""

    def refuse(self, reason: str) -> ModelError:
        """The error for a form of the operator that has no rule."""
        return ModelError(f"no gradient of {self.node.op_type} {reason} ({self.y})")


class Writer:
    """A graph under extension.

    Args:
        graph: extended in place.
        values: types and shapes of the forward pass.
        constants: tensors whose numbers are known, by name.
    """

    def __init__(
        self, graph: onnx.GraphProto, values: Mapping[str, Value], constants: Mapping[str, TensorProto]
    ) -> None:
        self._graph, self._values, self._constants = graph, values, constants
        self._done: dict[tuple[Any, ...], list[str]] = {}
        taken = {name for node in graph.node for name in (*node.input, *node.output)}
        self._names = (name for name in map("gradient.{}".format, count(1)) if name not in taken)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Appends a node with one output, unless an equal one exists; returns the output's name."""
        return self.add_split(1, operator, *inputs, **attributes)[0]

    def add_split(self, outputs: int, operator: str, *inputs: str, **attributes: Any) -> list[str]:
        """Appends a node with several outputs, unless an equal one exists; returns their names."""
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        key = (operator, inputs, repr(sorted(attributes.items())))
        if key not in self._done:
            names = [next(self._names) for _ in range(outputs)]
            self._graph.node.append(helper.make_node(operator, inputs, names, **attributes))
            self._done[key] = names
        return self._done[key]

    def constant(self, numbers: ArrayLike, *, like: str | None = None) -> str:
        """An initializer of these numbers: int64, or of the element type of a forward value."""
        dtype = np.dtype(np.int64) if like is None else helper.tensor_dtype_to_np_dtype(self.element(like))
        array: NDArray[Any] = np.asarray(numbers, dtype)
        key = ("", str(array.dtype), array.shape, array.tobytes())
        if key not in self._done:
            self._done[key] = [next(self._names)]
            self._graph.initializer.append(numpy_helper.from_array(array, self._done[key][0]))
        return self._done[key][0]

    def numbers(self, name: str) -> NDArray[Any] | None:
        """The value of a constant; None for computed values."""
        return numpy_helper.to_array(self._constants[name]) if name in self._constants else None

    def element(self, name: str) -> int:
        """The element type of a forward value. Raises ModelError if ONNX cannot infer it."""
        element = self._values.get(name, UNKNOWN).element
        if element == TensorProto.UNDEFINED:
            raise ModelError(f"the element type of {name} cannot be inferred")
        return element

    def dims(self, name: str) -> Dims | None:
        """The symbolic shape of a forward value; None if its rank is unknown."""
        return self._values.get(name, UNKNOWN).dims

    def rank(self, step: Step, name: str) -> int:
        """The rank of a forward value. Raises ModelError if it is unknown."""
        dims = self.dims(name)
        if dims is None:
            raise step.refuse(f"of unknown rank, of {name}")
        return len(dims)

    def length(self, step: Step, name: str) -> int:
        """How many numbers a forward value (length,) holds. Raises ModelError if that is unknown."""
        dims = self.dims(name)
        if dims is None or len(dims) != 1 or not isinstance(dims[0], int):
            raise step.refuse(f"with {name} of unknown length")
        return dims[0]

    def shape(self, name: str, start: int = 0, end: int | None = None) -> str:
        """int64: the sides of a forward value from axis ``start`` to before ``end``."""
        dims = self.dims(name)
        if dims is not None and all(isinstance(side, int) for side in dims[start:end]):
            return self.constant(dims[start:end])
        bounds = {"start": start} if end is None else {"start": start, "end": end}
        return self.add("Shape", name, **bounds if bounds != {"start": 0} else {})

    def optional_output(self, node: onnx.NodeProto, position: int) -> str:
        """The output of a forward node at a position, which it may not give yet."""
        node.output.extend([""] * (position + 1 - len(node.output)))
        if not node.output[position]:
            node.output[position] = next(self._names)
        name: str = node.output[position]
        return name

    def zeros(self, name: str) -> str:
        """Zeros of the shape and type of a forward value."""
        return self.add("ConstantOfShape", self.shape(name), value=self._filling(0, name))

    def ones(self, name: str, shape: str) -> str:
        """Ones of the type of a forward value and of a shape, int64 (rank,)."""
        return self.add("ConstantOfShape", shape, value=self._filling(1, name))

    def _filling(self, number: float, like: str) -> TensorProto:
        return helper.make_tensor("", self.element(like), [1], [number])

    def sum_to(self, gradient: str, dims: Dims | None, name: str) -> str:
        """The gradient, of shape ``dims``, summed over the axes along which a forward value was broadcast to it."""
        own = self.dims(name)
        if dims == own and own is not None:
            return gradient
        if dims is None or own is None:
            return self._sum_where_shapes_differ(gradient, name)
        leading = len(dims) - len(own)
        if any(isinstance(side, str) and side != full for side, full in zip(own, dims[leading:], strict=True)):
            return self._sum_where_shapes_differ(gradient, name)
        aligned = [1] * leading + list(own)
        axes = [axis for axis, full in enumerate(dims) if axis < leading or (aligned[axis] == 1 and full != 1)]
        if not axes:
            return gradient
        summed = self.add("ReduceSum", gradient, self.constant(axes), keepdims=1)
        return self.add("Squeeze", summed, self.constant(range(leading))) if leading else summed

    def _sum_where_shapes_differ(self, gradient: str, name: str) -> str:
        """As ``sum_to``, decided when the graph runs."""
        full, own = self.add("Shape", gradient), self.shape(name)
        missing = self.add("Sub", self.add("Shape", full), self.add("Shape", own))
        one = helper.make_tensor("", TensorProto.INT64, [1], [1])
        aligned = self.add("Concat", self.add("ConstantOfShape", missing, value=one), own, axis=0)
        differs = self.add("NonZero", self.add("Not", self.add("Equal", full, aligned)))
        axes = self.add("Reshape", differs, self.constant([-1]))
        summed = self.add("ReduceSum", gradient, axes, keepdims=1, noop_with_empty_axes=1)
        return self.add("Reshape", summed, own)


Rule = Callable[[Writer, Step], str]
"""Writes the gradient of a node's first input; returns its name."""
RuleOfEach = Callable[[Writer, Step, int], str]
"""Writes the gradient of the input at a position; returns its name."""
