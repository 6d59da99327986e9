"""A pack's graphs against torch: the same pictures through both, on odd sizes and batches 1 and 2.

The reference is diffusers' own class, opened anew (``sdrt_export.reference``), not the modules that were exported.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sdrt.packs.manifest import ModelPack
from sdrt_export import overflow, reference
from sdrt_export.graph import trace
from sdrt_export.made_pictures import CASES, decoder_input, make_picture
from sdrt_export.parity import Parity, Wished, measure_all, report
from sdrt_export.reference import Reference

__all__ = ["report", "verify_pack"]

Floats = NDArray[np.float32]


def verify_pack(
    pack: ModelPack,
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    against: Reference | None = None,
    device: str = "auto",
    pictures: Sequence[Floats] | None = None,
) -> list[Parity]:
    """Each precision that the device takes through ``sdrt.network.engine``, against an autoencoder in float32 in torch.

    Args:
        pack: the graphs.
        encoder: the module that was exported; fp16 is judged by what happens inside it.
        decoder: likewise.
        against: what the graphs are compared with; None: the modules themselves.
        device: where the graphs run.
        pictures: samples (N, 3, H, W) in [-1, 1], H and W multiples of the downscale factor; None: made up ones of odd
            sizes.

    Raises:
        ModelError: a file is altered, or the device takes none of the pack's graphs.
        EngineError: a graph cannot run.
    """
    samples = [make_picture(*case, pack.space.downscale) for case in CASES] if pictures is None else pictures
    judge = against or reference.of_modules(encoder, decoder, pack.space.channels, "the modules that were exported")
    wished = [_run(judge, sample, pack.quality_input) for sample in samples]
    return measure_all(pack, device, samples, wished=wished, peak=lambda: _peak(encoder, decoder, samples[0], pack))


def _run(judge: Reference, sample: Floats, quality_input: bool) -> Wished:
    with torch.no_grad():
        latents = judge.encode(torch.from_numpy(sample)).numpy()
        return Wished(latents, judge.decode(torch.from_numpy(decoder_input(latents, quality_input))).numpy())


def _peak(encoder: nn.Module, decoder: nn.Module, sample: Floats, pack: ModelPack) -> float:
    channels, quality_input = pack.space.channels, pack.quality_input
    coded = torch.zeros(2, channels + quality_input, 3, 5)
    first = trace(encoder, torch.from_numpy(sample), "sample", "latents")
    second = trace(decoder, coded, "latent_sample", "sample")
    return overflow.peak_of_pair(first, second, sample, channels, quality_input=quality_input)
