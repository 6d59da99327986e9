"""Compares a pack's graphs with their reference, with a tolerance for each precision. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdrt.errors import ModelError
from sdrt.network.devices import DEVICE_FACTS
from sdrt.network.engine import Engine
from sdrt.network.transform import accelerator_sides
from sdrt.packs.manifest import ModelPack, graph_file_name
from sdrt.packs.search import read_verified
from sdrt.pixels.tensors import as_sample, from_sample
from sdrt_export import overflow
from sdrt_export.likeness import compare
from sdrt_export.made_pictures import CASES, decoder_input

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Tolerance:
    """What a precision may cost. Pictures are compared after clamping to [-1, 1], on a scale of 0 to 255, unrounded."""

    latents_relative: float
    """Largest difference of a latent (of the mean), in units of the latents' standard deviation."""
    picture_max_abs: float
    """Largest difference of a sample between the two round trips, of 255."""
    picture_psnr_db: float
    """Minimum PSNR between the two round trips."""


TOLERANCES = {
    "fp32": Tolerance(latents_relative=0.002, picture_max_abs=0.5, picture_psnr_db=75.0),
    "w16": Tolerance(latents_relative=0.03, picture_max_abs=4.0, picture_psnr_db=55.0),
    "fp16": Tolerance(latents_relative=0.08, picture_max_abs=10.0, picture_psnr_db=45.0),
    "int8": Tolerance(latents_relative=2.0, picture_max_abs=160.0, picture_psnr_db=20.0),
    "bf16": Tolerance(latents_relative=0.2, picture_max_abs=16.0, picture_psnr_db=42.0),
}
"""By the arithmetic in use. int8 is judged where it is made, on photographs (``sdrt_export.int8``); here it must only
be the same network, on pictures that it was not calibrated for. bf16 is what OpenVINO computes in on CPUs that have
it."""

FEW_LATENTS = 4
FEW_SLACK = 10.0
"""A normalization over a handful of numbers makes a step of a rounding: a picture of fewer latents than FEW_LATENTS may
differ FEW_SLACK times as much (20 dB) before the network is another one."""


@dataclass(frozen=True)
class Parity:
    """What was measured for one precision on one device; the worst of all cases but those of few latents."""

    precision: str
    arithmetic: str
    """By whose tolerance it is judged: the precision, unless the device has an arithmetic of its own."""
    device: str
    output: str
    """The decoder's output: float32, or uint8 pixels, which are compared with the rounded reference."""
    encoder_bytes: int | None
    decoder_bytes: int
    latents_relative: float | None
    picture_max_abs: float
    picture_psnr_db: float
    picture_lpips: float | None
    """Mean of the pictures of 32 pixels a side and more; None without the metric's weights."""
    fp16_peak: float | None
    """For fp16: the largest magnitude anywhere in the float32 graphs, which must stay below half of fp16's 65504."""
    faults: tuple[str, ...]
    """Each figure beyond its limit, those of the cases of few latents too."""

    @property
    def passed(self) -> bool:
        """Whether no figure is beyond its limit."""
        return not self.faults


@dataclass(frozen=True, eq=False)
class Wished:
    """What a reference makes of one batch of pictures."""

    latents: Floats
    """Raw latents (N, C, h, w)."""
    picture: Floats
    """The decoded picture, (N, 3, H, W), nominally in [-1, 1]."""


def report(parities: Sequence[Parity]) -> dict[str, Any]:
    """The figures in the form in which the manifest keeps them."""
    tolerances = {parity.precision: asdict(TOLERANCES[parity.arithmetic]) for parity in parities}
    return {
        "cases": [list(case) for case in CASES],
        "tolerances": tolerances,
        "parity": [{**asdict(parity), "passed": parity.passed} for parity in parities],
    }


def table(parities: Sequence[Parity]) -> list[str]:
    """The figures as lines of text, a heading first."""
    lines = ["precision     device    output   encoder MB  decoder MB  latents (sd)  max of 255  PSNR (dB)  LPIPS"]
    for parity in parities:
        encoder = "-" if parity.encoder_bytes is None else f"{parity.encoder_bytes / 1e6:.2f}"
        latents = "-" if parity.latents_relative is None else f"{parity.latents_relative:.5f}"
        precision = parity.precision
        if parity.arithmetic != precision:
            precision += f" in {parity.arithmetic}"
        verdict = "ok" if parity.passed else f"FAILED: {', '.join(parity.faults)}"
        lpips = "-" if parity.picture_lpips is None else f"{parity.picture_lpips:.5f}"
        lines.append(
            f"{precision:<13} {parity.device:<9} {parity.output:<8} {encoder:<11} "
            f"{parity.decoder_bytes / 1e6:<11.2f} {latents:<13} {parity.picture_max_abs:<11.3f} "
            f"{parity.picture_psnr_db:<10.2f} {lpips:<8} {verdict}"
        )
    return lines


def arithmetic(precision: str, device: str) -> str:
    """The key of TOLERANCES for what runs on this device, of which the engine says this precision."""
    floats = DEVICE_FACTS[device].floats
    return precision if floats is None or precision == "int8" else floats


def measure_all(
    pack: ModelPack, device: str, samples: Sequence[Floats], *, wished: Sequence[Wished], peak: Callable[[], float]
) -> list[Parity]:
    """``measure`` for each precision of the pack that the device takes. ``peak`` is asked for fp16 alone.

    Raises ModelError, also where the device takes none of them, and EngineError.
    """
    facts = DEVICE_FACTS.get(device)  # None: auto, or one that the engine refuses
    taken = [name for name in pack.precisions if facts is None or facts.takes(name)]
    if not taken:
        raise ModelError(f"device {device} takes none of the graphs of {pack.folder}: {', '.join(pack.precisions)}")
    return [
        measure(pack, name, device, samples, wished=wished, peak=peak() if name == "fp16" else None) for name in taken
    ]


def measure(
    pack: ModelPack,
    precision: str,
    device: str,
    samples: Sequence[Floats],
    *,
    wished: Sequence[Wished],
    peak: float | None = None,
) -> Parity:
    """One precision of the pack through ``sdrt.network.engine``, on pictures with a known reference.

    Args:
        pack: the graphs; a decoder alone is fed with the wished latents.
        precision: which of them.
        device: where they run.
        samples: pictures (N, 3, H, W) in [-1, 1], H and W multiples of the downscale factor.
        wished: for each of them.
        peak: for fp16, the largest magnitude inside.

    Raises:
        ModelError: a file is altered.
        EngineError: a graph cannot run.
    """
    names = [name for half in ("encoder", "decoder") if (name := graph_file_name(half, precision)) in pack.files]
    # Unoptimized, the CPU rounds at the seams of fp16 as a GPU would; its optimizer takes the roundings out.
    optimize = precision != "fp16"
    engines: dict[str, Engine] = {}
    sizes: dict[str, int] = {}
    for name in names:
        half = name.split(".")[0]
        sizes[half] = len(read_verified(pack, name))
        sides = accelerator_sides(pack, half)
        engines[half] = Engine(pack.folder / name, device=device, optimize=optimize, sides=sides, tf32=False)
    decoder = engines["decoder"]
    computed = arithmetic(decoder.precision, decoder.device)
    few, many = (_Compared([], [], []) for _ in range(2))
    output = "float32"
    for sample, wanted in zip(samples, wished, strict=True):
        latents = wanted.latents
        compared = few if latents.shape[2] * latents.shape[3] < FEW_LATENTS else many
        if "encoder" in engines:
            # A batch must give what its pictures give one by one, so the engine's batch meets torch's.
            latents = np.ascontiguousarray(engines["encoder"].run(sample)[:, : pack.space.channels])
            difference = float(np.abs(latents - wanted.latents).max() / max(wanted.latents.std(), 1e-6))
            compared.latents.append(_finite(difference, 3))
        painted = decoder.run(decoder_input(latents, pack.quality_input))
        output = str(painted.dtype)
        compared.pictures.append(as_sample(painted))
        compared.wanted.append(_rounded(wanted.picture) if output == "uint8" else wanted.picture)
    limit, faults = TOLERANCES[computed], []
    if many.wanted:
        faults += many.faults(limit, output, 1.0)
    if few.wanted:
        words = f" (fewer than {FEW_LATENTS} latents)"
        faults += [fault + words for fault in few.faults(limit, output, FEW_SLACK)]
    if peak is not None and not peak <= overflow.MAX_PEAK:
        faults.append(f"fp16 peak {peak:.4g} > {overflow.MAX_PEAK:g}")
    shown = many if many.wanted else few
    likeness = compare(shown.pictures, shown.wanted)
    return Parity(
        precision=precision,
        arithmetic=computed,
        device=decoder.device,
        output=output,
        encoder_bytes=sizes.get("encoder"),
        decoder_bytes=sizes["decoder"],
        latents_relative=max(shown.latents) if shown.latents else None,
        picture_max_abs=likeness.max_abs,
        picture_psnr_db=likeness.worst_psnr_db,
        picture_lpips=likeness.lpips,
        fp16_peak=None if peak is None else _finite(peak, 4),
        faults=tuple(faults),
    )


@dataclass(frozen=True, eq=False)
class _Compared:
    """Pictures of some sizes: differences of their latents, what was painted, and what should have been."""

    latents: list[float]
    pictures: list[Floats]
    wanted: list[Floats]

    def faults(self, limit: Tolerance, output: str, slack: float) -> list[str]:
        """What is beyond a tolerance that is ``slack`` times as wide, each with the limit that it broke."""
        likeness = compare(self.pictures, self.wanted)
        # Where both are rounded, the smallest difference can become a whole level.
        max_abs = limit.picture_max_abs * slack + (1 if output == "uint8" else 0)
        latents_relative = limit.latents_relative * slack
        psnr_db = limit.picture_psnr_db - 20 * np.log10(slack)
        faults = []
        if self.latents and not max(self.latents) <= latents_relative:
            faults.append(f"latents {max(self.latents):g} > {latents_relative:g} sd")
        if not likeness.max_abs <= max_abs:
            faults.append(f"max {likeness.max_abs:g} > {max_abs:g} of 255")
        if not likeness.worst_psnr_db >= psnr_db:
            faults.append(f"PSNR {likeness.worst_psnr_db:g} < {psnr_db:g} dB")
        return faults


def _finite(figure: float, digits: int) -> float:
    """As it is printed and judged; what is not finite, which no manifest holds, counts as the largest float32."""
    largest = float(np.finfo(np.float32).max)
    return float(f"{figure:.{digits}g}") if figure < largest else largest


def _rounded(sample: Floats) -> Floats:
    height, width = sample.shape[2:]
    return as_sample(np.stack([from_sample(one[None], height, width) for one in sample]))
