"""What a fuzz target is, and what may come of a case."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from sdrt.errors import SdrtError

_DIFFERS = re.compile(r"""'[^']*'|"[^"]*"|\S*[\d/\\]\S*|\b[0-9a-f]{8}\b|(?<=chunk )\w{4}\b|\w+\.npy|(?<=array )\w+""")

LARGEST_CASE_BYTES = 1 << 16
"""Mutations that put bytes in must not let the cases grow for ever."""

ODD_SHARE = 0.2
"""Of the cases are made of inputs that are refused themselves: what they are refused for may hide something."""


@dataclass(frozen=True)
class Target:
    """One reader of foreign bytes.

    ``seeds``: good inputs. ``mutate``: another input made of one, its checksums mended. ``run``: reads an input; it may
    raise SdrtError and nothing else, and asserts what must hold of inputs that it accepts.
    """

    name: str
    seeds: Callable[[], list[bytes]]
    mutate: Callable[[bytes, Random], bytes]
    run: Callable[[bytes], None]

    def case(self, good: list[bytes], odd: list[bytes], rng: Random) -> bytes:
        """One to eight mutations, mostly few, of a good input or, less often, of one that was refused."""
        data = rng.choice(odd if odd and rng.random() < ODD_SHARE else good)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            data = self.mutate(data, rng)
        return data[:LARGEST_CASE_BYTES]

    def outcome(self, data: bytes) -> str:
        """What comes of an input: "accepted", or the error's class and its message without what differs by input.

        Raises what is no SdrtError: a fault.
        """
        try:
            self.run(data)
        except SdrtError as error:
            text = str(error)
            assert "\n" not in text, "an error is one line"
            words = _DIFFERS.sub("_", text)
            return f"{type(error).__name__}: {words[:60]}"
        return "accepted"
