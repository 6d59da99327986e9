"""``python -m sdrt_export from-onnx FOLDER --out PACK``: ONNX graphs of an autoencoder become a pack. No torch here."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sdrt.errors import ModelError
from sdrt.packs.manifest import LatentSpace, ModelPack
from sdrt_export import onnx_source
from sdrt_export.classes import CLASSES, AutoencoderClass
from sdrt_export.exported_pack import kept_fields, report_exported, report_parities, write_exported
from sdrt_export.graph_files import Half, computes_on_shapes, fold, write_graphs
from sdrt_export.made_pictures import CASES, make_picture
from sdrt_export.onnx_source import HALVES, OnnxSource, read_onnx
from sdrt_export.overflow import MAX_PEAK, peak_of_pair
from sdrt_export.pack_writer import describe_file
from sdrt_export.parity import Wished, measure_all
from sdrt_export.spaces import SPACES, resolve_space, translation

KIND = "onnx"
"""Of such a source, in a pack's manifest."""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The subcommand ``from-onnx``."""
    parser = commands.add_parser(
        "from-onnx",
        help="ONNX graphs (optimum, onnx-community, Olive) -> pack",
        description="Takes vae_encoder/model.onnx and vae_decoder/model.onnx with their config.json, or one of the "
        "other usual names, and compares the pack with them: exit code 1 if they differ.",
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True, metavar="PACK", help="the pack's folder")
    parser.add_argument("--name", help="the pack's name (default: the folder's)")
    parser.add_argument("--precision", nargs="+", choices=["w16", "fp16", "fp32"], help="w16; fp16 for fp16 graphs")
    parser.add_argument("--allow-overflow", action="store_true", help="write fp16 even if activations exceed it")
    parser.add_argument("--space", help=f"the latent space's id: {', '.join(SPACES)}, or any other name")
    parser.add_argument("--scale", type=float, help="scaling factor, where no config.json has it")
    parser.add_argument("--shift", type=float, help="shift factor, likewise")
    parser.add_argument("--license", help="the weights' license, for the manifest")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    source = read_onnx(options.folder)
    found = describe_space(source, options.folder, options.space, options.scale, options.shift)
    space = resolve_space(found, asked=options.space)
    if options.space is None:
        print(f"sdrt_export: assumed: latent space {space.id}; --space names it otherwise", file=sys.stderr)
    if source.cut:
        print("sdrt_export: the encoder sampled noise; the pack takes the mean instead", file=sys.stderr)
    precisions = options.precision or (["fp16"] if source.half_precision else ["w16"])
    if source.half_precision and precisions != ["fp16"]:
        raise ModelError(f"{options.folder} is already fp16: only --precision fp16 is possible")
    kept = kept_fields(options.out, space.identity)
    graphs = {half: _spoken(source, half, found, space) for half in HALVES}
    peak = None
    if "fp16" in precisions:
        picture = make_picture(*CASES[0], space.downscale)
        peak = peak_of_pair(graphs["encoder"], graphs["decoder"], picture, space.channels)
        if not peak <= MAX_PEAK and not options.allow_overflow:
            raise ModelError(f"{options.folder}: activations reach {peak:.3g}, too large for fp16; use w16")
    notes: dict[str, Any] = {
        "opset": max(entry.version for model in graphs.values() for entry in model.opset_import),
        "precisions": precisions,
        "exporter": f"{graphs['decoder'].producer_name} {graphs['decoder'].producer_version}".strip() or "unknown",
    }
    exported = write_graphs(
        graphs if source.half_precision else {half: fold(model) for half, model in graphs.items()},
        options.out,
        space=space,
        latent_distribution=source.latent_distribution,
        precisions=precisions,
        graphs=notes,
        fp16_peak=peak,
        converted=source.half_precision,
    )
    if any(computes_on_shapes(onnx.load(path)) for path in exported.files.values()):
        print(
            "sdrt_export: these graphs compute on the shapes of tensors, which devices cuda and tensorrt refuse; "
            "for those export the checkpoint itself (python -m sdrt_export graph)",
            file=sys.stderr,
        )
    files = {path.relative_to(options.folder).as_posix(): describe_file(path) for path in source.files.values()}
    origin: dict[str, Any] = {"kind": KIND, "location": str(options.folder), "files": files}
    if source.config:
        origin.update({"class": source.config.get("_class_name"), "config": dict(source.config)})
    pack = write_exported(
        options.out, exported, kept, name=options.name, space=space, source=origin, license=options.license
    )
    report_exported(pack, exported)
    return verify(pack, options.folder, "cpu")


def verify(pack: ModelPack, folder: Path, device: str) -> int:
    """Compares a pack with the ONNX graphs in ``folder``, prints and stores the figures. Returns the exit code.

    Raises:
        ModelError: the folder holds another autoencoder, a file of the pack is altered, or the device takes none of
            its graphs.
        EngineError: a graph cannot run.
    """
    source = read_onnx(folder)
    own = (None, None) if _translates(source) else (pack.space.scale, pack.space.shift)
    found = describe_space(source, folder, pack.space.id, *own)
    if (source.channels, source.downscale) != (pack.space.channels, pack.space.downscale):
        raise ModelError(f"the pack has latent space {pack.space.id}, the graphs in {folder} another")
    graphs = {half: _spoken(source, half, found, pack.space) for half in HALVES}
    samples = [make_picture(*case, pack.space.downscale) for case in CASES]
    wished = []
    for sample in samples:
        latents = np.ascontiguousarray(onnx_source.run(graphs["encoder"], sample)[:, : pack.space.channels])
        wished.append(Wished(latents, onnx_source.run(graphs["decoder"], latents)))

    def peak() -> float:
        return peak_of_pair(graphs["encoder"], graphs["decoder"], samples[0], pack.space.channels)

    parities = measure_all(pack, device, samples, wished=wished, peak=peak)
    print(f"compared with the graphs in {folder}")
    return report_parities(pack, parities)


def describe_space(
    source: OnnxSource, folder: Path, asked: str | None, scale: float | None, shift: float | None
) -> LatentSpace:
    """The latent space from the configuration, a known id, or options. Raises ModelError without a scale."""
    config = source.config
    given = scale if scale is not None else config.get("scaling_factor")
    kind = _class_of(source)
    if given is None and kind is not None and kind.unscaled:
        given = 1.0
    moved = shift if shift is not None else (config.get("shift_factor") or 0.0)
    if given is None and asked in SPACES:
        given, moved = SPACES[asked].scale, SPACES[asked].shift
    if given is None:
        raise ModelError(
            f"{folder} has no config.json with a scaling_factor: give --space ({', '.join(SPACES)}), or --scale and "
            "--shift"
        )
    identity = f"onnx-{onnx_source.digest(source.graphs['encoder'])}"
    return LatentSpace(identity, source.channels, source.downscale, float(given), float(moved))


def _translates(source: OnnxSource) -> bool:
    """Whether its latents are those of a larger autoencoder after scale and shift."""
    kind = _class_of(source)
    return kind is not None and kind.translates


def _class_of(source: OnnxSource) -> AutoencoderClass | None:
    return CLASSES.get(str(source.config.get("_class_name")))


def _spoken(source: OnnxSource, half: Half, found: LatentSpace, space: LatentSpace) -> onnx.ModelProto:
    """A half for the raw latents of ``space``. Raises ModelError where a full autoencoder is of another scale."""
    model = source.graphs[half]
    if (found.scale, found.shift) == (space.scale, space.shift):
        return model
    if not _translates(source):
        raise ModelError(
            f"latent space {space.id} has scale {space.scale} and shift {space.shift}, the graphs' configuration "
            f"{found.scale} and {found.shift}"
        )
    factor, offset = translation(found, space)
    if half == "encoder":
        return _affine_after(model, factor, offset)
    return _affine_before(model, 1 / factor, -offset / factor)


def _affine_after(model: onnx.ModelProto, factor: float, offset: float) -> onnx.ModelProto:
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    graph, name = moved.graph, model.graph.output[0].name
    for node in graph.node:
        node.output[:] = ["untranslated" if each == name else each for each in node.output]
        node.input[:] = ["untranslated" if each == name else each for each in node.input]
    graph.node.extend(_affine("untranslated", name, factor, offset, graph))
    return moved


def _affine_before(model: onnx.ModelProto, factor: float, offset: float) -> onnx.ModelProto:
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    graph, name = moved.graph, model.graph.input[0].name
    for node in graph.node:
        node.input[:] = ["translated" if each == name else each for each in node.input]
    for position, node in enumerate(_affine(name, "translated", factor, offset, graph)):
        graph.node.insert(position, node)
    return moved


def _affine(
    source: str, target: str, factor: float, offset: float, graph: onnx.GraphProto
) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    constants: dict[str, NDArray[np.float32]] = {
        "translation.factor": np.asarray(factor, np.float32),
        "translation.offset": np.asarray(offset, np.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return (
        helper.make_node("Mul", [source, "translation.factor"], ["translation.scaled"], name="translation.scale"),
        helper.make_node("Add", ["translation.scaled", "translation.offset"], [target], name="translation.shift"),
    )
