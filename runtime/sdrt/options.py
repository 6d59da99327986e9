"""What a caller may ask of the encoder and of a codec: names, types and ranges, checked in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

from sdrt.arguments import check_count, check_range
from sdrt.container.sdl import RESAMPLINGS
from sdrt.errors import ArgumentError
from sdrt.network.devices import Device, Precision

if TYPE_CHECKING:
    from typing_extensions import Unpack

Tune = Literal["eyes", "psnr"]
Resampling = Literal[1, 2, 4, 8]
Protect = Literal["auto", "text", "none"]

LatentForm = Literal["sdl", "npz", "npz-grid", "latent", "latent-fp16"]

TUNES: tuple[Tune, ...] = get_args(Tune)
PROTECTS: tuple[Protect, ...] = get_args(Protect)
LATENT_FORMS: tuple[LatentForm, ...] = get_args(LatentForm)
"""What latents are written as, see ``sdrt.latent_cache``: our own files, kohya's caches, ComfyUI's."""
MAX_EFFORT = 9
MAX_BPP = 1000
NEAR_LOSSLESS = 0.03
"""The ``latent_error`` of a cache for training: with the default pack the decoded picture changes by less than .1 dB,
as ``python -m bench.latents`` measures it."""

Note = Callable[[str], None]
"""Called with a line for a person about each thing that reading a picture left out or changed."""


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
    """How a picture becomes a file. Give at most one of the four rates, which come first.

    Args:
        quality: 0 to 100; None: the pack's default.
        target_bytes: The largest size of the whole file, at least 1. It is never exceeded, and the file stays more
            than 2 % below it only where quality 100 needs no more or the picture has few pixels.
        target_bpp: The same in bits of the whole file for each pixel, 0 to 1000.
        latent_error: The largest root mean square error that quantizing leaves in the latents, in units of their own
            root mean square in the normalized space, .001 to 1. The coarsest step that keeps it is taken, and every
            number is rounded to the nearest: a cache of latents, not a small file.
        keep_metadata: Keep EXIF and XMP; they count towards a target.
        exact_alpha: Keep all of alpha exactly. Otherwise 0 and 255 are exact, and 1 to 254 within 8 levels.
        tune: "eyes", tuned for perceptual quality, or "psnr": fewer bits at equal squared error, less sharp.
        resampling: Encode the picture at a half, a quarter or an eighth of its sides (2, 4, 8); decoding enlarges it
            again. 1: never. None: only where a target needs less than quality 0.
        protect: "text": type, line art and screens that would be painted wrong are kept by a classical codec, as
            patches of the picture, where that is worth their bytes. "auto": all that can be protected, which today is
            the same. "none": everything is painted.
        effort: 0 to 9. Above 0 the latents are refined for this one picture by gradient descent through the decoder:
            better pictures at the same size, for seconds to minutes more; decoding takes what it took. Beside patches
            latents are not refined.

    Raises:
        ArgumentError: A value of the wrong type or out of range, or more than one of the three rates.
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

    def __post_init__(self) -> None:
        rates = (self.quality, self.target_bytes, self.target_bpp, self.latent_error)
        if sum(rate is not None for rate in rates) > 1:
            raise ArgumentError("give one of quality, target_bytes, target_bpp and latent_error, not several")
        check_range("quality", self.quality, 0, 100)
        check_count("target_bytes", self.target_bytes)
        check_range("target_bpp", self.target_bpp, 0, MAX_BPP)
        check_range("latent_error", self.latent_error, 0.001, 1)
        for name in ("keep_metadata", "exact_alpha"):
            if not isinstance(getattr(self, name), bool):
                raise ArgumentError(f"{name} is {getattr(self, name)!r}, it must be True or False")
        if self.tune not in TUNES:
            raise ArgumentError(f"tune is {self.tune!r}, it must be one of {', '.join(TUNES)}")
        if self.protect not in PROTECTS:
            raise ArgumentError(f"protect is {self.protect!r}, it must be one of {', '.join(PROTECTS)}")
        if self.resampling not in (None, *RESAMPLINGS):
            raise ArgumentError(f"resampling is {self.resampling!r}, it must be one of {RESAMPLINGS}")
        if not isinstance(self.effort, int) or isinstance(self.effort, bool) or not 0 <= self.effort <= MAX_EFFORT:
            raise ArgumentError(f"effort is {self.effort!r}, it must be an integer from 0 to {MAX_EFFORT}")
        if self.effort and self.latent_error is not None:
            raise ArgumentError("latent_error keeps latents as they are, effort changes them: give one of the two")


def updated(options: EncodeOptions | None, **keywords: Unpack[EncodeKeywords]) -> EncodeOptions:
    """``options`` (None: the defaults) with the given fields replaced. Raises as ``EncodeOptions`` does."""
    return replace(options or EncodeOptions(), **keywords)
