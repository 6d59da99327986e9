"""The fields that an .sdl file is made of, taken one after another from a stream, and varints."""

from __future__ import annotations

from typing import Protocol

from sdrt.errors import CorruptError

_BLOCK_BYTES = 1 << 20


class Readable(Protocol):
    """What is needed of a binary stream. Less than was asked for may come; nothing means the end."""

    def read(self, size: int, /) -> bytes | None: ...


def read_at_most(stream: Readable, limit_bytes: int) -> bytes:
    """The next ``limit_bytes`` bytes of ``stream``, or all that it still has.

    Memory follows what the stream gives, never the limit: that may be a number out of a file.
    """
    blocks: list[bytes] = []
    while limit_bytes > 0 and (block := stream.read(min(limit_bytes, _BLOCK_BYTES))):
        blocks.append(block)
        limit_bytes -= len(block)
    return b"".join(blocks)


def varint(value: int) -> bytes:
    """Seven bits in each byte, the lowest first; every byte but the last has bit 7 set."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class FieldReader:
    """Takes fields one after another; CorruptError at the first that does not fit."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream

    def take(self, size_bytes: int, field: str) -> bytes:
        """The next ``size_bytes`` bytes. ``field`` names them in the error."""
        data = read_at_most(self._stream, size_bytes)
        if len(data) < size_bytes:
            raise CorruptError(f"the {field} does not fit: {size_bytes} bytes wanted, {len(data)} left")
        return data

    def varint(self, limit_bytes: int, field: str) -> int:
        """The next varint, which has at most ``limit_bytes`` bytes and must be in its shortest form."""
        value = 0
        for index in range(limit_bytes):
            byte = self.take(1, field)[0]
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if byte == 0 and index > 0:
                    raise CorruptError(f"the {field} is not in its shortest form")
                return value
        raise CorruptError(f"the {field} is longer than {limit_bytes} bytes")
