"""Packs whose graphs are told the quality level: both directions agree, tiles and maps included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sdrt import model_cache
from sdrt.bitstream import FileWriter, IndicesOf, LatentCoder, Latents
from sdrt.codec import Codec
from sdrt.network import transform
from sdrt.network.engine import Engine
from sdrt.options import EncodeOptions
from sdrt.packs.manifest import ModelPack

Pixels = NDArray[np.uint8]


@pytest.fixture
def told(make_pack: Callable[..., ModelPack], monkeypatch: pytest.MonkeyPatch) -> ModelPack:
    """A pack whose encoder darkens by a sixteenth of the range for each octave of the step, and whose decoder
    brightens by as much."""
    pack = make_pack("told", quality_input=True)
    monkeypatch.setenv("SDRT_MODELS", str(pack.folder.parent))
    return pack


def error_of(codec: Codec, data: bytes, rgb: Pixels) -> float:
    return float(np.abs(codec.decode_picture(data).rgb.astype(float) - rgb).mean())


def test_both_graphs_are_told_the_level(told: ModelPack, make_pack: Callable[..., ModelPack], photo: Pixels) -> None:
    """At every quality the picture is as near as with a pack that is told nothing: what the encoder did with the level
    the decoder undoes. The latents differ by what the level does to them."""
    plain = make_pack("plain")
    codec, other = Codec(told.folder), Codec(plain.folder)
    for quality in (20, 50, 80):
        one, two = codec.encode(photo, quality=quality), other.encode(photo, quality=quality)
        assert error_of(codec, one, photo) < 1.15 * error_of(other, two, photo) + 0.5
    encoder = Engine(told.encoder_path(), device="cpu")
    at = [np.full((13, 21), index) for index in (512, 576)]
    levels = [transform.to_latents(photo, told, encoder, indices=indices) for indices in at]
    difference = levels[1] - levels[0]
    np.testing.assert_allclose(difference[0], -1 / 8 * 8 * 3**0.5 * 4, rtol=1e-3)
    assert np.abs(difference[1:]).max() < 1e-3
    np.testing.assert_array_equal(levels[0], transform.to_latents(photo, told, encoder))


def test_the_encoder_runs_again_where_the_search_ends_far_away(
    told: ModelPack, photo: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target size far from the default quality costs two runs of the encoder, one near it a single one; either way
    the size is kept and the decoder is told the level that the encoder was, or nearly."""
    runs: list[str] = []

    class Counted(Engine):
        def run(self, array: Any) -> NDArray[np.float32]:
            runs.append(self.path.name)
            return super().run(array)

    monkeypatch.setattr(model_cache, "Engine", Counted)
    codec = Codec(told.folder)
    near = len(codec.encode(photo, protect="none"))
    runs.clear()
    for target_bytes, expected in ((near, 1), (near // 3, 2), (3 * near, 2)):
        data = codec.encode(photo, target_bytes=target_bytes, protect="none")
        assert len(data) <= target_bytes
        assert runs == ["encoder.onnx"] * expected
        level = (codec.info(data).step_index - 512) / 64
        mean = codec.decode_picture(data).rgb.mean() - photo.mean()
        assert abs(mean) < 6, f"off by {mean}, the level is {level}"
        runs.clear()


def test_levels_of_a_map_reach_their_cells(told: ModelPack, photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a step map each cell is told its own level, so that no cell is darker or brighter than the picture; tiles
    and crops agree with the whole."""
    offsets = np.array([[4, 0, -4], [0, -4, 4]], np.int8)
    encoder = Engine(told.encoder_path(), device="cpu")

    def latents(_resampling: int, indices: IndicesOf, _final: bool) -> Latents:
        return transform.to_latents(photo, told, encoder, indices=indices(*photo.shape[:2]))

    options = EncodeOptions(quality=60)
    data, _file = FileWriter(LatentCoder(told), photo.shape[1], photo.shape[0], (), options, offsets).write(latents)
    codec = Codec(told.folder)
    whole = codec.decode_picture(data).rgb.astype(int)
    for y in (0, 64):
        for x in (0, 64, 128):
            cell = (slice(y + 8, y + 56), slice(x + 8, x + 56))
            assert abs(float(whole[cell].mean() - photo[cell].mean())) < 4
    monkeypatch.setattr(transform, "FRAME_PX", 64 * 64)
    assert np.abs(codec.decode_picture(data).rgb - whole).max() <= 1
    part = codec.decode_picture(data, crop=(50, 20, 70, 60)).rgb
    assert np.abs(part - whole[20:80, 50:120]).max() <= 1


def test_files_do_not_depend_on_tiles(told: ModelPack, photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """The level's plane is cut as the picture is."""
    encoder = Engine(told.encoder_path(), device="cpu")
    indices = np.random.default_rng(0).integers(400, 600, (13, 21))
    whole = transform.to_latents(photo, told, encoder, indices=indices)
    monkeypatch.setattr(transform, "FRAME_PX", 64 * 64)
    np.testing.assert_allclose(transform.to_latents(photo, told, encoder, indices=indices), whole, atol=1e-4)
