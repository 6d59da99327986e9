"""Differences of color as people see them, in numpy: CIELAB of sRGB and CIEDE2000.

sRGB: IEC 61966-2-1. CIELAB: CIE 15, relative to sRGB's own white (D65). CIEDE2000: Sharma, Wu and Dalal, "The CIEDE2000
Color-Difference Formula: Implementation Notes, Supplementary Test Data, and Mathematical Observations", Color Research
and Application 30, 2005; the letters are theirs, tests/test_color.py holds their table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdrt_metrics.fidelity import Rgb

Lab = NDArray[np.float64]

_XYZ_OF_LINEAR_RGB = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_HUE_ROUNDING = 1e-9  # degrees


def lab(rgb: Rgb) -> Lab:
    """CIELAB of sRGB.

    Args:
        rgb: uint8 (..., 3).

    Returns:
        float64 (..., 3): L* in [0, 100], a* and b*; gray has a* = b* = 0.
    """
    value = rgb.astype(np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    relative = linear @ (_XYZ_OF_LINEAR_RGB / _XYZ_OF_LINEAR_RGB.sum(1, keepdims=True)).T
    f = np.where(relative > (6 / 29) ** 3, np.cbrt(relative), relative * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def ciede2000(one: Lab, other: Lab) -> NDArray[np.float64]:
    """The CIEDE2000 difference with all weights 1; about 1 is just visible side by side.

    Args:
        one: CIELAB, float64 (..., 3).
        other: the same, of a shape that broadcasts with it.

    Returns:
        float64 (...), 0 for equal colors; symmetric.
    """
    (l1, a1, b1), (l2, a2, b2) = (np.moveaxis(np.asarray(color, np.float64), -1, 0) for color in (one, other))
    c_mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 0.5 * (1 - _of_chroma(c_mean))
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360

    hueless = c1 * c2 == 0
    turn = h2 - h1
    # The short way round. Opposite hues are half a turn apart but for rounding, and stay as they are (Sharma et al.).
    turn = np.where(np.abs(turn) > 180 + _HUE_ROUNDING, turn - 360 * np.sign(turn), turn)
    turn = np.where(hueless, 0, turn)
    dl, dc, dh = l2 - l1, c2 - c1, 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))

    l_mean, c_mean = (l1 + l2) / 2, (c1 + c2) / 2
    h_mean = np.where(hueless, h1 + h2, h1 + turn / 2)
    t = (
        1
        - 0.17 * np.cos(np.radians(h_mean - 30))
        + 0.24 * np.cos(np.radians(2 * h_mean))
        + 0.32 * np.cos(np.radians(3 * h_mean + 6))
        - 0.20 * np.cos(np.radians(4 * h_mean - 63))
    )
    s_l = 1 + 0.015 * (l_mean - 50) ** 2 / np.sqrt(20 + (l_mean - 50) ** 2)
    s_c = 1 + 0.045 * c_mean
    s_h = 1 + 0.015 * c_mean * t
    rotation = 30 * np.exp(-(((h_mean % 360 - 275) / 25) ** 2))
    r_t = -2 * _of_chroma(c_mean) * np.sin(np.radians(2 * rotation))
    squared = (dl / s_l) ** 2 + (dc / s_c) ** 2 + (dh / s_h) ** 2 + r_t * (dc / s_c) * (dh / s_h)
    difference: NDArray[np.float64] = np.sqrt(np.maximum(squared, 0))
    return difference


def _of_chroma(chroma: NDArray[np.float64]) -> NDArray[np.float64]:
    """sqrt(C^7 / (C^7 + 25^7)), which both corrections for chroma have in common."""
    seventh = chroma**7
    share: NDArray[np.float64] = np.sqrt(seventh / (seventh + 25.0**7))
    return share
