"""The alpha plane as bytes: several simple codings, of which the smallest is kept. docs/FORMAT.md specifies them.

Fully transparent (0) and fully opaque (255) pixels always come back exactly; those between come back within
``max_error`` levels, and exactly where ``max_error`` is 0. Everything is integers: the bytes decode alike everywhere.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sdrt.container.alpha_edges import MAX_RADIUS, decode_edges, encode_edges
from sdrt.container.sdl import ALPHA, SdlFile
from sdrt.errors import CorruptError, UnsupportedError

Plane = npt.NDArray[np.uint8]

DEFAULT_MAX_ERROR = 8
"""3 % of opacity between 0 and 255: not visible, and a soft shadow takes a quarter of its lossless size."""

_CONSTANT, _DIFFERENCES, _INTERPOLATED, _EDGES = range(4)
_ALONG_ROWS, _ALONG_COLUMNS = 1, 2
_MAX_STEP_RADIUS = 63
_COARSEST = 64
_BAND_PX = 2**20
_QUICK = ((6, zlib.Z_DEFAULT_STRATEGY), (1, zlib.Z_RLE))
_THOROUGH = ((9, zlib.Z_DEFAULT_STRATEGY), (9, zlib.Z_FILTERED), (1, zlib.Z_RLE))


def encode_alpha(alpha: Plane, *, max_error: int = DEFAULT_MAX_ERROR) -> bytes:
    """The bytes of an alpha plane, uint8 (H, W), H and W at least 1. ``max_error``: 0..126 levels, see above."""
    assert 0 <= max_error <= 2 * _MAX_STEP_RADIUS
    alpha = np.ascontiguousarray(alpha)
    first = int(alpha.flat[0])
    if bool((alpha == first).all()):
        return bytes([_CONSTANT, first])
    differences = [(_DIFFERENCES, axes) for axes in (0, _ALONG_ROWS, _ALONG_COLUMNS, _ALONG_ROWS | _ALONG_COLUMNS)]
    residuals = [(_INTERPOLATED, radius) for radius in sorted({0, max_error // 2})]

    def values(kind: int, parameter: int) -> Plane:  # made again where they are needed again: each is a whole plane
        return (_differences if kind == _DIFFERENCES else _interpolation_residuals)(alpha, parameter)

    best = min(differences + residuals, key=lambda coding: len(_deflated(values(*coding), _QUICK)))
    coded = bytes(best) + _deflated(values(*best), _THOROUGH)
    edges = encode_edges(alpha, min(max_error, MAX_RADIUS))
    return coded if edges is None else min(coded, bytes([_EDGES]) + edges, key=len)


def alpha_of(file: SdlFile) -> Plane | None:
    """The alpha plane of ``file``, uint8 (height_px, width_px); None where it has none. Raises as ``decode_alpha``."""
    data = file.chunk(ALPHA)
    return None if data is None else decode_alpha(data, file.height_px, file.width_px)


def decode_alpha(data: bytes, height_px: int, width_px: int) -> Plane:
    """The alpha plane, uint8 (height_px, width_px), that ``encode_alpha`` wrote.

    Allocates a few bytes per pixel of this size, whatever ``data`` states.

    Raises CorruptError for bytes that are no plane of this size, UnsupportedError for a coding of a newer version.
    """
    if len(data) < 2:
        raise CorruptError(f"the alpha plane has {len(data)} bytes, at least 2 are needed")
    kind, parameter, rest = data[0], data[1], data[2:]
    if kind == _CONSTANT:
        if rest:
            raise CorruptError("the alpha plane has bytes after its end")
        return np.full((height_px, width_px), parameter, np.uint8)
    if kind == _DIFFERENCES:
        if parameter > _ALONG_ROWS | _ALONG_COLUMNS:
            raise CorruptError(f"the alpha plane has unknown differences {parameter}")
        return _sums(_inflate(rest, height_px * width_px).reshape(height_px, width_px), parameter)
    if kind == _INTERPOLATED:
        if parameter > _MAX_STEP_RADIUS:
            raise CorruptError(f"the alpha plane has step radius {parameter}, at most {_MAX_STEP_RADIUS} is possible")
        return _interpolated(_inflate(rest, height_px * width_px), height_px, width_px, parameter)
    if kind == _EDGES:
        return decode_edges(data[1:], height_px, width_px)
    raise UnsupportedError(f"the alpha plane has coding {kind}, this sdrt knows 0 to {_EDGES}: update sdrt")


def _deflated(values: Plane, trials: tuple[tuple[int, int], ...]) -> bytes:
    """The shortest raw deflate stream of several (level, strategy)."""
    streams = []
    for level, strategy in trials:
        compressor = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy)
        streams.append(compressor.compress(np.ascontiguousarray(values).data) + compressor.flush())
    return min(streams, key=len)


def _inflate(data: bytes, size_bytes: int) -> Plane:
    """Exactly ``size_bytes`` from a raw deflate stream that ends where ``data`` ends."""
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        raw = decompressor.decompress(data, size_bytes + 1)
    except zlib.error as error:
        raise CorruptError(f"the alpha plane cannot be inflated: {error}") from None
    if len(raw) != size_bytes or not decompressor.eof or decompressor.unused_data:
        raise CorruptError(f"the alpha plane does not inflate to {size_bytes} bytes")
    return np.frombuffer(raw, np.uint8)


def _differences(alpha: Plane, axes: int) -> Plane:
    """Differences modulo 256 along each of ``axes`` in turn; pixels outside the plane count as 0."""
    out: Plane = alpha.copy()
    if axes & _ALONG_ROWS:
        out[:, 1:] -= alpha[:, :-1]
    if axes & _ALONG_COLUMNS:
        out[1:] -= out[:-1].copy()
    return out


def _sums(differences: Plane, axes: int) -> Plane:
    """The inverse of ``_differences``."""
    out: Plane = differences
    if axes & _ALONG_COLUMNS:
        out = np.cumsum(out, axis=0, dtype=np.uint8)
    if axes & _ALONG_ROWS:
        out = np.cumsum(out, axis=1, dtype=np.uint8)
    return out


def _passes(plane: Plane) -> Iterator[tuple[Plane, int]]:
    """Views of ``plane`` in which every second row (from 1 on) is next to be predicted from the rows between, and how
    they lie: coarse to fine, first between rows and then between columns. (0, 0), (0, 64) ... come before the first."""
    stride = _COARSEST // 2
    while stride >= 1:
        yield plane[::stride, :: 2 * stride], stride
        yield plane[::stride, ::stride].swapaxes(0, 1), stride
        stride //= 2


def _bands(view: Plane) -> Iterator[slice]:
    """Ranges of columns, taken one by one to bound memory; rows are predicted from rows, so they are independent."""
    wide = max(1, _BAND_PX // max(1, view.shape[0]))
    for first in range(0, view.shape[1], wide):
        yield slice(first, first + wide)


def _predicted(known: Plane) -> npt.NDArray[np.int16]:
    """Rows 1, 3, 5 ... of ``known`` from rows 0, 2, 4 ...: a cubic through four of them, kept between the nearer two.

    Beyond the last row the nearer one counts twice.
    """
    even = known[::2].astype(np.int16)
    count = known.shape[0] // 2
    before = even[:count]
    after = even[np.minimum(np.arange(1, count + 1), len(even) - 1)]
    further_before = even[np.maximum(np.arange(count) - 1, 0)]
    further_after = even[np.minimum(np.arange(2, count + 2), len(even) - 1)]
    cubic = (9 * (before + after) - further_before - further_after + 8) >> 4
    kept: npt.NDArray[np.int16] = np.clip(cubic, np.minimum(before, after), np.maximum(before, after))
    return kept


def _interpolation_residuals(alpha: Plane, radius: int) -> Plane:
    """What a decoder needs to follow: the coarsest grid as it is, then per pass the quantized errors of the prediction.

    Steps are 2 * radius + 1 wide, so that every pixel lies within ``radius``. An error e is stored as 2 e, or -2 e - 1
    where negative; with radius 0 errors are taken modulo 256 into -128..127 first.
    """
    followed = alpha.copy()
    parts = [alpha[::_COARSEST, ::_COARSEST].ravel()]
    step = 2 * radius + 1
    for view, _ in _passes(followed):
        codes = np.empty(view[1::2].shape, np.uint8)
        for columns in _bands(view):
            predicted = _predicted(view[:, columns])
            errors = view[1::2, columns].astype(np.int16) - predicted
            if radius == 0:
                errors = errors.astype(np.int8).astype(np.int16)
            else:
                errors = np.sign(errors) * ((np.abs(errors) + radius) // step)
                view[1::2, columns] = np.clip(predicted + errors * step, 0, 255)
            codes[:, columns] = np.where(errors >= 0, 2 * errors, -2 * errors - 1)
        parts.append(codes.ravel())
    return np.concatenate(parts)


def _interpolated(stored: Plane, height_px: int, width_px: int, radius: int) -> Plane:
    """The inverse of ``_interpolation_residuals``; then values within ``radius`` of 0 or 255 become 0 or 255."""
    alpha = np.empty((height_px, width_px), np.uint8)
    grid = alpha[::_COARSEST, ::_COARSEST]
    grid[...] = stored[: grid.size].reshape(grid.shape)
    taken = grid.size
    step = 2 * radius + 1
    for view, _ in _passes(alpha):
        target = view[1::2]
        stored_codes = stored[taken : taken + target.size].reshape(target.shape)
        taken += target.size
        for columns in _bands(view):
            codes = stored_codes[:, columns].astype(np.int16)
            errors = (codes >> 1) ^ -(codes & 1)
            values = _predicted(view[:, columns]) + errors * step
            target[:, columns] = values & 255 if radius == 0 else np.clip(values, 0, 255)
    assert taken == stored.size
    if radius:
        alpha[alpha <= radius] = 0
        alpha[alpha >= 255 - radius] = 255
    return alpha
