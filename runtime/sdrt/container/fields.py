"""The fields that an .sdl file is made of, taken one after another from a stream, and varints."""

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
