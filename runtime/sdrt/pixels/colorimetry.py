"""Colors given by primaries and a transfer function, without an ICC profile -> 8-bit sRGB.

What is brighter than the white of an sRGB screen (PQ, HLG) is tone-mapped; everything else is converted as its standard
has it, and what lies outside sRGB's triangle is clipped.
Sources: ITU-T H.273 (the code points of cICP and nclx), ITU-R BT.2100 (PQ, HLG), BT.2390-11 section 5.4 (tone mapping),
BT.2408 (203 cd/m2 for white), IEC 61966-2-1 (sRGB), PNG 3 (gAMA, cHRM).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from sdrt.pixels.picture import Pixels

Floats = npt.NDArray[np.floating]
Chromaticities = tuple[float, float, float, float, float, float, float, float]
"""CIE x and y of white, red, green and blue, as PNG's cHRM orders them."""

_D65 = (0.3127, 0.3290)
SRGB_PRIMARIES: Chromaticities = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

_WHITE_NITS = 203.0
"""Diffuse white of HDR in cd/m2; it is mapped to sRGB's white."""
_HLG_PEAK_NITS = 1000.0
_HLG_GAMMA = 1.2
_PQ_M1, _PQ_M2 = 1305 / 8192, 2523 / 32
_PQ_C1, _PQ_C2, _PQ_C3 = 107 / 128, 2413 / 128, 2392 / 128

_BAND_PX = 2**18
_SAME_AS_SRGB_LEVELS = 2


def _srgb_light(signal: Floats) -> Floats:
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


def _srgb_signal(light: Floats) -> Floats:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _bt709_light(signal: Floats) -> Floats:
    return np.where(signal < 0.0812428583, signal / 4.5, ((signal + 0.0992968268) / 1.0992968268) ** (1 / 0.45))


def _smpte240_light(signal: Floats) -> Floats:
    return np.where(signal < 0.0912863421, signal / 4.0, ((signal + 0.1115721959) / 1.1115721959) ** (1 / 0.45))


def _pq_light(signal: Floats) -> Floats:
    """PQ's signal 0..1 -> cd/m2."""
    root = signal ** (1 / _PQ_M2)
    return np.asarray(10000 * (np.maximum(root - _PQ_C1, 0) / (_PQ_C2 - _PQ_C3 * root)) ** (1 / _PQ_M1))


def _pq_signal(nits: Floats) -> Floats:
    """cd/m2 -> PQ's signal 0..1."""
    root = (nits / 10000) ** _PQ_M1
    return ((_PQ_C1 + _PQ_C2 * root) / (1 + _PQ_C3 * root)) ** _PQ_M2


def _hlg_light(signal: Floats) -> Floats:
    """HLG's signal 0..1 -> light of the scene 0..1."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def _logarithmic(decades: float) -> Callable[[Floats], Floats]:
    return lambda signal: np.where(signal > 0, 10 ** (decades * (signal - 1)), 0)


@dataclass(frozen=True)
class Encoding:
    """What R, G and B from 0 to 1 mean. ``light`` maps a signal 0..1 to linear light: 0..1; for ``hdr`` "PQ" cd/m2, for
    "HLG" the light of the scene. ``narrow``: 16..235 of 255 are the ends of the signal."""

    primaries: Chromaticities = SRGB_PRIMARIES
    light: Callable[[Floats], Floats] = _srgb_light
    hdr: str = ""
    narrow: bool = False


def power(exponent: float) -> Callable[[Floats], Floats]:
    """The transfer function ``signal ** exponent``."""
    return lambda signal: signal**exponent


def from_cicp(primaries: int, transfer: int, *, narrow: bool = False) -> Encoding | None:
    """The encoding of H.273's ColourPrimaries and TransferCharacteristics; 2 (unspecified) stands for sRGB's.

    None for code points that the standard reserves. BT.709's and BT.601's curve with their own primaries are read as
    sRGB's curve: every viewer shows them so, and most files that say so were sRGB.
    """
    if primaries not in _PRIMARIES or transfer not in _TRANSFERS:
        return None
    light = _TRANSFERS[transfer]
    if light is _bt709_light and primaries in _VIDEO_PRIMARIES:
        light = _srgb_light
    return Encoding(_PRIMARIES[primaries], light, _HDR.get(transfer, ""), narrow)


def from_gamma(gamma: float | None, corners: Sequence[float] | None) -> Encoding | None:
    """The encoding of PNG's gAMA (the exponent of coding, above 0) and cHRM (as ``Chromaticities``); None without both.

    The one that is missing is sRGB's.
    """
    if gamma is None and corners is None:
        return None
    wx, wy, rx, ry, gx, gy, bx, by = corners or SRGB_PRIMARIES
    return Encoding((wx, wy, rx, ry, gx, gy, bx, by), _srgb_light if gamma is None else power(1 / gamma))


def to_srgb(encoding: Encoding, peak: int = 255) -> Callable[[Pixels], Pixels] | None:
    """A function that converts such pixels to sRGB, uint8 (..., 3); None where no level would change by more than 2.

    ``peak``: the largest value 0..255 in the picture; HDR is tone-mapped no more than it needs.

    Raises ValueError for primaries that span no triangle around their white.
    """
    table = _light(encoding, np.arange(256) / 255).astype(np.float32)
    matrix = _to_linear_srgb(encoding.primaries).T.astype(np.float32)
    tone = _tone_mapping(encoding, float(table[peak]))

    def convert(pixels: Pixels) -> Pixels:
        flat = pixels.reshape(-1, 3)
        converted = np.empty_like(flat)
        for first in range(0, len(flat), _BAND_PX):
            light = table[flat[first : first + _BAND_PX]]
            if tone is not None:
                light = tone(light)
            light = np.clip(light @ matrix, 0, 1)
            converted[first : first + _BAND_PX] = _srgb_levels()[np.rint(light * 65535).astype(np.uint16)]
        return converted.reshape(pixels.shape)

    axis = np.arange(0, 256, 15, dtype=np.uint8)
    colors = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    changes = np.abs(convert(colors).astype(np.int16) - colors)
    return convert if changes.max() > _SAME_AS_SRGB_LEVELS else None


def gray_to_srgb(encoding: Encoding, signal: Floats) -> Pixels:
    """The sRGB levels of gray signals 0..1, of any shape. Not for HDR."""
    levels: Pixels = np.rint(255 * _srgb_signal(np.clip(_light(encoding, signal), 0, 1))).astype(np.uint8)
    return levels


def _light(encoding: Encoding, signal: Floats) -> Floats:
    return encoding.light(np.clip((255 * signal - 16) / 219, 0, 1) if encoding.narrow else signal)


@cache
def _srgb_levels() -> Pixels:
    """The sRGB level 0..255 for linear light in 1/65535: within 1/40 of a level of the exact one."""
    levels: Pixels = np.rint(255 * _srgb_signal(np.arange(65536) / 65535)).astype(np.uint8)
    return levels


def _to_linear_srgb(primaries: Chromaticities) -> npt.NDArray[np.float64]:
    """Linear RGB of these primaries -> linear sRGB, white to white (Bradford's adaptation). Raises ValueError."""
    cone = _BRADFORD @ _white(primaries)
    adapted = np.linalg.inv(_BRADFORD) @ np.diag(_BRADFORD @ _white(SRGB_PRIMARIES) / cone) @ _BRADFORD
    matrix: npt.NDArray[np.float64] = np.linalg.inv(_to_xyz(SRGB_PRIMARIES)) @ adapted @ _to_xyz(primaries)
    return matrix


def _white(primaries: Chromaticities) -> npt.NDArray[np.float64]:
    x, y = primaries[:2]
    if not y > 0:
        raise ValueError(f"white at y = {y:g}")
    return np.array([x / y, 1, (1 - x - y) / y])


def _to_xyz(primaries: Chromaticities) -> npt.NDArray[np.float64]:
    """Linear RGB -> CIE XYZ, white at Y = 1. Raises ValueError where there is no such matrix."""
    columns = np.array([[x, y, 1 - x - y] for x, y in zip(primaries[2::2], primaries[3::2], strict=True)]).T
    if not np.isfinite(columns).all() or abs(np.linalg.det(columns)) < 1e-6:
        raise ValueError("primaries on one line")
    amounts = np.linalg.solve(columns, _white(primaries))
    if not amounts.min() > 0:
        raise ValueError("white outside the primaries")
    matrix: npt.NDArray[np.float64] = columns * amounts
    return matrix


def _tone_mapping(encoding: Encoding, peak: float) -> Callable[[Floats], Floats] | None:
    """Light (n, 3) of an HDR picture -> light whose white is 1; None where the light is that already.

    The largest of R, G and B follows BT.2390's curve, which leaves all but the highlights as they are; the others keep
    their ratio to it, and so the color its hue. ``peak``: the light of the picture's largest value.
    """
    if not encoding.hdr:
        return None
    scene = encoding.hdr == "HLG"
    luminance = _to_xyz(encoding.primaries)[1].astype(np.float32)
    peak_nits = _HLG_PEAK_NITS * peak**_HLG_GAMMA if scene else peak
    highest = float(_pq_signal(np.float64(max(peak_nits, _WHITE_NITS))))
    target = float(_pq_signal(np.float64(_WHITE_NITS))) / highest
    knee = 1.5 * target - 0.5

    def tone(light: Floats) -> Floats:
        if scene:
            light = _HLG_PEAK_NITS * light * (light @ luminance)[:, None] ** np.float32(_HLG_GAMMA - 1)
        if peak_nits > _WHITE_NITS:
            largest = np.maximum(light.max(axis=1), np.float32(1e-3))
            signal = _pq_signal(largest) / highest
            t = np.clip((signal - knee) / (1 - knee), 0, 1)
            bend = 3 * t**2 - 2 * t**3
            rolled = (1 - bend) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + bend * target
            light = light * np.where(signal > knee, _pq_light(rolled * highest) / largest, 1)[:, None]
        return np.asarray(light / _WHITE_NITS, np.float32)

    return tone


_BT601_525: Chromaticities = (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070)
_PRIMARIES: dict[int, Chromaticities] = {
    1: SRGB_PRIMARIES,
    2: SRGB_PRIMARIES,
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),  # BT.470 M
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),  # BT.601, 625 lines
    6: _BT601_525,
    7: _BT601_525,
    8: (0.310, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),  # film with illuminant C
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    10: (1 / 3, 1 / 3, 1, 0, 0, 1, 0, 0),  # CIE XYZ
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # DCI-P3
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),  # EBU Tech. 3213
}
_VIDEO_PRIMARIES = (1, 2, 5, 6, 7)
_TRANSFERS: dict[int, Callable[[Floats], Floats]] = {
    1: _bt709_light,
    2: _srgb_light,
    4: power(2.2),
    5: power(2.8),
    6: _bt709_light,
    7: _smpte240_light,
    8: power(1),
    9: _logarithmic(2),
    10: _logarithmic(2.5),
    11: _bt709_light,
    12: _bt709_light,
    13: _srgb_light,
    14: _bt709_light,
    15: _bt709_light,
    16: _pq_light,
    17: lambda signal: signal**2.6 * (52.37 / 48),
    18: _hlg_light,
}
_HDR = {16: "PQ", 18: "HLG"}

ADOBE_RGB = Encoding((*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06), power(563 / 256))
"""Adobe RGB (1998): what DCF's option file R03 means."""
