"""An ONNX graph in memory, checked to be self-contained.

A pack's hashes cover the bytes of a graph. ONNX lets a tensor be stored elsewhere: in a file beside the graph, or at an
address in the memory of the process, and engines follow both. A node can also load a compiled engine. Such graphs are
refused before an engine sees them. The message types and field numbers are those of onnx.proto3 (ONNX 1.18).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdrt.errors import EngineError, ModelError
from sdrt.packs.manifest import MAX_PACK_FILE_BYTES
from sdrt.packs.regular_file import read_regular_file

Floats = NDArray[np.float32] | NDArray[np.float16]
"""The input of a graph, (N, C, H, W)."""
Runner = Callable[[Floats], NDArray[Any]]
"""Runs a graph of one input and one output once."""

_PARTS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Message -> field -> the message in it, for every message in which a tensor or a node can be."""

_EXTERNAL_DATA, _DATA_LOCATION, _NODE_KIND = 13, 14, 4
_OUTSIDE = b"EPContext"
_VARINT, _BYTES = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}
_LONGEST_VARINT = 10
_MAX_FIELD = 2**29 - 1
"""Protobuf's largest field number. Readers keep 32 bits of a key: a number beyond it would be another field to them."""

_FLOATS = ("tensor(float)", "tensor(float16)", "f32", "f16")
_PIXELS = ("tensor(uint8)", "u8")


@dataclass(frozen=True)
class Graph:
    """An ONNX graph.

    Args:
        path: The file that it was read from. Its name states the precision; messages begin with it.
        data: The bytes of the file.
    """

    path: Path
    data: bytes

    def check_alone(self) -> None:
        """Raises ModelError if the graph refers to weights or code outside its bytes, or is not valid ONNX."""
        parts = [("model", 0, len(self.data))]
        while parts:
            kind, start, stop = parts.pop()
            for field, wire, first, end in self._fields(start, stop):
                if kind == "tensor":
                    elsewhere = any(byte & 0x7F for byte in self.data[first:end]) if field == _DATA_LOCATION else False
                    outside = field == _EXTERNAL_DATA or elsewhere
                else:
                    outside = kind == "node" and field == _NODE_KIND and self.data[first:end] == _OUTSIDE
                if outside:
                    raise ModelError(f"{self.path} is refused: it refers to external files, which no hash covers")
                if wire == _BYTES and field in _PARTS[kind]:
                    parts.append((_PARTS[kind][field], first, end))

    def _fields(self, at: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """The fields of the message in ``data[at:stop]``: number, wire type, start and end of the value."""
        while at < stop:
            key, at = self._varint(at, stop)
            field, wire = key >> 3, key & 7
            if not 1 <= field <= _MAX_FIELD:
                raise self._damaged()
            if wire == _VARINT:
                first, end = at, self._varint(at, stop)[1]
            elif wire == _BYTES:
                size, first = self._varint(at, stop)
                end = first + size
            elif wire in _FIXED_BYTES:
                first, end = at, at + _FIXED_BYTES[wire]
            else:
                raise self._damaged()
            if end > stop:
                raise self._damaged()
            yield field, wire, first, end
            at = end

    def _varint(self, at: int, stop: int) -> tuple[int, int]:
        """The number at ``at``, and the offset behind it."""
        value = 0
        for index, byte in enumerate(self.data[at : min(stop, at + _LONGEST_VARINT)]):
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                return value, at + index + 1
        raise self._damaged()

    def _damaged(self) -> ModelError:
        return ModelError(f"{self.path} is not an ONNX graph, or is damaged: install the model pack again")


def read_graph(path: Path) -> Graph:
    """The graph in this file. Raises ModelError if it cannot be read."""
    return Graph(path, read_regular_file(path, MAX_PACK_FILE_BYTES))


def check_ports(path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Checks that a graph has one float input and one float or uint8 output.

    Args:
        path: The name in the message.
        inputs, outputs: The element types as ONNX Runtime or OpenVINO names them.

    Raises:
        EngineError: It has not.
    """
    if len(inputs) != 1 or len(outputs) != 1 or inputs[0] not in _FLOATS or outputs[0] not in _FLOATS + _PIXELS:
        raise EngineError(
            f"{path} has inputs {', '.join(inputs) or 'none'} and outputs {', '.join(outputs) or 'none'}; "
            "expected one float input and one float or uint8 output"
        )
