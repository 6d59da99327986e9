"""What is promised of the default pack on photographs: few codings for a target, and 8 bits that cost nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdrt.codec import Codec
from sdrt.coding import rate
from sdrt.model_cache import DEFAULT_MODEL
from sdrt.packs.search import load_pack
from sdrt_metrics.fidelity import Rgb, psnr

PHOTOS = Path(__file__).parents[1] / "bench" / "photos"
NAMES = ("astronaut", "cat", "coffee", "rocket", "welder", "raccoon")


def _photo(name: str) -> Rgb:
    """The middle of a shipped photograph, at most 384 x 384 pixels, of sides that no tile divides."""
    with Image.open(PHOTOS / f"{name}.webp") as image:
        rgb = np.asarray(image.convert("RGB"))
    height, width = (min(side, 383) for side in rgb.shape[:2])
    top, left = (rgb.shape[0] - height) // 2, (rgb.shape[1] - width) // 2
    return np.ascontiguousarray(rgb[top : top + height, left : left + width])


def test_a_target_takes_three_to_four_codings(monkeypatch: pytest.MonkeyPatch) -> None:
    """On six photographs at three rates a search takes at most four codings on average, and never more than eight: the
    figure in ``finest_within``'s docstring and in the changelog.

    One encode may search again: on the reduced picture, or with finer steps where structure came out wrong.
    """
    codings: list[int] = []
    search = rate.finest_within

    def counted(code: Callable[[int, float], bytes], *arguments: Any, **keywords: Any) -> bytes:
        codings.append(0)

        def one(index: int, bit_weight: float) -> bytes:
            codings[-1] += 1
            return code(index, bit_weight)

        return search(one, *arguments, **keywords)

    monkeypatch.setattr(rate, "finest_within", counted)
    with Codec(device="cpu", threads=1) as codec:
        for name in NAMES:
            for bpp in (0.08, 0.152, 0.3):
                codec.encode(_photo(name), target_bpp=bpp)
    assert len(codings) >= 3 * len(NAMES)
    assert np.mean(codings) <= 4 and max(codings) <= 8, codings


@pytest.mark.parametrize("quality", [20, 80, 100])
def test_8_bit_graphs_paint_photographs_as_float_graphs_do(quality: int) -> None:
    """One file through both decoders: 40 dB apart at least, the bound that the pack was made under.

    A photograph through both halves in 8 bits loses at most a tenth of a dB more than through both in float.
    """
    pack = load_pack(DEFAULT_MODEL)
    if "int8" not in pack.precisions:
        assert not any(graph["kept"] for graph in pack.manifest["int8"]["graphs"]), "int8 was kept and is not here"
        return
    lost = []
    with (
        Codec(device="cpu", precision="w16", threads=1) as in_float,
        Codec(device="cpu", precision="int8", threads=1) as in_8_bits,
    ):
        for name in NAMES[:3]:
            photo = _photo(name)
            data = in_float.encode(photo, quality=quality)
            painted = np.asarray(in_float.decode(data))
            assert psnr(np.asarray(in_8_bits.decode(data)), painted) >= 40, name
            own = np.asarray(in_8_bits.decode(in_8_bits.encode(photo, quality=quality)))
            lost.append(psnr(painted, photo) - psnr(own, photo))
    assert np.mean(lost) <= 0.1, lost
