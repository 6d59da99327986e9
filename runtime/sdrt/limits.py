"""Bounds that several rooms share: how large a picture may be before it is read, and what an .sdl file can hold."""

from __future__ import annotations

from sdrt.arguments import check_count
from sdrt.errors import LimitError

DEFAULT_MAX_PIXELS = 178_956_970
"""Where Pillow itself raises DecompressionBombError: twice a quarter of a GiB of 24-bit pixels. None means no limit."""

DEFAULT_MAX_SIDE_PX = 65_535
"""The longest side, unless ``max_pixels`` is None; JPEG's is the same. A limit of pixels alone does not bound the work:
a picture of one column costs as much as one that is a cell wide."""


MAX_STEP_INDEX = 1023
"""The largest step index of an .sdl file, the coarsest step; the smallest is 0."""

MAX_ANCILLARY_BYTES = 2**20
"""The largest ancillary chunk of an .sdl file. No more than that is read of an item of metadata."""


def check_pixels(width_px: int, height_px: int, max_pixels: int | None) -> None:
    """Refuse a picture of more than ``max_pixels`` pixels or with a side beyond DEFAULT_MAX_SIDE_PX; None: no limit.

    Call it before anything of that size is allocated.

    Raises LimitError, and ArgumentError for an invalid limit.
    """
    check_count("max_pixels", max_pixels)
    if max_pixels is None:
        return
    if max(width_px, height_px) > DEFAULT_MAX_SIDE_PX:
        raise LimitError(
            f"the picture has {width_px} x {height_px} pixels, the limit of a side is {DEFAULT_MAX_SIDE_PX}: "
            "set max_pixels to None (--max-pixels 0) if you trust its source"
        )
    if width_px * height_px > max_pixels:
        raise LimitError(beyond(f"{width_px} x {height_px} = {width_px * height_px} pixels", max_pixels))


def beyond(count: str, max_pixels: int | None) -> str:
    """The message of a LimitError for a picture of ``count``, such as "30 x 20 = 600 pixels"."""
    return (
        f"the picture has {count}, the limit is {max_pixels}: raise max_pixels (--max-pixels) if you trust its source"
    )
