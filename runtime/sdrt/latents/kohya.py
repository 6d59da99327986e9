"""The latent caches of kohya's sd-scripts: .npz files with one picture's latents, raw, and its conditions.

The fields are those of ``LatentsCachingStrategy.save_latents_to_disk`` in ``library/strategy_base.py`` of
github.com/kohya-ss/sd-scripts (read 2026-11): ``latents`` and ``latents_flipped`` float32 (C, h, w), ``original_size``
int (2,) width and height, ``crop_ltrb`` int (4,), ``alpha_mask`` float32 (H, W) from 0 to 1. SD and SDXL use these
names as they are; SD 3, Flux and Lumina put the grid behind them, as in ``latents_64x48`` (h x w), and one file may
hold several.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sdrt.container.npz import read_arrays
from sdrt.errors import CorruptError
from sdrt.latents.sample import LatentSample
from sdrt.latents.units import Latents

MAX_BYTES = 1 << 30
"""Of the arrays of one file."""
_DTYPES = ("<f4", "<f2", "<f8", "<i8", "<i4", "|b1", "|u1")
_SUFFIX = re.compile(r"latents(_\d{1,6}x\d{1,6})?")

Arrays = Mapping[str, NDArray[np.generic]]


def read_npz(data: bytes, key: str) -> list[LatentSample]:
    """The samples of a file, one for each grid; those of suffixed fields have the suffix behind ``key``.

    Raises CorruptError: no such file, no latents in it, or fields of other shapes.
    """
    try:
        arrays = read_arrays(data, max_bytes=MAX_BYTES, dtypes=_DTYPES, max_dimensions=4)
        found = [match[1] or "" for name in arrays if (match := _SUFFIX.fullmatch(name))]
        if not found:
            raise ValueError(f"it has no array latents, only {', '.join(arrays) or 'none'}"[:200])
        return [_sample(arrays, suffix, key + suffix) for suffix in found]
    except ValueError as error:
        raise CorruptError(f"{key}: not a latent cache: {error}") from None


def write_npz(sample: LatentSample, size_px: tuple[int, int], *, with_grid: bool = False) -> bytes:
    """A file as sd-scripts writes it, uncompressed.

    Args:
        sample: What is not known of it is said as of a picture that was neither resized nor cropped.
        size_px: Width and height of the picture.
        with_grid: The fields have the grid behind their names.
    """
    height, width = sample.latents.shape[1:]
    suffix = f"_{height}x{width}" if with_grid else ""
    fields: dict[str, NDArray[np.generic]] = {
        "latents": sample.latents,
        "original_size": np.array(sample.original_size or size_px, "<i8"),
        "crop_ltrb": np.array(sample.crop_ltrb or (0, 0, *size_px), "<i8"),
    }
    if sample.flipped is not None:
        fields["latents_flipped"] = sample.flipped
    if sample.alpha is not None:
        fields["alpha_mask"] = sample.alpha / np.float32(255)
    stream = io.BytesIO()
    # Without allow_pickle, which numpy 1 takes for an array of that name; no array here holds objects.
    np.savez(stream, **{name + suffix: array for name, array in fields.items()})  # type: ignore[arg-type]
    return stream.getvalue()


def _sample(arrays: Arrays, suffix: str, key: str) -> LatentSample:
    """Raises ValueError."""

    def optional(name: str) -> NDArray[np.generic] | None:
        return arrays.get(name + suffix)

    latents = _latents(arrays["latents" + suffix])
    flipped = optional("latents_flipped")
    turned = None if flipped is None else _latents(flipped)
    if turned is not None and turned.shape != latents.shape:
        raise ValueError(f"latents have the shape {latents.shape}, latents_flipped {turned.shape}")
    size = _integers("original_size", optional("original_size"), 2)
    crop = _integers("crop_ltrb", optional("crop_ltrb"), 4)
    return LatentSample(
        key=key,
        latents=latents,
        flipped=turned,
        alpha=_alpha(optional("alpha_mask")),
        original_size=None if size is None else (size[0], size[1]),
        crop_ltrb=None if crop is None else (crop[0], crop[1], crop[2], crop[3]),
    )


def _latents(array: NDArray[np.generic]) -> Latents:
    """float32 (C, h, w). Raises ValueError."""
    found = array[0] if array.ndim == 4 and len(array) == 1 else array
    if found.ndim != 3 or 0 in found.shape:
        raise ValueError(f"latents have the shape {array.shape}, not (channels, rows, columns)")
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(found, np.float32)


def _integers(name: str, array: NDArray[np.generic] | None, count: int) -> list[int] | None:
    if array is None:
        return None
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise ValueError(f"{name} is {array.dtype} {array.shape}, not {count} integers")
    return [int(number) for number in array]


def _alpha(array: NDArray[np.generic] | None) -> NDArray[np.uint8] | None:
    """A mask from 0 to 1 as uint8. Raises ValueError."""
    if array is None:
        return None
    mask = np.asarray(array, np.float32)
    if mask.ndim != 2 or 0 in mask.shape or not (mask.min() >= 0 and mask.max() <= 1):
        raise ValueError(f"alpha_mask is {mask.shape}, not (height, width) from 0 to 1")
    return np.asarray(np.rint(mask * 255), np.uint8)
