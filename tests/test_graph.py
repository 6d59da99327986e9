"""sdrt.network.graph: what an engine opens is what was hashed, all of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tests import testpack

from sdrt.codec import Codec
from sdrt.errors import EngineError, ModelError
from sdrt.network.engine import Engine
from sdrt.network.graph import Graph
from sdrt.network.installed import available_devices
from sdrt.packs.manifest import ModelPack
from sdrt_export.pack_writer import update_manifest

Pixels = NDArray[np.uint8]
DEVICES = [report.device for report in available_devices() if report.available and report.device in ("cpu", "openvino")]
MEMORY = "*/_ORT_MEM_ADDR_/*"
"""The location by which ONNX Runtime names an address in the process's memory; OpenVINO knows it too."""


def external(location: str = "w.bin", name: str = "w") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[3, 3, 1, 1], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "36")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def model(nodes: list[onnx.NodeProto], *tensors: TensorProto) -> onnx.ModelProto:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w"]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], list(tensors))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def convolution() -> onnx.NodeProto:
    return helper.make_node("Conv", ["x", "w"], ["y"])


def in_a_function() -> onnx.ModelProto:
    constant = helper.make_node("Constant", [], ["w"], value=external())
    body = helper.make_function("own", "f", ["x"], ["y"], [constant, convolution()], [helper.make_opsetid("", 18)])
    made = model([helper.make_node("f", ["x"], ["y"], domain="own")])
    made.functions.append(body)
    return made


def in_a_branch() -> onnx.ModelProto:
    branch = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["z"])],
        "b",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [external()],
    )
    condition = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    return model([condition, helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)])


def sparse() -> onnx.ModelProto:
    made = model([convolution()])
    made.graph.sparse_initializer.add().values.CopyFrom(external())
    return made


def in_training() -> onnx.ModelProto:
    made = model([convolution()], numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w"))
    made.training_info.add().algorithm.initializer.append(external(name="t"))
    return made


REACHES_OUT: dict[str, Callable[[], onnx.ModelProto]] = {
    "a file": lambda: model([convolution()], external()),
    "a file above": lambda: model([convolution()], external("../../w.bin")),
    "memory": lambda: model([convolution()], external(MEMORY)),
    "a constant": lambda: model([helper.make_node("Constant", [], ["w"], value=external()), convolution()]),
    "a branch": in_a_branch,
    "a function": in_a_function,
    "a sparse tensor": sparse,
    "training": in_training,
    "a compiled engine": lambda: model(
        [helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context="x.engine")]
    ),
}


@pytest.mark.parametrize("where", REACHES_OUT)
def test_a_graph_that_reaches_out_of_itself_is_refused(where: str, tmp_path: Path) -> None:
    """Wherever in a graph a tensor or an engine lies outside it, no engine sees that graph."""
    (tmp_path / "w.bin").write_bytes(np.eye(3, dtype=np.float32).tobytes())
    path = tmp_path / "decoder.onnx"
    path.write_bytes(REACHES_OUT[where]().SerializeToString())
    for device in ("auto", *DEVICES):
        with pytest.raises(ModelError, match=r"decoder\.onnx is refused: it refers to external files"):
            Engine(path, device=device, threads=1)


def test_what_only_looks_like_reaching_out_is_let_through(tmp_path: Path) -> None:
    """The words alone do no harm, nor does a location that says: inside."""
    weight = numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w")
    weight.data_location = TensorProto.DEFAULT
    weight.doc_string = "external_data EPContext"
    made = model([convolution()], weight)
    made.graph.node[0].doc_string = "EPContext"
    Graph(tmp_path, made.SerializeToString()).check_alone()


def key(field: int, wire: int, beyond: int) -> bytes:
    """The key of a field in protobuf, in five bytes; ``beyond``: bits above the 32 that a reader keeps."""
    number = field << 3 | wire | beyond << 32
    return bytes(number >> 7 * place & 0x7F | (0x80 if place < 4 else 0) for place in range(5))


@pytest.mark.parametrize("beyond", [0, 1, 2, 4, 7])
@pytest.mark.parametrize("hidden", ["tensor", "graph"])
def test_no_field_is_hidden_behind_a_number_that_engines_cut(hidden: str, beyond: int, tmp_path: Path) -> None:
    """A key whose upper bits protobuf drops is another field to the engine than it seems: refused, wherever it is.

    ONNX Runtime followed such an external tensor, and the pack's hashes did not cover it.
    """
    (tmp_path / "w.bin").write_bytes(np.eye(3, dtype=np.float32).tobytes())
    tensor, made = external(), model([convolution()])
    parts = b"".join(
        key(13, 2, beyond) + bytes([entry.ByteSize()]) + entry.SerializeToString() for entry in tensor.external_data
    )
    if hidden == "tensor":
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        coded = tensor.SerializeToString() + parts + key(14, 0, beyond) + b"\1"
        graph = made.graph.SerializeToString() + b"\x2a" + bytes([len(coded)]) + coded
    else:
        made.graph.initializer.append(tensor)
        graph = made.graph.SerializeToString()
    made.ClearField("graph")
    outer = key(7, 2, beyond if hidden == "graph" else 0)
    path = tmp_path / "decoder.onnx"
    path.write_bytes(made.SerializeToString() + outer + bytes([len(graph) & 0x7F | 0x80, len(graph) >> 7]) + graph)
    for device in ("auto", *DEVICES):
        with pytest.raises(ModelError, match="external files" if beyond == 0 else "is damaged"):
            Engine(path, device=device, threads=1)


def test_a_graph_cut_anywhere_is_damaged() -> None:
    """No prefix of a graph runs over its end: it is refused, or stops where a field does."""
    data = (testpack.FOLDER / "decoder.onnx").read_bytes()
    whole = 0
    for size in (*range(1, 300), *range(300, len(data), 997)):
        try:
            Graph(testpack.FOLDER, data[:size]).check_alone()
            whole += 1
        except ModelError as error:
            assert "damaged" in str(error)
    assert whole < 10


def test_weights_that_no_hash_vouches_for_do_not_paint(make_pack: Callable[..., ModelPack], photo: Pixels) -> None:
    """A pack whose decoder takes its weights from a file that the manifest does not list is refused by name."""
    pack = make_pack("small")
    data = Codec(pack.folder).encode(photo)
    graph = onnx.load(pack.decoder_path())
    onnx.save(
        graph,
        pack.decoder_path(),
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
        convert_attribute=True,
    )
    assert "w.bin" not in update_manifest(pack.folder).files
    for device in DEVICES:
        with pytest.raises(ModelError, match="external files"):
            Codec(pack.folder, device=device).decode(data)


@pytest.mark.parametrize("device", DEVICES)
def test_the_bytes_that_were_hashed_are_the_bytes_that_run(
    device: str, make_pack: Callable[..., ModelPack], photo: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who swaps a graph right after it was hashed changes nothing."""
    pack = make_pack("small")
    data = Codec(pack.folder).encode(photo)
    before = np.asarray(Codec(pack.folder, device=device).decode(data))
    check_alone = Graph.check_alone

    def swap(graph: Graph) -> None:
        check_alone(graph)
        graph.path.write_bytes(b"another graph")

    monkeypatch.setattr(Graph, "check_alone", swap)
    np.testing.assert_array_equal(np.asarray(Codec(pack.folder, device=device).decode(data)), before)
    assert pack.decoder_path().read_bytes() == b"another graph"


def test_a_file_altered_behind_its_size_and_time_is_refused(make_pack: Callable[..., ModelPack], photo: Pixels) -> None:
    """A file is hashed whenever it is opened, whatever an earlier Codec of the process found in it."""
    pack = make_pack("small")
    data = Codec(pack.folder).encode(photo)
    for name in ("decoder.onnx", "prior.npz"):
        path = pack.folder / name
        good, status = path.read_bytes(), path.stat()
        Codec(pack.folder).decode(data)
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(ModelError, match=f"{name} is altered"):
            Codec(pack.folder).decode(data)
        path.write_bytes(good)


def sequence() -> onnx.ModelProto:
    made = model([helper.make_node("SequenceConstruct", ["x"], ["y"])])
    made.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None))
    return made


def of_type(kind: int) -> onnx.ModelProto:
    made = model([helper.make_node("Cast", ["x"], ["y"], to=kind)])
    made.graph.output[0].type.tensor_type.elem_type = kind
    return made


def two_outputs() -> onnx.ModelProto:
    made = model([helper.make_node("Split", ["x"], ["y", "z"], axis=2, num_outputs=2)])
    made.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    return made


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gives", ["a sequence", "truths", "integers", "two tensors", "words"])
def test_a_graph_that_gives_anything_but_a_picture_is_refused(gives: str, device: str, tmp_path: Path) -> None:
    """What a graph takes and gives is looked at when it is opened: one tensor of floats, or of pixels."""
    made = {
        "a sequence": sequence,
        "truths": lambda: of_type(TensorProto.BOOL),
        "integers": lambda: of_type(TensorProto.INT64),
        "two tensors": two_outputs,
        "words": lambda: of_type(TensorProto.STRING),
    }[gives]()
    path = tmp_path / "decoder.onnx"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(EngineError, match=r"decoder\.onnx") as caught:
        Engine(path, device=device, threads=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("scale", "base_step"), [(3e38, 1), (1.2e-38, 1), (4, 3e38), (4, 1e-38), (1.2e-38, 3e38)])
def test_numbers_beyond_float32_are_an_error_and_no_warning(
    scale: float, base_step: float, make_pack: Callable[..., ModelPack], photo: Pixels, recwarn: pytest.WarningsRecorder
) -> None:
    """Where float32 holds a pack's scale and steps but not what comes of them, that is said, in one line."""
    space = replace(testpack.SPACE, scale=scale)
    codec = Codec(make_pack("odd", space=space, base_step=base_step).folder)
    try:
        assert codec.decode(codec.encode(photo, quality=100)).size == (161, 97)
    except ModelError as error:
        assert "not finite" in str(error) and "\n" not in str(error)
    assert not [str(warning.message) for warning in recwarn]
