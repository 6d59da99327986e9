"""Patches over a painted picture: whole, in strips, or a part of it, with the same pixels each time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdrt.pixels.picture import Crop, Pixels


@dataclass(frozen=True, eq=False)
class Overlay:
    """Decoded patches of a picture.

    Attributes:
        mask: bool (rows, columns) of square cells: which are patched; at least one is.
        cell_px: Side of a cell.
        feather_px: Over how many pixels a patch fades where it meets cells that are not patched.
        atlas: uint8, the pixels of the kept lines of the picture.
        rows, columns: Which of the picture's lines these are, ascending.
        height_px, width_px: Of the picture.
    """

    mask: NDArray[np.bool_]
    cell_px: int
    feather_px: int
    atlas: Pixels
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    height_px: int
    width_px: int

    @property
    def hides_all(self) -> bool:
        """Whether the patches cover the whole picture."""
        return bool(self.mask.all())

    def over(self, strips: Iterator[Pixels], crop: Crop) -> Iterator[Pixels]:
        """Strips uint8 (n, width, 3) of ``crop``, from top to bottom, with the patches laid over them.

        Where patches hide all, ``strips`` are not taken: the atlas is the picture.
        """
        x, y, wide, high = crop
        if self.hides_all:
            yield self.atlas[y : y + high, x : x + wide]
            return
        for strip in strips:
            yield self._laid_over(strip, (x, y, wide, len(strip)))
            y += len(strip)

    def _laid_over(self, painted: Pixels, part: Crop) -> Pixels:
        x, y, wide, high = part
        share = self.shares(part)
        if not share.any():
            return painted
        rows = np.searchsorted(self.rows, np.arange(y, y + high))
        columns = np.searchsorted(self.columns, np.arange(x, x + wide))
        kept = self.atlas[np.ix_(np.minimum(rows, len(self.rows) - 1), np.minimum(columns, len(self.columns) - 1))]
        full = max(self.feather_px, 1)
        blend = share[:, :, None] * kept.astype(np.int16) + (full - share)[:, :, None] * painted.astype(np.int16)
        return np.asarray((blend + full // 2) // full, np.uint8)

    def shares(self, part: Crop) -> NDArray[np.int16]:
        """How much of each pixel of ``part`` is patch: int16 (height, width), 0 to max(feather_px, 1).

        In a marked cell it is the distance, in rows or columns, whichever is more, to the nearest pixel of a cell that
        is not marked, capped at ``feather_px``. The border of the picture does not count.
        """
        x, y, wide, high = part
        reach = max(self.feather_px - 1, 0)
        rows = np.clip(np.arange(y - reach, y + high + reach), 0, self.height_px - 1) // self.cell_px
        columns = np.clip(np.arange(x - reach, x + wide + reach), 0, self.width_px - 1) // self.cell_px
        inside: NDArray[np.bool_] = self.mask[np.ix_(rows, columns)]
        share: NDArray[np.int16] = inside[reach : reach + high, reach : reach + wide].astype(np.int16)
        if not share.any() or inside.all():
            share *= np.int16(max(self.feather_px, 1))
            return share
        for distance in range(1, self.feather_px):
            inside = inside[1:-1] & inside[:-2] & inside[2:]
            inside = inside[:, 1:-1] & inside[:, :-2] & inside[:, 2:]
            margin = reach - distance
            share += inside[margin : margin + high, margin : margin + wide]
        return share
