"""The graphs of every class of autoencoders that is exported: they compute what diffusers' own class computes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from sdrt.packs.manifest import ModelPack
from sdrt.packs.search import load_pack
from sdrt_export.__main__ import main
from sdrt_export.classes import CLASSES
from sdrt_export.graph import trace
from sdrt_export.made_pictures import CASES, make_picture
from sdrt_export.overflow import peak
from sdrt_export.pack_writer import read_manifest, write_pack
from sdrt_export.parity import TOLERANCES
from sdrt_export.precision import convert
from sdrt_export.session import open_session
from sdrt_export.sources import open_source
from sdrt_export.traceable import RmsNorm

pytest.importorskip("diffusers")

import diffusers
from tests import small_autoencoders as small

from sdrt_export.autoencoders import ADAPTERS, describe_space
from sdrt_export.graph_files import computes_on_shapes, write_graphs
from sdrt_export.reference import Reference
from sdrt_export.verify import verify_pack

pytestmark = pytest.mark.usefixtures("one_thread")

SHUFFLED = {**small.DC, "downsample_block_type": "pixel_unshuffle", "upsample_block_type": "pixel_shuffle"}
"""AutoencoderDC in its other form, that of the models for ImageNet."""
UNMATCHED = {
    **small.HUNYUAN,
    "block_out_channels": (32, 32, 32),
    "spatial_compression_ratio": 2,
    "downsample_match_channel": False,
    "upsample_match_channel": False,
}
"""AutoencoderKLHunyuanImage of one width whose sides halve once, before the first of two blocks."""
_ALIKE = {(CLASSES[name].prefix, repr(settings)): name for name, settings in small.SETTINGS.items()}
DISTINCT = {name: small.SETTINGS[name] for name in _ALIKE.values()} | {
    "AutoencoderDC, shuffled": SHUFFLED,
    "AutoencoderKLHunyuanImage, unmatched": UNMATCHED,
    "AutoencoderKLQwenImage21, not residual": {**small.RGBA, "is_residual": False},
}
"""All classes, but for one of those that share prefix and configuration, and so their graphs; and other forms of a
configuration."""


@pytest.fixture(scope="module", params=DISTINCT)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """A source, and the float32 graphs of its halves."""
    class_name, settings = request.param.split(",")[0], DISTINCT[request.param]
    folder = tmp_path_factory.mktemp("source")
    small.make(class_name, settings).save_pretrained(folder)
    source = open_source(str(folder))
    space = source.space
    picture = torch.zeros(2, 3, 3 * space.downscale, 5 * space.downscale)
    graphs = {
        "encoder": trace(source.encoder, picture, "sample", "latents"),
        "decoder": trace(source.decoder, torch.zeros(2, space.channels, 3, 5), "latent_sample", "sample"),
    }
    return source, graphs


def test_every_adapter_is_tried() -> None:
    """No class is listed as supported without a small one here."""
    assert set(small.SETTINGS) == set(ADAPTERS) == set(CLASSES)


def test_a_scaling_factor_of_null_is_none() -> None:
    """A configuration may name the field and leave it empty: the latents are then taken as they are."""
    space = describe_space(small.make_tiny(scaling_factor=None), None, None)
    assert (space.scale, space.shift) == (1, 0)


def test_graphs_agree_with_diffusers_in_every_precision(exported: tuple[Any, ...], tmp_path: Path) -> None:
    """Any size and batch, one latent too: within the tolerances of ``verify``, against diffusers' own class."""
    source, graphs = exported
    written = write_graphs(
        graphs,
        tmp_path,
        space=source.space,
        latent_distribution=source.latent_distribution,
        precisions=["fp32", "w16", "fp16"],
        graphs={},
    )
    pack: ModelPack = write_pack(
        tmp_path, name="x", space=source.space, latent_distribution=source.latent_distribution, halo=written.halo
    )
    for parity in verify_pack(pack, source.encoder, source.decoder, against=source.reference(), device="cpu"):
        assert parity.passed, parity
    assert (1, 9, 13) in CASES and (2, 1, 1) in CASES


def test_no_arithmetic_on_shapes_is_left(exported: tuple[Any, ...]) -> None:
    """A Shape only ever feeds a Reshape, and a Pad's widths are constant: more would be placed on the CPU by a GPU
    session, which is refused."""
    for model in exported[1].values():
        kinds = Counter(node.op_type for node in model.graph.node)
        assert not {"Gather", "Slice", "Unsqueeze", "ConstantOfShape", "Expand", "Loop", "If"} & set(kinds)
        assert not computes_on_shapes(model)
        constants = {tensor.name for tensor in model.graph.initializer}
        assert all(node.input[1] in constants for node in model.graph.node if node.op_type == "Pad")
        assert all(len(value.type.tensor_type.shape.dim) == 4 for value in (*model.graph.input, *model.graph.output))


def test_sums_over_many_numbers_stay_in_float32(exported: tuple[Any, ...]) -> None:
    """In fp16 graphs norms and linear attention are computed in float32 from end to end, without a rounding between."""
    for model in exported[1].values():
        half = convert(model, "fp16")
        onnx.checker.check_model(half)
        graph = onnx.shape_inference.infer_shapes(half, strict_mode=True).graph
        types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input)}
        makers = {name: node for node in graph.node for name in node.output}
        for node in graph.node:
            if "/in_float32/" not in node.name or node.op_type == "Cast":
                continue
            assert all(types.get(name, TensorProto.FLOAT) == TensorProto.FLOAT for name in node.output)
            for name in node.input:
                if name in makers and makers[name].op_type == "Cast":
                    assert "/in_float32/" not in makers[makers[name].input[0]].name, "rounded to fp16 between two"


def test_numbers_that_stay_in_float32_do_not_forbid_fp16() -> None:
    """The peak counts what would be fp16: a mean square of a million inside a norm is not a reason to refuse."""
    model = trace(RmsNorm(torch.ones(2), None, added=1e-5), torch.zeros(2, 2, 3, 5), "sample", "latents")
    picture = np.full((1, 2, 4, 4), 1000, np.float32)
    largest, _ = peak(model, picture)
    assert largest < 1.01
    given = open_session(convert(model, "fp16"), optimize=False).run(None, {"sample": picture})[0]
    assert np.abs(given - 1).max() < 1e-2


def test_one_latent_does_not_fail_a_narrow_autoencoder(tmp_path: Path) -> None:
    """A normalization over two numbers makes a step of a rounding, which is no fault; another network still is one."""
    torch.manual_seed(0)
    narrow = {**small.KL, "block_out_channels": (8, 8)}
    diffusers.AutoencoderKL(**narrow).save_pretrained(tmp_path / "vae")
    assert main(["graph", str(tmp_path / "vae"), "--out", str(tmp_path / "pack")]) == 0
    source, pack = open_source(str(tmp_path / "vae")), load_pack(tmp_path / "pack")
    judge, modules = source.reference(), (source.encoder, source.decoder)
    picture = [make_picture(2, 1, 1, source.space.downscale)]
    (alone,) = verify_pack(pack, *modules, against=judge, device="cpu", pictures=picture)
    assert alone.picture_psnr_db < TOLERANCES["w16"].picture_psnr_db, "this one needs the leniency"
    assert alone.passed
    assert main(["verify", str(tmp_path / "pack"), "--device", "cpu"]) == 0
    other = Reference(judge.encode, lambda latents: judge.decode(latents) * 0.7, "another network")
    (alone,) = verify_pack(pack, *modules, against=other, device="cpu", pictures=picture)
    assert not alone.passed


def test_wan_s_latents_are_normalized_inside_the_graphs(tmp_path: Path) -> None:
    """Means and deviations of each channel are the graphs' business: the space has scale 1 and shift 0."""
    small.make("AutoencoderKLWan", small.VIDEO).save_pretrained(tmp_path / "a")
    source = open_source(str(tmp_path / "a"))
    assert (source.space.scale, source.space.shift, source.latent_distribution) == (1.0, 0.0, False)
    assert main(["graph", str(tmp_path / "a"), "--out", str(tmp_path / "pack")]) == 0
    assert read_manifest(tmp_path / "pack")["source"]["class"] == "AutoencoderKLWan"
