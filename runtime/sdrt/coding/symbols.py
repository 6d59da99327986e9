"""Coded symbols: (h, w, channels), extents first, then channels in the prior's order.

This is the only layout between quantizer and payload; `arrange` enters it from (C, h, w), `to_channels` leaves it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdrt.coding.prior import Int32, Prior


def arrange(symbols: NDArray[np.generic], prior: Prior) -> NDArray[np.generic]:
    """Reorders (C, h, w), latent space order, to contiguous (h, w, C) in the prior's channel order."""
    return np.ascontiguousarray(symbols[prior.order].transpose(1, 2, 0))


def to_channels(coded: Int32, prior: Prior) -> Int32:
    """Reorders int32 (h, w, coded channels) to int32 (C, h, w) in latent space order, without the extents."""
    symbols = np.empty((prior.channels, *coded.shape[:2]), np.int32)
    symbols[prior.order] = coded[:, :, prior.offset :].transpose(2, 0, 1)
    return symbols


def with_extents(symbols: Int32, prior: Prior) -> Int32:
    """Prepends the extents, the smallest that cover the symbols, as channel 0 if the prior codes extents.

    Args:
        symbols: int32 (h, w, C), as ``arrange`` returns them.
        prior: The prior that they will be coded under.

    Returns:
        int32 (h, w, coded channels).
    """
    if not prior.extents:
        return symbols
    nonzero = symbols != 0
    # The number of channels up to the last that is not 0.
    used = np.where(nonzero.any(2), prior.channels - nonzero[:, :, ::-1].argmax(2), 0)
    return np.concatenate([prior.extent_of[used][:, :, None].astype(np.int32), symbols], axis=2)
