"""What an .sdl file says about itself, read without numpy, without the coder and without an inference engine.

The module is not called ``info``: once imported, it would stand in ``sdrt`` where the function ``sdrt.info`` should.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike

from sdrt.container import sdl
from sdrt.container.source import read_source
from sdrt.errors import ModelError
from sdrt.limits import DEFAULT_MAX_PIXELS
from sdrt.network.devices import precisions_by_device
from sdrt.packs import search


@dataclass(frozen=True)
class Info:
    """One .sdl file. ``model`` and ``quality`` are None when no pack here has the file's space and prior."""

    width_px: int
    height_px: int
    file_bytes: int
    payload_bytes: int
    bits_per_pixel: float
    """Of the whole file."""
    step_index: int
    resampling: int
    """The picture is coded at this fraction of its sides: 1, 2, 4 or 8."""
    quality: float | None
    """0..100 on the scale of the model; below 0 for a file that a small target size made coarser than quality 0."""
    model: str | None
    space_identity: str
    """Eight hexadecimal digits."""
    prior_identity: str
    """Eight hexadecimal digits."""
    precisions: dict[str, str]
    """Device -> the precision of the graph that paints there unless another is asked for; empty without a model."""
    alpha: bool
    chunks: dict[str, int]
    """Kind of each optional chunk -> its number of data bytes."""


def info(
    source: bytes | bytearray | memoryview | str | PathLike[str], *, max_pixels: int | None = DEFAULT_MAX_PIXELS
) -> Info:
    """Read the header of an .sdl file and find the pack that it names. Raises as ``sdl.unpack`` does."""
    data = read_source(source)
    file = sdl.unpack(data, max_pixels=max_pixels)
    try:
        pack = search.find_pack(file.space_identity, file.prior_identity)
    except ModelError:
        pack = None
    return Info(
        width_px=file.width_px,
        height_px=file.height_px,
        file_bytes=len(data),
        payload_bytes=len(file.payload),
        bits_per_pixel=8 * len(data) / (file.width_px * file.height_px),
        step_index=file.step_index,
        resampling=file.resampling,
        quality=None if pack is None else quality_of(file.step_index, pack.quality_range),
        model=None if pack is None else pack.name,
        space_identity=file.space_identity.hex(),
        prior_identity=file.prior_identity.hex(),
        precisions={} if pack is None else precisions_by_device(pack.precisions),
        alpha=file.chunk(sdl.ALPHA) is not None,
        chunks={chunk.kind.decode("ascii"): len(chunk.data) for chunk in file.chunks},
    )


def quality_of(step_index: int, quality_range: tuple[int, int]) -> float | None:
    """The quality that asks for ``step_index``; None where a pack knows one quality only."""
    coarse, fine = quality_range
    return None if coarse == fine else round(100 * (coarse - step_index) / (coarse - fine), 2)
