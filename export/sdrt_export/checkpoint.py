"""Files of tensors: read by their content, nothing but tensors unpickled, other files refused with the true reason.

What a file is called does not decide how it is read: a pickle named .safetensors is a pickle.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sdrt.errors import ModelError, first_line
from sdrt_export.classes import in_one_file, marked
from sdrt_export.impostors import read_json, refuse_impostor, some

SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin")
PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "bn.")
"""What the names of an autoencoder's tensors begin with. Training leaves its loss beside them."""
ANCHORS = ("encoder.conv_in.weight", "encoder.layers.0.weight")
"""Tensors that identify an autoencoder and its prefix: AutoencoderKL (in either naming), AutoencoderTiny."""
_PREFERRED_PREFIXES = ("first_stage_model.", "vae.", "")


@dataclass(frozen=True)
class Checkpoint:
    """The autoencoder's part of a file."""

    path: Path
    state: dict[str, Tensor]
    """Tensors under their own names, without ``prefix``."""
    prefix: str
    """``first_stage_model.`` in a Stable Diffusion checkpoint, ``vae.`` in ComfyUI's all-in-one files, or nothing."""
    names: frozenset[str]
    """Names of all tensors of the file, other models' too."""
    metadata: Mapping[str, str]
    """Of a safetensors file; empty for others."""


def read_checkpoint(path: Path) -> Checkpoint:
    """The autoencoder of a file of tensors; other parts of it are not read where the format allows that.

    Raises:
        ModelError: damaged, not a file of tensors, holds code, or holds no whole autoencoder of a known kind.
    """
    if not is_safetensors(path):
        tensors = read_tensors(path)
        names = frozenset(tensors)
        prefix = _prefix(path, names)
        state = {name: tensors[prefix + name] for name in _own(names, prefix)}
        return Checkpoint(path, state, prefix, names, {})
    try:
        with safe_open(path, framework="pt", device="cpu") as stream:
            names, metadata = frozenset(stream.keys()), dict(stream.metadata() or {})
            prefix = _prefix(path, names)
            state = {name: stream.get_tensor(prefix + name) for name in _own(names, prefix)}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read {path}: {first_line(error)}: is the download complete?") from None
    return Checkpoint(path, state, prefix, names, metadata)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file; in a pickle a nested ``state_dict`` is opened. Never runs code of the file.

    Raises:
        ModelError: damaged, or anything but tensors and plain containers in it.
    """
    if is_safetensors(path):
        try:
            with safe_open(path, framework="pt", device="cpu") as stream:
                return {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"cannot read {path}: {first_line(error)}: is the download complete?") from None
    try:
        if path.suffix == ".safetensors":  # torch would believe the name; and maps only files that it opens itself
            with path.open("rb") as stream:
                data = torch.load(stream, map_location="cpu", weights_only=True)
        else:
            data = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise ModelError(
            f"{path} is damaged or holds more than tensors, which could run code; it is not opened: "
            "use the .safetensors version of it"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise ModelError(f"cannot read {path}: {first_line(error)}: is the download complete?") from None
    state = data.get("state_dict", data) if isinstance(data, dict) else None
    if not isinstance(state, dict):
        raise ModelError(f"{path} holds no state dict")
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def read_shards(index: Path) -> tuple[dict[str, Tensor], list[Path]]:
    """The tensors of weights that are spread over several files, by their index (``*.index.json``), and the files.

    Raises:
        ModelError: the index is no such index, or a file or a tensor that it lists is not there.
    """
    weight_map = read_weight_map(index)
    files = [index.parent / name for name in sorted(set(weight_map.values()))]
    state: dict[str, Tensor] = {}
    for path in files:
        if path.parent != index.parent or not path.is_file():
            raise ModelError(f"{index} lists {path.name}, which is not beside it: a part of the weights is missing")
        tensors = read_tensors(path)
        state.update({name: value for name, value in tensors.items() if weight_map.get(name) == path.name})
    absent = sorted(set(weight_map) - set(state))
    if absent:
        raise ModelError(f"{index} lists {some(absent)}, not found in the files that it names")
    return state, files


def read_weight_map(index: Path) -> dict[str, str]:
    """Tensor -> the file that holds it. Raises ModelError where the index is none."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ModelError(f"{index} has no weight_map from tensors to files")
    return weight_map


def is_safetensors(path: Path) -> bool:
    """Whether the file begins as a safetensors file does: a length of eight bytes, then JSON.

    Raises:
        ModelError: the file cannot be read, or is nothing that holds tensors.
    """
    head = refuse_impostor(path)
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], where: Path) -> None:
    """Copies ``state`` into ``module`` in float32: every tensor of it, nothing besides, all of them finite.

    Raises:
        ModelError: a tensor is missing, left over, of another shape or of a kind that holds no real numbers, or holds
            a NaN or an infinity.
    """
    own = module.state_dict()
    missing = sorted(set(own) - set(state) - {name for name in own if name.endswith("num_batches_tracked")})
    left_over = sorted(set(state) - set(own))
    if missing:
        more = f", but also {some(left_over)}" if left_over else ""
        raise ModelError(f"{where} lacks {some(missing)}{more}: it is incomplete, or another kind of autoencoder")
    if left_over:
        raise ModelError(f"{where} also holds {some(left_over)}: another kind of autoencoder than {_kind(module)}")
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise ModelError(
                f"{where}: {name} has the shape {tuple(tensor.shape)}, {_kind(module)} of this configuration has "
                f"{tuple(own[name].shape)}"
            )
        if not tensor.is_floating_point() and own[name].is_floating_point():
            raise ModelError(f"{where}: {name} is {tensor.dtype}, a quantized weight: use the float version")
    wide = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    sick = sorted(name for name, tensor in wide.items() if not torch.isfinite(tensor).all())
    if sick:
        raise ModelError(f"{where}: {some(sick)} holds values that are not finite (NaN or infinity): it is damaged")
    module.load_state_dict(wide, strict=False)  # what the checks above allow to be missing has its initial value


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def _prefix(path: Path, names: Iterable[str]) -> str:
    """The prefix of the autoencoder's tensor names. Raises ModelError, which states what the file holds instead."""
    listed = list(names)
    found = {name.removesuffix(anchor) for name in listed for anchor in ANCHORS if name.endswith(anchor)}
    whole = [prefix for prefix in found if any(name.startswith(f"{prefix}decoder.") for name in listed)]
    preferred = [prefix for prefix in _PREFERRED_PREFIXES if prefix in whole]
    if preferred:
        return preferred[0]
    if len(whole) == 1:
        return whole[0]
    if whole:
        raise ModelError(f"{path} holds several autoencoders: {', '.join(sorted(whole))}; cut one out first")
    raise ModelError(f"{path} holds no autoencoder that is known here: {_instead(listed)}")


def _own(names: Iterable[str], prefix: str) -> list[str]:
    own = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
    return sorted(name for name in own if name.startswith(PARTS))


def _instead(names: Sequence[str]) -> str:
    """A short description of a file without a known autoencoder."""
    undescribed = [each for each in marked(names) if not each.single_file]
    if undescribed:
        return f"it is an {in_one_file(undescribed)}"
    if any(name.endswith("decoder.conv_in.weight") for name in names):
        return "it has a decoder and no encoder"
    if any(".lora_" in name or "lora_up" in name for name in names):
        return "it is a LoRA"
    if "1.weight" in names or "0.weight" in names:
        return "it is one half of a tiny autoencoder; both halves belong side by side as NAME_encoder and NAME_decoder"
    groups = sorted({".".join(name.split(".")[:2]) for name in names})
    return f"it holds {some(groups)}" if groups else "it holds no tensors"
