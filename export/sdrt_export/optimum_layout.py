"""``python -m sdrt_export optimum PACK --out FOLDER``: a pack in optimum's layout, for its pipelines. No torch here.

``vae_encoder/model.onnx`` and ``vae_decoder/model.onnx``, each with a ``config.json``: copied over those of an exported
Stable Diffusion, they are used in their place. Sides of the outputs are written as arithmetic on those of the input, as
optimum's exporter does, because its pipelines compute buffers from that on a GPU.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from sdrt.atomic import write_atomic
from sdrt.errors import ModelError
from sdrt.packs.manifest import ModelPack
from sdrt.packs.search import load_pack, read_verified
from sdrt_export.exported_pack import recorded_source
from sdrt_export.graph_files import save_graph
from sdrt_export.pixel_output import without_pixels


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The subcommand ``optimum``."""
    parser = commands.add_parser(
        "optimum",
        help="pack -> vae_encoder and vae_decoder in optimum's layout",
        description="The folders take the places of those of the same names in a pipeline that optimum exported.",
    )
    parser.add_argument("pack", type=Path, help="the pack's folder, or its name")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--precision", choices=["w16", "fp16", "fp32", "int8"], default="w16")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    pack = load_pack(options.pack if options.pack.is_dir() else str(options.pack))
    for path in write_layout(pack, options.out, options.precision):
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    return 0


def write_layout(pack: ModelPack, folder: Path, precision: str) -> list[Path]:
    """Both halves of a pack in one precision, in optimum's layout. Returns the graphs' paths.

    Raises:
        ModelError: the pack lacks a half in this precision, needs a quality level, or a file is altered.
        OutputError: the folder cannot be written.
    """
    if pack.quality_input:
        raise ModelError(f"{pack.folder}: its decoder takes a quality level, which optimum's pipelines do not supply")
    cell, channels = pack.space.downscale, pack.space.channels
    encoder = onnx.load_from_string(read_verified(pack, pack.encoder_path(precision).name))
    decoder = without_pixels(onnx.load_from_string(read_verified(pack, pack.decoder_path(precision).name)))
    given = "latent_parameters" if pack.latent_distribution else "latent_sample"
    _set_ends(
        encoder,
        ("sample", ["batch_size", 3, "sample_height", "sample_width"]),
        (
            given,
            [
                "batch_size",
                channels * (2 if pack.latent_distribution else 1),
                f"sample_height / {cell}",
                f"sample_width / {cell}",
            ],
        ),
    )
    _set_ends(
        decoder,
        ("latent_sample", ["batch_size", channels, "latent_height", "latent_width"]),
        ("sample", ["batch_size", 3, f"latent_height * {cell}", f"latent_width * {cell}"]),
    )
    config = (json.dumps(_config(pack), indent=2) + "\n").encode()
    paths = []
    for half, model in (("encoder", encoder), ("decoder", decoder)):
        path = folder / f"vae_{half}" / "model.onnx"
        save_graph(model, path)
        write_atomic(path.with_name("config.json"), config)
        paths.append(path)
    return paths


def _set_ends(model: onnx.ModelProto, source: tuple[str, list[Any]], target: tuple[str, list[Any]]) -> None:
    graph = model.graph
    if graph.input[0].name != source[0]:
        raise ModelError(f"the graph takes {graph.input[0].name}, {source[0]} was expected")
    old = graph.output[0].name
    for node in graph.node:
        node.output[:] = [target[0] if name == old else name for name in node.output]
        node.input[:] = [target[0] if name == old else name for name in node.input]
    for value, (name, sides) in ((graph.input[0], source), (graph.output[0], target)):
        value.CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, sides))
    del graph.value_info[:]


def _config(pack: ModelPack) -> dict[str, Any]:
    """The configuration for pipelines: the autoencoder's own if the manifest has it, with the pack's scale.

    A tiny autoencoder whose graphs speak a larger one's raw latents is scaled like the larger one.
    """
    own = recorded_source(pack).get("config")
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [128] * pack.space.downscale.bit_length(),
        "latent_channels": pack.space.channels,
        "in_channels": 3,
        "out_channels": 3,
        **(own or {}),
        "scaling_factor": pack.space.scale,
        "shift_factor": pack.space.shift,
        "force_upcast": False,
    }
