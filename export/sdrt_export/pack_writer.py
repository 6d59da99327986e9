"""Writes a model pack: files, their hashes, and the manifest that ``sdrt.packs.manifest`` reads. No torch here."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sdrt.atomic import atomic_file, write_atomic
from sdrt.errors import ModelError, OutputError
from sdrt.packs.manifest import FORMAT, MANIFEST, PRIOR, LatentSpace, ModelPack, is_prior, older_prior, parse_manifest
from sdrt.packs.search import load_pack, read_prior

JsonObject = Mapping[str, Any]


def write_pack(
    folder: Path,
    *,
    name: str,
    space: LatentSpace,
    files: Mapping[str, bytes | Path] | None = None,
    latent_distribution: bool = False,
    quality_input: bool = False,
    halo: Mapping[str, int] | None = None,
    quality_range: tuple[int, int] = (704, 384),
    default_step: int = 512,
    source: JsonObject | None = None,
    graphs: JsonObject | None = None,
    training: JsonObject | None = None,
    prior: JsonObject | None = None,
    license: str | None = None,
) -> ModelPack:
    """Puts ``files`` (name in the pack -> content, or a path to copy) into the folder and writes a fresh manifest.

    Graphs and a prior that lie in the folder already are listed as well. Every other argument goes to the manifest
    field of its name. Returns the pack as the runtime reads it. Raises ModelError if a value is out of its range,
    OutputError if the folder cannot be written.
    """
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "space": {**json.loads(space.canonical_json()), "identity": space.identity.hex()},
        "latent_distribution": latent_distribution,
        "quality_input": quality_input,
        "halo": dict(halo) if halo is not None else None,
        "quality_range": list(quality_range),
        "default_step": default_step,
    }
    notes = {"license": license, "source": source, "graphs": graphs, "training": training, "prior": prior}
    manifest.update({key: value for key, value in notes.items() if value is not None})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file_name, content in (files or {}).items():
            if isinstance(content, Path):
                if content.resolve() != (folder / file_name).resolve():
                    with content.open("rb") as source_file, atomic_file(folder / file_name) as target:
                        shutil.copyfileobj(source_file, target, 1 << 20)
            else:
                write_atomic(folder / file_name, content)
    except OSError as error:
        raise OutputError(f"cannot write the model pack {folder}: {error.strerror or error}") from None
    return _write_manifest(folder, manifest)


def update_manifest(
    folder: Path,
    *,
    prior: JsonObject | None = None,
    verified: JsonObject | None = None,
    int8: JsonObject | None = None,
    gradient: JsonObject | None = None,
    source: JsonObject | None = None,
    graphs: JsonObject | None = None,
    training: JsonObject | None = None,
    license: str | None = None,
    quality_range: tuple[int, int] | None = None,
    default_step: int | None = None,
) -> ModelPack:
    """Hashes the folder's files again and replaces the given manifest fields; the others stay.

    Write ``prior.npz`` first, then call this with what the prior was fitted on. Raises ModelError if there is no valid
    manifest or a value is out of its range, OutputError if it cannot be written.
    """
    manifest = read_manifest(folder)
    given: dict[str, Any] = {
        "prior": prior,
        "verified": verified,
        "int8": int8,
        "gradient": gradient,
        "source": source,
        "graphs": graphs,
        "training": training,
        "license": license,
        "quality_range": list(quality_range) if quality_range is not None else None,
        "default_step": default_step,
    }
    manifest.update({key: value for key, value in given.items() if value is not None})
    return _write_manifest(folder, manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest as it is, files not compared. Raises ModelError if it is absent or not valid."""
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from None
    parse_manifest(manifest, folder)
    return manifest


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> ModelPack:
    listed = sorted(path for path in folder.iterdir() if path.suffix == ".onnx" or is_prior(path.name))
    manifest["files"] = {path.name: describe_file(path) for path in listed}
    parse_manifest(manifest, folder)
    text = json.dumps(manifest, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomic(folder / MANIFEST, text.encode("utf-8"))
    return load_pack(folder)


def write_prior_file(pack: ModelPack, data: bytes, *, replace: bool = False) -> Path:
    """Makes ``data`` the prior that writes, in ``prior.npz``; ``update_manifest`` comes next.

    Files written with the one before stay readable: it is kept beside, under a name that holds its identity. With
    ``replace`` it goes, and so do those that were kept earlier.

    Raises OutputError if the folder cannot be written.
    """
    target = pack.folder / PRIOR
    if PRIOR in pack.files and not replace:
        with suppress(ModelError):  # an altered one reads no file
            write_atomic(pack.folder / older_prior(pack.prior_identity), read_prior(pack))
    write_atomic(target, data)
    identity = hashlib.sha256(data).digest()[:4]
    for older, name in pack.priors.items():
        if name != PRIOR and (replace or older == identity):
            (pack.folder / name).unlink()
    if pack.priors.get(identity) == PRIOR:  # the same once more
        (pack.folder / older_prior(identity)).unlink(missing_ok=True)
    return target


def describe_file(path: Path) -> dict[str, Any]:
    """``bytes`` and ``sha256`` of a file, as a manifest lists them."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
