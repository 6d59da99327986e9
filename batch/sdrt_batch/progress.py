"""How far a run is: a line that overwrites itself on a terminal, a line every half minute elsewhere. On stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

_BETWEEN_S = {True: 0.5, False: 30.0}


class Progress:
    """``total``: number of pictures; None for shards, which are not counted before they are read."""

    def __init__(
        self, total: int | None, *, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total, self._stream, self._clock = total, stream or sys.stderr, clock
        self._terminal = self._stream.isatty()
        self._first: tuple[float, int] | None = None
        self._shown_s = clock()

    def reach(self, pictures: int, failed: int) -> None:
        """``pictures`` are done, ``failed`` of them without a result."""
        now_s = self._clock()
        if self._first is None:  # what went before was starting workers
            self._first = now_s, pictures
        if now_s - self._shown_s < _BETWEEN_S[self._terminal]:
            return
        self._shown_s = now_s
        started_s, before = self._first
        rate = (pictures - before) / max(now_s - started_s, 1e-9)
        text = f"{pictures:,}" if self._total is None else f"{pictures:,} of {self._total:,}"
        text += f" pictures, {failed:,} failed, {rate:,.1f} a second"
        if self._total is not None and rate:
            text += f", about {(self._total - pictures) / rate / 60:,.0f} min left"
        self._stream.write(f"\r{text:<90}" if self._terminal else f"{text}\n")
        self._stream.flush()

    def end(self) -> None:
        """Leaves a terminal's line."""
        if self._terminal:
            self._stream.write("\r" + " " * 90 + "\r")
