"""Where the network cannot paint: type, line art and screens are kept by a classical codec, as patches of the picture.

An encoder looks for cells that hold type or drawing, and only where there are some it paints what it would write, finds
the cells that come out wrong, and codes these as patches instead: as many bytes go to the patches as save more error
there than in the latents.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sdrt.container.patches import CODINGS, Coding, Mask, Patches, cells
from sdrt.pixels.atlas import encode_av1
from sdrt.pixels.picture import Pixels

_FINEST_QUALITY = 100


def whole_picture(rgb: Pixels, budget_bytes: int, speed: int = 6) -> Patches | None:
    """The finest patch over the whole picture whose stream has at most so many bytes."""
    mask = np.ones(cells(*rgb.shape[:2]), np.bool_)
    low, high, best = 0, _FINEST_QUALITY, None
    while low <= high:
        quality = (low + high) // 2
        stream = encode_av1(rgb, quality, speed=speed, subsampling="4:4:4")
        if len(stream) <= budget_bytes:
            low, best = quality + 1, Patches(mask, 0, "av1", stream)
        else:
            high = quality - 1
    return best
