"""The tests' own model pack: an 8x8 cosine transform with small convolutions around it, about 45 kB.

It paints recognizable pictures, has a halo, and never changes when models/tiny is trained again, so that golden files
last. ``python -m tests.testpack`` writes tests/data/testpack; the committed folder is what tests use.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sdrt.coding.prior_file import write_prior
from sdrt.packs.manifest import LatentSpace, ModelPack
from sdrt.packs.search import load_pack
from sdrt_export.pack_writer import write_pack
from sdrt_export.prior_plan import Arrays, generic_arrays

FOLDER = Path(__file__).parent / "data" / "testpack"
CELL = 8
SPACE = LatentSpace(id="sdrt-test-dct8", channels=12, downscale=CELL, scale=4.0, shift=0.0)
HALO = {"encoder_px": 1, "decoder_latents": 2}

_LUMA = ((0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2))
_CHROMA = ((0, 0), (0, 1), (1, 0))
_COLORS = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]], np.float64)


def basis() -> NDArray[np.float32]:
    """(12, 3, 8, 8): orthonormal pictures of one cell, six of luma and three of each chroma."""
    place = np.arange(CELL) + 0.5
    waves = (
        np.cos(np.pi / CELL * np.arange(CELL)[:, None] * place)
        * np.sqrt(np.where(np.arange(CELL) == 0, 1, 2) / CELL)[:, None]
    )
    colors = _COLORS / np.linalg.norm(_COLORS, axis=1, keepdims=True)
    pictures = [
        colors[c][:, None, None] * np.outer(waves[v], waves[u])[None]
        for c, which in ((0, _LUMA), (1, _CHROMA), (2, _CHROMA))
        for v, u in which
    ]
    return np.stack(pictures).astype(np.float32)


def near_identity(channels: int, spread: float, seed: int) -> NDArray[np.float32]:
    """(channels, channels, 3, 3): passes its input on, with a little of the neighborhood mixed in."""
    weight = np.random.default_rng(seed).normal(scale=spread, size=(channels, channels, 3, 3))
    weight[np.arange(channels), np.arange(channels), 1, 1] += 1
    return weight.astype(np.float32)


def with_level(weight: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """``weight`` (O, I, 3, 3) with one more input, of which the first output gets ``factor``."""
    level = np.zeros_like(weight[:, :1])
    level[0, 0, 1, 1] = factor
    return np.concatenate([weight, level], axis=1)


def graph(
    name: str,
    input_name: str,
    output_name: str,
    channels: tuple[int, int],
    layers: list[tuple[str, NDArray[np.float32]]],
) -> bytes:
    """A graph of ``layers``: "conv" of 3x3, "stride" of a cell, or "shuffle" of 1x1 and from channels to a cell."""
    nodes, tensors, value = [], [], input_name
    for index, (kind, weight) in enumerate(layers):
        last = output_name if index == len(layers) - 1 else f"x{index}"
        tensors.append(numpy_helper.from_array(weight, f"w{index}"))
        if kind == "shuffle":
            nodes.append(helper.make_node("Conv", [value, f"w{index}"], [f"c{index}"], kernel_shape=[1, 1]))
            nodes.append(helper.make_node("DepthToSpace", [f"c{index}"], [last], blocksize=CELL, mode="CRD"))
        elif kind == "stride":
            nodes.append(
                helper.make_node("Conv", [value, f"w{index}"], [last], kernel_shape=[CELL, CELL], strides=[CELL, CELL])
            )
        else:
            nodes.append(helper.make_node("Conv", [value, f"w{index}"], [last], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        value = last
    inputs = [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["n", channels[0], "h", "w"])]
    outputs = [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, ["n", channels[1], "H", "W"])]
    model = helper.make_model(
        helper.make_graph(nodes, name, inputs, outputs, tensors),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def write(
    folder: Path,
    *,
    name: str = "testpack",
    space: LatentSpace = SPACE,
    halo: dict[str, int] | None = HALO,
    distribution: bool = False,
    quality_input: bool = False,
    base_step: float = 1.0,
    prior: Arrays | None = None,
) -> ModelPack:
    """Write the pack, or a variant of it: fields as in a manifest, ``base_step`` or ``prior`` for another prior.

    With ``distribution`` the encoder gives means and log-variances, the latter all 0. With ``quality_input`` each
    octave of the quality level brightens what the decoder paints by 1/16 of the range.
    """
    pictures = basis()
    shuffle = pictures.reshape(12, 3 * CELL * CELL).T[:, :, None, None].copy()
    outputs = np.concatenate([pictures, np.zeros_like(pictures)]) if distribution else pictures
    encoder = graph(
        "encoder",
        "sample",
        "latent_parameters" if distribution else "latents",
        (3, len(outputs)),
        [("conv", near_identity(3, 0.01, 1)), ("stride", outputs)],
    )
    mixed = near_identity(12, 0.003, 2)
    decoder = graph(
        "decoder",
        "latent_sample",
        "sample",
        (12 + quality_input, 3),
        [
            ("conv", with_level(mixed, CELL * 3**0.5 / 8) if quality_input else mixed),
            ("shuffle", shuffle),
            ("conv", near_identity(3, 0.01, 3)),
        ],
    )
    prior = {**(prior or generic_arrays(12)), "steps": np.full(12, base_step, "<f4")}
    write_pack(
        folder,
        name=name,
        space=space,
        files={"encoder.onnx": encoder, "decoder.onnx": decoder, "prior.npz": write_prior(prior)},
        halo=halo,
        latent_distribution=distribution,
        quality_input=quality_input,
        quality_range=(704, 320),
        default_step=512,
        license="CC0-1.0",
    )
    return load_pack(folder)


if __name__ == "__main__":
    print(write(FOLDER))
