"""A model pack as its manifest describes it: a folder or a zip with the graphs of one latent space, its priors, and the
manifest, which lists and hashes all of them.

Two identities travel in every file and mean different things. The *latent space* says what the integers mean:
any decoder of that space may paint the picture. The *prior* says how integers became bytes: without exactly
that prior there are no integers. docs/PACKS.md describes the folder and the manifest in full.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdrt.errors import ModelError
from sdrt.limits import MAX_STEP_INDEX
from sdrt.packs.archive import archived_bytes, is_archive, read_pack_file
from sdrt.packs.regular_file import check_regular

FORMAT = 1
MANIFEST = "manifest.json"
MANIFEST_LIMIT_BYTES = 1 << 20
PRIOR = "prior.npz"
GRADIENT = "gradient.onnx"
"""The file that extends the decoder graph by its gradient; see ``search.read_gradient``."""
DEFAULT_PRECISION = "w16"
MAX_PACK_FILE_BYTES = 2**31 - 1
"""The largest graph that protobuf can hold."""
SMALLEST_SCALE = 2.0**-126
"""float32's smallest normal number: latents are divided by the scale."""


@dataclass(frozen=True)
class LatentSpace:
    """A latent space: what the numbers of latents mean. Equal spaces have equal ``identity`` on every machine.

    A graph's latents are *raw*; symbols are computed from ``(raw - shift) * scale``.
    """

    id: str
    channels: int
    downscale: int
    scale: float
    shift: float

    @property
    def identity(self) -> bytes:
        """The first 4 bytes of the sha256 of the canonical JSON of all five fields."""
        return hashlib.sha256(self.canonical_json().encode("utf-8")).digest()[:4]

    def canonical_json(self) -> str:
        """JSON with sorted keys, no spaces, and each float in the shortest form that reads back equal."""
        fields = {
            "channels": int(self.channels),
            "downscale": int(self.downscale),
            "id": self.id,
            "scale": float(self.scale),
            "shift": float(self.shift),
        }
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


@dataclass(frozen=True)
class ModelPack:
    """A pack as its manifest describes it. Files are checked by size here and by hash in ``search.read_verified``."""

    folder: Path
    """The folder or the zip file of the pack."""
    name: str
    space: LatentSpace
    files: dict[str, str] = field(hash=False)
    """File name -> sha256 in lower-case hexadecimal."""
    manifest: dict[str, Any] = field(hash=False, repr=False)
    """The parsed manifest; read only."""
    quality_range: tuple[int, int]
    """The step index at quality 0 (coarse, the larger) and at quality 100 (fine)."""
    default_step: int
    latent_distribution: bool
    """True: the encoder gives ``latent_parameters``, mean and log-variance on axis 1; take the first half."""
    quality_input: bool = False
    """Whether the decoder takes the quality level as an additional input channel; see ``docs/PACKS.md``."""
    halo: dict[str, int] | None = field(hash=False, default=None)
    """``encoder_px`` and ``decoder_latents``: overlap at which tiles equal the whole picture. None: no finite one."""

    @property
    def called(self) -> str:
        """The name of the pack for ``--model``, if it is on a search path: that of its folder or zip."""
        return called(self.folder)

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions in which the pack has a decoder, the default first."""
        return self.graph_precisions("decoder")

    def graph_precisions(self, half: str) -> tuple[str, ...]:
        """The precisions in which the pack has this half, ``encoder`` or ``decoder``, the default first."""
        names = {parts[1] if len(parts) == 3 else DEFAULT_PRECISION for parts in self._graph_names(half)}
        return tuple(sorted(names, key=lambda name: (name != DEFAULT_PRECISION, name)))

    def _graph_names(self, half: str) -> list[list[str]]:
        split = (name.split(".") for name in self.files)
        return [parts for parts in split if parts[0] == half and parts[-1] == "onnx" and len(parts) in (2, 3)]

    def encoder_path(self, precision: str = DEFAULT_PRECISION) -> Path:
        """Raises ModelError if the pack has no encoder in this precision (a decoder-only pack has none at all)."""
        return self._graph_path("encoder", precision)

    def decoder_path(self, precision: str = DEFAULT_PRECISION) -> Path:
        """Raises ModelError if the pack has no decoder in this precision."""
        return self._graph_path("decoder", precision)

    def _graph_path(self, half: str, precision: str) -> Path:
        name = graph_file_name(half, precision)
        if name not in self.files:
            here = ", ".join(sorted(self.files)) or "no files"
            why = "decoder-only pack" if half == "encoder" and not self._graph_names(half) else f"it has {here}"
            raise ModelError(f"model pack {self.name!r} in {self.folder} has no {name} ({why})")
        return self.folder / name

    @property
    def priors(self) -> dict[bytes, str]:
        """Identity -> file name of each prior: first the one that writes, then those that older files need."""
        names = sorted(filter(is_prior, self.files), key=lambda name: (name != PRIOR, name))
        priors: dict[bytes, str] = {}
        for name in names:
            priors.setdefault(bytes.fromhex(self.files[name])[:4], name)
        return priors

    @property
    def prior_path(self) -> Path:
        """Of the prior that writes. Raises ModelError if the prior has not been fitted yet."""
        if PRIOR not in self.files:
            raise ModelError(
                f"model pack {self.name!r} in {self.folder} has no {PRIOR} yet: "
                f"python -m sdrt_export prior {self.folder} --images FOLDER"
            )
        return self.folder / PRIOR

    @property
    def prior_identity(self) -> bytes:
        """The first 4 bytes of the sha256 of the prior that writes. Raises ModelError if none has been fitted yet."""
        return bytes.fromhex(self.files[self.prior_path.name])[:4]


def graph_file_name(half: str, precision: str) -> str:
    """``encoder`` or ``decoder`` and a precision -> the name of the graph's file in a pack."""
    return f"{half}.onnx" if precision == DEFAULT_PRECISION else f"{half}.{precision}.onnx"


def is_prior(name: str) -> bool:
    """Whether a pack's file of this name is a prior: ``prior.npz``, which writes, or ``prior.ANYTHING.npz``."""
    parts = name.split(".")
    return (parts[0], parts[-1]) == ("prior", "npz") and len(parts) in (2, 3)


def older_prior(identity: bytes) -> str:
    """The name of the file that holds a prior which only decodes older files."""
    return f"prior.{identity.hex()}.npz"


def called(place: Path) -> str:
    """The name of a pack in this folder or zip file."""
    return place.stem if is_archive(place) else place.name


def read_pack(folder: Path) -> ModelPack:
    """The pack in this folder or zip file.

    Raises ModelError: unreadable, a newer format, a file missing or of another size; of a zip also: anything in it that
    the manifest does not list.
    """
    path = folder / MANIFEST
    data = read_pack_file(folder, MANIFEST, MANIFEST_LIMIT_BYTES)
    try:
        manifest = json.loads(data.decode("utf-8"), parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from None
    pack = parse_manifest(manifest, folder)
    archived = archived_bytes(folder) if is_archive(folder) else None
    for name, entry in manifest["files"].items():
        size_bytes = _file_bytes(folder / name, pack) if archived is None else archived.get(name)
        if size_bytes is None:
            raise ModelError(f"model pack {pack.name!r}: {folder} has no {name}")
        if size_bytes != entry["bytes"]:
            raise ModelError(
                f"{folder / name} is altered: the manifest says {entry['bytes']} bytes, it has {size_bytes}"
            )
    check_listed(pack, archived or ())
    return pack


def _file_bytes(path: Path, pack: ModelPack) -> int:
    try:
        status = path.stat()
    except OSError as error:
        raise ModelError(f"model pack {pack.name!r}: cannot read {path}: {error.strerror}") from None
    check_regular(path, status)
    return status.st_size


def check_listed(pack: ModelPack, names: Iterable[str]) -> None:
    """Raises ModelError for a name that neither the manifest lists nor is the manifest's own."""
    for name in names:
        if name != MANIFEST and name not in pack.files:
            raise ModelError(f"{pack.folder} holds {name[:100]!r}, which its {MANIFEST} does not list")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a finite number")
    return number


def parse_manifest(manifest: object, folder: Path) -> ModelPack:
    """Checks every field the runtime uses, without touching the files. Raises ModelError naming the field."""
    where = folder / MANIFEST
    if not isinstance(manifest, dict):
        raise ModelError(f"{where}: expected a JSON object")
    version = _integer(manifest, "format", 1, 1 << 30, where)
    if version > FORMAT:
        raise ModelError(f"{where} has format {version}, this version of sdrt reads up to {FORMAT}: update sdrt")
    space = _mapping(manifest, "space", where)
    scale = _float32(space, "scale", where)
    latent_space = LatentSpace(
        id=_text(space, "id", where),
        channels=_integer(space, "channels", 1, 4096, where),
        downscale=_integer(space, "downscale", 1, 256, where),
        scale=scale,
        shift=_float32(space, "shift", where),
    )
    if scale < SMALLEST_SCALE:
        raise ModelError(f"{where}: scale must be at least {SMALLEST_SCALE:g}")
    if space.get("identity", latent_space.identity.hex()) != latent_space.identity.hex():
        raise ModelError(f"{where}: the identity of its space is {latent_space.identity.hex()}, it states another")
    quality = manifest.get("quality_range")
    if not isinstance(quality, list) or len(quality) != 2:
        raise ModelError(f"{where}: quality_range must be two integers")
    ends = {"coarse": quality[0], "fine": quality[1]}
    coarse, fine = (_integer(ends, end, 0, MAX_STEP_INDEX, where) for end in ends)
    if coarse < fine:
        raise ModelError(f"{where}: quality_range must have the coarser step index first, it is {coarse}, {fine}")
    distribution = manifest.get("latent_distribution")
    if not isinstance(distribution, bool):
        raise ModelError(f"{where}: latent_distribution must be true or false")
    quality_input = manifest.get("quality_input", False)
    if not isinstance(quality_input, bool):
        raise ModelError(f"{where}: quality_input must be true or false")
    halo = None
    if manifest.get("halo") is not None:
        entry = _mapping(manifest, "halo", where)
        halo = {key: _integer(entry, key, 0, 1 << 16, where) for key in ("encoder_px", "decoder_latents")}
    return ModelPack(
        folder=folder,
        name=_text(manifest, "name", where),
        space=latent_space,
        files=_files(_mapping(manifest, "files", where), where),
        manifest=manifest,
        quality_range=(coarse, fine),
        default_step=_integer(manifest, "default_step", 0, MAX_STEP_INDEX, where),
        latent_distribution=distribution,
        quality_input=quality_input,
        halo=halo,
    )


def _files(files: Mapping[str, Any], where: Path) -> dict[str, str]:
    hashes: dict[str, str] = {}
    for name in files:
        if not name.isprintable() or not name or name.startswith(".") or any(c in '/\\:*?"<>|' for c in name):
            raise ModelError(f"{where}: {name!r} is not a plain file name")
        entry = _mapping(files, name, where)
        digest = _text(entry, "sha256", where)
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise ModelError(f"{where}: the sha256 of {name} is not 64 lower-case hexadecimal digits")
        _integer(entry, "bytes", 0, MAX_PACK_FILE_BYTES, where)
        hashes[name] = digest
    return hashes


def _mapping(parent: Mapping[str, Any], key: str, where: Path) -> dict[str, Any]:
    value = parent.get(key)
    if not isinstance(value, dict):
        raise ModelError(f"{where}: {key} must be an object")
    return value


def _text(parent: Mapping[str, Any], key: str, where: Path) -> str:
    value = parent.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= 256 or not value.isprintable():
        raise ModelError(f"{where}: {key} must be a line of text")
    return value


def _integer(parent: Mapping[str, Any], key: str, minimum: int, maximum: int, where: Path) -> int:
    value = parent.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
        raise ModelError(f"{where}: {key} must be an integer from {minimum} to {maximum}")
    return value


def _float32(parent: Mapping[str, Any], key: str, where: Path) -> float:
    """A number within float32's range, because latents are computed in float32; not rounded to it."""
    value = parent.get(key)
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError
        struct.pack("<f", value)
    except (ValueError, OverflowError, struct.error):
        raise ModelError(f"{where}: {key} must be a number that float32 can hold") from None
    return float(value)
