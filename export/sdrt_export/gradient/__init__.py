"""Reverse-mode differentiation of ONNX graphs: a graph in, the same graph with nodes for its gradient out.

No framework is needed: rules write standard ONNX operators for standard ONNX operators, and any engine runs the result.
The forward pass stays as it is, weights are stored once, and dimensions that were free remain free.

    rules     ``arithmetic``, ``layout``, ``windows``: what an operator's gradient is
    walk      ``add_gradient``: which nodes it takes, last to first
    writer    appends nodes and constants, each once
    shapes    element types and symbolic dimensions, to tell at once where operands were broadcast
"""

from sdrt_export.gradient.walk import add_gradient

__all__ = ["add_gradient"]
