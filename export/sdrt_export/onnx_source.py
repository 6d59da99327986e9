"""ONNX graphs of an autoencoder as others export them: optimum, onnx-community, Olive. No torch here.

Found in a folder by their usual names, read with their external data, and brought to the form of a pack: one input and
one output in float32 under the pack's names, noise inside the encoder cut off, standard operators only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sdrt.errors import ModelError, first_line
from sdrt_export.graph_files import Half
from sdrt_export.impostors import read_json, refuse_impostor, some
from sdrt_export.precision import drop_unused, replace_nodes, widen
from sdrt_export.session import open_session

Floats = NDArray[np.float32]

PLACES = (
    "vae_{half}/model.onnx",
    "vae_{half}/model_fp16.onnx",
    "{half}/model.onnx",
    "onnx/vae_{half}/model.onnx",
    "onnx/vae_{half}.onnx",
    "vae_{half}.onnx",
    "onnx/vae_{half}_fp16.onnx",
    "onnx/{half}_model.onnx",
    "{half}_model.onnx",
    "{half}.onnx",
)
"""Paths of a half in the exports of optimum, onnx-community and Olive, in order of preference."""
RANDOM = frozenset(
    {"RandomNormalLike", "RandomNormal", "RandomUniformLike", "RandomUniform", "Bernoulli", "Multinomial"}
)
HALVES: tuple[Half, Half] = ("encoder", "decoder")
PROBE = (64, 96)
"""Height and width of the test picture for channels and downscale factor: different, to detect frozen sizes."""


@dataclass(frozen=True)
class OnnxSource:
    """Both halves in the form of a pack's graphs: the ends in float32 and under its names."""

    graphs: dict[Half, onnx.ModelProto]
    files: dict[Half, Path]
    config: Mapping[str, Any]
    """The ``config.json`` beside the decoder or the encoder; empty where there is none."""
    channels: int
    downscale: int
    latent_distribution: bool
    half_precision: bool
    """They compute in fp16."""
    cut: bool
    """The encoder drew noise, which is gone."""


def read_onnx(folder: Path) -> OnnxSource:
    """The autoencoder's graphs in a folder.

    Raises:
        ModelError: a half is missing, damaged, or cannot be brought to the form of a pack.
    """
    files = {half: _find(folder, half) for half in HALVES}
    loaded = {half: _load(path) for half, path in files.items()}
    cut = _cut_noise(loaded["encoder"], files["encoder"])
    kinds = {half: _arithmetic(model, files[half]) for half, model in loaded.items()}
    if len(set(kinds.values())) > 1:
        raise ModelError(f"{folder}: the encoder computes in {kinds['encoder']}, the decoder in {kinds['decoder']}")
    graphs: dict[Half, onnx.ModelProto] = {}
    for half, model in loaded.items():
        plain = widen(model) if kinds[half] == "float32" else model
        graphs[half] = _with_float_ends(plain)
    channels, downscale, distribution = _probe(graphs, files)
    _name_ends(graphs["encoder"], "sample", "latent_parameters" if distribution else "latents")
    _name_ends(graphs["decoder"], "latent_sample", "sample")
    beside = [path.with_name("config.json") for path in (files["decoder"], files["encoder"])]
    config = next((read_json(path) for path in beside if path.is_file()), {})
    return OnnxSource(graphs, files, config, channels, downscale, distribution, "float16" in kinds.values(), cut)


def run(model: onnx.ModelProto, array: Floats) -> Floats:
    """A graph of one input and one output as it was written. Raises ModelError where it does not run."""
    try:
        session = open_session(model, optimize=False)
        result: Floats = session.run(None, {session.get_inputs()[0].name: array})[0]
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        raise ModelError(f"the graph does not run on {array.shape}: {first_line(error)}") from None
    return result


def digest(model: onnx.ModelProto) -> str:
    """12 hexadecimal digits over shapes and fp16 values of the weights, whatever they are called and in any order."""
    weights = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer if len(tensor.dims) > 1)
    with np.errstate(over="ignore"):
        each = sorted(hashlib.sha256(repr(w.shape).encode() + w.astype(np.float16).tobytes()).digest() for w in weights)
    return hashlib.sha256(b"".join(each)).hexdigest()[:12]


def _find(folder: Path, half: str) -> Path:
    for place in PLACES:
        path = folder / place.format(half=half)
        if path.is_file():
            return path
    here = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.onnx"))
    found = f"there is {some(here)}" if here else "there is no .onnx file"
    raise ModelError(f"{folder} has no {half} of an autoencoder: no {PLACES[0].format(half=half)}; {found}")


def _load(path: Path) -> onnx.ModelProto:
    refuse_impostor(path)
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # onnx, protobuf and the file system each raise their own
        raise ModelError(f"cannot read {path}: {first_line(error)}") from None
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ModelError(f"{path} has {len(inputs)} inputs and {len(graph.output)} outputs, one of each was expected")
    kept = inputs[0].name
    for value in [value for value in graph.input if value.name != kept]:
        graph.input.remove(value)  # older exporters list the weights, too
    foreign = sorted({f"{node.domain}.{node.op_type}" for node in graph.node if node.domain not in ("", "ai.onnx")})
    if foreign:
        raise ModelError(
            f"{path} uses {some(foreign)}, operators of one runtime only: export it again without optimization"
        )
    return model


def _cut_noise(model: onnx.ModelProto, path: Path) -> bool:
    """Old exports sample: mean + std * noise. The mean stays. Raises ModelError for noise anywhere else."""
    graph = model.graph
    noisy = [node for node in graph.node if node.op_type in RANDOM]
    if not noisy:
        return False
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    name, steps = noisy[0].output[0], []
    while users.get(name) and len(users[name]) == 1:
        steps.append(users[name][0])
        name = steps[-1].output[0]
    kinds = [node.op_type for node in steps if node.op_type not in ("Cast", "Identity")]
    if len(noisy) > 1 or kinds != ["Mul", "Add"] or name != graph.output[0].name:
        raise ModelError(f"{path} draws random numbers ({noisy[0].op_type}) in another way than mean + std * noise")
    added = next(node for node in steps if node.op_type == "Add")
    before = steps[steps.index(added) - 1].output[0]
    mean = next(name for name in added.input if name != before)
    leave = helper.make_node("Identity", [mean], [added.output[0]], name="mean")
    nodes = [leave if node is added else node for node in graph.node]
    replace_nodes(graph, _reached(nodes, graph.output[0].name))
    drop_unused(graph)
    return True


def _reached(nodes: list[onnx.NodeProto], output: str) -> list[onnx.NodeProto]:
    """Those on which an output depends, in their order."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted.update(node.input)
    return kept[::-1]


def _arithmetic(model: onnx.ModelProto, path: Path) -> str:
    """``float32`` (also where the weights are stored in fp16) or ``float16``. Raises ModelError for others."""
    kinds = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1}
    odd = kinds - {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.INT32}
    if odd:
        names = ", ".join(sorted(TensorProto.DataType.Name(kind).lower() for kind in odd))
        raise ModelError(f"{path} has weights in {names}: export it in float32 or float16")
    stored = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    read = {node.op_type for node in model.graph.node if stored & set(node.input)}
    return "float16" if read - {"Cast"} else "float32"


def _with_float_ends(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with float32 at both ends; what was float16 there is cast."""
    graph = model.graph
    source, target = graph.input[0], graph.output[0]
    nodes = list(graph.node)
    if source.type.tensor_type.elem_type == TensorProto.FLOAT16:
        inner = f"{source.name}.fp16"
        for node in nodes:
            for position, name in enumerate(node.input):
                if name == source.name:
                    node.input[position] = inner
        nodes.insert(0, helper.make_node("Cast", [source.name], [inner], name="enter", to=TensorProto.FLOAT16))
        source.type.tensor_type.elem_type = TensorProto.FLOAT
    if target.type.tensor_type.elem_type == TensorProto.FLOAT16:
        inner = f"{target.name}.fp16"
        for node in nodes:
            for names in (node.input, node.output):
                for position, name in enumerate(names):
                    if name == target.name:
                        names[position] = inner
        nodes.append(helper.make_node("Cast", [inner], [target.name], name="leave", to=TensorProto.FLOAT))
        target.type.tensor_type.elem_type = TensorProto.FLOAT
    replace_nodes(graph, nodes)
    return model


def _name_ends(model: onnx.ModelProto, source: str, target: str) -> None:
    """Renames input and output as in a pack, and names the dynamic dimensions."""
    graph = model.graph
    inner = {name for node in graph.node for name in (*node.input, *node.output)}
    renamed = {graph.input[0].name: source, graph.output[0].name: target}
    for taken in {source, target} & (inner - set(renamed)):
        renamed[taken] = f"inner.{taken}"
    for node in graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                names[position] = renamed.get(name, name)
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for value, name, sides in ((graph.input[0], source, ("", "")), (graph.output[0], target, (f"{target}_", ""))):
        channels = value.type.tensor_type.shape.dim[1].dim_value or None
        axes = ["batch", channels, f"{sides[0]}height", f"{sides[0]}width"]
        value.CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, axes))
    del graph.value_info[:]


def _probe(graphs: Mapping[Half, onnx.ModelProto], files: Mapping[Half, Path]) -> tuple[int, int, bool]:
    """Channels of the latents, downscale factor, and whether the encoder returns a distribution, by running both."""
    try:
        given = run(graphs["encoder"], np.zeros((2, 3, *PROBE), np.float32))
    except ModelError as error:
        raise ModelError(f"{files['encoder']}: {error}; it must take RGB pictures of any size") from None
    if given.ndim != 4 or PROBE[0] % given.shape[2] or PROBE[0] // given.shape[2] * given.shape[3] != PROBE[1]:
        raise ModelError(
            f"{files['encoder']} returns {given.shape} for two pictures of {PROBE[0]} x {PROBE[1]}: not latents"
        )
    downscale, refusals = PROBE[0] // given.shape[2], []
    for channels in {given.shape[1], given.shape[1] // 2}:
        try:
            painted = run(graphs["decoder"], np.zeros((2, channels, 3, 5), np.float32))
        except ModelError as error:
            refusals.append(str(error))
            continue
        if painted.shape != (2, 3, 3 * downscale, 5 * downscale):
            raise ModelError(f"{files['decoder']} returns {painted.shape} for latents {(2, channels, 3, 5)}: not RGB")
        return channels, downscale, channels != given.shape[1]
    raise ModelError(f"{files['decoder']}: {refusals[0]}; it must take latents of any size")
