"""Coded symbols: (h, w, channels), extents first, then channels in the prior's order.

They are held in the smallest of int8, int16 and int32 that holds them all: those of photographs fit into 8 bits.

This is the only layout between quantizer and payload; `arrange` enters it from (C, h, w), `to_channels` leaves it.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sdrt.coding.prior import Int32, Prior

Coded = NDArray[np.signedinteger]
"""int8, int16 or int32 (h, w, coded channels)."""

_ROWS = 64  # that are reordered at a time: a copy of all would be hundreds of megabytes
_Number = TypeVar("_Number", np.int32, np.float32)


def narrowest(largest: int) -> np.dtype[np.signedinteger]:
    """The smallest type of coded symbols for magnitudes up to ``largest``, which is below 2**31."""
    return np.dtype(np.int8 if largest < 2**7 else np.int16 if largest < 2**15 else np.int32)


def arrange(symbols: NDArray[np.generic], prior: Prior) -> NDArray[np.generic]:
    """Reorders (C, h, w), latent space order, to contiguous (h, w, C) in the prior's channel order."""
    arranged = np.empty((*symbols.shape[1:], prior.channels), symbols.dtype)
    for first in range(0, len(arranged), _ROWS):
        rows = slice(first, first + _ROWS)
        arranged[rows] = symbols[:, rows][prior.order].transpose(1, 2, 0)
    return arranged


def to_channels(coded: Coded, prior: Prior, dtype: type[_Number] = np.int32) -> NDArray[_Number]:  # type: ignore[assignment]
    """Reorders (h, w, coded channels) to ``dtype`` (C, h, w) in latent space order, without the extents."""
    return in_latent_order(coded[:, :, prior.offset :], prior, dtype)


def in_latent_order(values: NDArray[np.generic], prior: Prior, dtype: type[_Number]) -> NDArray[_Number]:
    """Reorders (h, w, C), channels in the prior's order, to ``dtype`` (C, h, w): the inverse of ``arrange``."""
    ordered = np.empty((prior.channels, *values.shape[:2]), dtype)
    ordered[prior.order] = values.transpose(2, 0, 1)
    return ordered


def with_extents(symbols: NDArray[_Number], prior: Prior) -> Coded:
    """Prepends the extents, the smallest that cover the symbols, as channel 0 if the prior codes extents.

    Args:
        symbols: Whole numbers (h, w, C), as ``arrange`` returns them.
        prior: The prior that they will be coded under.

    Returns:
        (h, w, coded channels).
    """
    largest = max(int(symbols.max(initial=0)), -int(symbols.min(initial=0)), len(prior.extents))
    coded = np.empty((*symbols.shape[:2], prior.coded_channels), narrowest(largest))
    coded[:, :, prior.offset :] = symbols
    set_extents(coded, prior)
    return coded


def set_extents(coded: Coded, prior: Prior) -> None:
    """Replaces the extents by the smallest that cover the symbols."""
    coded[:, :, : prior.offset] = extents_of(coded[:, :, prior.offset :] != 0, prior)


def extents_of(nonzero: NDArray[np.bool_], prior: Prior) -> Int32:
    """The smallest extents that cover what is not 0.

    Args:
        nonzero: bool (h, w, C), channels in the prior's order.
        prior: The prior that they will be coded under.

    Returns:
        int32 (h, w, 1); (h, w, 0) where the prior codes none.
    """
    if not prior.extents:
        return np.zeros((*nonzero.shape[:2], 0), np.int32)
    # The number of channels up to the last that is not 0.
    used = np.where(nonzero.any(2), prior.channels - nonzero[:, :, ::-1].argmax(2), 0)
    return prior.extent_of[used][:, :, None].astype(np.int32)
