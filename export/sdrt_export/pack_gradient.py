"""The gradient of a pack's decoder, for ``sdrt encode --effort``: ``python -m sdrt_export gradient PACK``.

``gradient.onnx`` holds what the gradient adds to ``decoder.onnx`` and nothing of it: a part of an ONNX model. The
runtime joins the two by putting one's bytes after the other's, which in protobuf is to merge them, so that a pack
stores no weight twice and the runtime needs no package that writes graphs. Needs no checkpoint and no torch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from sdrt.atomic import write_atomic
from sdrt.errors import ModelError
from sdrt.packs.manifest import GRADIENT, ModelPack
from sdrt.packs.search import load_pack, read_verified
from sdrt_export.gradient import add_gradient
from sdrt_export.pack_writer import update_manifest
from sdrt_export.pixel_output import gives_pixels, without_pixels

LATENTS, SAMPLE = "latent_sample", "sample"
_FLOAT = TensorProto.FLOAT


def gradient_part(decoder: onnx.ModelProto) -> bytes:
    """What must follow a decoder's bytes to make a graph of its gradient.

    That graph takes ``latent_sample`` (N, C, h, w), ``photo`` (N, 3, H, W), ``error_weight`` (N, 1, H, W) and ``pull``,
    which must broadcast to ``photo``'s shape. It gives ``sample`` (N, 3, H, W) and ``latent_sample.gradient`` (N, C, h,
    w), the gradient of any f whose own gradient in the sample is ``error_weight * (sample - photo) + pull``.

    Raises:
        ModelError: an operator has no gradient, or the opset is below 18.
    """
    base = without_pixels(decoder)
    extended = add_gradient(base, output=SAMPLE, inputs=[LATENTS])
    part = onnx.ModelProto()
    graph = part.graph
    outer: dict[str, list[str | int]] = {
        "photo": ["batch", 3],
        "error_weight": ["batch", 1],
        "pull": ["pull_batch", "pull_channels"],
    }
    for name, sides in outer.items():
        sides += [f"{name}_height", f"{name}_width"]
        graph.input.append(helper.make_tensor_value_info(name, _FLOAT, sides))
    graph.node.extend(
        [
            helper.make_node("Sub", [SAMPLE, "photo"], ["effort/error"]),
            helper.make_node("Mul", ["effort/error", "error_weight"], ["effort/weighted"]),
            helper.make_node("Add", ["effort/weighted", "pull"], [f"{SAMPLE}.gradient"]),
        ]
    )
    graph.node.extend(extended.graph.node[len(base.graph.node) :])
    graph.initializer.extend(extended.graph.initializer[len(base.graph.initializer) :])
    if gives_pixels(decoder):
        graph.output.append(base.graph.output[0])
    graph.output.extend(extended.graph.output[len(base.graph.output) :])
    content: bytes = part.SerializeToString(deterministic=True)
    onnx.checker.check_model(onnx.load_model_from_string(decoder.SerializeToString() + content))
    return content


def add_to_pack(pack: ModelPack) -> ModelPack:
    """Writes ``gradient.onnx``, of the decoder in full precision, and lists it.

    Raises:
        ModelError: as ``gradient_part``; or the pack has no ``decoder.onnx``, or one that is altered.
        OutputError: the pack cannot be written.
    """
    decoder = pack.decoder_path()
    content = gradient_part(onnx.load_model_from_string(read_verified(pack, decoder.name)))
    write_atomic(pack.folder / GRADIENT, content)
    return update_manifest(pack.folder, gradient={"decoder": pack.files[decoder.name]})


def add_where_known(pack: ModelPack) -> tuple[ModelPack, str | None]:
    """As ``add_to_pack``; where the decoder has no gradient, the pack as it is, and why."""
    try:
        return add_to_pack(pack), None
    except ModelError as error:
        return pack, str(error)


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``gradient PACK``."""
    gradient = commands.add_parser("gradient", help="the decoder's gradient, which sdrt encode --effort needs")
    gradient.add_argument("pack", type=Path)
    gradient.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    pack = add_to_pack(load_pack(options.pack))
    print(f"{pack.folder}: {GRADIENT} {pack.manifest['files'][GRADIENT]['bytes']:,} bytes")
    return 0
