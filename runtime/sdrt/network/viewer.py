"""The gradient of a perceptual distance in the pixels of a decoded picture, by networks on moving windows.

The networks cost many times what a decoder costs. So each step evaluates only some windows, and reuses the
last gradient elsewhere, as in the stochastic average gradient (Schmidt, Le Roux and Bach, 2017). Windows sweep over
the frame, each sweep at another offset, so that neither their borders nor the networks' strides leave a grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sdrt.network.onnxruntime_session import NamedRunner

Floats = NDArray[np.float32]
Area = tuple[slice, slice]
"""Rows and columns of a frame in pixels."""

INPUTS = ("painted", "photo", "loss.gradient")
OUTPUTS = ("painted.gradient",)
"""Ends of an effort pack's graph: two pictures (1, 3, H, W) in [-1, 1], and what to multiply the gradient by."""

WINDOW_PX = 192


@dataclass(eq=False)
class Viewer:
    """Computes the gradient for one frame, a part of it at each call.

    Args:
        networks: the effort pack's graph, with INPUTS and OUTPUTS.
        photo: float32 (1, 3, H, W) in [-1, 1], the original of the frame.
        area: of the frame that counts.
        share: of the area that is evaluated at each call, above 0.
        seed: of the sweeps' offsets.
    """

    networks: NamedRunner
    photo: Floats
    area: Area
    share: float
    seed: int = 0
    _pull: Floats = field(init=False)
    _windows: Iterator[Area] = field(init=False)
    _owed_px: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._pull = np.zeros_like(self.photo)
        self._windows = self._sweeps()

    def __call__(self, painted: Floats) -> Floats:
        """The gradient of the distance, for each pixel of a window, in the samples of a decoded frame.

        float32 (1, 3, H, W); 0 where no window has been yet.
        """
        self._owed_px += self.share * self.photo[0, 0][self.area].size
        while self._owed_px > 0:
            seen = (slice(None), slice(None), *next(self._windows))
            pixels = self.photo[seen][0, 0].size
            factor = np.array(pixels, np.float32)
            arrays = painted[seen], self.photo[seen], factor
            contiguous = {name: np.ascontiguousarray(array) for name, array in zip(INPUTS, arrays, strict=True)}
            self._pull[seen] = self.networks(contiguous)[OUTPUTS[0]]
            self._owed_px -= pixels
        return self._pull

    def _sweeps(self) -> Iterator[Area]:
        """Windows that cover the area over and over, in random order, each sweep at another offset."""
        rng = np.random.default_rng(self.seed)
        while True:
            rows, columns = (_windows(side, rng) for side in self.area)
            places = list(itertools.product(rows, columns))
            for index in rng.permutation(len(places)):
                yield places[index]


def _windows(side: slice, rng: np.random.Generator) -> list[slice]:
    """Windows that cover ``side``, at a random offset."""
    length = min(WINDOW_PX, side.stop - side.start)
    offset = int(rng.integers(length))
    last = side.stop - length
    starts = {min(max(start, side.start), last) for start in range(side.start - offset, side.stop, length)}
    return [slice(start, start + length) for start in sorted(starts)]
