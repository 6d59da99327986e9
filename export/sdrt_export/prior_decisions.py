"""How much an encoder's bits should weigh with a prior: measured on pictures, on photographs that nobody fitted to.

Some decoders gain from symbols chosen by rate and distortion; one that was trained on plainly rounded latents has
learned to undo the rounding itself, and loses by it. Likeness is LPIPS: at equal PSNR strong decisions look best, and
pictures lose their texture by them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sdrt.coding.payload import bits
from sdrt.coding.prior import Prior
from sdrt.coding.quantize import dequantize, quantize
from sdrt.network.engine import Engine
from sdrt.network.transform import to_pixels
from sdrt.packs.manifest import ModelPack
from sdrt.pixels.tensors import to_sample
from sdrt_export.likeness import compare

Float32 = NDArray[np.float32]
Shown = tuple[NDArray[np.uint8], Float32]
"""A crop, uint8 (H, W, 3), and its latents (C, h, w)."""

WEIGHTS = (0.25, 0.5, 1.0, 1.5)
_SHARES = (0.35, 0.55, 0.75)  # of the way from the finest quality to the coarsest
_WORTH_IT = 0.99


def rate_curve(
    pack: ModelPack,
    decoder: Engine,
    prior: Prior,
    examples: Sequence[Shown],
    *,
    indices: Sequence[int],
    weight: float,
) -> list[tuple[float, float]]:
    """(likeness, log of bits) at each step index, likeness rising: -LPIPS, or PSNR without the weights of LPIPS."""
    points = []
    for step_index in indices:
        total_bits = 0.0
        pictures, crops = [], []
        for crop, latents in examples:
            at = np.full(latents.shape[1:], step_index)
            coded = quantize(latents, prior, at, weight=weight)
            total_bits += bits(coded, prior, at)
            rebuilt, whole = dequantize(coded, prior, at), (0, 0, crop.shape[1], crop.shape[0])
            pictures.append(to_sample(to_pixels(rebuilt, pack, decoder, whole, indices=at), 1))
            crops.append(to_sample(crop, 1))
        seen = compare(pictures, crops)
        likeness = seen.psnr_db if seen.lpips is None else -seen.lpips
        points.append((likeness, float(np.log(max(total_bits, 1.0)))))
    return sorted(points)


def rate_ratio(curve: list[tuple[float, float]], anchor: list[tuple[float, float]]) -> float:
    """Bits of ``curve`` for those of ``anchor`` at equal likeness, mean over what both reach; 1 if nothing."""
    low, high = max(curve[0][0], anchor[0][0]), min(curve[-1][0], anchor[-1][0])
    if low >= high:
        return 1.0
    at = np.linspace(low, high, 17)
    ours, theirs = (np.interp(at, [like for like, _bits in c], [b for _like, b in c]) for c in (curve, anchor))
    return float(np.exp((ours - theirs).mean()))


def choose_decisions(
    pack: ModelPack, decoder: Engine, prior: Prior, examples: Sequence[Shown], wanted: float | None = None
) -> tuple[float, float]:
    """(weight of bits in decisions, bits for those of plain rounding at equal likeness).

    What saves less than a hundredth is left out. ``wanted``: this weight, whatever it saves.
    """
    coarse, fine = max(pack.quality_range), min(pack.quality_range)
    indices = [round(fine + share * (coarse - fine)) for share in _SHARES]
    anchor = rate_curve(pack, decoder, prior, examples, indices=indices, weight=0.0)

    def ratio(weight: float) -> float:
        return rate_ratio(rate_curve(pack, decoder, prior, examples, indices=indices, weight=weight), anchor)

    if wanted is not None:
        return wanted, ratio(wanted)
    best = (0.0, 1.0)
    for weight in WEIGHTS:
        found = ratio(weight)
        if found < best[1] * _WORTH_IT:
            best = (weight, found)
    return best
