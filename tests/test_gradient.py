"""sdrt_export.gradient: the added nodes compute what torch's autograd computes, at any size, and add little."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from sdrt.errors import ModelError
from sdrt_export.autoencoders import describe_space, halves
from sdrt_export.gradient import add_gradient
from sdrt_export.graph import trace
from sdrt_export.precision import convert
from sdrt_export.session import open_session
from sdrt_train.folded import fold
from sdrt_train.loss import texture_distance
from sdrt_train.model import Autoencoder, ModelConfig

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[1]
Arrays = dict[str, NDArray[Any]]

SIZES = ({"N": 2, "H": 7, "W": 5, "P": 7, "Q": 5}, {"N": 1, "H": 6, "W": 9, "P": 1, "Q": 1})
"""What free dimensions are in two runs of one graph: odd, even, and broadcast or not."""


@dataclass(frozen=True)
class Rule:
    """A graph in ONNX's text form and the same in torch.

    Attributes:
        body: statements that compute y.
        function: of the inputs, in order.
        inputs: name -> type and dimensions.
        wanted: the inputs to differentiate for.
        constants: initializers in text form.
        positive: draws inputs from [0.5, 1.5) and not from a normal distribution. Integers are 2, 3, ...
    """

    body: str
    function: Callable[..., Tensor]
    inputs: Mapping[str, str]
    wanted: str = "x"
    constants: str = ""
    positive: bool = False

    def model(self) -> onnx.ModelProto:
        inputs = ", ".join(f"{kind} {name}" for name, kind in self.inputs.items())
        head = f'<ir_version: 8, opset_import: ["" : 18]> f ({inputs}) => (float y)'
        model = onnx.parser.parse_model(f"{head} <{self.constants}> {{ {self.body} }}")
        model.graph.output[0].type.tensor_type.ClearField("shape")
        return model

    def draw(self, sizes: Mapping[str, int]) -> Arrays:
        rng = np.random.default_rng(1)
        drawn: Arrays = {}
        for value in self.model().graph.input:
            if value.type.tensor_type.elem_type == TensorProto.INT64:
                drawn[value.name] = np.arange(2, 2 + value.type.tensor_type.shape.dim[0].dim_value)
                continue
            shape = [sizes.get(dim.dim_param, dim.dim_value) for dim in value.type.tensor_type.shape.dim]
            array = rng.uniform(0.5, 1.5, shape) if self.positive else rng.normal(size=shape)
            drawn[value.name] = array.astype(np.float32)
        return drawn


X = {"x": "float[N,4,H,W]"}


def unary(body: str, function: Callable[..., Tensor], **more: Any) -> Rule:
    return Rule(body, function, X, **more)


def conv(attributes: str, weights: str, function: Callable[..., Tensor], operator: str = "Conv") -> Rule:
    return Rule(f"y = {operator} {attributes} (x, w)", function, {**X, "w": f"float[{weights}]"})


def binary(body: str, function: Callable[..., Tensor], x: str, z: str, **more: Any) -> Rule:
    return Rule(body, function, {"x": f"float[{x}]", "z": f"float[{z}]"}, wanted="xz", **more)


def outer_last(x: Tensor, outer: int) -> Tensor:
    """Channels (outer, inner) as channels (inner, outer): ONNX counts the places of a block first, torch last."""
    return x.unflatten(1, (outer, -1)).transpose(1, 2).flatten(1, 2)


RULES = (
    unary("y = Relu(x)", torch.relu),
    unary("y = LeakyRelu <alpha=0.2> (x)", lambda x: F.leaky_relu(x, 0.2)),
    unary("y = Neg(x)", torch.neg),
    unary("y = Abs(x)", torch.abs),
    unary("y = Sigmoid(x)", torch.sigmoid),
    unary("s = Sigmoid(x) y = Mul(x, s)", F.silu),
    unary("y = Tanh(x)", torch.tanh),
    unary("y = Erf(x)", torch.erf),
    unary("y = Exp(x)", torch.exp),
    unary("y = Log(x)", torch.log, positive=True),
    unary("y = Sqrt(x)", torch.sqrt, positive=True),
    unary("y = Reciprocal(x)", torch.reciprocal, positive=True),
    unary("y = Clip(x, low, high)", lambda x: x.clamp(-0.5, 1), constants="float low = {-0.5}, float high = {1}"),
    unary("y = Clip(x, , high)", lambda x: x.clamp(max=0.25), constants="float high = {0.25}"),
    unary("y = Identity(x)", lambda x: x * 1),
    unary("h = Cast <to=11> (x) s = Mul(h, h) y = Cast <to=1> (s)", torch.square),
    unary("y = Pow(x, e)", torch.square, constants="float e = {2}"),
    unary("y = Pow(x, e)", lambda x: x**3, constants="int64[1] e = {3}"),
    unary(
        "y = Pow(x, e)",
        lambda x: x ** torch.tensor([0.5, 2, 3, -1])[:, None, None],
        constants="float[4,1,1] e = {0.5, 2, 3, -1}",
        positive=True,
    ),
    unary("y = Softmax <axis=1> (x)", lambda x: x.softmax(1)),
    unary("y = Softmax(x)", lambda x: x.softmax(-1)),
    unary("y = ReduceMean <keepdims=0> (x, a)", lambda x: x.mean((2, 3)), constants="int64[2] a = {-1, 2}"),
    unary("y = ReduceMean(x)", lambda x: x.mean((0, 1, 2, 3), keepdim=True)),
    unary("y = ReduceMean <noop_with_empty_axes=1> (x)", lambda x: x * 1),
    unary("y = ReduceSum(x, a)", lambda x: x.sum(1, keepdim=True), constants="int64[1] a = {1}"),
    unary("y = ReduceSum <keepdims=0> (x)", torch.sum),
    Rule(
        "y = InstanceNormalization <epsilon=0.01> (x, s, b)",
        lambda x, s, b: F.instance_norm(x, weight=s, bias=b, eps=0.01),
        {**X, "s": "float[4]", "b": "float[4]"},
    ),
    Rule(  # GroupNorm as torch exports it
        "g = Reshape(x, into) n = InstanceNormalization <epsilon=0.01> (g, s, b) "
        "size = Shape(x) r = Reshape(n, size) m = Mul(r, w) y = Add(m, x)",
        lambda x, w: F.group_norm(x, 2, eps=0.01) * w + x,
        {**X, "w": "float[4,1,1]"},
        constants="int64[3] into = {0, 2, -1}, float[2] s = {1, 1}, float[2] b = {0, 0}",
    ),
    binary("y = Add(x, z)", torch.add, "N,4,H,W", "N,4,H,W"),
    binary("y = Sub(x, z)", torch.sub, "N,4,H,W", "N,4,1,1"),
    binary("y = Sub(z, x)", lambda x, z: z - x, "N,4,H,W", "W"),
    binary("y = Mul(x, z)", torch.mul, "N,4,H,W", "4,1,1"),
    binary("y = Mul(z, x)", torch.mul, "N,4,H,W", ""),
    binary("y = Div(x, z)", torch.div, "N,1,H,W", "4,H,1", positive=True),
    binary("y = Div(x, z)", torch.div, "H,W", "N,4,1,W", positive=True),
    # Free dimensions of other names may be equal or 1: only the run tells.
    binary("y = Mul(x, z)", torch.mul, "N,4,H,W", "P,Q"),
    binary("y = Add(x, z)", torch.add, "P,Q", "N,4,H,W"),
    binary("p = Mul(x, z) y = Add(p, x)", lambda x, z: x * z + x, "N,4,H,W", "Q"),
    binary("c = Greater(x, z) y = Where(c, x, z)", lambda x, z: torch.where(x > z, x, z), "N,4,H,W", "H,1"),
    binary("y = MatMul(x, z)", torch.matmul, "N,H,W", "N,W,3"),
    binary("y = MatMul(x, z)", torch.matmul, "N,4,H,W", "W,3"),
    binary("y = MatMul(x, z)", torch.matmul, "N,1,3,H", "4,H,W"),
    binary("y = Concat <axis=1> (x, z, x)", lambda x, z: torch.cat((x, z, x), 1), "N,4,H", "N,1,H"),
    binary("y = Concat <axis=-1> (x, z)", lambda x, z: torch.cat((x, z), -1), "N,4,H", "N,4,P"),
    conv("<pads=[1,1,1,1]>", "5,4,3,3", lambda x, w: F.conv2d(x, w, padding=1)),
    conv("", "5,4,1,1", F.conv2d),
    conv("<pads=[0,2,1,0]>", "5,4,3,2", lambda x, w: F.conv2d(F.pad(x, (2, 0, 0, 1)), w)),
    conv("<pads=[3,3,3,3]>", "5,4,2,2", lambda x, w: F.conv2d(x, w, padding=3)),
    conv("<dilations=[2,1],pads=[2,0,2,0]>", "5,4,3,2", lambda x, w: F.conv2d(x, w, padding=(2, 0), dilation=(2, 1))),
    conv("<group=2,pads=[1,1,1,1]>", "6,2,3,3", lambda x, w: F.conv2d(x, w, padding=1, groups=2)),
    conv("<strides=[2,3],pads=[1,0,1,0]>", "5,4,3,3", lambda x, w: F.conv2d(x, w, None, (2, 3), (1, 0))),
    conv("<strides=[3,3],group=4>", "8,1,3,3", lambda x, w: F.conv2d(x, w, None, 3, groups=4)),
    conv(
        "<strides=[2,2],pads=[2,0,3,2],dilations=[1,2]>",
        "5,4,3,2",
        lambda x, w: F.conv2d(F.pad(x, (0, 2, 2, 3)), w, None, 2, 0, (1, 2)),
    ),
    Rule(
        "y = Conv <strides=[2],pads=[1,1]> (x, w, b)",
        lambda x, w, b: F.conv1d(x, w, b, 2, 1),
        {"x": "float[N,4,H]", "w": "float[3,4,3]", "b": "float[3]"},
    ),
    conv("", "4,5,3,3", F.conv_transpose2d, "ConvTranspose"),
    conv(
        "<strides=[2,3],pads=[1,0,1,0],output_padding=[1,2],dilations=[1,2],group=2>",
        "4,3,3,2",
        lambda x, w: F.conv_transpose2d(x, w, None, (2, 3), (1, 0), (1, 2), 2, (1, 2)),
        "ConvTranspose",
    ),
    unary("y = MaxPool <kernel_shape=[3,3],strides=[2,2]> (x)", lambda x: F.max_pool2d(x, 3, 2)),
    unary("y = MaxPool <kernel_shape=[2,2],strides=[2,2]> (x)", lambda x: F.max_pool2d(x, 2)),
    unary("y = MaxPool <kernel_shape=[3,2],pads=[1,0,1,0]> (x)", lambda x: F.max_pool2d(x, (3, 2), 1, (1, 0))),
    unary("y = AveragePool <kernel_shape=[2,2],strides=[2,2]> (x)", lambda x: F.avg_pool2d(x, 2)),
    unary(
        "y = AveragePool <kernel_shape=[3,2],strides=[2,1],pads=[1,1,1,1],count_include_pad=1> (x)",
        lambda x: F.avg_pool2d(x, (3, 2), (2, 1), (1, 1)),
    ),
    unary(
        "y = AveragePool <kernel_shape=[3,2],strides=[2,1],pads=[1,1,1,1]> (x)",
        lambda x: F.avg_pool2d(x, (3, 2), (2, 1), (1, 1), count_include_pad=False),
    ),
    unary(
        'y = Resize <mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor"> (x, , s)',
        lambda x: F.interpolate(x, scale_factor=(2.0, 3.0)),
        constants="float[4] s = {1, 1, 2, 3}",
    ),
    unary(
        'y = Resize <axes=[3]> (x, , s)',
        lambda x: F.interpolate(x, scale_factor=(1.0, 4.0)),
        constants="float[1] s = {4}",
    ),
    unary('y = DepthToSpace <blocksize=2,mode="CRD"> (x)', lambda x: F.pixel_shuffle(x, 2)),
    unary("y = DepthToSpace <blocksize=2> (x)", lambda x: F.pixel_shuffle(outer_last(x, 4), 2)),
    Rule(
        "y = SpaceToDepth <blocksize=2> (x)",
        lambda x: outer_last(F.pixel_unshuffle(x, 2), 3),
        {"x": "float[N,3,4,6]"},
    ),
    unary("y = Reshape(x, s)", lambda x: x.flatten(2), constants="int64[3] s = {0, 0, -1}"),
    unary("y = Flatten(x)", lambda x: x.flatten(1)),
    unary("u = Unsqueeze(x, a) s = Squeeze(u, b) y = Add(s, x)", lambda x: 2 * x,
          constants="int64[2] a = {0, 2}, int64[2] b = {2, 0}"),
    unary("y = Transpose <perm=[1,2,3,0]> (x)", lambda x: x.permute(1, 2, 3, 0)),
    unary("y = Transpose(x)", lambda x: x.permute(3, 2, 1, 0)),
    unary("a, b = Split <axis=1,num_outputs=2> (x) y = Mul(a, b)", lambda x: x[:, :2] * x[:, 2:]),
    unary("a, b = Split <axis=1> (x, s) y = Neg(b)", lambda x: -x[:, 3:], constants="int64[2] s = {3, 1}"),
    unary("y = Slice(x, s, e, a)", lambda x: x[..., 1:, 2:4],
          constants="int64[2] s = {1, 2}, int64[2] e = {1000, 4}, int64[2] a = {2, -1}"),
    unary("y = Slice(x, s, e)", lambda x: x[:1, -3:-1], constants="int64[2] s = {-9, -3}, int64[2] e = {1, -1}"),
    unary("y = Slice(x, s, e, a, t)", lambda x: x[..., 1::2, :].flip(3),
          constants="int64[2] s = {1, -1}, int64[2] e = {1000, -1000}, int64[2] a = {2, 3}, int64[2] t = {2, -1}"),
    Rule("y = Slice(x, s, e, a)", lambda x, s: x[..., 2:, 3:], {**X, "s": "int64[2]"},
         constants="int64[2] e = {1000, 1000}, int64[2] a = {2, 3}"),
    unary("y = Pad(x, p)", lambda x: F.pad(x, (1, -2, -1, 2)), constants="int64[8] p = {0, 0, -1, 1, 0, 0, 2, -2}"),
    unary("y = Pad(x, p, , a)", lambda x: F.pad(x, (0, 0, 1, 2)), constants="int64[2] p = {1, 2}, int64[1] a = {-2}"),
    unary('y = Pad <mode="edge"> (x, p)', lambda x: F.pad(x, (1, 2, 3, 0), mode="replicate"),
          constants="int64[8] p = {0, 0, 3, 1, 0, 0, 0, 2}"),
    unary('y = Pad <mode="reflect"> (x, p)', lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect"),
          constants="int64[8] p = {0, 0, 3, 1, 0, 0, 0, 2}"),
    unary("y = Gather <axis=1> (x, i)", lambda x: x[:, [2, 0, 2]], constants="int64[3] i = {2, 0, -2}"),
    unary("y = Tile(x, r)", lambda x: x.repeat(1, 2, 1, 3), constants="int64[4] r = {1, 2, 1, 3}"),
    Rule("y = Expand(x, s)", lambda x: x.expand(2, 4, -1, 3), {"x": "float[4,H,1]"},
         constants="int64[4] s = {2, 4, 1, 3}"),
)  # fmt: skip


def relative(result: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest error, of the largest magnitude."""
    assert result.shape == expected.shape
    return float(np.abs(result - expected).max() / np.abs(expected).max())


def vector_jacobian(function: Callable[..., Tensor], arrays: Arrays, wanted: str) -> tuple[NDArray[Any], Arrays]:
    """What autograd gives for a random gradient of the output: the output, and gradients with what they came from."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    for name in wanted:
        tensors[name].requires_grad_()
    output = function(*tensors.values())
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
    output.backward(upstream)
    gradients = {f"{name}.gradient": np.asarray(tensors[name].grad) for name in wanted}
    return output.detach().numpy(), {"y.gradient": upstream.numpy(), **gradients}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.body} {rule.constants}")
def test_every_rule_is_autograds(rule: Rule) -> None:
    """One graph, two sizes: its output is torch's, and each gradient is autograd's to 1e-4."""
    extended = add_gradient(rule.model(), output="y", inputs=list(rule.wanted))
    session = open_session(extended)
    for sizes in SIZES:
        arrays = rule.draw(sizes)
        output, expected = vector_jacobian(rule.function, arrays, rule.wanted)
        upstream = {"y.gradient": expected.pop("y.gradient")}
        results = session.run(["y", *expected], {**arrays, **upstream})
        assert relative(results[0], output) < (1e-3 if "Cast" in rule.body else 1e-5)
        for result, gradient in zip(results[1:], expected.values(), strict=True):
            assert relative(result, gradient) < (1e-3 if "Cast" in rule.body else 1e-4)


def through(
    extended: onnx.ModelProto, module: Callable[..., Tensor], arrays: Mapping[str, Tensor], wanted: str
) -> float:
    """Error of the gradient for one input against autograd in float64, relative in the Euclidean norm."""
    values = {name: array.double().requires_grad_(name == wanted) for name, array in arrays.items()}
    output = module(*values.values())
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(4))
    output.backward(upstream)
    name = next(item.name for item in extended.graph.input if item.name not in arrays)
    fed = {key: array.numpy() for key, array in arrays.items()} | {name: upstream.numpy()}
    (result,) = open_session(extended).run([f"{wanted}.gradient"], fed)
    expected = values[wanted].grad
    assert expected is not None and result.shape == expected.shape
    return float((torch.from_numpy(result) - expected).norm() / expected.norm())


def torch_of(model: onnx.ModelProto) -> Callable[[Tensor], Tensor]:
    """A graph of the trainer's operators, node by node in torch and in float64."""
    graph = model.graph
    tensors = {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer}
    weights = {name: each.double() if each.is_floating_point() else each for name, each in tensors.items()}

    def run(x: Tensor) -> Tensor:
        values = {**weights, graph.input[0].name: x}
        for node in graph.node:
            inputs = [values[name] for name in node.input]
            attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
            if node.op_type == "Conv":
                pads, stride = attributes["pads"][:2], attributes["strides"]
                result = F.conv2d(*inputs, stride=stride, padding=pads, groups=attributes["group"])
            elif node.op_type == "LeakyRelu":
                result = F.leaky_relu(inputs[0], attributes["alpha"])
            elif node.op_type == "DepthToSpace":
                result = F.pixel_shuffle(inputs[0], attributes["blocksize"])
            elif node.op_type == "Slice":
                cut = [slice(None)] * inputs[0].ndim
                for start, end, axis, *stride in zip(*(each.tolist() for each in inputs[1:]), strict=True):
                    cut[axis] = slice(start, end, *stride)
                result = inputs[0][tuple(cut)]
            else:
                result = {"Relu": torch.relu, "Add": torch.add, "Cast": torch.clone}[node.op_type](*inputs)
            values[node.output[0]] = result
        return values[graph.output[0].name]

    return run


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_the_default_pack_has_its_gradient_for_few_bytes(half: str) -> None:
    """models/tiny: equal to autograd at two sizes of one graph, with nothing stored twice.

    What is added is operators, of less than 100 bytes each, and the whole numbers that they take: paddings, orders of
    channels. No weight is among it: numbers with a fraction are single ones.
    """
    model = onnx.load(ROOT / "models" / "tiny" / f"{half}.onnx")
    source, target = model.graph.input[0].name, model.graph.output[0].name
    before = model.SerializeToString(deterministic=True)
    extended = add_gradient(model, output=target, inputs=[source])
    onnx.checker.check_model(extended, full_check=True)
    assert model.SerializeToString(deterministic=True) == before
    kept, stood = len(model.graph.initializer), len(model.graph.node)
    assert extended.graph.initializer[:kept] == model.graph.initializer[:]
    assert extended.graph.node[:stood] == model.graph.node[:]
    constants, nodes = extended.graph.initializer[kept:], extended.graph.node[stood:]
    assert all(item.data_type == onnx.TensorProto.INT64 or not item.dims for item in constants)
    added = extended.ByteSize() - model.ByteSize() - sum(item.ByteSize() for item in constants)
    assert added < 100 * len(nodes)
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    torch.manual_seed(0)
    for batch, *sides in ((1, 2, 3), (2, 5, 1)):
        x = torch.randn(batch, channels, *(side * (16 if half == "encoder" else 1) for side in sides))
        assert through(extended, torch_of(model), {source: x}, source) < 1e-4


def test_an_autoencoder_of_stable_diffusions_kind_has_its_gradient() -> None:
    """Group normalization, SiLU and attention: both halves of an AutoencoderKL, in float32 and with fp16 weights."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(1)
    from tests.small_autoencoders import KL  # which imports diffusers

    vae = diffusers.AutoencoderKL(**KL).eval()
    space = describe_space(vae, None, None)
    examples = torch.zeros(2, 3, 6, 10), torch.zeros(2, 4, 3, 5)
    for half, example in zip(halves(vae, space, space), examples, strict=True):
        model = trace(half, example, "x", "y")
        extended = add_gradient(model, output="y", inputs=["x"])
        onnx.checker.check_model(extended, full_check=True)
        assert "Not" not in {node.op_type for node in extended.graph.node}, "whether shapes differ is known at once"
        half.double()
        for batch, *sides in ((2, 8, 4), (1, 6, 14)):
            assert through(extended, half, {"x": torch.randn(batch, example.shape[1], *sides)}, "x") < 1e-4
    rounded = add_gradient(convert(model, "w16"), output="y", inputs=["x"])
    assert 1e-6 < through(rounded, half, {"x": torch.randn(1, 4, 5, 3)}, "x") < 2e-3


def test_a_tiny_autoencoder_has_its_gradient() -> None:
    """AutoencoderTiny with its clamps by tanh and its nearest upsampling: both halves, at odd sizes."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(2)
    vae = diffusers.AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4).eval()
    for half, channels, unit in ((vae.encoder, 3, 8), (vae.decoder, 4, 1)):
        model = trace(half, torch.zeros(2, channels, 3 * unit, 5 * unit), "x", "y")
        extended = add_gradient(model, output="y", inputs=["x"])
        half.double()
        for batch, height, width in ((2, 1, 3), (1, 4, 2)):
            x = torch.randn(batch, channels, height * unit, width * unit)
            assert through(extended, half, {"x": x}, "x") < 1e-4


def exported(module: nn.Module, arrays: Mapping[str, Tensor], folder: Path) -> onnx.ModelProto:
    """A module of several inputs as torch's exporter writes it, constants folded; every input's sides are free."""
    with io.BytesIO() as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = {name: {0: "batch", 2: f"{name}_height", 3: f"{name}_width"} for name in arrays}
        names: dict[str, Any] = {"input_names": list(arrays), "output_names": ["y"], "dynamic_axes": axes}
        torch.onnx.export(module, tuple(arrays.values()), file, dynamo=False, opset_version=18, **names)
        open_session(onnx.load_from_string(file.getvalue()), basic_into=folder / "folded.onnx")
    return onnx.load(folder / "folded.onnx")


def test_the_trainers_models_have_their_gradients() -> None:
    """Both halves as they are exported: a linear path beside the network, in the decoder also the quality level."""
    torch.manual_seed(3)
    config = ModelConfig(latent_channels=6, encoder_widths=(8, 8, 8), decoder_widths=(8, 8, 8))
    for half, channels, unit in zip(fold(Autoencoder(config)), (3, 7), (16, 1), strict=True):
        model = trace(half, torch.zeros(2, channels, 3 * unit, 5 * unit), "x", "y")
        extended = add_gradient(model, output="y", inputs=["x"])
        if unit == 1:
            assert not {"Not", "Shape"} & {node.op_type for node in extended.graph.node}, "shapes are known at once"
        half.double()
        for height, width in ((2, 3), (3, 1)):
            x = torch.randn(2, channels, height * unit, width * unit)
            torch.testing.assert_close(torch_of(model)(x.double()), half(x.double()), rtol=1e-5, atol=1e-4)
            assert through(extended, half, {"x": x}, "x") < 1e-4


class Perceptual(nn.Module):
    """What a distance in the features of AlexNet and VGG16 is made of, with few channels and random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 6, 11, 4, 2), *(nn.Conv2d(6, 6, 3, 1, 1) for _ in range(4))])

    def features(self, x: Tensor) -> list[Tensor]:
        maps = []
        for index, layer in enumerate(self.convs):
            if index in (1, 3):
                x = F.max_pool2d(x, 3, 2) if index == 1 else F.max_pool2d(x, 2, 2)
            x = torch.relu(layer(x))
            maps.append(x)
        return maps

    def forward(self, picture: Tensor, photo: Tensor) -> Tensor:
        total = (picture - photo).square().mean()
        seen, wanted = self.features(picture[..., 3:, 5:]), self.features(photo[..., 3:, 5:])
        for one, other in zip(seen, wanted, strict=True):
            units = [each / (each.square().sum(1, keepdim=True) + 1e-4).sqrt() for each in (one, other)]
            total = total + (units[0] - units[1]).square().sum(1).mean()
        return total + texture_distance(seen, wanted).sum()


def test_a_loss_behind_a_decoder_has_its_gradient(tmp_path: Path) -> None:
    """One graph from latents to a scalar: a decoder, squared error, unit feature maps behind max pools, textures."""
    torch.manual_seed(5)
    decoder = nn.Sequential(nn.Conv2d(4, 12, 3, padding=1), nn.SiLU(), nn.Conv2d(12, 48, 1), nn.PixelShuffle(4))
    loss = Perceptual()
    photo = torch.rand(1, 3, 48, 64)
    head = trace(decoder, torch.zeros(2, 4, 3, 5), "latents", "picture")
    tail = exported(loss, {"picture": photo, "photo": photo}, tmp_path)
    head.ir_version = tail.ir_version = 8
    whole = onnx.compose.merge_models(head, tail, io_map=[("picture", "picture")])
    extended = add_gradient(whole, output="y", inputs=["latents"])
    for sides in ((12, 16), (15, 13)):
        arrays = {"latents": torch.randn(1, 4, *sides), "photo": torch.rand(1, 3, 4 * sides[0], 4 * sides[1])}
        function = lambda latents, photo: loss.double()(decoder.double()(latents), photo)  # noqa: E731
        assert through(extended, function, arrays, "latents") < 1e-4


def test_kinks_are_torchs() -> None:
    """Relu at 0, Clip on its bounds, equal maxima of a MaxPool, a length of 0: torch's choice, and never NaN."""
    rng = np.random.default_rng(7)
    x = rng.choice([-1, 0, 2], (2, 4, 5, 6)).astype(np.float32)
    x[0, 0] = 0
    kinks = (
        unary("y = Relu(x)", torch.relu),
        unary("y = Clip(x, a, b)", lambda x: x.clamp(-1, 2), constants="float a = {-1}, float b = {2}"),
        unary("y = MaxPool <kernel_shape=[2,2]> (x)", lambda x: F.max_pool2d(x, 2, 1)),
        unary(
            "s = Mul(x, x) r = ReduceSum <keepdims=0> (s, a) y = Sqrt(r)",
            lambda x: x.norm(dim=(2, 3)),
            constants="int64[2] a = {2, 3}",
        ),
    )
    for rule in kinks:
        extended = add_gradient(rule.model(), output="y", inputs=["x"])
        _, expected = vector_jacobian(rule.function, {"x": x}, "x")
        (result,) = open_session(extended).run(["x.gradient"], {"x": x, "y.gradient": expected["y.gradient"]})
        np.testing.assert_allclose(result, expected["x.gradient"], rtol=1e-5, atol=1e-6)


def test_half_precision_graphs_have_gradients_too() -> None:
    """Casts and islands of a graph that computes in fp16 are differentiated as they stand."""
    torch.manual_seed(6)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 2, 1)).eval()
    model = convert(trace(module, torch.zeros(2, 3, 4, 6), "x", "y"), "fp16")
    extended = add_gradient(model, output="y", inputs=["x"])
    onnx.checker.check_model(extended, full_check=True)
    assert 1e-5 < through(extended, module.double(), {"x": torch.randn(1, 3, 5, 7)}, "x") < 1e-2


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("a = Ceil(x) b = Cumulate(a) y = Add(b, x)", "no gradient is implemented for Ceil, Cumulate$"),
        ("a = com.example.Neg(x) y = Neg(a)", "no gradient is implemented for com.example.Neg$"),
        ("w = Unsqueeze(x, a) y = Conv(z, w)", "Conv has a gradient for its first input only"),
        ("a = Cast <to=7> (x) y = Cast <to=1> (a)", "no gradient of Cast to a type that is not of floating point"),
        ('y = Resize <mode="linear"> (x, , s)', "no gradient of Resize other than to repeated pixels"),
        ("y = Resize(x, , s)", "no gradient of Resize by scales"),
        ('y = Conv <auto_pad="SAME_UPPER"> (x, v)', "no gradient of Conv with automatic padding"),
        ("y = Pow(x, x)", "Pow has a gradient for its first input only"),
        ("y = Neg(z)", "y does not depend on x"),
        ("s = Shape(x) y = Cast <to=1> (s)", "y does not depend on x"),
    ],
)
def test_what_has_no_rule_is_refused_by_name(body: str, said: str) -> None:
    """An operator or a form of it that cannot be differentiated is named in one line."""
    inputs = {"x": "float[2,3,5,7]", "z": "float[2,3,5,7]", "v": "float[4,3,3,3]"}
    constants = "int64[1] a = {0}, float[4] s = {1, 1, 2.5, 2}"
    model = Rule(body, torch.relu, inputs, constants=constants).model()
    with pytest.raises(ModelError, match=said) as caught:
        add_gradient(model, output="y", inputs=["x"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("output", "inputs", "said"),
    [
        ("z", ["x"], "no output z; it has y"),
        ("y", ["w"], "no input w; it has x, i"),
        ("y", ["i"], "input i is not of a floating-point type"),
        ("y", ["x", "x"], "x is given twice"),
    ],
)
def test_ends_that_are_not_there_are_refused(output: str, inputs: list[str], said: str) -> None:
    """The output and the inputs are the graph's own, of floating point, each once."""
    model = Rule("y = Gather(x, i)", torch.relu, {**X, "i": "int64[2]"}).model()
    with pytest.raises(ModelError, match=said):
        add_gradient(model, output=output, inputs=inputs)
    model.opset_import[0].version = 17
    with pytest.raises(ModelError, match="opset 18 or newer, the graph has 17"):
        add_gradient(model, output="y", inputs=["x"])


def test_names_in_use_are_left_alone() -> None:
    """A graph that is extended already may be extended again for another input; the same one is refused."""
    model = Rule("y = Mul(x, z)", torch.mul, {**X, "z": "float[W]"}).model()
    once = add_gradient(model, output="y", inputs=["x"])
    with pytest.raises(ModelError, match=r"has a y\.gradient already"):
        add_gradient(once, output="y", inputs=["z"])
    bent = add_gradient(once, output="x.gradient", inputs=["z"])
    names = [name for node in bent.graph.node for name in node.output]
    assert len(names) == len(set(names))
    open_session(bent)


def test_only_what_lies_between_matters() -> None:
    """Unknown operators beside the path are no hindrance; a subgraph that reads a value of the path is on it."""
    beside = "a = com.example.Odd(z) b = Round(a) y = Mul(x, b)"
    inputs = {**X, "z": "float[1]", "c": "bool"}
    extended = add_gradient(Rule(beside, torch.mul, inputs).model(), output="y", inputs=["x"])
    assert {node.op_type for node in extended.graph.node[3:]} >= {"Mul", "Identity"}
    inner = "then_branch = t () => (float[N] u) { u = Neg(x) }, else_branch = e () => (float[N] v) { v = Identity(x) }"
    with pytest.raises(ModelError, match=r"no gradient is implemented for If$"):
        add_gradient(Rule(f"k = If <{inner}> (c) y = Add(k, x)", torch.add, inputs).model(), output="y", inputs=["x"])


def test_the_same_graph_gives_the_same_bytes() -> None:
    """An extension is reproducible."""
    model = onnx.load(ROOT / "models" / "tiny" / "decoder.onnx")
    once, again = (add_gradient(model, output="sample", inputs=["latent_sample"]) for _ in range(2))
    assert once.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)


def test_differentiation_needs_no_torch() -> None:
    """The package imports neither torch nor an engine, so it can be used where a pack is all there is."""
    code = "import sys, sdrt_export.gradient; print({'torch', 'onnxruntime', 'diffusers'} & set(sys.modules))"
    path = os.pathsep.join(str(ROOT / part) for part in ("runtime", "export"))
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=True, text=True
    )
    assert done.stdout.strip() == "set()"
