"""ONNX graphs in and out: what others export becomes a pack without torch, and packs go into optimum's layout."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from sdrt.network.engine import Engine
from sdrt.packs.manifest import LatentSpace
from sdrt.packs.search import load_pack
from sdrt_export.__main__ import main
from sdrt_export.classes import CLASSES
from sdrt_export.graph_files import computes_on_shapes, fold
from sdrt_export.onnx_source import PLACES
from sdrt_export.precision import convert
from sdrt_export.spaces import SPACES

ROOT = Path(__file__).resolve().parents[1]
SPACE = LatentSpace("x", 4, 8, 0.5, 0.0)

pytestmark = pytest.mark.usefixtures("one_thread")


class Encoder(nn.Module):
    """Picture -> mean and log-variance at 1/8, or with ``sampled`` a draw, as the first exporters of ONNX had it."""

    def __init__(self, *, sampled: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 8, 4, 4))
        self.sampled = sampled

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        moments: torch.Tensor = self.layers(sample)
        if not self.sampled:
            return moments
        mean, log_variance = moments.chunk(2, 1)
        return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4, 8, 3, 1, 1), nn.SiLU(), nn.Upsample(scale_factor=8), nn.Conv2d(8, 3, 3, 1, 1)
        )

    def forward(self, latent_sample: torch.Tensor) -> torch.Tensor:
        painted: torch.Tensor = self.layers(latent_sample)
        return painted


def export(module: nn.Module, path: Path, source: str, target: str, channels: int, **options: Any) -> None:
    """As optimum does it: torch's tracer, free batch and sides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = {0: "batch_size", 2: "height", 3: "width"}
    settings = {"dynamic_axes": {source: axes, target: axes}, **options}
    side = 64 if channels == 3 else 8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older of torch's two tracers says so each time
        torch.onnx.export(
            module,
            (torch.zeros(2, channels, side, side + 8),),
            path,
            dynamo=False,
            input_names=[source],
            output_names=[target],
            opset_version=14,
            **settings,
        )


@pytest.fixture(scope="module")
def pair() -> tuple[Encoder, Decoder]:
    torch.manual_seed(0)
    return Encoder().eval(), Decoder().eval()


@pytest.fixture(scope="module")
def layout(pair: tuple[Encoder, Decoder], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as optimum writes it."""
    folder = tmp_path_factory.mktemp("optimum")
    export(pair[0], folder / "vae_encoder" / "model.onnx", "sample", "latent_parameters", 3)
    export(pair[1], folder / "vae_decoder" / "model.onnx", "latent_sample", "sample", 4)
    config = {"_class_name": "AutoencoderKL", "scaling_factor": 0.5, "block_out_channels": [8, 8, 8, 8]}
    for half in ("encoder", "decoder"):
        (folder / f"vae_{half}" / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def fresh(layout: Path, tmp_path: Path) -> Path:
    """The folder, to be changed."""
    import shutil

    return Path(shutil.copytree(layout, tmp_path / "onnx"))


def edit(path: Path, change: Callable[[onnx.ModelProto], object], **save: Any) -> None:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path, **save)


def through(pack_folder: Path, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and picture of a pack's graphs."""
    pack = load_pack(pack_folder)
    precision = pack.precisions[0]
    encoder, decoder = (
        Engine(path, device="cpu", threads=1) for path in (pack.encoder_path(precision), pack.decoder_path(precision))
    )
    latents = encoder.run(sample.numpy())[:, : pack.space.channels]
    return torch.from_numpy(latents), torch.from_numpy(decoder.run(np.ascontiguousarray(latents)))


def assert_same(pack_folder: Path, pair: tuple[nn.Module, nn.Module], tolerance: float = 3e-3) -> None:
    sample = torch.rand(2, 3, 24, 40) * 2 - 1
    with torch.no_grad():
        mean = pair[0](sample)[:, :4]
        wanted = mean, pair[1](mean)
    for given, expected in zip(through(pack_folder, sample), wanted, strict=True):
        torch.testing.assert_close(given, expected, atol=tolerance, rtol=1e-2)


def test_optimum_s_layout_becomes_a_pack(layout: Path, pair: Any, tmp_path: Path) -> None:
    """Scale and class come from config.json; the pack computes what the modules compute and is proven against ONNX."""
    assert main(["from-onnx", str(layout), "--out", str(tmp_path / "pack")]) == 0
    pack = load_pack(tmp_path / "pack")
    assert (pack.space.channels, pack.space.downscale, pack.space.scale) == (4, 8, 0.5)
    assert pack.latent_distribution
    assert pack.halo is not None
    assert pack.manifest["source"]["class"] == "AutoencoderKL"
    assert sorted(pack.manifest["source"]["files"]) == ["vae_decoder/model.onnx", "vae_encoder/model.onnx"]
    assert [row["passed"] for row in pack.manifest["verified"]["parity"]] == [True]
    assert_same(tmp_path / "pack", pair)
    assert main(["verify", str(tmp_path / "pack"), "--device", "cpu"]) == 0


def test_every_precision_can_be_made(layout: Path, tmp_path: Path) -> None:
    """float32 graphs give w16, fp16 and fp32, each within the tolerance of its precision."""
    arguments = ["from-onnx", str(layout), "--out", str(tmp_path / "p"), "--precision", "w16", "fp16", "fp32"]
    assert main(arguments) == 0
    assert load_pack(tmp_path / "p").precisions == ("w16", "fp16", "fp32")


def test_no_torch_is_needed(layout: Path, tmp_path: Path) -> None:
    """With torch, diffusers and transformers out of reach the command does the same."""
    script = (
        "import sys\n"
        "for name in ('torch', 'diffusers', 'transformers'): sys.modules[name] = None\n"
        "from sdrt_export.__main__ import main\n"
        f"sys.exit(main(['from-onnx', {str(layout)!r}, '--out', {str(tmp_path / 'pack')!r}])"
        f" or main(['optimum', {str(tmp_path / 'pack')!r}, '--out', {str(tmp_path / 'out')!r}]))\n"
    )
    path = f"{ROOT / 'runtime'}:{ROOT / 'export'}"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env={"PYTHONPATH": path}
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("place", PLACES)
def test_the_usual_places_are_searched(layout: Path, tmp_path: Path, place: str) -> None:
    """The layouts of optimum, onnx-community and Olive are found; without a configuration the scale is told."""
    for half in ("encoder", "decoder"):
        path = tmp_path / "in" / place.format(half=half)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((layout / f"vae_{half}" / "model.onnx").read_bytes())
    arguments = ["from-onnx", str(tmp_path / "in"), "--out", str(tmp_path / "pack"), "--space", "sd1"]
    assert main(arguments) == 0
    assert load_pack(tmp_path / "pack").space == SPACES["sd1"]


def test_an_unknown_scale_is_asked_for(fresh: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without config.json, and without a word, nothing is guessed."""
    for path in fresh.glob("*/config.json"):
        path.unlink()
    assert main(["from-onnx", str(fresh), "--out", str(tmp_path / "p")]) == 7
    assert "--space (sd1, sdxl" in capsys.readouterr().err
    assert main(["from-onnx", str(fresh), "--out", str(tmp_path / "p"), "--scale", "0.7", "--shift", "0.1"]) == 0
    assert (load_pack(tmp_path / "p").space.scale, load_pack(tmp_path / "p").space.shift) == (0.7, 0.1)


@pytest.mark.parametrize("class_name", [each.name for each in CLASSES.values() if each.unscaled])
def test_a_class_without_a_scale_has_the_scale_one(class_name: str, fresh: Path, tmp_path: Path) -> None:
    """Where no configuration of a class has a scaling factor, none is asked for."""
    for path in fresh.glob("*/config.json"):
        path.write_text(json.dumps({"_class_name": class_name}))
    assert main(["from-onnx", str(fresh), "--out", str(tmp_path / "p")]) == 0
    assert (load_pack(tmp_path / "p").space.scale, load_pack(tmp_path / "p").space.shift) == (1, 0)


def test_a_known_space_of_another_scale_is_refused(layout: Path, tmp_path: Path, capsys: Any) -> None:
    """``--space`` does not overrule the configuration's scale: then the graphs are of another space."""
    assert main(["from-onnx", str(layout), "--out", str(tmp_path / "p"), "--space", "sdxl"]) == 7
    assert "has scale 0.13025" in capsys.readouterr().err


def test_a_tiny_autoencoder_is_translated_inside_the_graphs(pair: Any, tmp_path: Path) -> None:
    """AutoencoderTiny's plain output becomes raw latents of the space that is asked for, and back."""
    folder = tmp_path / "in"
    tiny = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 4, 4)).eval()
    export(tiny, folder / "vae_encoder" / "model.onnx", "sample", "latent_sample", 3)
    export(pair[1], folder / "vae_decoder" / "model.onnx", "latent_sample", "sample", 4)
    (folder / "vae_decoder" / "config.json").write_text('{"_class_name": "AutoencoderTiny", "scaling_factor": 1.0}')
    assert main(["from-onnx", str(folder), "--out", str(tmp_path / "pack"), "--space", "sd1"]) == 0
    pack = load_pack(tmp_path / "pack")
    assert not pack.latent_distribution
    sample = torch.rand(1, 3, 16, 24)
    latents, painted = through(tmp_path / "pack", sample)
    with torch.no_grad():
        plain = tiny(sample)
        torch.testing.assert_close(latents * 0.18215, plain, atol=1e-3, rtol=1e-2)
        torch.testing.assert_close(painted, pair[1](plain), atol=3e-3, rtol=1e-2)


def test_noise_inside_the_encoder_is_cut(fresh: Path, pair: Any, tmp_path: Path, capsys: Any) -> None:
    """mean + std * noise becomes the mean: the same file for the same picture, and it is told."""
    noisy = Encoder(sampled=True).eval()
    noisy.load_state_dict(pair[0].state_dict())
    path = fresh / "vae_encoder" / "model.onnx"
    export(noisy, path, "sample", "latent_sample", 3)
    assert "RandomNormalLike" in {node.op_type for node in onnx.load(path).graph.node}
    assert main(["from-onnx", str(fresh), "--out", str(tmp_path / "p")]) == 0
    assert "takes the mean" in capsys.readouterr().err
    pack = load_pack(tmp_path / "p")
    assert not pack.latent_distribution
    kinds = {node.op_type for node in onnx.load(pack.encoder_path()).graph.node}
    assert not kinds & {"RandomNormalLike", "Exp"}, "the branch of the noise is gone"
    assert_same(tmp_path / "p", pair)


def test_noise_elsewhere_is_refused(fresh: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Random numbers that are not a draw at the end cannot be taken out without changing the network."""

    def disturb(model: onnx.ModelProto) -> None:
        graph = model.graph
        first = graph.node[0]
        graph.node.insert(0, helper.make_node("RandomNormalLike", [graph.input[0].name], ["noise"]))
        graph.node.insert(1, helper.make_node("Add", [graph.input[0].name, "noise"], ["noisy"]))
        first.input[0] = "noisy"

    edit(fresh / "vae_encoder" / "model.onnx", disturb)
    assert main(["from-onnx", str(fresh), "--out", str(tmp_path / "p")]) == 7
    assert "draws random numbers (RandomNormalLike)" in capsys.readouterr().err


def test_external_data_is_gathered(fresh: Path, pair: Any, tmp_path: Path, capsys: Any) -> None:
    """Weights beside the graph end up inside the pack's one file; where they are lost, that is said."""
    path = fresh / "vae_decoder" / "model.onnx"
    outside = {"save_as_external_data": True, "location": "model.onnx_data", "size_threshold": 0}
    edit(path, lambda model: None, **outside)
    assert (fresh / "vae_decoder" / "model.onnx_data").is_file()
    assert main(["from-onnx", str(fresh), "--out", str(tmp_path / "p")]) == 0
    assert not list((tmp_path / "p").glob("*data*"))
    assert_same(tmp_path / "p", pair)
    (fresh / "vae_decoder" / "model.onnx_data").unlink()
    capsys.readouterr()
    assert main(["from-onnx", str(fresh), "--out", str(tmp_path / "q")]) == 7
    assert "model.onnx_data" in capsys.readouterr().err


def test_fp16_graphs_become_a_pack_for_gpus(fresh: Path, pair: Any, tmp_path: Path, capsys: Any) -> None:
    """Graphs in fp16, ends too, keep their arithmetic, have float32 ends, and are filed as fp16 and nothing else."""

    def narrow(model: onnx.ModelProto) -> None:
        half = convert(fold(model), "fp16")
        kept = [node for node in half.graph.node if node.name not in ("enter", "leave")]
        ends = {half.graph.input[0].name, half.graph.output[0].name}
        for node in kept:
            for names in (node.input, node.output):
                names[:] = [name[:-5] if name.endswith(".fp16") and name[:-5] in ends else name for name in names]
        for value in (*half.graph.input, *half.graph.output):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
        del half.graph.node[:]
        half.graph.node.extend(kept)
        model.CopyFrom(half)

    for half in ("encoder", "decoder"):
        edit(fresh / f"vae_{half}" / "model.onnx", narrow)
    assert main(["from-onnx", str(fresh), "--out", str(tmp_path / "p"), "--precision", "w16"]) == 7
    assert "is already fp16" in capsys.readouterr().err
    assert main(["from-onnx", str(fresh), "--out", str(tmp_path / "p")]) == 0
    pack = load_pack(tmp_path / "p")
    assert pack.precisions == ("fp16",)
    graph = onnx.load(pack.decoder_path("fp16")).graph
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {TensorProto.FLOAT}
    assert_same(tmp_path / "p", pair, tolerance=2e-2)


def test_one_runtime_s_operators_are_refused_by_name(fresh: Path, tmp_path: Path, capsys: Any) -> None:
    """What only ONNX Runtime knows would not run in OpenVINO, TensorRT or a browser."""

    def optimize(model: onnx.ModelProto) -> None:
        model.graph.node[1].domain = "com.microsoft"
        model.graph.node[1].op_type = "QuickGelu"
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    edit(fresh / "vae_decoder" / "model.onnx", optimize)
    assert main(["from-onnx", str(fresh), "--out", str(tmp_path / "p")]) == 7
    error = capsys.readouterr().err
    assert "com.microsoft.QuickGelu" in error
    assert "without optimization" in error


def bfloat(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    wide = numpy_helper.to_array(tensor)
    tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.BFLOAT16, wide.shape, wide.ravel()))


@pytest.mark.parametrize(
    ("half", "change", "words"),
    [
        ("decoder", None, "has no decoder of an autoencoder: no vae_decoder/model.onnx"),
        ("encoder", None, "there is vae_decoder/model.onnx"),
        ("decoder", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("decoder", b"hello", "cannot read"),
        ("encoder", bfloat, "weights in bfloat16"),
    ],
)
def test_what_is_missing_or_damaged_is_named(
    fresh: Path, capsys: pytest.CaptureFixture[str], half: str, change: Any, words: str
) -> None:
    """One line, exit code 7, nothing written."""
    path = fresh / f"vae_{half}" / "model.onnx"
    out = fresh.parent / "p"
    if change is None:
        path.unlink()
    elif isinstance(change, bytes):
        path.write_bytes(change)
    else:
        edit(path, change)
    assert main(["from-onnx", str(fresh), "--out", str(out)]) == 7
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_frozen_size_is_refused(fresh: Path, pair: Any, tmp_path: Path, capsys: Any) -> None:
    """A graph for one size only cannot serve pictures of any size."""
    export(pair[0], fresh / "vae_encoder" / "model.onnx", "sample", "latent_parameters", 3, dynamic_axes={})
    assert main(["from-onnx", str(fresh), "--out", str(tmp_path / "p")]) == 7
    assert "must take RGB pictures of any size" in capsys.readouterr().err


def test_a_prior_survives_only_in_its_space(layout: Path, tmp_path: Path, capsys: Any) -> None:
    """Converting again keeps the prior that files were written with; another space does not inherit it."""
    from sdrt_export.pack_writer import update_manifest

    out = str(tmp_path / "p")
    assert main(["from-onnx", str(layout), "--out", out]) == 0
    (tmp_path / "p" / "prior.npz").write_bytes(b"fitted")
    before = update_manifest(tmp_path / "p", prior={"photos": 3})
    assert main(["from-onnx", str(layout), "--out", out, "--precision", "fp32"]) == 0
    assert load_pack(tmp_path / "p").prior_identity == before.prior_identity
    assert main(["from-onnx", str(layout), "--out", out, "--space", "mine"]) == 7
    assert "another latent space" in capsys.readouterr().err


def test_packs_go_into_optimum_s_layout(layout: Path, pair: Any, tmp_path: Path) -> None:
    """Names, sides and configuration are optimum's: outputs are arithmetic on the input's sides, pixels are samples."""
    pack = tmp_path / "pack"
    assert main(["from-onnx", str(layout), "--out", str(pack)]) == 0
    assert main(["output", str(pack), "uint8"]) == 0
    assert main(["optimum", str(pack), "--out", str(tmp_path / "out")]) == 0
    ends = {}
    for half in ("encoder", "decoder"):
        model = onnx.load(tmp_path / "out" / f"vae_{half}" / "model.onnx")
        onnx.checker.check_model(model, full_check=True)
        for value in (*model.graph.input, *model.graph.output):
            ends[half, value.name] = [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
    assert ends == {
        ("encoder", "sample"): ["batch_size", 3, "sample_height", "sample_width"],
        ("encoder", "latent_parameters"): ["batch_size", 8, "sample_height / 8", "sample_width / 8"],
        ("decoder", "latent_sample"): ["batch_size", 4, "latent_height", "latent_width"],
        ("decoder", "sample"): ["batch_size", 3, "latent_height * 8", "latent_width * 8"],
    }
    config = json.loads((tmp_path / "out" / "vae_decoder" / "config.json").read_text())
    assert config["scaling_factor"] == 0.5
    assert main(["from-onnx", str(tmp_path / "out"), "--out", str(tmp_path / "again")]) == 0
    assert_same(tmp_path / "again", pair)
    for name in ("encoder.onnx", "decoder.onnx"):
        assert (tmp_path / "again" / name).stat().st_size < (
            layout / f"vae_{name}".replace(".onnx", "/model.onnx")
        ).stat().st_size


def test_a_pack_without_a_configuration_gets_one(make_pack: Callable[..., Any], tmp_path: Path) -> None:
    """What a pipeline asks of an autoencoder is answered from the pack's space."""
    pack = make_pack("plain")
    assert main(["optimum", str(pack.folder), "--out", str(tmp_path / "out")]) == 0
    config = json.loads((tmp_path / "out" / "vae_encoder" / "config.json").read_text())
    assert 2 ** (len(config["block_out_channels"]) - 1) == pack.space.downscale
    assert (config["scaling_factor"], config["latent_channels"]) == (pack.space.scale, pack.space.channels)


def test_arithmetic_on_shapes_is_told(tmp_path: Path) -> None:
    """A Shape that feeds a Gather is seen; one that feeds a Reshape is not counted."""

    def graph(kind: str) -> onnx.ModelProto:
        nodes = [helper.make_node("Shape", ["x"], ["s"]), helper.make_node(kind, ["x", "s"], ["y"])]
        value = helper.make_tensor_value_info
        return helper.make_model(
            helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, [1])], [value("y", TensorProto.FLOAT, [1])])
        )

    assert computes_on_shapes(graph("Expand"))
    assert not computes_on_shapes(graph("Reshape"))
