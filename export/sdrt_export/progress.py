"""How far a long step is and how long it will take: a bar on a terminal, a line now and then elsewhere. On stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

_WIDTH = 24
_BETWEEN_LINES_S = 10.0
_BETWEEN_BARS_S = 0.1


class Progress:
    """One step of ``total`` parts, shown from the moment that it is entered until it is left."""

    def __init__(
        self,
        what: str,
        total: int,
        *,
        done: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``done``: parts that an earlier run did; they do not count for the estimate."""
        self._what, self._total, self._first, self.done = what, total, done, done
        self._stream, self._clock = stream or sys.stderr, clock
        self._bar = self._stream.isatty()
        self._started = self._shown = clock()
        self._note = ""

    def __enter__(self) -> Progress:
        self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar or self.done != self._total:
            self._show()
        if self._bar:
            self._stream.write("\n")

    def reach(self, done: int, note: str = "") -> None:
        """``done`` parts are done. ``note``: their result, short."""
        self.done, self._note = done, note
        wait = _BETWEEN_BARS_S if self._bar else _BETWEEN_LINES_S
        if done == self._total or self._clock() - self._shown >= wait:
            self._show()

    def _show(self) -> None:
        self._shown = self._clock()
        share = self.done / max(self._total, 1)
        filled = round(_WIDTH * share)
        text = f"  {self._what} [{'#' * filled}{'.' * (_WIDTH - filled)}] {self.done}/{self._total}{self._left()}"
        text = f"{text}  {self._note}".rstrip()
        self._stream.write(f"\r{text:<100}" if self._bar else f"{text}\n")
        self._stream.flush()

    def _left(self) -> str:
        spent, own = self._shown - self._started, self.done - self._first
        if own <= 0 or self.done >= self._total:
            return f"  {in_time(spent)}" if spent >= 1 else ""
        return f"  {in_time(spent)}, about {in_time(spent / own * (self._total - self.done))} left"


def in_time(seconds: float) -> str:
    """``8 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
