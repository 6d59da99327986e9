"""Which decisions an encoder should take with a prior: measured in pixels, on photographs that nobody fitted to.

Some decoders gain from symbols chosen by rate and distortion and from centres; a decoder that was trained on plainly
rounded latents has learned to undo the rounding itself, and loses by both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sdrt.coding.payload import bits
from sdrt.coding.prior import Prior
from sdrt.coding.quantize import dequantize, quantize
from sdrt.network.engine import Engine
from sdrt.network.transform import to_pixels
from sdrt.packs.manifest import ModelPack
from sdrt_export.progress import Progress

Float32 = NDArray[np.float32]
Example = tuple[NDArray[np.uint8], Float32]
"""A crop, uint8 (H, W, 3), and its latents (C, h, w)."""

STRENGTHS = (0.25, 0.5, 1.0, 1.5)
_SHARES = (0.35, 0.55, 0.75)  # of the way from the finest quality to the coarsest
_WORTH_IT = 0.99


def without_centres(prior: Prior) -> Prior:
    """The same prior, rebuilding every symbol at its mid-point."""
    return replace(prior, centres=tuple(np.zeros_like(table) for table in prior.centres))


def rate_curve(
    pack: ModelPack,
    decoder: Engine,
    prior: Prior,
    examples: Sequence[Example],
    *,
    indices: Sequence[int],
    rdo: float,
    progress: Progress,
) -> list[tuple[float, float]]:
    """(PSNR, log of bits) at each step index, PSNR rising. Each picture painted is one more part of ``progress``."""
    points = []
    for step_index in indices:
        total_bits, psnr = 0.0, 0.0
        for crop, latents in examples:
            symbols = quantize(latents, prior, step_index, rdo=rdo)
            total_bits += bits(symbols, prior, step_index)
            rebuilt = dequantize(symbols, prior, step_index)
            painted = to_pixels(rebuilt, pack, decoder, (0, 0, crop.shape[1], crop.shape[0])).astype(np.float64)
            psnr += 10 * np.log10(255**2 / max(float(np.square(painted - crop).mean()), 1e-9))
            progress.reach(progress.done + 1)
        points.append((psnr / len(examples), float(np.log(max(total_bits, 1.0)))))
    return sorted(points)


def rate_ratio(curve: list[tuple[float, float]], anchor: list[tuple[float, float]]) -> float:
    """Bits of ``curve`` for those of ``anchor`` at equal PSNR, mean over the PSNR that both reach; 1 if none."""
    low, high = max(curve[0][0], anchor[0][0]), min(curve[-1][0], anchor[-1][0])
    if low >= high:
        return 1.0
    at = np.linspace(low, high, 17)
    ours, theirs = (np.interp(at, [p for p, _bits in c], [b for _psnr, b in c]) for c in (curve, anchor))
    return float(np.exp((ours - theirs).mean()))


def choose_decisions(
    pack: ModelPack, decoder: Engine, prior: Prior, examples: Sequence[Example], wanted: float | None = None
) -> tuple[bool, float, float]:
    """(keep the centres, strength of decisions, bits for those of plain rounding at equal PSNR).

    What saves less than a hundredth is left out. ``wanted``: this strength, whatever it saves, and the better centres.
    """
    coarse, fine = max(pack.quality_range), min(pack.quality_range)
    indices = [round(fine + share * (coarse - fine)) for share in _SHARES]
    curves = 3 if wanted is not None else 3 + len(STRENGTHS)
    progress = Progress("prior: the encoder's decisions", curves * len(indices) * len(examples))
    plain = without_centres(prior)

    def measured(keep: bool, strength: float) -> list[tuple[float, float]]:
        used = prior if keep else plain
        return rate_curve(pack, decoder, used, examples, indices=indices, rdo=strength, progress=progress)

    best = (False, 0.0, 1.0)
    with progress:
        anchor = measured(False, 0.0)

        def ratio(keep: bool, strength: float) -> float:
            return rate_ratio(measured(keep, strength), anchor)

        if wanted is not None:
            with_centres, without = ratio(True, wanted), ratio(False, wanted)
            keep = with_centres < without * _WORTH_IT
            return keep, wanted, with_centres if keep else without

        def try_out(keep: bool, strengths: Sequence[float]) -> None:
            nonlocal best
            for strength in strengths:
                found = ratio(keep, strength)
                if found < best[2] * _WORTH_IT:
                    best = (keep, strength, found)

        # Heavy decoders take seconds a picture: the first strength tells whether centres are worth keeping.
        try_out(True, (0.0, STRENGTHS[0]))
        try_out(False, STRENGTHS[:1])
        try_out(best[0], STRENGTHS[1:])
    return best
