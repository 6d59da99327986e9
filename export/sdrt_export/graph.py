"""Torch modules -> ONNX graphs that every execution provider takes whole.

``torch.onnx.export`` traces; what it would turn into chains of Shape, Gather and Concat is replaced first, so that no
node of the graph is left for the CPU on a GPU and no dimension freezes. optimum's exporter would add only file names
to that, and pins of transformers and diffusers.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
import torch
from torch import Tensor, nn

from sdrt.errors import ModelError, OutputError
from sdrt.packs.manifest import LatentSpace, graph_file_name
from sdrt_export.halo import dependence
from sdrt_export.precision import convert
from sdrt_export.session import open_session

OPSET = 18
"""The newest that all of ONNX Runtime 1.21, OpenVINO 2024 and TensorRT 10 take whole; nothing here needs more."""

Half = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class Exported:
    """What ``export_modules`` wrote, in the form in which ``sdrt_export.pack_writer.write_pack`` takes it."""

    files: dict[str, Path]
    halo: dict[str, int] | None
    latent_distribution: bool
    graphs: dict[str, Any]


def export_modules(
    encoder: nn.Module,
    decoder: nn.Module,
    folder: Path,
    *,
    space: LatentSpace,
    latent_distribution: bool = False,
    precisions: Iterable[str] = ("w16",),
    quality_input: bool = False,
) -> Exported:
    """Writes encoder and decoder as ONNX files in each precision, and removes int8 graphs, which older ones gave.

    ``encoder``: sample (N, 3, H, W) in [-1, 1] -> latents (N, C, H/f, W/f), or, with ``latent_distribution``, mean and
    log-variance (N, 2C, H/f, W/f). ``decoder``: latent_sample (N, C, h, w) -> sample (N, 3, hf, wf), nominally in
    [-1, 1]. C and f are the space's channels and downscale. Batch, height and width stay free. With ``quality_input``
    both inputs have one channel more, the quality level: (N, 4, H, W) and (N, C + 1, h, w).

    Raises ModelError if a module does not have these shapes, OutputError if a file cannot be written.
    """
    latents_name = "latent_parameters" if latent_distribution else "latents"
    latents = space.channels * (2 if latent_distribution else 1)
    pixels, size = space.downscale, (3, 5)
    sides = (size[0] * pixels, size[1] * pixels)
    sample = torch.zeros(2, 4 if quality_input else 3, *sides)
    coded = torch.zeros(2, space.channels + quality_input, *size)
    modules: dict[Half, tuple[nn.Module, Tensor, str, str, tuple[int, ...]]] = {
        "encoder": (encoder, sample, "sample", latents_name, (2, latents, *size)),
        "decoder": (decoder, coded, "latent_sample", "sample", (2, 3, *sides)),
    }
    files: dict[str, Path] = {}
    depends: dict[str, int | None] = {}
    for half, (module, example, source, target, shape) in modules.items():
        given = _run(module, example, source)
        if given != shape:
            raise ModelError(f"{source} {tuple(example.shape)} must give {target} {shape}, the module gives {given}")
        model = trace(module, example, source, target)
        unit = pixels if half == "encoder" else 1
        depends[half] = dependence(model, unit if half == "encoder" else pixels)
        for precision in precisions:
            name = graph_file_name(half, precision)
            files[name] = folder / name
            _save(convert(model, precision), files[name])
        # It was made from an older graph of this half.
        (folder / graph_file_name(half, "int8")).unlink(missing_ok=True)
    reach, spread = depends["encoder"], depends["decoder"]
    halo = None if reach is None or spread is None else {"encoder_px": reach, "decoder_latents": spread}
    graphs = {"opset": OPSET, "precisions": list(precisions), "exporter": f"torch {torch.__version__}"}
    return Exported(files, halo, latent_distribution, graphs)


def trace(module: nn.Module, example: Tensor, source: str, target: str) -> onnx.ModelProto:
    """The float32 graph of a module with one input and one output of four dimensions, constants folded.

    ``source`` and ``target`` name the input and the output. The example's batch should be 2 and its sides differ: a
    tracer takes what happens to be equal or 1 for a constant. Raises ModelError if the module cannot run on it.
    """
    prepared = prepare(module)
    _run(prepared, example, source)
    axes = {0: "batch", 2: "height", 3: "width"}
    outer = {0: "batch", 2: f"{target}_height", 3: f"{target}_width"}
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(), torch.no_grad():
        # The tracer warns that it is the older of torch's two. It is kept for its plainer graphs, a thirtieth of the
        # time, and one dependency less (onnxscript).
        warnings.simplefilter("ignore")
        torch.onnx.export(
            prepared,
            (example,),
            Path(scratch) / "traced.onnx",
            dynamo=False,
            input_names=[source],
            output_names=[target],
            dynamic_axes={source: axes, target: outer},
            opset_version=OPSET,
        )
        return _fold(Path(scratch))


def _run(module: nn.Module, example: Tensor, source: str) -> tuple[int, ...]:
    try:
        with torch.no_grad():
            return tuple(module(example).shape)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ModelError(f"the {source} module does not run on {tuple(example.shape)}: {_line(error)}") from None


def _fold(folder: Path) -> onnx.ModelProto:
    """traced.onnx of this folder through ONNX Runtime's basic pass.

    Constants are folded, identities go, padding moves into convolutions; the result stays standard ONNX.
    """
    open_session(onnx.load(folder / "traced.onnx"), basic_into=folder / "folded.onnx")
    model = onnx.load(str(folder / "folded.onnx"))
    used = {node.domain for node in model.graph.node}
    for entry in [entry for entry in model.opset_import if entry.domain not in used | {""}]:
        model.opset_import.remove(entry)
    foreign = sorted(used - {"", "ai.onnx"})
    assert not foreign, f"the basic pass must not leave standard ONNX, it used {foreign}"
    for node in model.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    del model.metadata_props[:]
    return model


def _save(model: onnx.ModelProto, path: Path) -> None:
    onnx.checker.check_model(model)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model.SerializeToString(deterministic=True))
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None


def prepare(module: nn.Module) -> nn.Module:
    """A float32 copy in evaluation mode that computes the same with parts that trace into single nodes."""
    prepared = copy.deepcopy(module).eval().float()
    replaced = _replacement(prepared)
    if replaced is not None:
        return replaced
    for parent in list(prepared.modules()):
        for name, child in list(parent.named_children()):
            replaced = _replacement(child)
            if replaced is not None:
                setattr(parent, name, replaced)
    return prepared


def _replacement(module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.PixelUnshuffle):
        return _Unshuffle(module.downscale_factor)
    # By name: diffusers is imported where checkpoints are read, and only there.
    if type(module).__module__.startswith("diffusers.") and type(module).__name__ == "Attention":
        return _SpatialAttention(module)
    return None


class _Unshuffle(nn.Module):
    """PixelUnshuffle as one convolution with a single 1 in each kernel: exact, and no Reshape of six dimensions.

    The first run learns the number of channels; a traced kernel must be constant.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.channels = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.channels == 0:
            self.channels = x.shape[1]
            picks = torch.eye(self.factor**2).reshape(-1, 1, self.factor, self.factor)
            self.register_buffer("picks", picks.repeat(self.channels, 1, 1, 1))
        return nn.functional.conv2d(x, self.picks, stride=self.factor, groups=self.channels)  # type: ignore[arg-type]


class _Flatten(torch.autograd.Function):
    """(N, C, H, W) -> (N, C, HW) as one Reshape with a constant shape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.flatten(2)

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("Reshape", x, g.op("Constant", value_t=torch.tensor([0, 0, -1])))


def _flatten(x: Tensor) -> Tensor:
    flat: Tensor = _Flatten.apply(x)  # type: ignore[no-untyped-call]
    return flat


class _ReshapeAs(torch.autograd.Function):
    """(N, C, HW) -> (N, C, H, W) of another tensor as one Reshape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, like: Tensor) -> Tensor:
        return x.reshape(like.shape)

    @staticmethod
    def symbolic(g: Any, x: Any, like: Any) -> Any:
        return g.op("Reshape", x, g.op("Shape", like))


def _reshape_as(x: Tensor, like: Tensor) -> Tensor:
    shaped: Tensor = _ReshapeAs.apply(x, like)  # type: ignore[no-untyped-call]
    return shaped


class _SpatialAttention(nn.Module):
    """diffusers' Attention over all positions of a picture, as the autoencoders use it, without its reshapes.

    Queries and keys are each scaled by the fourth root, so that their product stays small in half precision too.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        head = attention.to_q.out_features // attention.heads
        plain = attention.heads == 1 and attention.spatial_norm is None and attention.norm_q is None
        if not plain or attention.to_k.in_features != attention.to_q.in_features:
            raise ModelError("this autoencoder's attention has several heads or a norm of its own: not supported")
        self.norm: nn.Module = attention.group_norm or nn.Identity()
        self.query, self.key = _pointwise(attention.to_q), _pointwise(attention.to_k)
        self.value, self.out = _pointwise(attention.to_v), _pointwise(attention.to_out[0])
        root = head**-0.25 if attention.scale_qk else 1.0
        for layer in (self.query, self.key):
            for parameter in layer.parameters():
                parameter.data *= root
        self.residual: bool = attention.residual_connection
        self.rescale = float(attention.rescale_output_factor)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        normed = self.norm(x)
        query, key, value = (_flatten(layer(normed)) for layer in (self.query, self.key, self.value))
        weights = torch.softmax(query.transpose(1, 2) @ key, dim=-1)
        mixed: Tensor = self.out(_reshape_as(value @ weights.transpose(1, 2), x))
        mixed = mixed + x if self.residual else mixed
        return mixed if self.rescale == 1.0 else mixed / self.rescale


def _pointwise(linear: nn.Linear) -> nn.Conv2d:
    layer = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=linear.bias is not None)
    layer.weight.data = linear.weight.data[:, :, None, None].float()
    if layer.bias is not None:
        layer.bias.data = linear.bias.data.float()
    return layer


def _line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0][:300]
