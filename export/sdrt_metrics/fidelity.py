"""PSNR and MS-SSIM in numpy, of two uint8 RGB arrays (H, W, 3) of one image at full size.

MS-SSIM: Wang et al., "Multi-scale structural similarity for image quality assessment", Asilomar 2003, in the form of
pytorch_msssim: five scales, 11x11 Gaussian window of sigma 1.5 without padding, data range 255.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]
Plane = NDArray[np.float64]

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
LUMINANCE_FLOOR, CONTRAST_FLOOR = (0.01 * 255) ** 2, (0.03 * 255) ** 2
WINDOW = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
WINDOW /= WINDOW.sum()
MS_SSIM_MIN_SIDE_PX = (len(WINDOW) - 1) * 2 ** (len(SCALE_WEIGHTS) - 1) + 1


def check_pair(picture: Rgb, reference: Rgb) -> None:
    """Raises ValueError unless both are uint8 (H, W, 3) of one size."""
    if picture.shape != reference.shape or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"two RGB pictures of one size expected, got {picture.shape} and {reference.shape}")
    if picture.dtype != np.uint8 or reference.dtype != np.uint8:
        raise ValueError(f"uint8 pictures expected, got {picture.dtype} and {reference.dtype}")


def psnr(picture: Rgb, reference: Rgb) -> float:
    """Peak signal-to-noise ratio in dB over all channels of one image; ``inf`` for equal pictures."""
    check_pair(picture, reference)
    error = float(np.mean((picture.astype(np.float64) - reference) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def _blur(plane: Plane) -> Plane:
    """Valid 11-tap Gaussian on the first two axes of (H, W, C): each loses ten."""
    height, width = (side - len(WINDOW) + 1 for side in plane.shape[:2])
    rows = sum(tap * plane[i : i + height] for i, tap in enumerate(WINDOW))
    blurred: Plane = sum(tap * rows[:, i : i + width] for i, tap in enumerate(WINDOW))
    return blurred


def _halve(plane: Plane) -> Plane:
    """2x2 means. An odd side is padded with zeros at both ends first, as torch's avg_pool2d(padding=side % 2) does."""
    height, width = plane.shape[:2]
    padded = np.pad(plane, ((height % 2,) * 2, (width % 2,) * 2, (0, 0)))
    padded = padded[: padded.shape[0] // 2 * 2, : padded.shape[1] // 2 * 2]
    return (padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2]) / 4


def ms_ssim(picture: Rgb, reference: Rgb) -> float:
    """Multi-scale SSIM, mean over the three channels; 1 for equal pictures.

    Raises ValueError under 161 pixels a side: the fifth scale would be smaller than the window.
    """
    check_pair(picture, reference)
    if min(picture.shape[:2]) < MS_SSIM_MIN_SIDE_PX:
        raise ValueError(f"MS-SSIM needs at least {MS_SSIM_MIN_SIDE_PX} pixels a side, got {picture.shape[:2]}")
    x, y = picture.astype(np.float64), reference.astype(np.float64)
    product = np.ones(3)
    for scale, weight in enumerate(SCALE_WEIGHTS):
        x_mean, y_mean = _blur(x), _blur(y)
        x_var = _blur(x * x) - x_mean**2
        y_var = _blur(y * y) - y_mean**2
        covariance = _blur(x * y) - x_mean * y_mean
        similarity = (2 * covariance + CONTRAST_FLOOR) / (x_var + y_var + CONTRAST_FLOOR)
        if scale == len(SCALE_WEIGHTS) - 1:
            similarity = (
                similarity * (2 * x_mean * y_mean + LUMINANCE_FLOOR) / (x_mean**2 + y_mean**2 + LUMINANCE_FLOOR)
            )
        product *= np.maximum(similarity.mean((0, 1)), 0) ** weight
        x, y = _halve(x), _halve(y)
    return float(product.mean())
