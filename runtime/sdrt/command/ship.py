"""``sdrt pack``: writes the smallest pack for a purpose, as a folder or a zip file.

One precision of each graph, the priors, and a manifest without its notes on how the pack was made.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from sdrt.atomic import atomic_file, scratch
from sdrt.errors import ModelError, OutputError, first_line
from sdrt.network.devices import graph_precision
from sdrt.packs.archive import SUFFIX
from sdrt.packs.manifest import DEFAULT_PRECISION, GRADIENT, MANIFEST, ModelPack
from sdrt.packs.search import read_verified

NOTES = ("training", "prior", "graphs", "verified", "int8")
"""Fields of a manifest on how a pack was made and measured; no reader needs them."""

_DATE = (1980, 1, 1, 0, 0, 0)
"""Date of the files in a zip, fixed so that equal packs give equal bytes."""


@dataclass(frozen=True)
class Shipment:
    """What was written: a folder or a zip file, the names in it, and its size in bytes."""

    path: Path
    files: tuple[str, ...]
    bytes: int


def ship(pack: ModelPack, destination: Path, *, precision: str | None = None, decoder_only: bool = False) -> Shipment:
    """Writes ``pack`` in one ``precision`` (None: what a CPU runs) to a folder, or to a zip if the name ends in .zip.

    The zip holds one folder of the zip's name; it is found as it is, or unpacked, where packs are looked for.

    Raises ModelError if the pack lacks a file or one is altered, OutputError if the destination already exists or
    cannot be written.
    """
    precision = precision or graph_precision("cpu", None, pack.precisions)
    graphs = [] if decoder_only else [pack.encoder_path(precision)]
    graphs = [*graphs, pack.decoder_path(precision)]
    names = [*(path.name for path in graphs), pack.prior_path.name]
    names += [name for name in pack.priors.values() if name not in names]
    if GRADIENT in pack.files and not decoder_only and precision == DEFAULT_PRECISION:
        names.append(GRADIENT)  # nodes that stand on this very decoder's weights
    contents = {name: read_verified(pack, name) for name in names}
    manifest = {key: value for key, value in pack.manifest.items() if key not in NOTES}
    if GRADIENT not in names:
        manifest.pop("gradient", None)
    manifest["files"] = {name: pack.manifest["files"][name] for name in names}
    # Last: until it is written a folder is no pack.
    contents[MANIFEST] = _json(manifest, pack.folder / MANIFEST)
    write = _write_zip if destination.suffix.lower() == SUFFIX else _write_folder
    return Shipment(destination, tuple(contents), write(destination, contents))


def _json(manifest: dict[str, Any], where: Path) -> bytes:
    try:
        return (json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (UnicodeEncodeError, RecursionError) as error:  # in fields that no reader looks into
        raise ModelError(f"{where} holds text that cannot be written: {first_line(error)}") from None


def _write_folder(folder: Path, contents: dict[str, bytes]) -> int:
    """Writes all files or none. An existing folder is kept, not replaced: it may be a mount point."""
    try:
        there_already = folder.exists()
        if there_already and (not folder.is_dir() or any(folder.iterdir())):
            raise OutputError(f"{folder} already exists and is not an empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            part = folder / f".sdrt-{os.urandom(8).hex()}.tmp"
            with scratch(part):
                part.mkdir()
                for name, content in contents.items():
                    (part / name).write_bytes(content)
                for name in sorted(contents, key=lambda name: name == MANIFEST):  # last: until then it is no pack
                    (part / name).rename(folder / name)
        except BaseException:
            if there_already:
                for name in contents:
                    (folder / name).unlink(missing_ok=True)
            else:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return sum(map(len, contents.values()))
    except OSError as error:
        raise OutputError(f"cannot write the model pack {folder}: {error.strerror or error}") from None


def _write_zip(archive: Path, contents: dict[str, bytes]) -> int:
    with atomic_file(archive, overwrite=False) as file, zipfile.ZipFile(cast(BinaryIO, file), "w") as entries:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(f"{archive.stem}/{name}", _DATE)
            entry.external_attr = 0o644 << 16
            entries.writestr(entry, content, zipfile.ZIP_DEFLATED, 9)
    return archive.stat().st_size
