"""Options of the encoder and of a codec: names, types and ranges, validated in one place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

from sdrt.arguments import check_count, check_integer, check_range
from sdrt.container.sdl import RESAMPLINGS
from sdrt.errors import ArgumentError
from sdrt.network.devices import Device, Precision

if TYPE_CHECKING:
    from typing_extensions import Unpack

Tune = Literal["eyes", "psnr"]
Resampling = Literal[1, 2, 4, 8]
Protect = Literal["auto", "text", "faces", "none"]

LatentForm = Literal["sdl", "npz", "npz-grid", "latent", "latent-fp16"]

TUNES: tuple[Tune, ...] = get_args(Tune)
PROTECTS: tuple[Protect, ...] = get_args(Protect)
LATENT_FORMS: tuple[LatentForm, ...] = get_args(LatentForm)
"""File forms of latents, see ``sdrt.latent_cache``: .sdl, kohya's caches, ComfyUI's."""
MAX_EFFORT = 9
MAX_BPP = 1000
NEAR_LOSSLESS = 0.03
"""The ``latent_error`` of a cache for training: with the default pack the decoded picture changes by less than .1 dB,
as ``python -m bench.latents`` measures it."""
MAX_WEIGHT = 3

Note = Callable[[str], None]
"""Called with a line about each thing that reading a picture dropped or converted."""


@dataclass(frozen=True)
class Region:
    """A part of a picture that gets more of the bytes, or fewer.

    Args:
        x: Left edge in pixels of the upright picture, at least 0.
        y: Upper edge.
        width: In pixels, at least 1. The region is extended to the cells of 64x64 pixels that it touches.
        height: The same.
        weight: The quantizer's step is divided by it, 1/3 to 3, rounded to quarters of an octave: above 1 is finer than
            the rest, below 1 coarser. Where regions overlap, the finest counts.

    Raises:
        ArgumentError: A value of the wrong type or out of range.
    """

    x: int
    y: int
    width: int
    height: int
    weight: float = 2

    def __post_init__(self) -> None:
        for name, minimum in (("x", 0), ("y", 0), ("width", 1), ("height", 1)):
            check_integer(f"{name} of a region", getattr(self, name), minimum)
        if self.weight is None:
            raise ArgumentError("weight of a region is None, it must be a number")
        check_range("weight of a region", self.weight, 1 / MAX_WEIGHT, MAX_WEIGHT)


class EncodeKeywords(TypedDict, total=False):
    """The fields of ``EncodeOptions`` as keywords of a call, each optional."""

    quality: float | None
    target_bytes: int | None
    target_bpp: float | None
    latent_error: float | None
    keep_metadata: bool
    exact_alpha: bool
    tune: Tune
    resampling: Resampling | None
    protect: Protect
    effort: int
    regions: Sequence[Region]
    truth: bool


class CodecKeywords(TypedDict, total=False):
    """The arguments of ``Codec`` as keywords of a call, each optional."""

    model: str | PathLike[str] | None
    device: Device
    precision: Precision | None
    threads: int | None
    max_pixels: int | None
    tile_px: int | None


class EncodeCall(CodecKeywords, EncodeKeywords, total=False):
    """Both: the keywords of a call that makes a codec and encodes with it."""


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """How a picture is encoded. Give at most one of the first four, which set the rate.

    Args:
        quality: 0 to 100; None: the pack's default.
        target_bytes: The largest size of the whole file in bytes, at least 1. It is never exceeded. The file is more
            than 2 % smaller only if quality 100 needs no more, or the picture has few pixels.
        target_bpp: The same in bits per pixel, 0 to 1000.
        latent_error: The largest RMS error of the quantized latents, relative to the RMS of the normalized latents,
            .001 to 1. The coarsest step that keeps it is used, with plain rounding: for caches of latents, not for
            small files.
        keep_metadata: Keep the picture's metadata, see ``Metadata``; they count towards a target.
        exact_alpha: Keep all of alpha exactly. Otherwise 0 and 255 are exact, and 1 to 254 within 8 levels.
        tune: "eyes": perceptual quality, with finer steps where the picture is smooth. "psnr": fewer bits at equal
            squared error, less sharp.
        resampling: Encode the picture at 1/2, 1/4 or 1/8 of its sides (2, 4, 8); decoding enlarges it again. 1: never.
            None: only if a target cannot be reached at quality 0.
        protect: "text": type, line art and screens that the network gets wrong are coded by a classical codec, as
            patches of the picture, if that is worth their bytes. "faces": faces get more of the bytes; needs OpenCV
            (``sdrt[faces]``). "auto": text; with a pack that has ``quality_input`` also faces, if OpenCV is installed,
            and the few places where structure would come out wrong. "none": no protection.
        effort: 0 to 9. Above 0 the latents are refined for this one picture by gradient descent through the decoder:
            better pictures at the same size, for seconds to minutes of encoding; decoding is not slower. Beside patches
            latents are not refined.
        regions: Parts of the picture that get more of the bytes, or fewer; at a target size the rest pays for it.
        truth: Store in the file how far each 32x32 cell of the decoded picture is from the original, see ``truth_map``.
            The encoder decodes once or twice for it.

    Raises:
        ArgumentError: A value of the wrong type or out of range, or more than one rate.
    """

    quality: float | None = None
    target_bytes: int | None = None
    target_bpp: float | None = None
    latent_error: float | None = None
    keep_metadata: bool = False
    exact_alpha: bool = False
    tune: Tune = "eyes"
    resampling: Resampling | None = None
    protect: Protect = "auto"
    effort: int = 0
    regions: Sequence[Region] = ()
    truth: bool = False

    def __post_init__(self) -> None:
        rates = (self.quality, self.target_bytes, self.target_bpp, self.latent_error)
        if sum(rate is not None for rate in rates) > 1:
            raise ArgumentError("give only one of quality, target_bytes, target_bpp and latent_error")
        check_range("quality", self.quality, 0, 100)
        check_count("target_bytes", self.target_bytes)
        check_range("target_bpp", self.target_bpp, 0, MAX_BPP)
        check_range("latent_error", self.latent_error, 0.001, 1)
        for name in ("keep_metadata", "exact_alpha", "truth"):
            if not isinstance(getattr(self, name), bool):
                raise ArgumentError(f"{name} is {getattr(self, name)!r}, it must be True or False")
        if self.tune not in TUNES:
            raise ArgumentError(f"tune is {self.tune!r}, it must be one of {', '.join(TUNES)}")
        if self.protect not in PROTECTS:
            raise ArgumentError(f"protect is {self.protect!r}, it must be one of {', '.join(PROTECTS)}")
        if not isinstance(self.regions, Sequence) or not all(isinstance(region, Region) for region in self.regions):
            raise ArgumentError(f"regions is {self.regions!r}, it must be a sequence of Region")
        check_count("resampling", self.resampling)
        if self.resampling not in (None, *RESAMPLINGS):
            raise ArgumentError(f"resampling is {self.resampling!r}, it must be one of {RESAMPLINGS}")
        check_integer("effort", self.effort, 0)
        check_range("effort", self.effort, 0, MAX_EFFORT)
        if self.effort and self.latent_error is not None:
            raise ArgumentError("latent_error keeps latents as they are, effort changes them: give one of the two")


def updated(options: EncodeOptions | None, **keywords: Unpack[EncodeKeywords]) -> EncodeOptions:
    """``options`` (None: the defaults) with the given fields replaced. Raises as ``EncodeOptions`` does."""
    return replace(options or EncodeOptions(), **keywords)
