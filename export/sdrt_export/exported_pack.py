"""The last step of every export: writes the manifest, and keeps what was fitted to the pack before. No torch here."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdrt.errors import ModelError
from sdrt.packs.manifest import GRADIENT, MANIFEST, PRIOR, LatentSpace, ModelPack
from sdrt.packs.search import load_pack
from sdrt_export.graph_files import Exported
from sdrt_export.overflow import MAX_PEAK
from sdrt_export.pack_gradient import add_where_known
from sdrt_export.pack_writer import read_manifest, update_manifest, write_pack
from sdrt_export.parity import Parity, report, table


def kept_fields(folder: Path, identity: bytes) -> dict[str, Any]:
    """What a fitted prior brought to a pack that is exported again: files written with it must stay readable."""
    if not (folder / MANIFEST).is_file() or not (folder / PRIOR).is_file():
        return {}
    manifest = read_manifest(folder)
    if load_pack(folder).space.identity != identity:
        raise ModelError(f"{folder} holds the prior of another latent space: choose another folder or remove it")
    kept: dict[str, Any] = {key: manifest[key] for key in ("quality_range", "default_step", "prior") if key in manifest}
    kept["quality_range"] = tuple(kept["quality_range"])
    return kept


_RECORDED: dict[str, type | tuple[type, ...]] = {
    "kind": str, "location": str, "revision": str, "subfolder": str, "class": str, "config": dict, "files": dict,
    "norm_groups": int, "scale": (int, float), "shift": (int, float),
}  # fmt: skip


def recorded_source(pack: ModelPack) -> Mapping[str, Any]:
    """What the manifest says of where the pack comes from; empty where it says nothing.

    Raises ModelError: a field of another type than an export writes.
    """
    source = pack.manifest.get("source")
    if source is None:
        return {}
    if not isinstance(source, dict):
        raise ModelError(f"{pack.folder / MANIFEST}: the field source is no object")
    for name, kind in _RECORDED.items():
        if source.get(name) is not None and not isinstance(source[name], kind):
            raise ModelError(f"{pack.folder / MANIFEST}: the field {name} of source is {source[name]!r}"[:200])
    return source


def write_exported(
    folder: Path,
    exported: Exported,
    kept: Mapping[str, Any],
    *,
    name: str | None,
    space: LatentSpace,
    source: Mapping[str, Any],
    license: str | None,
) -> ModelPack:
    """Writes the manifest for graphs that are in the folder; graphs of other precisions, which are older, go.

    Args:
        folder: the pack's.
        exported: what was written there.
        kept: from ``kept_fields``.
        name: the pack's; None: the folder's.
        space: that the graphs speak.
        source: where they come from.
        license: of the weights.

    Raises:
        OutputError: the folder cannot be written.
    """
    for stale in folder.glob("*.onnx"):
        if stale.name not in exported.files:
            stale.unlink()
    pack = write_pack(
        folder,
        name=name or folder.resolve().name,
        space=space,
        files=dict(exported.files),
        latent_distribution=exported.latent_distribution,
        halo=exported.halo,
        source=source,
        graphs=exported.graphs,
        license=license,
        **kept,
    )
    pack, why_not = add_where_known(pack)
    if why_not is not None:
        print(f"sdrt_export: without {GRADIENT}, so that --effort cannot be used: {why_not}", file=sys.stderr)
    return pack


def report_exported(pack: ModelPack, exported: Exported) -> int:
    """Prints what was written and the next step, and warns of an overflow. Returns the exit code."""
    if exported.fp16_peak is not None and not exported.fp16_peak <= MAX_PEAK:
        print(f"sdrt_export: warning: fp16 will overflow: activations reach {exported.fp16_peak:.3g}", file=sys.stderr)
    written = sorted([*exported.files, *({GRADIENT} & pack.files.keys())])
    sizes = ", ".join(f"{name} {(pack.folder / name).stat().st_size / 1e6:.2f} MB" for name in written)
    print(f"{pack.folder}: latent space {pack.space.id} ({pack.space.channels} at 1/{pack.space.downscale}); {sizes}")
    if PRIOR not in pack.files:
        print(f"next: python -m sdrt_export prior {pack.folder} --images FOLDER (or --generic, to use it at once)")
    if GRADIENT in pack.files:
        print(f"{GRADIENT} is for sdrt encode --effort; python -m sdrt_export gradient {pack.folder} makes it anew")
    return 0


def report_parities(pack: ModelPack, parities: Sequence[Parity]) -> int:
    """Prints how close a pack's graphs are, and stores it in the manifest. Returns the exit code.

    Figures of precisions that were not measured now, for the device does not take them, are kept.
    """
    for line in table(parities):
        print(line)
    verified, before = report(parities), pack.manifest.get("verified") or {}
    kept = [name for name in pack.precisions if name not in verified["tolerances"]]
    verified["tolerances"] |= {name: row for name, row in before.get("tolerances", {}).items() if name in kept}
    verified["parity"] += [row for row in before.get("parity", []) if row["precision"] in kept]
    update_manifest(pack.folder, verified=verified)
    return 0 if all(parity.passed for parity in parities) else 1
