"""diffusers' weights in a folder: which of its many file names are there, and the tensors behind them."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from sdrt.errors import ModelError
from sdrt_export.checkpoint import SUFFIXES, read_shards, read_tensors
from sdrt_export.impostors import some

CONFIG = "config.json"
STEM = "diffusion_pytorch_model"
NAMES = tuple(
    f"{STEM}.{name}"
    for name in (
        "safetensors",
        "safetensors.index.json",
        "fp16.safetensors",
        "safetensors.index.fp16.json",
        "bin",
        "bin.index.json",
        "fp16.bin",
        "bin.index.fp16.json",
    )
)
"""In order of preference. An index lists the files over which large weights are spread."""


def find_weights(home: Path) -> Path:
    """The weights, or their index, in a folder with a ``config.json``.

    Raises:
        ModelError: none is there; the message says what there is instead.
    """
    others = sorted(path.name for suffix in ("safetensors", "bin") for path in home.glob(f"{STEM}.*.{suffix}"))
    name = next((name for name in (*NAMES, *others) if (home / name).is_file()), None)
    if name is not None:
        return home / name
    raise ModelError(f"{home} has no weights: no {NAMES[0]} nor another form of it{_beside(home)}")


def read_weights(weights: Path) -> tuple[dict[str, Tensor], list[Path]]:
    """All tensors, and the files that they are in. ``weights``: a file or an index. Raises ModelError as these do."""
    if weights.suffix == ".json":
        return read_shards(weights)
    return read_tensors(weights), [weights]


def variant_of(weights: Path) -> str | None:
    """``fp16`` and the like, as ``from_pretrained`` takes it; None for the plain names."""
    found = re.fullmatch(rf"{STEM}\.(?:(.+)\.)?(?:safetensors|bin)", weights.name) or re.fullmatch(
        rf"{STEM}\.(?:safetensors|bin)\.index(?:\.(.+))?\.json", weights.name
    )
    return found[1] if found else None


def refuse_folder(folder: Path, looked_at: list[Path]) -> ModelError:
    """Why a folder without a ``config.json`` is no source, and what in it may be meant."""
    where = " or ".join(str(path) for path in looked_at)
    if (folder / "manifest.json").is_file():
        return ModelError(f"{folder} is a model pack already, not the source of one")
    graphs = sorted(folder.glob("*/model.onnx")) or sorted(folder.glob("*.onnx"))
    if graphs:
        return ModelError(f"{folder} holds ONNX graphs: python -m sdrt_export from-onnx {folder} --out PACK")
    files = [path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES]
    if files:
        return ModelError(
            f"{folder} is not a diffusers folder: no {CONFIG} in {where}; it holds "
            f"{some([path.name for path in files])}: give the file, for example {files[0]}"
        )
    return ModelError(f"{folder} is not a diffusers folder: no {CONFIG} in {where}{_beside(folder)}")


def _beside(folder: Path) -> str:
    here = sorted(path.name for path in folder.iterdir() if path.name != CONFIG)
    if any(name.endswith(".msgpack") for name in here):
        return "; there are Flax weights (.msgpack), which are not read"
    return f"; there is {some(here)}" if here else "; nothing else is there"
