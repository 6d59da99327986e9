"""Torch modules -> ONNX graphs that every execution provider takes whole.

``torch.onnx.export`` traces; what it would turn into chains of Shape, Gather and Concat is replaced first, so that no
node of the graph is left for the CPU on a GPU and no dimension freezes. optimum's exporter would add only file names
to that, and pins of transformers and diffusers.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from sdrt.errors import ModelError, first_line
from sdrt.packs.manifest import LatentSpace
from sdrt_export.graph_files import Exported, Half, fold, write_graphs
from sdrt_export.made_pictures import CASES, make_picture
from sdrt_export.overflow import FP16_MAX, MAX_PEAK, peak_of_pair
from sdrt_export.traceable import prepare

OPSET = 18
"""The newest opset that ONNX Runtime 1.21, OpenVINO 2024 and TensorRT 10 all support fully."""


def export_modules(
    encoder: nn.Module,
    decoder: nn.Module,
    folder: Path,
    *,
    space: LatentSpace,
    latent_distribution: bool = False,
    precisions: Sequence[str] = ("w16",),
    quality_input: bool = False,
    allow_overflow: bool = False,
) -> Exported:
    """Writes encoder and decoder as ONNX files in each precision, and removes int8 graphs, which older ones gave.

    ``encoder``: sample (N, 3, H, W) in [-1, 1] -> latents (N, C, H/f, W/f), or, with ``latent_distribution``, mean and
    log-variance (N, 2C, H/f, W/f). ``decoder``: latent_sample (N, C, h, w) -> sample (N, 3, hf, wf), nominally in
    [-1, 1]. C and f are the space's channels and downscale. Batch, height and width stay free. With ``quality_input``
    the decoder's input has one channel more, the quality level: (N, C + 1, h, w). ``allow_overflow``: also in fp16
    where numbers inside go beyond what it holds.

    Raises:
        ModelError: a module does not have these shapes, or fp16 cannot hold what it computes; nothing is written.
        OutputError: a file cannot be written.
    """
    latents_name = "latent_parameters" if latent_distribution else "latents"
    latents = space.channels * (2 if latent_distribution else 1)
    pixels, size = space.downscale, (3, 5)
    sides = (size[0] * pixels, size[1] * pixels)
    sample = torch.zeros(2, 3, *sides)
    coded = torch.zeros(2, space.channels + quality_input, *size)
    modules: dict[Half, tuple[nn.Module, Tensor, str, str, tuple[int, ...]]] = {
        "encoder": (encoder, sample, "sample", latents_name, (2, latents, *size)),
        "decoder": (decoder, coded, "latent_sample", "sample", (2, 3, *sides)),
    }
    traced: dict[Half, onnx.ModelProto] = {}
    for half, (module, example, source, target, shape) in modules.items():
        given = _run(module, example, source)
        if given != shape:
            raise ModelError(
                f"the {half} module returns {target} {given} for {source} {tuple(example.shape)}, expected {shape}"
            )
        traced[half] = trace(module, example, source, target)
    peak = None
    if "fp16" in precisions:
        picture = make_picture(*CASES[0], pixels)
        pair = traced["encoder"], traced["decoder"]
        peak = peak_of_pair(*pair, picture, space.channels, quality_input=quality_input)
        if not peak <= MAX_PEAK and not allow_overflow:
            raise ModelError(
                f"activations of this autoencoder reach {peak:.3g} on a synthetic picture; fp16 holds {FP16_MAX:g}, "
                "half of which is kept free: pictures would be black; use --precision w16, or --allow-overflow"
            )
    return write_graphs(
        traced,
        folder,
        space=space,
        latent_distribution=latent_distribution,
        precisions=precisions,
        graphs={"opset": OPSET, "precisions": list(precisions), "exporter": f"torch {torch.__version__}"},
        fp16_peak=peak,
    )


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
        return fold(onnx.load(Path(scratch) / "traced.onnx"))


def _run(module: nn.Module, example: Tensor, source: str) -> tuple[int, ...]:
    try:
        with torch.no_grad():
            return tuple(module(example).shape)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ModelError(f"the {source} module does not run on {tuple(example.shape)}: {first_line(error)}") from None
