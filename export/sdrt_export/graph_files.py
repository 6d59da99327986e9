"""Float32 graphs -> the files of a pack, in each precision. No torch here."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx

from sdrt.atomic import make_folder, write_atomic
from sdrt.packs.manifest import LatentSpace, graph_file_name
from sdrt_export.halo import dependence
from sdrt_export.precision import convert
from sdrt_export.session import open_session

Half = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class Exported:
    """What ``export_modules`` wrote, in the form in which ``sdrt_export.pack_writer.write_pack`` takes it."""

    files: dict[str, Path]
    halo: dict[str, int] | None
    latent_distribution: bool
    graphs: dict[str, Any]
    fp16_peak: float | None = None
    """The largest magnitude inside the graphs on a synthetic picture; None unless fp16 was requested."""


def write_graphs(
    models: Mapping[Half, onnx.ModelProto],
    folder: Path,
    *,
    space: LatentSpace,
    latent_distribution: bool,
    precisions: Sequence[str],
    graphs: dict[str, Any],
    fp16_peak: float | None = None,
    converted: bool = False,
) -> Exported:
    """Writes float32 graphs of both halves in each precision; int8 graphs of older ones are removed.

    ``converted``: they are in the only precision of ``precisions`` already.

    Raises:
        ModelError: a weight is beyond fp16's range.
        OutputError: a file cannot be written.
    """
    contents = {
        graph_file_name(half, precision): model if converted else convert(model, precision)
        for half, model in models.items()
        for precision in precisions
    }
    for name, model in contents.items():
        save_graph(model, folder / name)
    for half in models:
        (folder / graph_file_name(half, "int8")).unlink(missing_ok=True)
    reach, spread = dependence(models["encoder"], 1), dependence(models["decoder"], space.downscale)
    halo = None if reach is None or spread is None else {"encoder_px": reach, "decoder_latents": spread}
    return Exported({name: folder / name for name in contents}, halo, latent_distribution, graphs, fp16_peak)


def fold(traced: onnx.ModelProto) -> onnx.ModelProto:
    """A graph after ONNX Runtime's basic pass.

    Constants are folded, identities go, padding moves into convolutions; the result stays standard ONNX.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folded = Path(scratch) / "folded.onnx"
        open_session(traced, basic_into=folded)
        model = onnx.load(str(folded))
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


def computes_on_shapes(model: onnx.ModelProto) -> bool:
    """Whether a Shape feeds anything but a Reshape. GPU sessions leave such nodes to the CPU, which sdrt refuses."""
    shapes = {node.output[0] for node in model.graph.node if node.op_type == "Shape"}
    return any(shapes & set(node.input) for node in model.graph.node if node.op_type != "Reshape")


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Writes a checked graph, the same bytes for the same graph. Raises OutputError where it cannot be written."""
    onnx.checker.check_model(model)
    make_folder(path.parent)
    write_atomic(path, model.SerializeToString(deterministic=True))
