"""What an .sdl file states, read with the standard library alone.

The module is not called ``info``: once imported, it would stand in ``sdrt`` where the function ``sdrt.info`` should.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdrt.container import sdl
from sdrt.container.source import SdlSource, read_source
from sdrt.errors import ModelError
from sdrt.limits import DEFAULT_MAX_PIXELS, MAX_STEP_INDEX
from sdrt.network.devices import precisions_by_device
from sdrt.packs import search
from sdrt.packs.manifest import ModelPack


@dataclass(frozen=True)
class Info:
    """What one .sdl file states.

    Attributes:
        width_px: Of the picture itself.
        height_px: The same.
        file_bytes: Size of the whole file.
        payload_bytes: Size of its entropy-coded part.
        bits_per_pixel: Of the whole file.
        step_index: The quantizer's step, 0 to 1023; larger is coarser.
        resampling: The picture is coded at this fraction of its sides: 1, 2, 4 or 8.
        quality: 0 to 100 on the scale of ``model``; below 0 where a small target made the file coarser than quality 0;
            None where ``model`` is None or has one quality only, or writes with another prior by now, and where patches
            hold the whole picture.
        model: Name of the pack with the file's latent space and prior; None where there is none here.
        space_identity: Eight hexadecimal digits.
        prior_identity: Eight hexadecimal digits.
        precisions: Device -> precision of the graph that decodes there by default; empty without a model.
        alpha: Whether the picture has transparency.
        chunks: Kind of each optional chunk -> its number of data bytes.
    """

    width_px: int
    height_px: int
    file_bytes: int
    payload_bytes: int
    bits_per_pixel: float
    step_index: int
    resampling: int
    quality: float | None
    model: str | None
    space_identity: str
    prior_identity: str
    precisions: dict[str, str]
    alpha: bool
    chunks: dict[str, int]


def info(source: SdlSource, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Info:
    """Read the header of an .sdl file, and find the pack that it names. Needs no inference engine.

    Args:
        source: The bytes of the file, its path, or a binary stream.
        max_pixels: Larger pictures are refused; None: no limit.

    Raises:
        NotSdlError, UnsupportedError, CorruptError, LimitError: As ``container.sdl.unpack`` says.
        MissingFileError, ImageError, ArgumentError: ``source`` cannot be read.
    """
    data = read_source(source)
    file = sdl.unpack(data, max_pixels=max_pixels)
    try:
        pack = search.find_pack(file.space_identity, file.prior_identity)
    except ModelError:
        pack = None
    return describe(file, len(data), pack)


def describe(file: sdl.SdlFile, file_bytes: int, pack: ModelPack | None) -> Info:
    """The information on ``file``. ``pack``: the one with its latent space and prior, if there is one."""
    return Info(
        width_px=file.width_px,
        height_px=file.height_px,
        file_bytes=file_bytes,
        payload_bytes=len(file.payload),
        bits_per_pixel=8 * file_bytes / (file.width_px * file.height_px),
        step_index=file.step_index,
        resampling=file.resampling,
        quality=None if pack is None else _quality_of(file, pack),
        model=None if pack is None else pack.name,
        space_identity=file.space_identity.hex(),
        prior_identity=file.prior_identity.hex(),
        precisions={} if pack is None else precisions_by_device(pack.precisions),
        alpha=file.chunk(sdl.ALPHA) is not None,
        chunks={chunk.kind.decode("ascii"): len(chunk.data) for chunk in file.chunks},
    )


def _quality_of(file: sdl.SdlFile, pack: ModelPack) -> float | None:
    """The quality setting that gives the file's step; None for packs of one quality, and for files of an older prior,
    whose steps differ, and for those whose patches leave nothing to paint."""
    coarse, fine = pack.quality_range
    if coarse == fine or next(iter(pack.priors)) != file.prior_identity:
        return None
    if file.step_index == MAX_STEP_INDEX and file.chunk(sdl.PATCHES) is not None:
        return None
    return round(100 * (coarse - file.step_index) / (coarse - fine), 2)
