"""Arrays out of an .npz file that may be hostile: a zip archive of .npy files, by the letter of docs/PRIOR.md.

numpy's reader and zipfile believe sizes, evaluate Python literals and fail in a dozen ways. Here every size is checked
before memory is taken for it, and whatever is wrong is one error. Priors and latents are read with it.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

_MAX_MEMBERS = 64
_STORED, _DEFLATED = 0, 8
_END = struct.Struct("<4s6xH2L2x")  # the number of members, the directory's size and where it begins
_ENTRY = struct.Struct("<4s6xH4x3L3H8xL")  # method, checksum, both sizes, three lengths, where the member begins
_LOCAL = struct.Struct("<4s22x2H")  # two lengths
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '([|<]\w\d)', 'fortran_order': False, 'shape': \(((?:\d{1,8}, ?)*(?:\d{1,8})?)\), \} *\n"
)


def read_arrays(
    data: bytes, *, max_bytes: int, kinds: Collection[str], max_dimensions: int
) -> dict[str, NDArray[np.generic]]:
    """The arrays of the archive ``data`` by their names, read only.

    Args:
        data: The whole file.
        max_bytes: Of all arrays in it together.
        kinds: The types that may occur, as numpy's headers spell them, such as "<f4".
        max_dimensions: That an array may have.

    Raises:
        ValueError: Anything but such an archive; the message is one line.
    """
    try:
        return {key: _array(key, member, kinds, max_dimensions) for key, member in _members(data, max_bytes).items()}
    except struct.error:
        raise ValueError("the archive is truncated") from None
    except zlib.error as error:
        raise ValueError(f"an array cannot be unpacked: {error}") from None


def _members(data: bytes, max_bytes: int) -> dict[str, bytes]:
    """The files of a zip archive without comment, unpacked. Raises ValueError, struct.error or zlib.error."""
    end = len(data) - _END.size
    signature, count, directory_bytes, at = _END.unpack_from(data, max(end, 0))
    if signature != b"PK\5\6" or at + directory_bytes != end:
        raise ValueError("not a zip archive, or damaged")
    if count > _MAX_MEMBERS:
        raise ValueError(f"{count} arrays, at most {_MAX_MEMBERS} are possible")
    members: dict[str, bytes] = {}
    left = max_bytes
    for _ in range(count):
        signature, method, crc, packed, size, name_bytes, *others, start = _ENTRY.unpack_from(data, at)
        key = data[at + _ENTRY.size : at + _ENTRY.size + name_bytes].decode("ascii", "replace")
        at += _ENTRY.size + name_bytes + sum(others)
        if signature != b"PK\1\2" or not key.endswith(".npy") or key in members:
            raise ValueError(f"the archive's directory is damaged at {key[:40]!r}")
        left -= size
        if left < 0:
            raise ValueError(f"it unpacks to more than the limit of {max_bytes} bytes")
        signature, *lengths = _LOCAL.unpack_from(data, start)
        start += _LOCAL.size + sum(lengths)
        content = _unpacked(data[start : start + packed], method, size)
        if signature != b"PK\3\4" or len(content) != size or zlib.crc32(content) != crc:
            raise ValueError(f"{key} is damaged")
        members[key.removesuffix(".npy")] = content
    return members


def _unpacked(packed: bytes, method: int, size: int) -> bytes:
    """At most one byte more than ``size``. Raises ValueError or zlib.error."""
    if method == _STORED:
        return packed
    if method != _DEFLATED:
        raise ValueError(f"compression {method} of zip is not known")
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    content = decompressor.decompress(packed, size + 1)
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError(f"an array does not unpack to the {size} bytes that it announces")
    return content


def _array(key: str, member: bytes, kinds: Collection[str], max_dimensions: int) -> NDArray[np.generic]:
    """An .npy file of version 1.0 as numpy writes it. Raises ValueError."""
    start = len(_MAGIC) + 2
    end = start + int.from_bytes(member[len(_MAGIC) : start], "little")
    header = _HEADER.fullmatch(member, start, end) if member.startswith(_MAGIC) and end <= len(member) else None
    if header is None:
        raise ValueError(f"the header of array {key} is not as numpy writes it")
    kind = header[1].decode()
    shape = [int(side) for side in header[2].split(b",") if side.strip()]
    if kind not in kinds or len(shape) > max_dimensions:
        raise ValueError(f"array {key} is {kind} of {len(shape)} dimensions, as none of these is")
    if math.prod(shape) * np.dtype(kind).itemsize != len(member) - end:
        raise ValueError(f"array {key} has the shape {tuple(shape)} but not the bytes for it")
    return np.frombuffer(member, kind, offset=end).reshape(shape)
