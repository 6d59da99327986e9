"""The prior: how integer latents become probabilities, in integers alone.

A prior is a pack's ``prior.npz``: a coding order, a small integer network for each scan of that order, and integer
frequency tables. docs/PRIOR.md is the normative description. In short:

Latents are symbols (h, w, C), channels in the prior's own order. A wide latent space has one more channel in front of
them, the *extent* of each position: how many groups of channels are coded there; beyond it all symbols are 0. Symbols
are coded in scans. A scan codes a range of channels on some grids of positions; it sees every symbol of earlier scans.
The first channels, the *near* ones, are seen one by one; of those behind them a scan sees sums of magnitudes over bands
of eight, and each channel its own neighbors. From these inputs the network predicts, for each symbol, a mean in eighths
and a scale in 1/256; scale and the mean's fraction choose a frequency table.

Exactness. Matrix products run through float32 BLAS, but they are integer arithmetic carried in float registers: every
operand is an integer, and loading checks for each column that ``sum(|weight| * largest |input|) < 2**24``, so that
every partial sum, in any order, fused or not, is an integer that float32 holds exactly. Everything else is int32 or
int64. No float ever decides a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

FORMAT = 2
MAX_SYMBOL = 2**20  # the largest magnitude that a payload may say
WINDOW = 2  # the largest reach of a tap, in symbols
SYMBOL_LIMIT = 1023  # inputs of the network are clipped to +-this
LATTICE = 4  # grids repeat after this many symbols
BAND = 8  # channels behind the near ones are seen in sums of this many
AROUND = 9  # energies are sums over windows of 3x3 symbols
HIDDEN_LIMIT = 4095
GLOBAL_BITS = 8  # weights of one and of the inverse step have this many more fractional bits
SIZE_BITS = 4  # mean magnitudes are in sixteenths of a symbol
HIDDEN_BITS = 4  # hidden activations are in sixteenths of a symbol
MEAN_BITS = 3  # means are in eighths of a symbol
FRACTIONS = 5  # 0, 1/8 .. 4/8: the tables of negative fractions are mirrored
SCALE_BITS = 8  # scales are in 1/256 of a symbol
SCALE_LIMIT = 65535
EXACT = 2**24  # float32 holds every integer below
TOTAL = 65536  # a frequency table sums to this


@dataclass(frozen=True)
class Grid:
    """Positions ``(y + stride * i, x + stride * j)``; stride is 1, 2 or 4."""

    y: int
    x: int
    stride: int


@dataclass(frozen=True, eq=False)
class Scan:
    """One scan of the coding order, with its network.

    Attributes:
        start, stop: the channels that it codes, of those that the prior codes (the extents' included).
        grids: the positions, in the order of coding.
        min_extent: positions of a smaller extent are skipped; 0: none is.
        wide: whether it codes channels after the near ones.
        near: how many channels it sees one by one: ``min(start, prior.near)``.
        bands: numbers of bands that it sees at the position itself and around it; (0, 0) unless wide.
        taps: offsets (dy, dx) within +-WINDOW at which it sees the near channels.
        own_taps: offsets at which it sees its own channels.
        weights: float32 (inputs, H + 2 n) or, wide, (inputs, H), integers. Rows: taps x near channels; own taps x own
            channels (not wide); energies of the near and (not wide) of the own channels; bands at the position; bands
            around it. Columns: H hidden units, then the direct parts of n means and n scales.
        own_weights: float32 (2, own taps, n), integers; wide only: what each channel's own neighbors add to its mean
            and their magnitudes to its scale.
        mean_weights: int64 (near or, not wide, stop, columns of ``weights``): rows are mean magnitudes.
        global_weights: int64 (2, H + 2 n): rows are one and the inverse step.
        shift: float32 (H,): hidden activations are ``floor(sum * 2**-shift)`` clipped; stored as 2**-shift.
        out_weights: float32 (H, 2 n), integers.
        out_shift: int32 (2 n,).
    """

    start: int
    stop: int
    grids: tuple[Grid, ...]
    min_extent: int
    wide: bool
    near: int
    bands: tuple[int, int]
    taps: tuple[tuple[int, int], ...]
    own_taps: tuple[tuple[int, int], ...]
    weights: Float32
    own_weights: Float32
    mean_weights: NDArray[np.int64]
    global_weights: NDArray[np.int64]
    shift: Float32
    out_weights: Float32
    out_shift: Int32

    @property
    def size(self) -> int:
        """Channels that it codes."""
        return self.stop - self.start

    @property
    def hidden(self) -> int:
        """Hidden units."""
        return len(self.shift)


@dataclass(frozen=True, eq=False)
class Prior:
    """A loaded prior; every array is validated and read-only.

    Attributes:
        steps: float32 (C,), base step of each latent channel, in (raw - shift) * scale units of the latent space.
        order: int64 (C,), position in coding order -> latent channel.
        extents: how many latent channels are coded at a position of extent 1, 2, ...; empty where none are coded.
        near: number of leading coded channels that later scans see individually.
        scans: the coding order.
        class_of: uint8 (SCALE_LIMIT + 1,), scale -> class.
        radius, low_bits: int32 (K,), of each class.
        frequencies: for each class uint16 (FRACTIONS, 2 * radius + 2); rows sum to 65536, the last entry is the escape.
        sensitivity: float32 (C,), pixel error per squared step error, relative; for the encoder only.
        bit_weight: weight of bits against squared error (lambda, see ``quantize``), 0 to 100; 0 is plain rounding. For
            the encoder only; the array ``decisions`` of the file.
    """

    steps: Float32
    order: NDArray[np.int64]
    extents: tuple[int, ...]
    near: int
    scans: tuple[Scan, ...]
    class_of: NDArray[np.uint8]
    radius: Int32
    low_bits: Int32
    frequencies: tuple[NDArray[np.uint16], ...]
    sensitivity: Float32
    bit_weight: float

    @property
    def channels(self) -> int:
        """Latent channels."""
        return len(self.steps)

    @property
    def offset(self) -> int:
        """1 where the extents are coded as a channel in front of the latent ones, else 0."""
        return 1 if self.extents else 0

    @property
    def coded_channels(self) -> int:
        """Channels that scans code: the latent ones and, where it exists, the extents."""
        return self.channels + self.offset

    @cached_property
    def extent_of(self) -> NDArray[np.int64]:
        """int64 (C + 1,): for each number of latent channels, the smallest extent that covers them."""
        return np.searchsorted((0, *self.extents), np.arange(self.channels + 1))

    @cached_property
    def row_offsets(self) -> NDArray[np.int64]:
        """Where the row of each table = class * FRACTIONS + fraction begins in ``costs``."""
        widths = np.repeat(2 * self.radius.astype(np.int64) + 2, FRACTIONS)
        return np.cumsum(widths) - widths

    @cached_property
    def costs(self) -> Float32:
        """Bits of every table entry, flat; for estimates only."""
        flat = np.concatenate([table.ravel() for table in self.frequencies])
        return np.asarray(np.log2(np.float32(TOTAL) / flat.astype(np.float32)), dtype=np.float32)


def input_limits(taps: int, own: int, energies: int, bands: tuple[int, int]) -> NDArray[np.int64]:
    """The largest magnitude of each input row: symbols, energies, bands at the position, bands around it."""
    sizes = (taps + own, energies, *bands)
    limits = np.array([1, AROUND, 1, AROUND], np.int64) * SYMBOL_LIMIT
    return np.repeat(limits, sizes)
