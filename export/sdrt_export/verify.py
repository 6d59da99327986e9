"""A pack's graphs against torch: the same pictures through both, on odd sizes and batches 1 and 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sdrt.network.engine import Engine
from sdrt.network.transform import gpu_sides
from sdrt.packs.manifest import ModelPack, graph_file_name
from sdrt.packs.search import read_verified
from sdrt.pixels.tensors import as_sample, from_sample
from sdrt_export import overflow
from sdrt_export.graph import trace
from sdrt_export.likeness import compare

Floats = NDArray[np.float32]

CASES = ((1, 9, 13), (2, 5, 7), (1, 16, 3), (2, 1, 1))
"""Batch, latent height, latent width. Sizes that no kernel was written for."""


@dataclass(frozen=True)
class Tolerance:
    """What a precision may cost. Pictures are compared after clamping to [-1, 1], on a scale of 0 to 255, unrounded."""

    latents_relative: float
    """Largest difference of a latent (of the mean), in units of the latents' standard deviation."""
    picture_max_abs: float
    """Largest difference of a sample between the two round trips, of 255."""
    picture_psnr_db: float
    """Least PSNR between the two round trips."""


TOLERANCES = {
    "fp32": Tolerance(latents_relative=0.002, picture_max_abs=0.5, picture_psnr_db=75.0),
    "w16": Tolerance(latents_relative=0.03, picture_max_abs=4.0, picture_psnr_db=55.0),
    "fp16": Tolerance(latents_relative=0.08, picture_max_abs=10.0, picture_psnr_db=45.0),
    "int8": Tolerance(latents_relative=2.0, picture_max_abs=160.0, picture_psnr_db=20.0),
    "bf16": Tolerance(latents_relative=0.2, picture_max_abs=16.0, picture_psnr_db=42.0),
}
"""By the arithmetic in use. int8 is judged where it is made, on photographs (``sdrt_export.int8``); here it must only
be the same network, on pictures that it was not calibrated for. bf16 is what OpenVINO computes in on CPUs that have it,
whatever the graph says."""


@dataclass(frozen=True)
class Parity:
    """What was measured for one precision on one device; the worst of all cases."""

    precision: str
    device: str
    output: str
    """What the decoder gives: float32, or uint8 pixels, which are compared with the reference's, rounded."""
    encoder_bytes: int | None
    decoder_bytes: int
    latents_relative: float | None
    picture_max_abs: float
    picture_psnr_db: float
    picture_lpips: float | None
    """Mean of the pictures of 32 pixels a side and more; None without the metric's weights."""
    fp16_peak: float | None
    """For fp16: the largest magnitude anywhere in the float32 graphs, which must stay below half of fp16's 65504."""
    passed: bool


def verify_pack(
    pack: ModelPack,
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    device: str = "auto",
    pictures: Sequence[Floats] | None = None,
) -> list[Parity]:
    """Every precision of the pack through ``sdrt.network.engine``, against the modules in float32 in torch.

    ``pictures``: samples (N, 3, H, W) in [-1, 1], H and W multiples of the downscale factor; None: made up ones of
    odd sizes. Raises ModelError if a file is altered, EngineError if a graph cannot run.
    """
    samples = [make_picture(*case, pack.space.downscale) for case in CASES] if pictures is None else pictures
    if pack.quality_input:
        samples = [_with_level(sample, pack.space.downscale) for sample in samples]
    references = [_reference(encoder, decoder, sample, pack) for sample in samples]
    parities: list[Parity] = []
    for precision in pack.precisions:
        peak = _peak(encoder, decoder, samples[0], pack) if precision == "fp16" else None
        parities.append(_verify(pack, precision, device, samples, references=references, peak=peak))
    return parities


def report(parities: Sequence[Parity]) -> dict[str, Any]:
    """The figures in the form in which the manifest keeps them."""
    tolerances = {parity.precision: asdict(tolerance(parity.precision, parity.device)) for parity in parities}
    return {
        "cases": [list(case) for case in CASES],
        "tolerances": tolerances,
        "parity": [asdict(parity) for parity in parities],
    }


def tolerance(precision: str, device: str) -> Tolerance:
    """What holds for a graph of this precision on this device."""
    return TOLERANCES["bf16" if device == "openvino" and precision != "int8" else precision]


def make_picture(batch: int, height: int, width: int, downscale: int) -> Floats:
    """Gradients, edges, texture and a little noise, (batch, 3, height * downscale, width * downscale) in [-1, 1]."""
    generator = np.random.default_rng(height * 1000 + width)
    rows, columns = np.mgrid[0 : height * downscale, 0 : width * downscale].astype(np.float32)
    picture = np.empty((batch, 3, *rows.shape), dtype=np.float32)
    for item in range(batch):
        for channel in range(3):
            angle, frequency = generator.uniform(0, np.pi), generator.uniform(0.02, 0.3)
            wave = np.sin((rows * np.cos(angle) + columns * np.sin(angle)) * frequency)
            edge = np.sign(rows - columns * generator.uniform(0.3, 2.0) + generator.uniform(-20, 20))
            noise = generator.normal(0, 0.05, rows.shape)
            picture[item, channel] = np.clip(0.5 * wave + 0.3 * edge + noise, -1, 1)
    return picture


@dataclass(frozen=True, eq=False)
class _Reference:
    latents: Floats
    picture: Floats


def _with_level(sample: Floats, downscale: int) -> Floats:
    """A sample (N, 3, H, W) with a quality level for each cell, up to two octaves from that of index 512."""
    count, _, height, width = sample.shape
    shape = (count, 1, height // downscale, width // downscale)
    level = np.random.default_rng(width).uniform(-2, 2, shape).astype(np.float32)
    return np.concatenate([sample, level.repeat(downscale, axis=2).repeat(downscale, axis=3)], axis=1)


def _decoder_input(latents: Floats, sample: Floats, pack: ModelPack) -> Floats:
    """What the decoder is given for a sample's latents: with the level that the sample states."""
    cell = pack.space.downscale
    return np.ascontiguousarray(np.concatenate([latents, sample[:, 3:, ::cell, ::cell]], axis=1))


def _reference(encoder: nn.Module, decoder: nn.Module, sample: Floats, pack: ModelPack) -> _Reference:
    with torch.no_grad():
        latents = encoder(torch.from_numpy(sample))[:, : pack.space.channels].numpy()
        return _Reference(latents, decoder(torch.from_numpy(_decoder_input(latents, sample, pack))).numpy())


def _peak(encoder: nn.Module, decoder: nn.Module, sample: Floats, pack: ModelPack) -> float:
    first, latents = overflow.peak(trace(encoder, torch.from_numpy(sample), "sample", "latents"), sample)
    latents = _decoder_input(latents[:, : pack.space.channels], sample, pack)
    second, _ = overflow.peak(trace(decoder, torch.from_numpy(latents), "latent_sample", "sample"), latents)
    return max(first, second)


def _verify(
    pack: ModelPack,
    precision: str,
    device: str,
    samples: Sequence[Floats],
    *,
    references: Sequence[_Reference],
    peak: float | None,
) -> Parity:
    names = [name for half in ("encoder", "decoder") if (name := graph_file_name(half, precision)) in pack.files]
    # Unoptimised, the CPU rounds at the seams of fp16 as a GPU would; its optimiser takes the roundings out.
    optimise = precision != "fp16"
    engines: dict[str, Engine] = {}
    sizes: dict[str, int] = {}
    for name in names:
        half = name.split(".")[0]
        sizes[half] = len(read_verified(pack, name))
        engines[half] = Engine(pack.folder / name, device=device, optimise=optimise, sides=gpu_sides(pack, half))
    decoder = engines["decoder"]
    relative: float | None = None
    pictures: list[Floats] = []
    wanted: list[Floats] = []
    output = "float32"
    for sample, reference in zip(samples, references, strict=True):
        latents = reference.latents
        if "encoder" in engines:
            # A batch must give what its pictures give one by one, so the engine's batch meets torch's.
            latents = np.ascontiguousarray(engines["encoder"].run(sample)[:, : pack.space.channels])
            difference = float(np.abs(latents - reference.latents).max() / max(reference.latents.std(), 1e-6))
            relative = max(relative or 0.0, difference)
        painted = decoder.run(_decoder_input(latents, sample, pack))
        output = str(painted.dtype)
        pictures.append(as_sample(painted))
        wanted.append(_rounded(reference.picture) if output == "uint8" else reference.picture)
    likeness = compare(pictures, wanted)
    limit = tolerance(precision, decoder.device)
    passed = (
        (relative is None or relative <= limit.latents_relative)
        # Where both are rounded, the smallest difference can become a whole level.
        and likeness.max_abs <= limit.picture_max_abs + (1 if output == "uint8" else 0)
        and likeness.worst_psnr_db >= limit.picture_psnr_db
        and (peak is None or peak <= overflow.FP16_MAX / overflow.HEADROOM)
    )
    return Parity(
        precision=precision,
        device=decoder.device,
        output=output,
        encoder_bytes=sizes.get("encoder"),
        decoder_bytes=sizes["decoder"],
        latents_relative=None if relative is None else float(f"{relative:.3g}"),
        picture_max_abs=likeness.max_abs,
        picture_psnr_db=likeness.worst_psnr_db,
        picture_lpips=likeness.lpips,
        fp16_peak=None if peak is None else float(f"{peak:.4g}"),
        passed=bool(passed),
    )


def _rounded(sample: Floats) -> Floats:
    height, width = sample.shape[2:]
    return as_sample(np.stack([from_sample(one[None], height, width) for one in sample]))
