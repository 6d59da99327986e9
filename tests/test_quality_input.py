"""Packs whose decoder is told the quality level: every position its own, tiles, maps and crops included; the encoder is
told nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sdrt import model_cache
from sdrt.bitstream import FileWriter, LatentCoder
from sdrt.codec import Codec
from sdrt.network import transform
from sdrt.network.engine import Engine
from sdrt.options import EncodeOptions
from sdrt.packs.manifest import ModelPack

Pixels = NDArray[np.uint8]


@pytest.fixture
def told(make_pack: Callable[..., ModelPack], monkeypatch: pytest.MonkeyPatch) -> ModelPack:
    """A pack whose decoder brightens by a sixteenth of the range for each octave of the step."""
    pack = make_pack("told", quality_input=True)
    monkeypatch.setenv("SDRT_MODELS", str(pack.folder.parent))
    return pack


def file_with_map(pack: ModelPack, rgb: Pixels, offsets: NDArray[np.int8]) -> bytes:
    encoder = Engine(pack.encoder_path(), device="cpu")
    writer = FileWriter(LatentCoder(pack), rgb.shape[1], rgb.shape[0], (), EncodeOptions(quality=50), offsets)
    return writer.write(lambda *_: transform.to_latents(rgb, pack, encoder))[0]


def test_the_level_is_that_of_the_step(told: ModelPack, make_pack: Callable[..., ModelPack], photo: Pixels) -> None:
    """A file is the one of a pack that is told nothing, byte for byte; each octave of its step from index 512 on shows
    in the picture."""
    plain, codec = Codec(make_pack("plain").folder, device="cpu"), Codec(told.folder, device="cpu")
    for quality in (42, 50, 58):
        data = codec.encode(photo, quality=quality, protect="none")
        assert data == plain.encode(photo, quality=quality, protect="none")
        level = (codec.info(data).step_index - 512) / 64
        pictures = (one.decode_picture(data).rgb[8:-8, 8:-8].astype(int) for one in (codec, plain))
        assert abs(np.median(np.subtract(*pictures)) - 16 * level) <= 1


def test_the_encoder_runs_once(told: ModelPack, photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far from the default step a target size or a latent error ends: its graph takes no level."""
    runs: list[str] = []

    class Counted(Engine):
        def run(self, array: Any) -> NDArray[np.float32]:
            runs.append(self.path.name)
            return super().run(array)

    monkeypatch.setattr(model_cache, "Engine", Counted)
    codec = Codec(told.folder)
    near = len(codec.encode(photo, protect="none"))
    for options in ({"target_bytes": near // 3}, {"target_bytes": 3 * near}, {"latent_error": 0.1}):
        runs.clear()
        data = codec.encode(photo, protect="none", **options)  # type: ignore[arg-type]
        assert abs(codec.info(data).step_index - told.default_step) > 32
        assert runs == ["encoder.onnx"]
    runs.clear()
    codec.encode(photo, target_bytes=near // 3)  # looks for structure that comes out wrong, and may write again
    assert runs.count("encoder.onnx") == 1


def test_levels_of_a_map_reach_their_cells(
    told: ModelPack, make_pack: Callable[..., ModelPack], photo: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a step map each cell is told its own level; tiles and crops agree with the whole."""
    offsets = np.array([[4, 0, -4], [0, -4, 4]], np.int8)
    data = file_with_map(told, photo, offsets)
    codec = Codec(told.folder, device="cpu")
    whole = codec.decode_picture(data).rgb.astype(int)
    brighter = whole - Codec(make_pack("plain").folder, device="cpu").decode_picture(data).rgb
    for (row, column), offset in np.ndenumerate(offsets):
        cell = brighter[64 * row + 8 : 64 * row + 56, 64 * column + 8 : 64 * column + 56]
        assert abs(np.median(cell) - 16 * offset / 4) <= 1
    monkeypatch.setattr(transform, "FRAME_PX", 64 * 64)
    assert np.abs(codec.decode_picture(data).rgb - whole).max() <= 1
    part = codec.decode_picture(data, crop=(50, 20, 70, 60)).rgb
    assert np.abs(part - whole[20:80, 50:120]).max() <= 1
