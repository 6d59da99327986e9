"""Reads arrays from an untrusted .npz file, a zip archive of .npy files. docs/PRIOR.md specifies the accepted subset.

numpy and zipfile trust the sizes in the file, evaluate Python literals and raise a dozen kinds of exceptions. This
reader checks every size before it allocates, and raises ValueError for anything invalid. Priors and latent caches are
read with it.
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
_END = struct.Struct("<4s6xH2L2x")  # number of members, size and offset of the directory
_ENTRY = struct.Struct("<4s6xH4x3L3H8xL")  # method, CRC-32, both sizes, three lengths, offset of the member
_LOCAL = struct.Struct("<4s22x2H")  # two lengths
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '([|<]\w\d)', 'fortran_order': False, 'shape': \(((?:\d{1,8}, ?)*(?:\d{1,8})?)\), \} *\n"
)


def read_arrays(
    data: bytes, *, max_bytes: int, dtypes: Collection[str], max_dimensions: int
) -> dict[str, NDArray[np.generic]]:
    """Reads every array of an archive.

    Args:
        data: The whole file: a zip archive (no ZIP64, no comment) of at most 64 stored or deflated .npy files of
            version 1.0 in C order.
        max_bytes: Limit of the uncompressed size of all members together, headers included.
        dtypes: The accepted dtypes in numpy's notation, such as "<f4".
        max_dimensions: The largest accepted number of dimensions.

    Returns:
        Name (without ``.npy``) -> read-only array, a view of the decompressed member.

    Raises:
        ValueError: The data is not such an archive, or exceeds a limit. The message is one line.
    """
    try:
        return {key: _array(key, member, dtypes, max_dimensions) for key, member in _members(data, max_bytes).items()}
    except struct.error:
        raise ValueError("the archive is truncated") from None
    except zlib.error as error:
        raise ValueError(f"an array cannot be decompressed: {error}") from None


def _members(data: bytes, max_bytes: int) -> dict[str, bytes]:
    """Name -> decompressed .npy file. Raises ValueError, struct.error or zlib.error."""
    end = len(data) - _END.size
    signature, count, directory_bytes, at = _END.unpack_from(data, max(end, 0))
    if signature != b"PK\5\6" or at + directory_bytes != end:
        raise ValueError("not a zip archive, or damaged")
    if count > _MAX_MEMBERS:
        raise ValueError(f"{count} arrays, the limit is {_MAX_MEMBERS}")
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
            raise ValueError(f"its arrays exceed the limit of {max_bytes} bytes")
        signature, *lengths = _LOCAL.unpack_from(data, start)
        start += _LOCAL.size + sum(lengths)
        content = _unpacked(data[start : start + packed], method, size)
        if signature != b"PK\3\4" or len(content) != size or zlib.crc32(content) != crc:
            raise ValueError(f"{key} is damaged")
        members[key.removesuffix(".npy")] = content
    return members


def _unpacked(packed: bytes, method: int, size: int) -> bytes:
    """The decompressed member, checked to have ``size`` bytes where it is deflated. Raises ValueError or zlib.error."""
    if method == _STORED:
        return packed
    if method != _DEFLATED:
        raise ValueError(f"zip compression method {method} is not supported")
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    content = decompressor.decompress(packed, size + 1)
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError(f"an array does not decompress to the {size} bytes that the archive states")
    return content


def _array(key: str, member: bytes, dtypes: Collection[str], max_dimensions: int) -> NDArray[np.generic]:
    """The array of an .npy file. Raises ValueError."""
    start = len(_MAGIC) + 2
    end = start + int.from_bytes(member[len(_MAGIC) : start], "little")
    header = _HEADER.fullmatch(member, start, end) if member.startswith(_MAGIC) and end <= len(member) else None
    if header is None:
        raise ValueError(f"array {key} has an unsupported .npy header")
    kind = header[1].decode()
    shape = [int(side) for side in header[2].split(b",") if side.strip()]
    if kind not in dtypes or len(shape) > max_dimensions:
        raise ValueError(
            f"array {key} is {kind} with {len(shape)} dimensions, "
            f"expected one of {' '.join(dtypes)} and at most {max_dimensions}"
        )
    if math.prod(shape) * np.dtype(kind).itemsize != len(member) - end:
        raise ValueError(f"array {key} has the wrong number of bytes for shape {tuple(shape)}")
    return np.frombuffer(member, kind, offset=end).reshape(shape)
