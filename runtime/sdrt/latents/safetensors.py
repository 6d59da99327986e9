"""Reads and writes safetensors files: the length of a JSON header, the header, and the tensor data.

ComfyUI's .latent is such a file with ``latent_tensor`` (N, C, h, w), raw, and an empty ``latent_format_version_0``;
where that is missing the numbers are scaled by .18215 (``LoadLatent`` in its nodes.py). Others call it ``latents``.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdrt.errors import CorruptError
from sdrt.latents.sample import LatentSample

MAX_HEADER_BYTES = 100_000_000
"""The limit of safetensors itself."""
_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
_NAMES = ("latent_tensor", "latents")
_COMFY_VERSION = "latent_format_version_0"
_OLD_SCALE = np.float32(0.18215)


def read_safetensors(data: bytes, key: str) -> list[LatentSample]:
    """The latents of a file, one sample for each of a batch: ``key``, or ``key_0``, ``key_1`` ...

    Raises CorruptError: no such file, or no latents in it.
    """
    try:
        entries = _header(data)
        name = next((name for name in _NAMES if name in entries), None)
        if name is None:
            raise ValueError(f"it has no tensor {' or '.join(_NAMES)}, only {', '.join(entries)}"[:200])
        array = _tensor(data, name, entries[name])
        batch = array[None] if array.ndim == 3 else array
        if batch.ndim != 4 or 0 in batch.shape:
            raise ValueError(f"{name} has the shape {array.shape}, not (batch, channels, rows, columns)")
        if name == "latent_tensor" and _COMFY_VERSION not in entries:
            with np.errstate(over="ignore", invalid="ignore"):
                batch = batch / _OLD_SCALE
    except ValueError as error:
        raise CorruptError(f"{key}: not a safetensors file with latents: {error}") from None
    keys = [key] if len(batch) == 1 else [f"{key}_{number}" for number in range(len(batch))]
    return [LatentSample(key=of, latents=latents) for of, latents in zip(keys, batch, strict=True)]


def write_safetensors(sample: LatentSample, *, half: bool = False) -> bytes:
    """A .latent file of ComfyUI: latents alone. ``half``: in float16, half the bytes."""
    kind = "F16" if half else "F32"
    numbers = sample.latents[None].astype(_TYPES[kind]).tobytes()
    header = {
        _COMFY_VERSION: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
        "latent_tensor": {"dtype": kind, "shape": [1, *sample.latents.shape], "data_offsets": [0, len(numbers)]},
    }
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)  # numbers begin at a multiple of 8
    return struct.pack("<Q", len(text)) + text + numbers


def _header(data: bytes) -> dict[str, Any]:
    """Name -> entry of each tensor. Raises ValueError."""
    if len(data) < 8:
        raise ValueError("it is truncated")
    (length,) = struct.unpack_from("<Q", data)
    if length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError(f"its header length of {length} bytes is beyond the file or the limit")
    try:
        header = json.loads(data[8 : 8 + length].decode("utf-8"))
    except (ValueError, RecursionError):
        raise ValueError("its header is not JSON") from None
    if not isinstance(header, dict):
        raise ValueError("its header is not an object")
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def _tensor(data: bytes, name: str, entry: object) -> NDArray[np.float32]:
    """float32 of the entry's shape. Raises ValueError."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"the entry of {name} is not an object")
    kind, shape, offsets = entry.get("dtype"), _counts(entry.get("shape")), _counts(entry.get("data_offsets"))
    if shape is None or offsets is None or len(offsets) != 2 or len(shape) > 8:
        raise ValueError(f"the entry of {name} is not a tensor")
    if kind not in _TYPES:
        raise ValueError(f"{name} is {str(kind)[:20]}, not one of {' '.join(_TYPES)}")
    start = 8 + struct.unpack_from("<Q", data)[0]
    numbers = data[start + offsets[0] : start + offsets[1]]
    type_of = np.dtype(_TYPES[kind])
    if len(numbers) != math.prod(shape) * type_of.itemsize or offsets[1] - offsets[0] != len(numbers):
        raise ValueError(f"{name} has the wrong number of bytes for its shape")
    array = np.frombuffer(numbers, type_of).reshape(shape)
    if kind == "BF16":  # the upper half of a float32
        return np.asarray((array.astype("<u4") << 16).view("<f4"), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(array, np.float32)


def _counts(value: object) -> list[int] | None:
    """``value`` where it is a list of sizes."""
    if isinstance(value, list) and all(type(count) is int and 0 <= count < 2**48 for count in value):
        return value
    return None
