"""Where autoencoders come from: the Hugging Face hub, diffusers folders, single files, pairs of tiny state dicts.

A source is read whole or refused: every tensor has its place, every number is finite, what had to be guessed is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sdrt.errors import ModelError
from sdrt.packs.manifest import LatentSpace
from sdrt_export import autoencoders, ldm_names, reference, taef
from sdrt_export.autoencoders import ADAPTERS, Adapter, adapter_of, describe_space, encoder_digest
from sdrt_export.checkpoint import SUFFIXES, Checkpoint, load_strictly, read_checkpoint
from sdrt_export.classes import CLASSES, in_one_file, marked
from sdrt_export.hub import LOCAL, download
from sdrt_export.impostors import read_json
from sdrt_export.pack_writer import describe_file
from sdrt_export.reference import Reference
from sdrt_export.spaces import SPACES, KnownSpace, by_tiny_stem, by_weights, guess_family, license_of, resolve_space
from sdrt_export.translated import translate
from sdrt_export.weights_files import CONFIG, STEM, find_weights, read_weights, refuse_folder

OVERRULE = "--space, or --scale and --shift, overrule it"


@dataclass(frozen=True)
class Source:
    """An autoencoder ready for export: two modules, their latent space, and their origin."""

    encoder: nn.Module
    decoder: nn.Module
    space: LatentSpace
    latent_distribution: bool
    provenance: dict[str, Any]
    license: str | None
    notes: tuple[str, ...]
    """Assumptions, a line each, and how to override them."""
    reference: Callable[[], Reference]
    """Opens what the exported graphs are compared with."""


@dataclass(frozen=True)
class SourceOptions:
    """Options of a source besides its location."""

    revision: str | None = None
    subfolder: str | None = None
    space: str | None = None
    scale: float | None = None
    shift: float | None = None
    norm_groups: int | None = None
    """Of a single file's normalizations, whose number no tensor shows."""
    license: str | None = None


def open_source(location: str, options: SourceOptions | None = None) -> Source:
    """Reads an autoencoder from a folder, a file, or a hub repository (its copy under models/sources comes first).

    Raises:
        ModelError: in one line: nothing there, not supported, incomplete, damaged, or not downloadable.
    """
    options = options or SourceOptions()
    path = Path(location).expanduser()
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise ModelError(f"{path} is not a checkpoint: {', '.join(SUFFIXES)} are")
        return _from_file(path, options)
    if path.is_dir():
        return _from_folder(path, options, None)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", location) or location.startswith("."):
        raise ModelError(f"{location} is neither a folder, a checkpoint file, nor a repository OWNER/NAME of the hub")
    local = LOCAL / location
    folder = local if local.is_dir() else download(location, options.revision, options.subfolder)
    return _from_folder(folder, options, location)


def _from_folder(folder: Path, options: SourceOptions, repository: str | None) -> Source:
    candidates = [folder / options.subfolder] if options.subfolder else [folder, folder / "vae"]
    described = [place for place in candidates if (place / CONFIG).is_file()]
    if described:
        # A whole model may have a configuration of its own above its autoencoder's.
        known = (place for place in described if read_json(place / CONFIG).get("_class_name") in ADAPTERS)
        home = next(known, described[0])
        return _from_diffusers(folder, home, find_weights(home), options, repository)
    pairs = taef.find_pairs(folder)
    if len(pairs) == 1:
        return _from_pair(*pairs[0], options)
    if pairs:
        names = ", ".join(taef.stem_of(encoder) for encoder, _decoder in pairs)
        raise ModelError(f"{folder} holds several tiny autoencoders ({names}): name one, for example {pairs[0][0]}")
    raise refuse_folder(folder, candidates)


def _from_diffusers(folder: Path, home: Path, weights: Path, options: SourceOptions, repository: str | None) -> Source:
    config = read_json(home / CONFIG)
    adapter = adapter_of(config.get("_class_name"), home / CONFIG)
    if options.norm_groups is not None:
        raise ModelError(f"--norm-groups is for single files: {home / CONFIG} says how many there are")
    vae = autoencoders.build(adapter, config, home / CONFIG)
    state, files = read_weights(weights)
    load_strictly(vae, ldm_names.to_diffusers(state) if adapter.facts.prefix == "kl" else state, weights)
    origin: dict[str, Any] = {"kind": "diffusers", "location": repository or str(folder)}
    if repository:
        # The hub's cache names the folder after the commit; a copy under models/sources has no such name.
        commit = folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else None
        origin["revision"] = commit or options.revision
    origin["subfolder"] = home.relative_to(folder).as_posix() if home != folder else None
    return _assemble(
        adapter,
        vae,
        options,
        origin=origin,
        files={path.name: describe_file(path) for path in files},
        repository=repository,
        notes=[],
        reopen=lambda: (reference.read_folder(adapter, home, weights), "diffusers"),
    )


def _from_file(path: Path, options: SourceOptions) -> Source:
    partner = taef.partner_of(path)
    if partner is not None and partner.is_file():
        pair = (path, partner) if taef.ENCODER.fullmatch(path.name) else (partner, path)
        return _from_pair(*pair, options)
    if path.name.startswith(STEM) and (path.parent / CONFIG).is_file():
        return _from_diffusers(path.parent, path.parent, path, options, None)
    checkpoint = read_checkpoint(path)
    adapter = _class_of(checkpoint)
    described = describe_file(path)
    known = by_weights([str(described["sha256"])])
    notes: list[str] = []
    state = checkpoint.state
    if adapter.facts.translates:
        config = taef.describe(state, path)
    else:
        state = ldm_names.to_diffusers(state)
        config = ldm_names.describe(state, path, options.norm_groups)
        scale, shift = _scale_of_file(checkpoint, int(config["latent_channels"]), options, known, notes)
        if adapter.facts.name == "AutoencoderKL":
            config.update(scaling_factor=scale, shift_factor=shift)
        if options.norm_groups is None and known is None:
            notes.append(
                f"{ldm_names.DEFAULT_GROUPS} groups in each normalization, as in every Stable Diffusion: a single file "
                "does not say; --norm-groups overrules it"
            )
    vae = autoencoders.build(adapter, config, path)
    load_strictly(vae, state, path)

    def reopen() -> tuple[Any, str]:
        # diffusers reads AutoencoderKL only, and leaves out in silence what it knows under no name.
        names = checkpoint.state
        known_names = any(name.startswith("encoder.down.") for name in names) or set(names) <= set(vae.state_dict())
        if adapter.facts.name == "AutoencoderKL" and checkpoint.prefix in ("", "first_stage_model.") and known_names:
            return reference.read_single_file(adapter, path, config), "diffusers"
        return vae, "sdrt_export"

    origin: dict[str, Any] = {"kind": "checkpoint", "location": str(path), "norm_groups": options.norm_groups}
    if not adapter.facts.translates:
        origin.update(scale=scale, shift=shift)
    files = {path.name: described}
    return _assemble(adapter, vae, options, origin=origin, files=files, repository=None, notes=notes, reopen=reopen)


def _class_of(checkpoint: Checkpoint) -> Adapter:
    """By names and shapes. Raises ModelError for classes that single files do not describe well enough."""
    state, path = checkpoint.state, checkpoint.path
    found = marked(state)
    # By its original name. AutoencoderKL's of that name keeps the number of channels; this one's output is folded.
    halving = state.get("encoder.down.0.downsample.conv.weight")
    folded = halving is not None and halving.shape[0] != halving.shape[1]
    if folded:
        found = [CLASSES["AutoencoderKLHunyuanImage"]]
    undescribed = [each for each in found if not each.single_file]
    if undescribed:
        raise ModelError(f"{path} is an {in_one_file(undescribed)}")
    entrance = state.get("encoder.conv_in.weight")
    if entrance is not None and entrance.ndim == 5:
        raise ModelError(f"{path} is a video autoencoder in one file: give the folder with its config.json")
    return ADAPTERS[found[0].name if found else "AutoencoderKL"]


def _scale_of_file(
    checkpoint: Checkpoint, channels: int, options: SourceOptions, known: KnownSpace | None, notes: list[str]
) -> tuple[float, float]:
    """Scale and shift of a file that does not carry them. Raises ModelError if they are unknown."""
    if options.scale is not None:
        return options.scale, options.shift or 0.0
    if options.space in SPACES:
        return SPACES[options.space].scale, SPACES[options.space].shift
    if known is not None:
        return known.space.scale, known.space.shift
    guess = guess_family(
        channels, tensors=checkpoint.names, metadata=checkpoint.metadata, file_name=checkpoint.path.name
    )
    if guess is None:
        raise ModelError(
            f"{checkpoint.path} has {channels} latent channels and a single file does not say their scale: "
            f"give --space ({', '.join(SPACES)}), or --scale and --shift"
        )
    space = guess.space
    notes.append(f"scale {space.scale:g} and shift {space.shift:g}, those of {space.id}: {guess.reason}; {OVERRULE}")
    return space.scale, space.shift


def _from_pair(encoder_path: Path, decoder_path: Path, options: SourceOptions) -> Source:
    encoder, decoder, channels = taef.load_pair(encoder_path, decoder_path)
    stem = taef.stem_of(encoder_path)
    known = by_tiny_stem(stem)
    notes = []
    if options.space is None and known is not None:
        notes.append(f"latent space {known.space.id}: its files are called {stem}; --space overrules it")
    found = LatentSpace(
        f"tiny-{encoder_digest(encoder.state_dict())}", channels, taef.DOWNSCALE, options.scale or 1.0,
        options.shift or 0.0,
    )  # fmt: skip
    space = resolve_space(found, asked=options.space or (known.space.id if known is not None else stem))
    halves = translate(encoder.eval(), decoder.eval(), found, space)

    def reopen() -> Reference:
        state = taef.as_diffusers(encoder_path, decoder_path)
        if state is None:
            reader = "this export's own module: diffusers has none with a global branch"
            return reference.of_modules(*halves, channels, reader)
        adapter = ADAPTERS["AutoencoderTiny"]
        vae = autoencoders.build(adapter, taef.describe(state, encoder_path), encoder_path)
        load_strictly(vae, state, encoder_path)
        return reference.of_diffusers(adapter, vae, found, space, "sdrt_export")

    files = {path.name: describe_file(path) for path in (encoder_path, decoder_path)}
    origin: dict[str, Any] = {"kind": "tiny pair", "location": str(encoder_path), "files": files}
    origin.update({"scale": options.scale, "shift": options.shift} if options.scale is not None else {})
    return Source(*halves, space, False, origin, options.license or "MIT", tuple(notes), reopen)


def _assemble(
    adapter: Adapter,
    vae: Any,
    options: SourceOptions,
    *,
    origin: dict[str, Any],
    files: Mapping[str, Mapping[str, Any]],
    repository: str | None,
    notes: list[str],
    reopen: Callable[[], tuple[Any, str]],
) -> Source:
    found = describe_space(vae, options.scale, options.shift)
    digests = {name: str(entry["sha256"]) for name, entry in files.items()}
    space = resolve_space(found, asked=options.space, repository=repository, digests=digests)
    if space is found:
        notes = [*notes, f"latent space {space.id}, named by the encoder's weights; --space names it otherwise"]
    encoder, decoder = autoencoders.halves(vae, found, space)
    config = {key: value for key, value in vae.config.items() if key == "_class_name" or not key.startswith("_")}
    told = {"scale": options.scale, "shift": options.shift, **origin, "class": adapter.facts.name, "config": config}
    provenance = {**{key: value for key, value in told.items() if value is not None}, "files": dict(files)}

    def compared() -> Reference:
        other, reader = reopen()
        return reference.of_diffusers(adapter, other, found, space, reader)

    chosen = options.license or license_of(repository)
    return Source(
        encoder, decoder, space, adapter.facts.latent_distribution, provenance, chosen, tuple(notes), compared
    )
