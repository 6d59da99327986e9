"""Decoders that give pixels: the very pixels that the runtime would make of their samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from sdrt.codec import Codec
from sdrt.network import transform
from sdrt.network.engine import Engine
from sdrt.packs.manifest import ModelPack
from sdrt.packs.search import load_pack
from sdrt.pixels.tensors import as_sample, from_sample
from sdrt_export.__main__ import main
from sdrt_export.graph import trace
from sdrt_export.pixel_output import gives_pixels, with_pixels, without_pixels
from sdrt_export.precision import convert

pytestmark = pytest.mark.usefixtures("one_thread")


def run(model: onnx.ModelProto, array: Any, folder: Path) -> Any:
    onnx.save(model, folder / "g.onnx")
    return Engine(folder / "g.onnx", device="cpu", threads=1).run(array)


@pytest.mark.parametrize("precision", ["fp32", "w16", "fp16"])
def test_pixels_are_those_that_the_runtime_computes(tmp_path: Path, precision: str) -> None:
    """Bit for bit, also where the last node is a convolution that an optimizer would like to scale, and far outside."""
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 3, 3, padding=1)
    array = np.random.default_rng(1).normal(size=(1, 4, 64, 80)).astype(np.float32) * 3
    plain = convert(trace(layer, torch.zeros(2, 4, 3, 5), "latent_sample", "sample"), precision)
    sample, pixels = (run(model, array, tmp_path) for model in (plain, with_pixels(plain)))
    assert (pixels.dtype, pixels.shape) == (np.uint8, (1, 64, 80, 3))
    np.testing.assert_array_equal(pixels[0], from_sample(sample, 64, 80))
    assert {0, 255} < set(np.unique(pixels).tolist())


def test_ties_go_to_the_even_level(tmp_path: Path) -> None:
    """Values halfway between two levels, and the ends of the range, are rounded as numpy rounds them."""
    levels = np.arange(-3, 259, 0.5, dtype=np.float32)
    array = ((levels - np.float32(127.5)) / np.float32(127.5)).reshape(1, 1, 4, -1).repeat(3, 1)
    identity = trace(nn.ReLU(), torch.zeros(2, 3, 3, 5), "latent_sample", "sample")
    identity.graph.node[0].op_type = "Identity"
    pixels = run(with_pixels(identity), array, tmp_path)
    np.testing.assert_array_equal(pixels[0], from_sample(array, 4, array.shape[3]))


def test_taking_the_pixels_back_leaves_no_trace() -> None:
    """A graph without its pixels is the graph it was, byte for byte; to do either twice changes nothing."""
    plain = convert(trace(nn.Conv2d(4, 3, 3), torch.zeros(2, 4, 5, 7), "latent_sample", "sample"), "w16")
    painted, data = with_pixels(plain), plain.SerializeToString(deterministic=True)
    onnx.checker.check_model(painted)
    assert (gives_pixels(plain), gives_pixels(painted)) == (False, True)
    for model in (painted, plain):
        assert without_pixels(model).SerializeToString(deterministic=True) == data


def test_samples_of_pixels_are_their_levels() -> None:
    """``as_sample`` puts level 0 at -1 and 255 at 1, channels first, and leaves samples alone."""
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    sample = as_sample(pixels)
    np.testing.assert_array_equal(from_sample(sample, 16, 16), pixels[0])
    assert (sample.shape, sample.dtype) == ((1, 3, 16, 16), np.float32)
    assert as_sample(sample) is sample


def test_a_pack_of_pixels_decodes_the_same_picture(
    make_pack: Callable[..., ModelPack], photo: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whole, in tiles with halo, and cropped: every pixel is what the pack gave before."""
    pack = make_pack("small")
    monkeypatch.setattr(transform, "FRAME_PX", 48 * 48)
    data = Codec(pack.folder, device="cpu", threads=1).encode(photo)
    crops = (None, (0, 0, 161, 97), (33, 41, 70, 9))

    def pictures() -> list[Any]:
        codec = Codec(pack.folder, device="cpu", threads=1)
        return [codec.decode_picture(data, crop=crop).rgb for crop in crops]

    before = pictures()
    original = (pack.folder / "decoder.onnx").read_bytes()
    assert main(["output", str(pack.folder), "uint8"]) == 0
    assert gives_pixels(onnx.load(pack.folder / "decoder.onnx"))
    for one, other in zip(before, pictures(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert main(["output", str(pack.folder), "float32"]) == 0
    assert (pack.folder / "decoder.onnx").read_bytes() == original
    assert load_pack(pack.folder).files == pack.files
