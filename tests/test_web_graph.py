"""web/graph.mjs: the page's decoder graph computes what the pack's does."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tests.web import WEB, find_node

from sdrt_export.session import open_session

SCRIPT = """
import { readFileSync, writeFileSync } from "node:fs";
const [script, from, to] = process.argv.slice(2);
const { forWeb } = await import(script);
writeFileSync(to, forWeb(readFileSync(from)));
"""
CHANNELS = 8


class Graph:
    """A graph in the making, of which every value has ``CHANNELS`` channels or four times as many."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def constant(self, array: NDArray[np.generic]) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        output = f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], **attributes))
        return output

    def rounded(self, name: str) -> str:
        step, zero = self.constant(np.float32(0.05)), self.constant(np.int8(0))
        return self.add("DequantizeLinear", self.add("QuantizeLinear", name, step, zero), step, zero)

    def weights(self, *shape: int) -> NDArray[np.float32]:
        return self.random.normal(0, 0.2, shape).astype(np.float32)

    def rounded_convolution(self, name: str, channels_out: int) -> str:
        integers = self.random.integers(-64, 65, (channels_out, CHANNELS, 3, 3)).astype(np.int8)
        zeros = self.constant(np.zeros(channels_out, np.int8))
        steps = self.constant(np.full(channels_out, 0.003, np.float32))
        kernel = self.add("DequantizeLinear", self.constant(integers), steps, zeros, axis=0)
        return self.rounded(self.add("Conv", name, kernel, pads=[1, 1, 1, 1]))

    def convolution(self, name: str, *, bias: bool, half: bool = False, **attributes: Any) -> str:
        kernel = self.weights(CHANNELS, CHANNELS, 3, 3)
        weights = self.constant(kernel.astype(np.float16) if half else kernel)
        if half:
            weights = self.add("Cast", weights, to=TensorProto.FLOAT)
        more = [self.constant(self.weights(CHANNELS))] if bias else []
        return self.add("Conv", name, weights, *more, **{"pads": [1, 1, 1, 1], **attributes})

    def model(self, output: str) -> onnx.ModelProto:
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "c", "h", "w"]) for name in ("input", output)
        ]
        graph = helper.make_graph(self.nodes, "graph", ends[:1], ends[1:], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def rewritten(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    before, after = folder / "before.onnx", folder / "after.onnx"
    onnx.save(model, before)
    command = [find_node(), "--input-type=module", "-e", SCRIPT, "test", (WEB / "graph.mjs").as_uri(), before, after]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    found = onnx.load(after)
    onnx.checker.check_model(found, full_check=True)
    return found


def run(model: onnx.ModelProto, array: NDArray[np.float32]) -> NDArray[np.float32]:
    session = open_session(model, optimize=False)
    result: NDArray[np.float32] = session.run(None, {"input": array})[0]
    return result


@pytest.mark.parametrize("sides", [(1, 1), (3, 5)])
def test_the_function_stays(sides: tuple[int, int], tmp_path: Path) -> None:
    """uint8, sums before DepthToSpace, and Winograd: the same numbers, for several pictures of any size at once."""
    graph = Graph()
    source = graph.rounded("input")
    halves = [
        graph.add("DepthToSpace", graph.rounded_convolution(source, 4 * CHANNELS), blocksize=2, mode="CRD")
        for _ in range(2)
    ]
    middle = graph.rounded(graph.add("Add", *halves))
    wide = graph.add("DepthToSpace", graph.rounded_convolution(middle, 4 * CHANNELS), blocksize=2, mode="CRD")
    inner = graph.add("LeakyRelu", graph.convolution(wide, bias=True, half=True), alpha=0.1)
    model = graph.model(graph.add("Add", wide, graph.convolution(inner, bias=False)))
    found = rewritten(model, tmp_path)
    count = Counter(node.op_type for node in found.graph.node)
    assert count["ConvTranspose"] == 2 and count["DepthToSpace"] == 1
    array = np.random.default_rng(1).normal(0, 2, (2, CHANNELS, *sides)).astype(np.float32)
    before, after = run(model, array), run(found, array)
    assert before.shape == after.shape == (2, CHANNELS, 4 * sides[0], 4 * sides[1])
    assert np.abs(before).max() > 1 and np.abs(before - after).max() < 1e-4


def test_what_does_not_fit_is_left_alone(tmp_path: Path) -> None:
    """Rows that are no multiple of four, other strides, borders and groups; sums of DepthToSpace in another order."""
    graph = Graph()
    twice = graph.add("Concat", *["input"] * 4, axis=1)
    depths = [graph.add("DepthToSpace", twice, blocksize=2, mode="DCR") for _ in range(2)]
    value = graph.rounded(graph.add("Add", *depths))
    value = graph.convolution(value, bias=True)  # rows twice as wide as the input's
    value = graph.add("DepthToSpace", graph.add("Concat", *[value] * 4, axis=1), blocksize=2, mode="CRD")
    value = graph.convolution(value, bias=True, strides=[2, 2])
    value = graph.add("DepthToSpace", graph.add("Concat", *[value] * 16, axis=1), blocksize=4, mode="CRD")
    value = graph.convolution(value, bias=True, pads=[0, 1, 1, 1])
    value = graph.convolution(value, bias=True)  # nobody has said how wide it is by now
    model = graph.model(value)
    found = rewritten(model, tmp_path)
    assert list(found.graph.node) == list(model.graph.node)
    array = np.random.default_rng(1).normal(0, 2, (1, CHANNELS, 3, 5)).astype(np.float32)
    assert np.array_equal(run(model, array), run(found, array))
