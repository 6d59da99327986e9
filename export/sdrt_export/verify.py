"""A pack's graphs against torch: the same pictures through both, on odd sizes and batches 1 and 2.

The reference is diffusers' own class, opened anew (``sdrt_export.reference``), not the modules that were exported.
"""

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
from sdrt.packs.search import verify_file
from sdrt.pixels.tensors import as_sample, from_sample
from sdrt_export import overflow, reference
from sdrt_export.graph import trace
from sdrt_export.likeness import compare
from sdrt_export.made_pictures import CASES, make_picture
from sdrt_export.reference import Reference

Floats = NDArray[np.float32]


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

FEW_LATENTS = 4
FEW_SLACK = 10.0
"""A normalization over a handful of numbers makes a step of a rounding: a picture of fewer latents than FEW_LATENTS may
differ FEW_SLACK times as much (20 dB) before the network is another one."""


@dataclass(frozen=True)
class Parity:
    """What was measured for one precision on one device; the worst of all cases but those of few latents."""

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
    against: Reference | None = None,
    device: str = "auto",
    pictures: Sequence[Floats] | None = None,
) -> list[Parity]:
    """Every precision of the pack through ``sdrt.network.engine``, against an autoencoder in float32 in torch.

    Args:
        pack: the graphs.
        encoder: the module that was exported; fp16 is judged by what happens inside it.
        decoder: likewise.
        against: what the graphs are compared with; None: the modules themselves.
        device: where the graphs run.
        pictures: samples (N, 3, H, W) in [-1, 1], H and W multiples of the downscale factor; None: made up ones of odd
            sizes.

    Raises:
        ModelError: a file is altered.
        EngineError: a graph cannot run.
    """
    samples = [make_picture(*case, pack.space.downscale) for case in CASES] if pictures is None else pictures
    judge = against or reference.of_modules(encoder, decoder, pack.space.channels, "the modules that were exported")
    references = [_run(judge, sample) for sample in samples]
    parities: list[Parity] = []
    for precision in pack.precisions:
        peak = _peak(encoder, decoder, samples[0], pack.space.channels) if precision == "fp16" else None
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


@dataclass(frozen=True)
class _Reference:
    latents: Floats
    picture: Floats


def _run(judge: Reference, sample: Floats) -> _Reference:
    with torch.no_grad():
        latents = judge.encode(torch.from_numpy(sample))
        return _Reference(latents.numpy(), judge.decode(latents).numpy())


def _peak(encoder: nn.Module, decoder: nn.Module, sample: Floats, channels: int) -> float:
    traced = trace(encoder, torch.from_numpy(sample), "sample", "latents")
    latents = torch.zeros(2, channels, 3, 5)
    return overflow.peak_of_pair(traced, trace(decoder, latents, "latent_sample", "sample"), sample, channels)


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
    paths = {name.split(".")[0]: verify_file(pack, name) for name in names}
    engines = {
        half: Engine(path, device=device, optimise=optimise, sides=gpu_sides(pack, half), tf32=False)
        for half, path in paths.items()
    }
    decoder = engines["decoder"]
    limit = tolerance(precision, decoder.device)
    few, many = (_Compared([], [], []) for _ in range(2))
    output = "float32"
    for sample, wished in zip(samples, references, strict=True):
        latents = wished.latents
        compared = few if latents.shape[2] * latents.shape[3] < FEW_LATENTS else many
        if "encoder" in engines:
            # A batch must give what its pictures give one by one, so the engine's batch meets torch's.
            latents = np.ascontiguousarray(engines["encoder"].run(sample)[:, : pack.space.channels])
            difference = float(np.abs(latents - wished.latents).max() / max(wished.latents.std(), 1e-6))
            compared.latents.append(difference)
        painted = decoder.run(latents)
        output = str(painted.dtype)
        compared.pictures.append(as_sample(painted))
        compared.wanted.append(_rounded(wished.picture) if output == "uint8" else wished.picture)
    passed = [group.passes(limit, output, slack) for group, slack in ((many, 1.0), (few, FEW_SLACK)) if group.wanted]
    shown = many if many.wanted else few
    likeness = compare(shown.pictures, shown.wanted)
    sizes = {half: path.stat().st_size for half, path in paths.items()}
    return Parity(
        precision=precision,
        device=decoder.device,
        output=output,
        encoder_bytes=sizes.get("encoder"),
        decoder_bytes=sizes["decoder"],
        latents_relative=float(f"{max(shown.latents):.3g}") if shown.latents else None,
        picture_max_abs=likeness.max_abs,
        picture_psnr_db=likeness.worst_psnr_db,
        picture_lpips=likeness.lpips,
        fp16_peak=None if peak is None else float(f"{peak:.4g}"),
        passed=all(passed) and (peak is None or peak <= overflow.MOST),
    )


@dataclass(frozen=True)
class _Compared:
    """Pictures of some sizes: differences of their latents, what was painted, and what should have been."""

    latents: list[float]
    pictures: list[Floats]
    wanted: list[Floats]

    def passes(self, limit: Tolerance, output: str, slack: float) -> bool:
        likeness = compare(self.pictures, self.wanted)
        # Where both are rounded, the smallest difference can become a whole level.
        most = limit.picture_max_abs * slack + (1 if output == "uint8" else 0)
        return (
            all(difference <= limit.latents_relative * slack for difference in self.latents)
            and likeness.max_abs <= most
            and likeness.worst_psnr_db >= limit.picture_psnr_db - 20 * np.log10(slack)
        )


def _rounded(sample: Floats) -> Floats:
    height, width = sample.shape[2:]
    return as_sample(np.stack([from_sample(one[None], height, width) for one in sample]))
