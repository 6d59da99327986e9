"""A binary range coder with adaptive probabilities, for alpha planes, masks, step maps and truth maps.

docs/FORMAT.md has the arithmetic. The same code encodes and decodes: ``bit`` either encodes
its argument or returns the decoded bit.
"""

from __future__ import annotations

from typing import Protocol

from sdrt.errors import CorruptError

_EVEN = 1 << 15
_SLOWEST = 6
_TOP = 1 << 24
_WORD = 0xFFFFFFFF


class BinaryCoder(Protocol):
    """What an encoder and a decoder have in common, so that one function walks both."""

    def bit(self, context: int, bit: int) -> int:
        """Encodes ``bit`` and returns it (an encoder), or ignores it and returns the decoded bit (a decoder)."""
        ...


class _Probabilities:
    """The probability of a 0 in each context, in 1/65536, and its number of uses: fewer uses, faster adaptation."""

    def __init__(self, contexts: int) -> None:
        self.zero = [_EVEN] * contexts
        self.shift = [1] * contexts

    def learn(self, context: int, bit: int) -> None:
        shift = self.shift[context]
        zero = self.zero[context]
        self.zero[context] = zero - (zero >> shift) if bit else zero + ((65536 - zero) >> shift)
        if shift < _SLOWEST:
            self.shift[context] = shift + 1


class BinaryEncoder:
    """Encodes bits. ``contexts``: the number of contexts, each with a probability of its own."""

    def __init__(self, contexts: int) -> None:
        self._probabilities = _Probabilities(contexts)
        self._low = 0
        self._range = _WORD
        self._out = bytearray()

    def bit(self, context: int, bit: int) -> int:
        """Encodes ``bit``, 0 or 1, in ``context``; returns it."""
        bound = (self._range >> 16) * self._probabilities.zero[context]
        if bit:
            self._add(bound)
            self._range -= bound
        else:
            self._range = bound
        self._probabilities.learn(context, bit)
        while self._range < _TOP:
            self._out.append(self._low >> 24)
            self._low = (self._low << 8) & _WORD
            self._range <<= 8
        return bit

    def _add(self, bound: int) -> None:
        self._low += bound
        if self._low > _WORD:
            self._low &= _WORD
            at = len(self._out) - 1
            while self._out[at] == 0xFF:
                self._out[at] = 0
                at -= 1
            self._out[at] += 1

    def finish(self) -> bytes:
        """The coded bytes: the lower end of the final interval, without trailing zeros."""
        return bytes(self._out + self._low.to_bytes(4, "big")).rstrip(b"\x00")


class BinaryDecoder:
    """Decodes bits.

    Args:
        data: The bytes that ``BinaryEncoder.finish`` returned.
        contexts: As of the encoder.
        what: The name of the data in error messages.
    """

    def __init__(self, data: bytes, contexts: int, what: str) -> None:
        self._what = what
        self._probabilities = _Probabilities(contexts)
        self._data = data
        self._at = 4
        self._code = int.from_bytes(data[:4].ljust(4, b"\x00"), "big")
        self._range = _WORD

    def bit(self, context: int, bit: int) -> int:
        """The next bit, coded in ``context``; the argument ``bit`` is ignored. Raises CorruptError."""
        bound = (self._range >> 16) * self._probabilities.zero[context]
        if self._code < bound:
            bit = 0
            self._range = bound
        else:
            bit = 1
            self._code -= bound
            self._range -= bound
        self._probabilities.learn(context, bit)
        while self._range < _TOP:
            self._code = self._code << 8 | (self._data[self._at] if self._at < len(self._data) else 0)
            self._at += 1
            self._range <<= 8
        if self._code >= self._range:
            raise CorruptError(f"{self._what} holds a number outside its interval")
        return bit

    def finish(self) -> None:
        """Raises CorruptError if bytes are left over, or are not the shortest encoding of what was decoded."""
        if self._code or self._at < len(self._data) or self._data[-1:] == b"\x00":
            raise CorruptError(f"{self._what} does not end where its bytes end")
