"""Run in optimum's own environment by tests/test_export_optimum.py: a small random Stable Diffusion in ONNX.

``make FOLDER`` writes it in torch (FOLDER/torch) and, exported by optimum, in ONNX (FOLDER/onnx); ``paint FOLDER FILE``
runs optimum's ONNX pipeline on FOLDER and keeps the picture, float32 in [0, 1], as FILE (.npy).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch


def make(folder: Path) -> None:
    import diffusers
    import transformers
    from optimum.exporters.onnx import main_export

    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.3,
        sample_size=32,
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    settings: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8}
    text = transformers.CLIPTextConfig(
        hidden_size=16, intermediate_size=16, max_position_embeddings=16, bos_token_id=0, eos_token_id=1, **settings
    )
    words = folder / "words"
    words.mkdir(parents=True)
    vocabulary = ["<|startoftext|>", "<|endoftext|>", "a", "a</w>", "b", "b</w>", "c", "c</w>"]
    (words / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(vocabulary)}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(words / "vocab.json"), str(words / "merges.txt"), model_max_length=16)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=transformers.CLIPTextModel(text),
        tokenizer=tokenizer,
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "torch")
    main_export(str(folder / "torch"), output=folder / "onnx", task="text-to-image", library_name="diffusers")


def paint(folder: Path, file: Path) -> None:
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    pictures = []
    for bound in (False, True):  # with buffers computed from the graph's own words about its shapes, as on a GPU
        pipeline = ORTStableDiffusionPipeline.from_pretrained(folder, use_io_binding=bound)
        generator = torch.Generator().manual_seed(3)
        picture = pipeline("a b c", height=48, width=32, num_inference_steps=2, generator=generator, output_type="np")
        pictures.append(picture.images[0].astype(np.float32))
    assert np.abs(pictures[0] - pictures[1]).max() < 1e-5
    np.save(file, pictures[0])


if __name__ == "__main__":
    command, *paths = sys.argv[1:]
    {"make": make, "paint": paint}[command](*map(Path, paths))
