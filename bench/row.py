"""One image coded by one codec for one budget: what ``rd`` measures, and what its table, plots and page show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.codecs import Coded
from sdrt_metrics.fidelity import Rgb


@dataclass(frozen=True)
class Row:
    """One image coded by one codec for one budget. ``over``: even its smallest file exceeds the budget.

    ``decoded`` decodes the file once more: 24 images at 8 budgets by 5 codecs would fill the memory.
    """

    image: str
    width_px: int
    height_px: int
    codec: str
    title: str
    budget_bpp: float
    budget_bytes: int
    coded: Coded
    decoded: Callable[[], Rgb]
    scores: dict[str, float]

    @property
    def bpp(self) -> float:
        return self.coded.bytes * 8 / (self.width_px * self.height_px)

    @property
    def fields(self) -> dict[str, str | int | float]:
        """All but the scores, as a record keeps it."""
        return {
            "codec": self.codec,
            "budget_bpp": self.budget_bpp,
            "image": self.image,
            "pixels": self.width_px * self.height_px,
            "bytes": self.coded.bytes,
            "setting": self.coded.setting,
        }

    @property
    def over(self) -> bool:
        return self.coded.bytes > self.budget_bytes
