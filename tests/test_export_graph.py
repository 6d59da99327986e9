"""sdrt_export's graphs: they compute what torch computes, in every precision and size, and say how far they look."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from sdrt.errors import ModelError
from sdrt.network.engine import Engine
from sdrt.packs.manifest import LatentSpace, graph_file_name
from sdrt_export import overflow
from sdrt_export.autoencoders import describe_space, halves
from sdrt_export.graph import export_modules, trace
from sdrt_export.halo import dependence
from sdrt_export.pack_writer import write_pack
from sdrt_export.precision import ISLANDS, convert
from sdrt_export.verify import verify_pack

SPACE = LatentSpace("test", 6, 8, 1.0, 0.0)


pytestmark = pytest.mark.usefixtures("one_thread")


class Down(nn.Module):
    """Convolutions and a pixel unshuffle, as training's encoder: (N, 3, H, W) -> (N, 6, H/8, W/8)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=2, dilation=2),
            nn.Conv2d(8, 6, 3, stride=2, padding=1),
        )

    def forward(self, sample: Tensor) -> Tensor:
        latents: Tensor = self.body(sample)
        return latents


class Up(nn.Module):
    """Convolutions, a pixel shuffle and a nearest upsampling: (N, 6, h, w) -> (N, 3, 8h, 8w)."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 5, padding=2)
        self.third = nn.Conv2d(16, 12, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        x = torch.relu(self.first(latents))
        x = x + self.second(x)
        x = nn.functional.interpolate(x, scale_factor=4.0, mode="nearest")
        return nn.functional.pixel_shuffle(self.third(x), 2)


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return Down().eval(), Up().eval()


@pytest.fixture(scope="module")
def vae() -> Any:
    """A small AutoencoderKL with normalization and attention, its halves and its space."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(1)
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
    ).eval()


@pytest.fixture(scope="module")
def kl_graphs(vae: Any) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    space = describe_space(vae, None, None)
    encoder, decoder = halves(vae, space, space)
    return (
        trace(encoder, torch.zeros(2, 3, 6, 10), "sample", "latent_parameters"),
        trace(decoder, torch.zeros(2, 4, 3, 5), "latent_sample", "sample"),
    )


def run(model: onnx.ModelProto, array: Tensor, folder: Path, *, optimize: bool = True) -> Tensor:
    onnx.save(model, folder / "g.onnx")
    return torch.from_numpy(Engine(folder / "g.onnx", device="cpu", threads=1, optimize=optimize).run(array.numpy()))


@pytest.mark.parametrize("precision", ["fp32", "w16", "fp16"])
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 5), (1, 7, 2)])
def test_a_pair_of_modules_becomes_graphs_of_any_size(
    pair: tuple[nn.Module, nn.Module], tmp_path: Path, precision: str, size: tuple[int, int, int]
) -> None:
    """Batch, height and width stay free, and both graphs compute what the modules compute."""
    exported = export_modules(*pair, tmp_path, space=SPACE, precisions=[precision])
    assert exported.files == {name: tmp_path / name for name in exported.files}
    batch, height, width = size
    torch.manual_seed(3)
    inputs = (torch.rand(batch, 3, height * 8, width * 8) * 2 - 1, torch.randn(batch, 6, height, width))
    for half, module, array in zip(("encoder", "decoder"), pair, inputs, strict=True):
        result = Engine(exported.files[graph_file_name(half, precision)], device="cpu", threads=1).run(array.numpy())
        with torch.no_grad():
            expected = module(array).numpy()
        assert result.shape == expected.shape
        assert np.abs(result - expected).max() < {"fp32": 1e-5, "w16": 2e-3, "fp16": 5e-3}[precision]


def test_a_decoder_may_take_the_quality_level(pair: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    """One more channel of its input, and none of the encoder's; graphs are verified with a level of its own at each
    position, and a module that takes no level is refused."""
    torch.manual_seed(2)
    encoder, decoder = pair[0], Up(SPACE.channels + 1).eval()
    exported = export_modules(encoder, decoder, tmp_path, space=SPACE, precisions=["w16", "fp16"], quality_input=True)
    pack = write_pack(
        tmp_path,
        name="told",
        space=SPACE,
        files=exported.files,
        halo=exported.halo,
        quality_input=True,
        license="CC0-1.0",
    )
    parities = verify_pack(pack, encoder, decoder, device="cpu")
    assert [(parity.precision, parity.passed) for parity in parities] == [("w16", True), ("fp16", True)]
    with pytest.raises(ModelError, match="latent_sample module does not run"):
        export_modules(*pair, tmp_path, space=SPACE, quality_input=True)


def test_graphs_keep_the_fields_names(pair: tuple[nn.Module, nn.Module], vae: Any, tmp_path: Path) -> None:
    """sample -> latents or latent_parameters, latent_sample -> sample, float32 at both ends, whatever the precision."""
    plain = export_modules(*pair, tmp_path / "plain", space=SPACE, precisions=["w16", "fp16"])
    space = describe_space(vae, None, None)
    kl = export_modules(*halves(vae, space, space), tmp_path / "kl", space=space, latent_distribution=True)
    for files, latents in ((plain.files, "latents"), (kl.files, "latent_parameters")):
        for name, path in files.items():
            graph = onnx.load(path).graph
            ends = ("sample", latents) if name.startswith("encoder") else ("latent_sample", "sample")
            assert (graph.input[0].name, graph.output[0].name) == ends
            kinds = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
            assert kinds == {TensorProto.FLOAT}


def test_the_same_modules_give_the_same_bytes(pair: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    """An export is reproducible: hashes mean the weights, not the hour; int8 graphs of what was there before go."""
    first = export_modules(*pair, tmp_path / "a", space=SPACE)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "decoder.int8.onnx").write_bytes(b"made from other weights")
    second = export_modules(*pair, tmp_path / "b", space=SPACE)
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["decoder.onnx", "encoder.onnx"]
    for name, path in first.files.items():
        assert path.read_bytes() == second.files[name].read_bytes()


def test_export_leaves_the_modules_as_they_were(pair: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    """What is traced is a copy: modules in training keep their mode and their parts."""
    encoder, decoder = (copy.deepcopy(module).train() for module in pair)
    export_modules(encoder, decoder, tmp_path, space=SPACE)
    assert encoder.training
    assert isinstance(encoder.body[0], nn.PixelUnshuffle)  # type: ignore[index] # the Sequential of Down


def test_modules_of_another_shape_are_refused(pair: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    """A pair that does not fit its space is refused before a file is written."""
    for space in (LatentSpace("t", 5, 8, 1.0, 0.0), LatentSpace("t", 6, 16, 1.0, 0.0)):
        with pytest.raises(ModelError) as caught:
            export_modules(*pair, tmp_path, space=space)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def support(module: nn.Module, channels: int, size: int, block: int, unit: float) -> int:
    """How far a block in the middle of the output looks, by gradients through all-positive weights."""
    positive = copy.deepcopy(module).double()
    for layer in positive.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data.fill_(1 / layer.weight[0].numel())
            assert layer.bias is not None
            layer.bias.data.zero_()
    array = torch.ones(1, channels, size, size, dtype=torch.float64, requires_grad=True)
    output = positive(array)
    start = output.shape[2] // block // 2 * block
    output[:, :, start : start + block, start : start + block].sum().backward()
    assert array.grad is not None
    rows = array.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    first, last = int(start * unit), int((start + block) * unit) - 1
    return max(first - int(rows[0]), int(rows[-1]) - last)


def test_the_halo_is_what_gradients_reach(pair: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    """The halo read off the graph equals the farthest input that moves an output, no more and no less."""
    halo = export_modules(*pair, tmp_path, space=SPACE).halo
    assert halo == {
        "encoder_px": support(pair[0], 3, 160, 1, 8),
        "decoder_latents": support(pair[1], 6, 24, 8, 1 / 8),
    }


def test_a_tile_with_its_halo_equals_the_whole_picture(pair: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    """The middle of a decoded tile is the whole picture's to the last few bits; one latent less, and it is not."""
    exported = export_modules(*pair, tmp_path, space=SPACE)
    assert exported.halo is not None
    reach = exported.halo["decoder_latents"]
    decoder = Engine(exported.files["decoder.onnx"], device="cpu", threads=1)
    latents = np.random.default_rng(0).normal(size=(1, 6, 20, 20)).astype(np.float32)
    whole = decoder.run(latents)[:, :, 80:96, 80:96]
    for halo, equal in ((reach, True), (reach - 1, False)):
        low, high = 10 - halo, 12 + halo
        inner = slice(halo * 8, halo * 8 + 16)
        tile = decoder.run(latents[:, :, low:high, low:high])[:, :, inner, inner]
        assert (np.abs(tile - whole).max() < 1e-5) == equal


def test_normalization_and_attention_have_no_halo(kl_graphs: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    """A graph in which every pixel sees every other has no halo, and says so instead of guessing one."""
    assert [dependence(graph, 1) for graph in kl_graphs] == [None, None]


def test_attention_and_group_norm_match_torch_at_sizes_never_traced(
    vae: Any, kl_graphs: tuple[onnx.ModelProto, onnx.ModelProto], tmp_path: Path
) -> None:
    """The rewritten attention is diffusers' attention: for batch 1 and 3, one row, and more positions than traced."""
    torch.manual_seed(5)
    for batch, height, width in ((1, 1, 9), (3, 4, 4), (1, 8, 5)):
        sample, latents = torch.rand(batch, 3, height * 2, width * 2), torch.randn(batch, 4, height, width)
        with torch.no_grad():
            expected = vae.encode(sample).latent_dist.parameters, vae.decode(latents).sample
        torch.testing.assert_close(run(kl_graphs[0], sample, tmp_path), expected[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(run(kl_graphs[1], latents, tmp_path), expected[1], atol=2e-5, rtol=1e-4)


def test_w16_stores_half_and_computes_in_float(kl_graphs: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    """Every kernel is stored as the fp16 rounding of the original and widened by one Cast: arithmetic is float32."""
    for model in kl_graphs:
        small = convert(model, "w16")
        original = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        halved = [tensor for tensor in small.graph.initializer if tensor.data_type == TensorProto.FLOAT16]
        kernels = {name for name, array in original.items() if array.ndim == 4 and array.size >= 64}
        assert {tensor.name.removesuffix(".fp16") for tensor in halved} >= kernels
        assert len(kernels) > 10
        for tensor in halved:
            expected = original[tensor.name.removesuffix(".fp16")].astype(np.float16)
            assert np.array_equal(onnx.numpy_helper.to_array(tensor), expected)
        casts = [node for node in small.graph.node if node.op_type == "Cast"]
        assert [node.attribute[0].i for node in casts] == [TensorProto.FLOAT] * len(halved)


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    return types


def test_fp16_computes_in_half_but_on_its_islands(
    vae: Any, kl_graphs: tuple[onnx.ModelProto, onnx.ModelProto], tmp_path: Path
) -> None:
    """Convolutions and products take and give fp16, normalization and softmax float32, and the picture holds."""
    torch.manual_seed(6)
    array = torch.randn(2, 4, 3, 7)
    for model in kl_graphs:
        half = convert(model, "fp16")
        onnx.checker.check_model(half)
        types = value_types(half)
        seen: set[str] = set()
        for node in half.graph.node:
            touched = {types[name] for name in (*node.input, *node.output) if name}
            floats = touched & {TensorProto.FLOAT, TensorProto.FLOAT16}
            if node.op_type in ISLANDS:
                assert floats == {TensorProto.FLOAT}
                seen.add(node.op_type)
            elif node.op_type in ("Conv", "MatMul", "Add", "Mul", "Sigmoid"):
                assert floats == {TensorProto.FLOAT16}
        assert seen == {"InstanceNormalization", "Softmax"}
    with torch.no_grad():
        expected = vae.decode(array).sample
    result = run(convert(kl_graphs[1], "fp16"), array, tmp_path, optimize=False)
    assert 1e-5 < (result - expected).abs().max() < 0.02


def test_a_weight_beyond_fp16_is_refused() -> None:
    """No weight silently becomes infinite."""
    layer = nn.Conv2d(3, 8, 3, padding=1)
    layer.weight.data[0, 0, 0, 0] = 70000.0
    model = trace(layer, torch.zeros(2, 3, 4, 6), "sample", "latents")
    for precision in ("w16", "fp16"):
        with pytest.raises(ModelError, match="beyond the range of fp16"):
            convert(model, precision)
    with pytest.raises(ModelError, match="unknown precision"):
        convert(model, "int4")


def test_values_beyond_fp16_are_seen_on_a_cpu() -> None:
    """An activation that would overflow on a GPU is found by looking inside the float32 graph."""
    tame, wild = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False)
    tame.weight.data.fill_(1 / 300)
    wild.weight.data.fill_(300.0)
    model = trace(nn.Sequential(wild, wild, tame, tame), torch.zeros(2, 1, 3, 4), "sample", "latents")
    height, output = overflow.peak(model, np.ones((1, 1, 2, 2), np.float32))
    assert abs(height - 90000) < 1
    assert np.abs(output - 1).max() < 1e-3
    assert height > overflow.FP16_MAX


def test_a_nan_inside_is_no_small_peak() -> None:
    """Zero over zero in the middle of a graph: the peak is NaN, which no limit lets pass, wherever it arises."""
    nodes = [
        helper.make_node("Sub", ["sample", "sample"], ["zero"]),
        helper.make_node("Div", ["zero", "zero"], ["nan"]),
        helper.make_node("IsNaN", ["nan"], ["hidden"]),
        helper.make_node("Where", ["hidden", "sample", "nan"], ["output"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 2, 2]) for name in ("sample", "output")]
    model = helper.make_model(helper.make_graph(nodes, "nan", ends[:1], ends[1:]), ir_version=8)
    height, output = overflow.peak(model, np.ones((1, 1, 2, 2), np.float32))
    assert np.isnan(height) and np.isfinite(output).all()
