"""Pillow's pixel modes, ICC profiles and other encodings of color -> 8-bit sRGB and an alpha plane, strip by strip so
that a large picture is never held twice."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from sdrt.pixels.colorimetry import Encoding, gray_to_srgb, to_srgb
from sdrt.pixels.picture import Pixels

STRIP_PX = 2**22
_SAME_AS_SRGB_LEVELS = 2
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_KEYED_MODES = ("1", "L", "RGB", "I", *_SIXTEEN_BIT)
_LEVELS_OF_RAW_MODE = {"L;2": 3, "L;4": 15, "I;12": 4095}


@dataclass(frozen=True)
class Conversion:
    """How one image becomes sRGB. ``strips`` yields (first row, rgb uint8 (h, W, 3), alpha uint8 (h, W) or None) from
    top to bottom; ``has_alpha``: whether alpha is not None. ``notes``: what was approximated."""

    has_alpha: bool
    strips: Callable[[], Iterator[tuple[int, Pixels, Pixels | None]]]
    notes: tuple[str, ...]


def plan_conversion(image: Image.Image, raw_mode: str, icc: object, encoding: Encoding | None) -> Conversion:
    """Chooses the conversion of a loaded image to sRGB.

    Args:
        image: The image.
        raw_mode: Pillow's name for the layout in the file ("L;4", "RGB;16B"), "" where unknown: some transparent colors
            are stated in the file's own units.
        icc: The ICC profile; it counts where ``encoding`` is None. Without either the colors are sRGB.
        encoding: The color encoding.

    Raises whatever Pillow raises.
    """
    notes: list[str] = []
    key = _color_key(image, raw_mode)
    has_alpha = key is not None or (image.mode not in _KEYED_MODES and image.has_transparency_data)
    to_levels = _levels(image, raw_mode, notes)
    transform = None
    if encoding is not None and not encoding.hdr and image.mode in _SIXTEEN_BIT:
        to_levels = partial(_gray_levels, encoding, _white(raw_mode))  # while all of their bits are there
    elif encoding is not None:
        transform = _from_encoding(image, encoding, notes)
    elif isinstance(icc, bytes) and icc:
        transform = _from_profile(image, icc, notes)
    elif "icc_profile" in image.info and image.format in ("JPEG", "MPO"):
        notes.append("parts of the color profile are missing: treated as sRGB")

    def convert(part: Image.Image) -> tuple[Pixels, Pixels | None]:
        alpha: Pixels | None = None
        if key is not None:
            alpha = _keyed_alpha(part, key)
        elif has_alpha:
            part = part.convert("LA" if part.mode in ("LA", "La") else "RGBA")
            alpha = np.asarray(part.getchannel("A"))
        part.info = {}
        if to_levels is not None:
            part = Image.fromarray(to_levels(np.asarray(part)))
        elif part.mode in ("1", "LA"):
            part = part.convert("L")
        elif part.mode not in ("L", "CMYK"):
            part = part.convert("RGB")
        if transform is not None:
            part = transform(part)
        return np.asarray(part if part.mode == "RGB" else part.convert("RGB")), alpha

    def strips() -> Iterator[tuple[int, Pixels, Pixels | None]]:
        rows = max(1, STRIP_PX // image.width)
        for top in range(0, image.height, rows):
            part = image.crop((0, top, image.width, min(top + rows, image.height)))
            yield (top, *convert(part))

    return Conversion(has_alpha, strips, tuple(notes))


def _color_key(image: Image.Image, raw_mode: str) -> tuple[int, ...] | None:
    """The one transparent color of an image without palette or alpha, in the units of its pixels in memory."""
    key = image.info.get("transparency")
    if image.mode not in _KEYED_MODES or key is None:
        return None
    values = key if isinstance(key, tuple) else (key,)
    if len(values) != (3 if image.mode == "RGB" else 1) or not all(isinstance(value, int) for value in values):
        return None
    if image.mode == "RGB" and ("16" in raw_mode or max(values) > 255):
        # Pillow keeps the upper byte of 16-bit RGB, but the whole of the transparent color.
        return tuple(value >> 8 for value in values)
    if image.mode == "L" and raw_mode in _LEVELS_OF_RAW_MODE:
        return tuple(value * 255 // _LEVELS_OF_RAW_MODE[raw_mode] for value in values)
    return tuple(values)


def _keyed_alpha(part: Image.Image, key: tuple[int, ...]) -> Pixels:
    if part.mode == "1":
        part = part.convert("L")
    pixels = np.asarray(part).reshape(part.height, part.width, -1)
    transparent = (pixels == np.asarray(key)).all(axis=2)
    return np.where(transparent, 0, 255).astype(np.uint8)


def _levels(image: Image.Image, raw_mode: str, notes: list[str]) -> Callable[[npt.NDArray[np.generic]], Pixels] | None:
    """The mapping of samples of more than 8 bits to 0..255; None where Pillow has 8 bits already.

    16 bits: the full range. 32-bit integers: as 16 bits where they fit. Floats: 0..1 or 0..255 where they fit. What
    does not fit is stretched from its smallest to its largest value, with a note.
    """
    if image.mode in _SIXTEEN_BIT:
        return lambda values: _scaled(values, 0.0, _white(raw_mode))
    if image.mode not in ("I", "F"):
        return None
    low, high = _finite_range(image, notes)
    if image.mode == "I" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    elif image.mode == "F" and low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    else:
        notes.append(f"values from {low:g} to {high:g} were stretched to the range from black to white")
    return lambda values: _scaled(values, low, high)


def _white(raw_mode: str) -> float:
    """The largest value of an image of up to 16 bits."""
    return float(_LEVELS_OF_RAW_MODE.get(raw_mode, 65535))


def _gray_levels(encoding: Encoding, white: float, values: npt.NDArray[np.generic]) -> Pixels:
    return gray_to_srgb(encoding, values.astype(np.float64) / white)


def _finite_range(image: Image.Image, notes: list[str]) -> tuple[float, float]:
    values = np.asarray(image)
    if image.mode == "F" and not np.isfinite(values).all():
        notes.append("values that are not numbers became black")
        values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)


def _scaled(values: npt.NDArray[np.generic], low: float, high: float) -> Pixels:
    """``values`` with low..high mapped to 0..255, rounded and clipped; NaN becomes 0."""
    numbers = np.nan_to_num(values.astype(np.float64), copy=False, nan=low, posinf=low, neginf=low)
    numbers -= low
    numbers *= 255.0 / (high - low or 1.0)
    return np.clip(np.rint(numbers, out=numbers), 0, 255, out=numbers).astype(np.uint8)


def _from_profile(image: Image.Image, icc: bytes, notes: list[str]) -> Callable[[Image.Image], Image.Image] | None:
    """The conversion from an ICC profile to sRGB; None where the profile is invalid, is sRGB or is of Lab pixels."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        space = profile.profile.xcolor_space.strip()
        if image.mode == "LAB" and space == "Lab":
            return None  # the pixels are colors already, whatever the device
        gray = image.mode in ("1", "L", "LA", "La", "I", "F", *_SIXTEEN_BIT)
        mode = "CMYK" if image.mode == "CMYK" else "L" if gray and space == "GRAY" else "RGB"
        if space != {"CMYK": "CMYK", "L": "GRAY", "RGB": "RGB"}[mode]:
            notes.append(f"the color profile is for {space}, the pixels are {image.mode}: treated as sRGB")
            return None
        transform = ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if mode != "CMYK" and _changes_little(transform, mode):
            return None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        notes.append("the color profile cannot be used: treated as sRGB")
        return None

    def apply(part: Image.Image) -> Image.Image:
        converted = transform.apply(part if part.mode == mode else part.convert(mode))
        assert isinstance(converted, Image.Image)
        return converted

    return apply


def _from_encoding(
    image: Image.Image, encoding: Encoding, notes: list[str]
) -> Callable[[Image.Image], Image.Image] | None:
    """The conversion from an ``Encoding`` to sRGB; None where it is sRGB or invalid."""
    if image.mode == "CMYK":
        return None
    try:
        convert = to_srgb(encoding, _peak(image) if encoding.hdr else 255)
    except ValueError as error:
        notes.append(f"its color description is invalid ({error}): treated as sRGB")
        return None
    if encoding.hdr:
        notes.append(f"an HDR picture ({encoding.hdr}): its highlights were tone-mapped to sRGB")
    if convert is None:
        return None
    return lambda part: Image.fromarray(convert(np.asarray(part if part.mode == "RGB" else part.convert("RGB"))))


def _peak(image: Image.Image) -> int:
    """The largest value of any color in an RGB image; 255 for other modes."""
    if image.mode not in ("RGB", "RGBA"):
        return 255
    histogram = np.asarray(image.histogram()[: 3 * 256]).reshape(3, 256).sum(axis=0)
    return int(histogram.nonzero()[0].max())


def _changes_little(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a profile converts like sRGB, by trying it: its name is unreliable, and a needless conversion loses 1-2
    levels."""
    axis = np.arange(0, 256, 15, dtype=np.uint8)
    colors = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(len(axis), -1, 3)
    if mode == "L":
        colors = colors[:, :1, :1].repeat(3, axis=2)
    given = Image.fromarray(colors if mode == "RGB" else colors[:, :, 0].copy())
    there, here = (np.asarray(pixels, np.int16) for pixels in (transform.apply(given), colors))
    return bool(np.abs(there - here).max() <= _SAME_AS_SRGB_LEVELS)
