"""placeholder"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from sdrt.errors import CorruptError


def encode_alpha(alpha: npt.NDArray[np.uint8]) -> bytes:
    return b"\x01" + zlib.compress(np.ascontiguousarray(alpha).tobytes(), 9)


def decode_alpha(data: bytes, height_px: int, width_px: int) -> npt.NDArray[np.uint8]:
    try:
        raw = zlib.decompress(data[1:])
    except zlib.error as error:
        raise CorruptError("the alpha plane is damaged") from error
    if len(raw) != height_px * width_px:
        raise CorruptError("the alpha plane has another size")
    return np.frombuffer(raw, np.uint8).reshape(height_px, width_px)
