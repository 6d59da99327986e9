"""What an encode knows of a picture: its pixels, and the latents that the encoder graph makes of them.

Rate control asks for latents at several fractions of the picture's sides. Here it is decided which of them are computed
again, which are kept, and how long the pixels stay in memory.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from sdrt.bitstream import Latents, Refine
from sdrt.network.engine import Engine
from sdrt.network.refine import Quantizer, Refinement, refine
from sdrt.network.transform import Progress, to_latents
from sdrt.packs.manifest import ModelPack
from sdrt.pixels.scaling import reduce


class Analysis:
    """The latents of one picture, at each fraction of its sides.

    Args:
        rgb: uint8 (H, W, 3).
        pack: Whose encoder it is.
        encoder: The session of the encoder graph.
        refinement: What improves latents by gradient descent; None: nothing does.
        keep: Keep pixels and latents, for several searches over the same ones. Otherwise the pixels are released by
            the call of ``latents`` that is ``final``, and each call runs the encoder.
        progress: Called after each tile.
        tile_px: Side of the tiles; None: what suits the pack.
    """

    def __init__(
        self,
        rgb: NDArray[np.uint8],
        pack: ModelPack,
        encoder: Engine,
        refinement: Refinement | None,
        *,
        keep: bool,
        progress: Progress | None,
        tile_px: int | None,
    ) -> None:
        self._rgb: NDArray[np.uint8] | None = rgb
        self._keep = keep
        self._kept: dict[int, Latents] = {}
        self._encode = partial(to_latents, pack=pack, encoder=encoder, progress=progress, tile_px=tile_px)
        self._refinement = refinement
        self._descend = partial(refine, pack=pack, progress=progress, tile_px=tile_px)
        self._reduced: NDArray[np.uint8] | None = None
        """The picture that the last latents are of, where they will be refined."""

    def latents(self, resampling: int, final: bool) -> Latents:
        """The latents of the picture, float32 (C, h, w), normalized. A ``LatentsOf``.

        Args:
            resampling: 1, 2, 4 or 8: the picture is reduced by this factor before.
            final: Whether this is the last call.
        """
        assert self._rgb is not None, "the call before was the final one"
        latents = self._kept.get(resampling)
        if latents is not None and self._refinement is None:
            return latents
        self._reduced = reduce(self._rgb, resampling)
        if final and not self._keep:
            self._rgb = None
        if latents is None:
            latents = self._encode(self._reduced)
        if self._keep:
            self._kept[resampling] = latents
        if self._refinement is None:
            self._reduced = None
        return latents

    @property
    def refine(self) -> Refine | None:
        """Improves the latents that ``latents`` gave last; None without a refinement."""
        if self._refinement is None:
            return None
        how = self._refinement

        def refined(latents: Latents, quantizer: Quantizer) -> Latents:
            assert self._reduced is not None, "refine() comes after latents()"
            return self._descend(latents, self._reduced, how, quantizer=quantizer)

        return refined
