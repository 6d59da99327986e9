"""Target ``graph``: ONNX files, looked through for what lies outside them. Not run: an engine is no reader of enemies.

protobuf's own parser is the judge: a graph that passes has no tensor elsewhere for it either.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper
from tests.fuzz.mutations import mutated
from tests.fuzz.target import Target

from sdrt.network.graph import Graph

_VARINT, _BYTES = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}
Field = tuple[int, int, bytes]
"""Number, wire type, and the contents without their length."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _coded(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _fields(data: bytes) -> list[Field]:
    """The fields of a message. Raises IndexError for what is none."""
    found: list[Field] = []
    at = 0
    while at < len(data):
        key, start = _varint(data, at)
        size = _FIXED_BYTES.get(key & 7, 0)
        if key & 7 == _VARINT:
            size = _varint(data, start)[1] - start
        elif key & 7 == _BYTES:
            size, start = _varint(data, start)
        elif not size:
            raise IndexError
        at = start + size
        if at > len(data):
            raise IndexError
        found.append((key >> 3, key & 7, data[start:at]))
    return found


def _message(fields: list[Field]) -> bytes:
    return b"".join(
        _coded(number << 3 | wire) + (_coded(len(content)) if wire == _BYTES else b"") + content
        for number, wire, content in fields
    )


def mutate(data: bytes, rng: Random, depth: int = 0) -> bytes:
    """A field changed, moved or given another number, at any depth; the lengths around it are put right."""
    try:
        fields = _fields(data)
    except IndexError:
        return mutated(data, rng)
    if not fields or rng.random() < 0.05:
        return mutated(data, rng)
    at = rng.randrange(len(fields))
    number, wire, content = fields[at]
    if wire == _BYTES and content and depth < 12 and rng.random() < 0.75:
        fields[at] = (number, wire, mutate(content, rng, depth + 1))
        return _message(fields)
    match rng.randrange(5):
        case 0:
            del fields[at]
        case 1:
            fields.insert(rng.randint(0, len(fields)), fields[at])
        case 2:
            fields[at] = (rng.choice((1, 5, 6, 7, 11, 13, 14, 15, 20, 22, 25, number ^ 1)), wire, content)
        case 3:
            fields.insert(at, (14, _VARINT, rng.choice((b"\0", b"\1", b"\x81\0", b"\x80\1", b"\2"))))
        case _:
            fields[at] = (number, wire, content if wire != _BYTES else mutated(content, rng))
    return _message(fields)


def run(data: bytes) -> None:
    """What passes here has nothing outside itself for protobuf either."""
    Graph(Path("fuzz.onnx"), data).check_alone()
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:
        return
    outside = [part for part in _parts(model) if _lies_outside(part)]
    assert not outside, outside


def _parts(message: Any) -> list[Any]:
    """The message and all messages in it."""
    found = [message]
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in [value] if not hasattr(value, "__len__") else value:
                found += _parts(part)
    return found


def _lies_outside(part: Any) -> bool:
    if isinstance(part, onnx.TensorProto):
        return part.data_location == TensorProto.EXTERNAL or len(part.external_data) > 0
    return isinstance(part, onnx.NodeProto) and part.op_type == "EPContext"


def seeds() -> list[bytes]:
    """A graph with a branch, a function, a sparse tensor and a constant; and what an external tensor looks like."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 1, 1], [0.5])
    port = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, "h", "w"]) for name in ("x", "y")]
    constant = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    branch = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["z"])], "b", [], port[1:], [weight])
    nodes = [constant, helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)]
    model = helper.make_model(helper.make_graph(nodes, "g", port[:1], port[1:], [weight]), ir_version=9)
    model.functions.append(helper.make_function("own", "f", ["x"], ["y"], nodes, [helper.make_opsetid("", 18)]))
    model.graph.sparse_initializer.add().values.CopyFrom(weight)
    plain = model.SerializeToString()
    model.graph.initializer[0].external_data.add(key="location", value="w.bin")
    return [plain, model.SerializeToString()]


TARGET = Target("graph", seeds, mutate, run)
