"""Where autoencoders come from: the Hugging Face hub, diffusers folders, single files, pairs of tiny state dicts."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from sdrt.errors import ModelError
from sdrt.packs.manifest import LatentSpace
from sdrt_export import autoencoders, checkpoint, taef
from sdrt_export.hub import CONFIG, LOCAL, WEIGHTS_FILES, download
from sdrt_export.pack_writer import describe_file
from sdrt_export.spaces import LICENCES, SPACES, encoder_digest, resolve_space

CHECKPOINT_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Source:
    """An autoencoder ready for export: two modules, the space they speak, and where they come from."""

    encoder: nn.Module
    decoder: nn.Module
    space: LatentSpace
    latent_distribution: bool
    force_upcast: bool
    """The configuration says that fp16 arithmetic overflows."""
    provenance: dict[str, Any]
    licence: str | None


@dataclass(frozen=True)
class Wish:
    """What a person may say about a source beyond its location."""

    revision: str | None = None
    subfolder: str | None = None
    space: str | None = None
    scale: float | None = None
    shift: float | None = None
    licence: str | None = None


def open_source(location: str, wish: Wish | None = None) -> Source:
    """Reads an autoencoder from a folder, a file, or a hub repository (its copy under models/sources comes first).

    Raises ModelError in one line: nothing there, not supported, damaged, or not downloadable.
    """
    wish = wish or Wish()
    path = Path(location).expanduser()
    if path.is_file():
        if path.suffix not in CHECKPOINT_SUFFIXES:
            raise ModelError(f"{path} is no checkpoint: {', '.join(CHECKPOINT_SUFFIXES)} are")
        return _from_file(path, wish)
    if path.is_dir():
        pair = taef.find_pair(path)
        return _from_pair(*pair, wish) if pair else _from_folder(path, wish, None)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", location) or location.startswith("."):
        raise ModelError(f"{location} is neither a folder, a checkpoint file, nor a repository OWNER/NAME of the hub")
    local = LOCAL / location
    folder = local if local.is_dir() else download(location, wish.revision, wish.subfolder)
    return _from_folder(folder, wish, location)


def _from_folder(folder: Path, wish: Wish, repository: str | None) -> Source:
    candidates = [folder / wish.subfolder] if wish.subfolder else [folder, folder / "vae"]
    home = next((place for place in candidates if (place / CONFIG).is_file()), None)
    if home is None:
        raise ModelError(f"{folder} is no diffusers folder: no {CONFIG} in {' or '.join(map(str, candidates))}")
    config = _read_config(home / CONFIG)
    weights = next((home / name for name in WEIGHTS_FILES if (home / name).is_file()), None)
    if weights is None:
        raise ModelError(f"{home} has no weights: {' or '.join(WEIGHTS_FILES)}")
    vae = _from_pretrained(home, config, weights)
    files = {weights.name: describe_file(weights)}
    origin: dict[str, Any] = {"kind": "diffusers", "location": repository or str(folder)}
    if repository:
        # The hub's cache names the folder after the commit; a copy under models/sources has no such name.
        commit = folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else None
        origin["revision"] = commit or wish.revision
    origin["subfolder"] = home.name if home != folder else None
    return _assemble(
        vae,
        wish,
        origin=origin,
        files=files,
        repository=repository,
        # The file's own word: diffusers' default for configurations without one is True.
        force_upcast=bool(config.get("force_upcast", False)),
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from None
    name = config.get("_class_name") if isinstance(config, dict) else None
    if name not in ("AutoencoderKL", "AutoencoderTiny"):
        raise ModelError(f"{path} describes {name}: AutoencoderKL and AutoencoderTiny are supported")
    described: dict[str, Any] = config
    return described


def _from_pretrained(home: Path, config: Mapping[str, Any], weights: Path) -> Any:
    diffusers = _import_diffusers()
    variant = "fp16" if ".fp16." in weights.name else None
    try:
        return getattr(diffusers, config["_class_name"]).from_pretrained(
            str(home),
            variant=variant,
            use_safetensors=weights.suffix == ".safetensors",
            local_files_only=True,
            low_cpu_mem_usage=False,
        )
    except Exception as error:  # diffusers raises OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError
        raise ModelError(f"cannot read the autoencoder in {home}: {_line(error)}") from None


def _import_diffusers() -> ModuleType:
    """Not at the top: it takes seconds, and tiny pairs need none of it. Raises ModelError if it is not installed."""
    try:
        module = importlib.import_module("diffusers")
    except ImportError as error:
        raise ModelError(f"diffusers is needed to read this source ({error}): pip install diffusers") from None
    module.logging.set_verbosity_error()
    return module


def _from_file(path: Path, wish: Wish) -> Source:
    diffusers = _import_diffusers()
    state, is_sdxl = checkpoint.read_checkpoint(path)
    state = checkpoint.to_diffusers(state)
    config = checkpoint.describe(state)
    space = SPACES.get(wish.space or ("sdxl" if is_sdxl else "sd1"), SPACES["sd1"])
    if config["latent_channels"] != space.channels and wish.scale is None:
        raise ModelError(
            f"{path} has {config['latent_channels']} latent channels and a single file does not say their scale: "
            f"give --space ({', '.join(SPACES)}), or --scale and --shift"
        )
    vae = diffusers.AutoencoderKL(**config, scaling_factor=space.scale, shift_factor=space.shift)
    try:
        vae.load_state_dict({key: value.float() for key, value in state.items()})
    except RuntimeError as error:
        raise ModelError(f"{path} holds another autoencoder than AutoencoderKL: {_line(error)}") from None
    origin = {"kind": "checkpoint", "location": str(path)}
    files = {path.name: describe_file(path)}
    return _assemble(vae, wish, origin=origin, files=files, repository=None, force_upcast=is_sdxl)


def _from_pair(encoder_path: Path, decoder_path: Path, wish: Wish) -> Source:
    encoder, decoder, channels = taef.load_pair(encoder_path, decoder_path)
    name = encoder_path.name.removesuffix("_encoder.pth")
    known = {"taesd": "sd1", "taesdxl": "sdxl", "taesd3": "sd3", "taef1": "flux1", "taef2": "flux2"}.get(name, name)
    digest = encoder_digest(encoder.state_dict())
    found = LatentSpace(f"tiny-{digest}", channels, taef.DOWNSCALE, wish.scale or 1.0, wish.shift or 0.0)
    space = resolve_space(found, asked=wish.space or known)
    encoder, decoder = autoencoders.translate(encoder, decoder, found, space)
    files = {path.name: describe_file(path) for path in (encoder_path, decoder_path)}
    origin = {"kind": "tiny pair", "location": str(encoder_path.parent), "files": files}
    return Source(encoder.eval(), decoder.eval(), space, False, False, origin, wish.licence or "MIT")


def _assemble(
    vae: Any,
    wish: Wish,
    *,
    origin: dict[str, Any],
    files: dict[str, dict[str, Any]],
    repository: str | None,
    force_upcast: bool,
) -> Source:
    found = autoencoders.describe_space(vae, wish.scale, wish.shift)
    digests = {name: str(entry["sha256"]) for name, entry in files.items()}
    space = resolve_space(found, asked=wish.space, repository=repository, digests=digests)
    encoder, decoder = autoencoders.halves(vae, found, space)
    kind = autoencoders.class_of(vae)
    licence = wish.licence or LICENCES.get((repository or "").lower())
    provenance = {**{key: value for key, value in origin.items() if value is not None}, "class": kind, "files": files}
    return Source(encoder, decoder, space, kind == "AutoencoderKL", force_upcast, provenance, licence)


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
