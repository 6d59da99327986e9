"""Patches: codes type, line art and screens, which the network cannot paint, with a classical codec.

The encoder detects cells with drawn content. If there are any, it decodes the file without patches, finds the cells
that come out wrong, and tries files of the same size in which these are patches: several splits of the bytes between
patches and latents, and one file whose patch is the whole picture. The one with the smallest error is written.

Flat pictures come first: where lossless WebP holds the whole picture in a few bytes, nothing is painted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sdrt.bitstream import FileWriter, LatentsOf, Paint, Written
from sdrt.container import sdl
from sdrt.container.patches import CELL_PX, Coding, Mask, Patches, cells, encode_patches, kept_lines
from sdrt.errors import UnsupportedError
from sdrt.pixels.atlas import can_code, decode_atlas, encode_av1, encode_vp8l
from sdrt.pixels.picture import Pixels, Scroll
from sdrt.pixels.scaling import reduce
from sdrt.pixels.type_cells import cell_sums, equal_share, type_cells, widened

_WRONG = 100.0
"""Mean squared error from which a drawn cell counts as wrong: 28 dB PSNR, where strokes begin to lose their shape."""
_WRONG_SHARE = 0.002
"""Share of wrong cells below which patches are not worth a chunk."""
_PAINTED_FACTOR = 4.0
"""Weight of squared error in patches over that in painted cells: in texture 6 dB more are not visible, in strokes they
are."""
_FLAT_SHARE = 0.9
"""Share of pixels equal to the one before, from which a picture counts as flat."""
_FLAT_BYTES, _FLAT_BPP = 256, 0.05
"""What an exact file of a flat picture may take where no size is asked for: bytes, and bits a pixel besides."""
_WHOLE_FROM = 0.9
"""Share of the picture from which only a patch over the whole picture is tried."""
_SPLITS = (0.2, 0.4, 0.6, 0.8)
"""Shares of a file's bytes for the patches, tried in turn."""
_BAND_PX = 16 * CELL_PX
"""Rows that are summed at once: floats take twelve times the room of pixels."""
_FEATHER_PX = 4
_FINEST = 100
_LENGTH_GROWS = 3
"""Largest growth, in bytes, of a chunk's length field when its data grows."""
_MAX_PIXELS = 2**24
"""Limit of pixels: AV1 takes minutes and gigabytes for more."""
_LONGEST_SIDE_PX = 16383
"""Of a WebP file."""
_SUBSAMPLING = "4:2:0"
_SPEEDS = ((2**20, 4), (2**22, 6))
"""Pixels of an atlas -> AV1 speed that takes at most 1 to 2 seconds of one core; larger ones use _QUICK."""
_QUICK = 8


@dataclass(frozen=True, eq=False)
class Candidate:
    """A file, and its squared error, in painted cells divided by _PAINTED_FACTOR."""

    written: Written
    error: float


def cells_to_protect(rgb: Pixels) -> Mask | None:
    """The cells of uint8 (H, W, 3) with drawn content, bool (rows, columns); all of them in flat pictures.

    None without any, for pictures of more than 16 megapixels, and where Pillow lacks a codec.
    """
    height_px, width_px = rgb.shape[:2]
    too_large = height_px * width_px > _MAX_PIXELS or max(height_px, width_px) > _LONGEST_SIDE_PX
    if too_large or not (can_code("av1") and can_code("vp8l")):
        return None
    if _is_flat(rgb):
        return np.ones(cells(height_px, width_px), np.bool_)
    marked = type_cells(rgb, CELL_PX)
    return marked if marked.any() else None


def _is_flat(rgb: Pixels) -> bool:
    return equal_share(rgb) >= _FLAT_SHARE


def write_protected(rgb: Pixels, marked: Mask, writer: FileWriter, latents: LatentsOf, paint: Paint) -> Written:
    """The best file of ``rgb`` that is no larger than the one ``writer`` writes, with or without patches.

    Args:
        rgb: uint8 (H, W, 3).
        marked: Cells that hold drawn things, as ``cells_to_protect`` gives them.
        writer: Of files of this picture; its options say how large they may be.
        latents: As ``FileWriter.write``; it is called several times.
        paint: Decodes a file.

    Raises UnsupportedError if neither fits the target.
    """
    search = _Search(rgb, marked, writer, latents, paint)
    if _is_flat(rgb):
        free_bytes = _FLAT_BYTES + int(_FLAT_BPP * rgb.shape[0] * rgb.shape[1] / 8)
        exact = search.exact(free_bytes if writer.budget_bytes is None else writer.budget_bytes)
        if exact is not None:
            return exact.written
    plain: Written | None = None
    refusal: UnsupportedError | None = None
    try:
        plain = writer.write(latents)
    except UnsupportedError as error:
        refusal = error
    if plain is None:
        whole = search.whole(writer.budget_bytes or 0)
        if whole is None:
            assert refusal is not None
            raise refusal
        return whole.written
    budget_bytes = len(plain[0]) if writer.budget_bytes is None else writer.budget_bytes
    squared = search.squared(Scroll(paint(plain[0])))
    wrong = marked & (squared > _WRONG * search.cell_pixels)
    if wrong.sum() < _WRONG_SHARE * wrong.size:
        return plain
    best = Candidate(plain, search.error(squared, None))
    for candidate in search.candidates(widened(wrong), budget_bytes):
        if candidate.error < best.error:
            best = candidate
    return best.written


class _Search:
    """Files of one picture with patches, and their errors."""

    def __init__(self, rgb: Pixels, marked: Mask, writer: FileWriter, latents: LatentsOf, paint: Paint) -> None:
        self._rgb, self._marked, self._writer, self._latents, self._paint = rgb, marked, writer, latents, paint
        self.cell_pixels = self._sums(lambda rows: np.ones(rgb[rows].shape[:2], np.float32))

    def squared(self, picture: Pixels | Scroll) -> NDArray[np.float32]:
        """Mean over the channels of the squared error, summed over each cell."""
        return self._sums(lambda rows: np.square(self._rgb[rows].astype(np.float32) - picture[rows]).mean(axis=2))

    def _means(self, channel: int) -> Pixels:
        """The mean level of a channel of each cell, uint8 (rows, columns)."""
        sums = self._sums(lambda rows: self._rgb[rows, :, channel].astype(np.float32))
        return np.asarray(np.rint(sums / self.cell_pixels), np.uint8)

    def _sums(self, values: Callable[[slice], NDArray[np.float32]]) -> NDArray[np.float32]:
        """Sums over each cell of ``values``, which gives float32 (n, W) for rows of the picture."""
        height_px = len(self._rgb)
        bands = (slice(top, min(top + _BAND_PX, height_px)) for top in range(0, height_px, _BAND_PX))
        return np.concatenate([cell_sums(values(rows), CELL_PX) for rows in bands])

    def error(self, squared: NDArray[np.float32], mask: Mask | None) -> float:
        """The error of a picture that has patches in ``mask`` and is painted elsewhere, of ``squared`` errors."""
        exact = self._marked if mask is None else self._marked | mask
        return float(squared[exact].sum() + squared[~exact].sum() / _PAINTED_FACTOR)

    def candidates(self, mask: Mask, budget_bytes: int) -> Iterator[Candidate]:
        """Files of at most ``budget_bytes``: one patch over all, and ``mask`` with several splits of the bytes."""
        whole = self.whole(budget_bytes)
        if whole is not None:
            yield whole
        if mask.mean() >= _WHOLE_FROM:
            return
        atlas = self._atlas(mask)
        best: tuple[float, float] | None = None
        for share in _SPLITS:
            candidate = self._split(mask, atlas, int(share * budget_bytes), budget_bytes, _QUICK)
            if candidate is not None and (best is None or candidate.error < best[0]):
                best = candidate.error, share
        if best is not None:
            candidate = self._split(mask, atlas, int(best[1] * budget_bytes), budget_bytes, _speed(atlas))
            if candidate is not None:
                yield candidate

    def whole(self, budget_bytes: int) -> Candidate | None:
        """The best file whose patch is the whole picture."""
        exact = self.exact(budget_bytes)
        if exact is not None:
            return exact
        room_bytes = self._room_bytes(budget_bytes)
        stream, halved = _finest_av1(self._rgb, room_bytes, _speed(self._rgb)), False
        if stream is None:  # AV1 knows no coarser quality
            stream, halved = _finest_av1(reduce(self._rgb, 2), room_bytes, _speed(self._rgb)), True
        if stream is None:
            return None
        picture = decode_atlas("av1", stream, *self._rgb.shape[:2], halved=halved)
        return Candidate(
            self._one_patch("av1", stream, halved), self.error(self.squared(picture), np.ones_like(self._marked))
        )

    def exact(self, budget_bytes: int) -> Candidate | None:
        """The file that holds the picture without loss; None if it is larger than ``budget_bytes``."""
        room_bytes = self._room_bytes(budget_bytes)
        stream = encode_vp8l(self._rgb, quality=50, method=4)
        if len(stream) > room_bytes:  # slower settings save a fifth at most
            stream = encode_vp8l(self._rgb) if len(stream) <= 1.25 * room_bytes else b""
        return Candidate(self._one_patch("vp8l", stream), 0.0) if 0 < len(stream) <= room_bytes else None

    def _room_bytes(self, budget_bytes: int) -> int:
        """What the stream of one patch over all may take."""
        return budget_bytes - len(self._one_patch("av1", b"")[0]) - _LENGTH_GROWS

    def _one_patch(self, coding: Coding, stream: bytes, halved: bool = False) -> Written:
        return self._with(Patches(np.ones_like(self._marked), 0, coding, stream, halved)).write_bare()

    def _split(self, mask: Mask, atlas: Pixels, patch_bytes: int, budget_bytes: int, speed: int) -> Candidate | None:
        stream = _finest_av1(atlas, patch_bytes, speed)
        if stream is None:
            return None
        writer = self._with(Patches(mask, _FEATHER_PX, "av1", stream))
        writer = replace(
            writer, options=replace(writer.options, quality=None, target_bpp=None, target_bytes=budget_bytes)
        )
        with suppress(UnsupportedError):  # too little is left for the latents
            written = writer.write(self._latents)
            return Candidate(written, self.error(self.squared(Scroll(self._paint(written[0]))), mask))
        return None

    def _with(self, patches: Patches) -> FileWriter:
        chunk = sdl.Chunk(sdl.PATCHES, encode_patches(patches))
        return replace(self._writer, chunks=(*self._writer.chunks, chunk), mask=patches.mask)

    def _atlas(self, mask: Mask) -> Pixels:
        """The kept lines of the picture; hidden pixels have the mean color of their cell, which costs little."""
        rows, columns = kept_lines(mask, *self._rgb.shape[:2])
        here = np.ix_(rows // CELL_PX, columns // CELL_PX)
        channels = []
        for channel in range(3):
            values = self._rgb[:, :, channel]
            means = self._means(channel)
            channels.append(np.where(mask[here], values[np.ix_(rows, columns)], means[here]))
        return np.stack(channels, axis=2)


def _speed(atlas: Pixels) -> int:
    return next((speed for pixels, speed in _SPEEDS if atlas.shape[0] * atlas.shape[1] <= pixels), _QUICK)


def _finest_av1(rgb: Pixels, budget_bytes: int, speed: int) -> bytes | None:
    """The finest stream of at most ``budget_bytes``; None if there is none. Quick codings narrow the search."""

    @cache
    def coded(quality: int, speed: int) -> bytes:
        return encode_av1(rgb, quality, speed=speed, subsampling=_SUBSAMPLING)

    def finest(limit_bytes: float) -> int:
        low, high = 0, _FINEST
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if len(coded(middle, _QUICK)) <= limit_bytes else (low, middle - 1)
        return low

    quality = finest(budget_bytes)
    if speed != _QUICK:  # as much smaller as slow codings are here, so much more a quick one may have
        quality = finest(budget_bytes * len(coded(quality, _QUICK)) / len(coded(quality, speed)))
    while quality < _FINEST and len(coded(quality, speed)) <= budget_bytes:
        quality += 1
    while quality >= 0 and len(coded(quality, speed)) > budget_bytes:
        quality -= 1
    return coded(quality, speed) if quality >= 0 else None
