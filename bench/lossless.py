"""What others spend on the same integers: each takes symbols int32 (C, h, w) and gives bits, side information apart.

Image codecs get all channels as one gray picture, in the better of two layouts; 8 bits must hold the symbols.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import zlib
from collections.abc import Callable
from math import lgamma, log

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Int32 = NDArray[np.int32]
Bytes8 = NDArray[np.uint8]


def adaptive_order0(symbols: Int32) -> float:
    """An ideal adaptive coder for each channel, alphabet known: Krichevsky-Trofimov estimator, exact."""
    bits = 0.0
    for channel in symbols:
        counts = np.bincount((channel - channel.min()).ravel()).tolist()
        half = len(counts) / 2
        bits += lgamma(half + sum(counts)) - lgamma(half) - sum(lgamma(n + 0.5) - lgamma(0.5) for n in counts)
    return bits / log(2)


def fixed_bits(symbols: Int32) -> float:
    """Whole bits a symbol, as many as each channel's range needs (vaepack), plus two bytes a channel for the range."""
    ranges = symbols.max((1, 2)) - symbols.min((1, 2)) + 1
    return float((np.ceil(np.log2(ranges)) * symbols[0].size).sum()) + 16 * len(symbols)


def _layouts(symbols: Int32) -> list[Bytes8]:
    """Channels stacked, and channels as tiles of a near-square; gray levels around 128."""
    if symbols.min() < -128 or symbols.max() > 127:
        raise ValueError("symbols do not fit 8 bits")
    levels = (symbols + 128).astype(np.uint8)
    channels, height, width = levels.shape
    across = max(n for n in range(1, int(channels**0.5) + 1) if channels % n == 0)
    tiles = levels.reshape(channels // across, across, height, width).transpose(0, 2, 1, 3)
    return [levels.reshape(channels * height, width), np.ascontiguousarray(tiles.reshape(-1, across * width))]


def _through_pillow(symbols: Int32, **options: str | int | bool) -> float:
    sizes = []
    for layout in _layouts(symbols):
        stream = io.BytesIO()
        Image.fromarray(layout).save(stream, **options)  # type: ignore[arg-type]
        sizes.append(len(stream.getvalue()))
    return 8.0 * min(sizes)


def through_zlib(symbols: Int32) -> float:
    """zlib at level 9 over one byte a symbol."""
    levels = _layouts(symbols)[0]
    return 8.0 * len(zlib.compress(levels.tobytes(), 9))


def through_png(symbols: Int32) -> float:
    return _through_pillow(symbols, format="PNG", optimize=True)


def through_webp(symbols: Int32) -> float:
    return _through_pillow(symbols, format="WEBP", lossless=True, quality=100, method=6)


def through_jpeg_xl(symbols: Int32) -> float:
    return _through_pillow(symbols, format="JXL", lossless=True, effort=9)


def others() -> dict[str, Callable[[Int32], float]]:
    """Name -> coder, in the order of the table. JPEG XL is among them where ``pillow_jxl`` is installed."""
    found: dict[str, Callable[[Int32], float]] = {
        "fixed bits": fixed_bits,
        "zlib": through_zlib,
        "PNG": through_png,
        "WebP": through_webp,
    }
    if importlib.util.find_spec("pillow_jxl") is not None:
        importlib.import_module("pillow_jxl")  # registers the format with Pillow
        found["JPEG XL"] = through_jpeg_xl
    return found


def seed_method(latents: NDArray[np.float32]) -> tuple[float, NDArray[np.float32]]:
    """The seed article's way: bits, and the latents it gives back.

    Channels by fours as RGBA, each of the four scaled from its range to 8 bits, a palette of 256 colors with
    dithering, zlib over palette and indices. A last group of fewer than four channels repeats its last one.
    """
    channels = len(latents)
    padded = np.concatenate([latents, np.repeat(latents[-1:], -channels % 4, 0)])
    bits, rebuilt = 0.0, np.empty_like(padded)
    for first in range(0, len(padded), 4):
        four = padded[first : first + 4]
        low, high = four.min((1, 2), keepdims=True), four.max((1, 2), keepdims=True)
        span = np.maximum(high - low, 1e-9)
        levels = np.rint((four - low) / span * 255).astype(np.uint8)
        picture = Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0)), "RGBA")
        # Of Pillow's quantizers only this one takes RGBA; it does not dither, so the dither is ours.
        palette = picture.quantize(256, Image.Quantize.FASTOCTREE)
        colors = np.array(palette.getpalette("RGBA") or [], np.uint8).reshape(-1, 4)
        indices = _dither(levels.transpose(1, 2, 0).astype(np.float32), colors.astype(np.float32))
        bits += 8.0 * len(zlib.compress(colors.tobytes() + indices.tobytes(), 9)) + 16 * 8
        rebuilt[first : first + 4] = colors[indices].transpose(2, 0, 1) / np.float32(255) * span + low
    return bits, rebuilt[:channels]


def _dither(levels: NDArray[np.float32], colors: NDArray[np.float32]) -> Bytes8:
    """Floyd-Steinberg over RGBA (h, w, 4): the index of the nearest color, its error passed on."""
    rest = np.pad(levels, ((0, 1), (1, 1), (0, 0)))
    height, width = levels.shape[:2]
    indices = np.empty((height, width), np.uint8)
    for y in range(height):
        for x in range(1, width + 1):
            nearest = int(np.square(colors - rest[y, x]).sum(1).argmin())
            indices[y, x - 1] = nearest
            error = rest[y, x] - colors[nearest]
            rest[y, x + 1] += error * np.float32(7 / 16)
            rest[y + 1, x - 1] += error * np.float32(3 / 16)
            rest[y + 1, x] += error * np.float32(5 / 16)
            rest[y + 1, x + 1] += error * np.float32(1 / 16)
    return indices
