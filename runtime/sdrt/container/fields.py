"""Reads the fields of an .sdl file from a stream; varints."""

from __future__ import annotations

from sdrt.errors import CorruptError
from sdrt.streams import Readable, read_at_most


def varint(value: int) -> bytes:
    """Seven bits in each byte, the lowest first; every byte but the last has bit 7 set."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class FieldReader:
    """Reads fields one after another from a stream."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream

    def take(self, size_bytes: int, field: str) -> bytes:
        """The next ``size_bytes`` bytes. Raises CorruptError, which names ``field``, if the stream has fewer."""
        data = read_at_most(self._stream, size_bytes)
        if len(data) < size_bytes:
            raise CorruptError(f"the {field} does not fit: {size_bytes} bytes wanted, {len(data)} left")
        return data

    def varint(self, limit_bytes: int, field: str) -> int:
        """The next varint.

        Raises CorruptError, which names ``field``: truncated, not in its shortest form, or longer than ``limit_bytes``.
        """
        value = 0
        for index in range(limit_bytes):
            byte = self.take(1, field)[0]
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if byte == 0 and index > 0:
                    raise CorruptError(f"the {field} is not in its shortest form")
                return value
        raise CorruptError(f"the {field} is longer than {limit_bytes} bytes")
