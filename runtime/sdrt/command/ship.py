"""The smallest pack that still does what is asked, as a folder or a zip file: ``sdrt pack``.

One precision of each graph, the prior, and a manifest without its notes on how the pack was made.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from sdrt.atomic import atomic_file, scratch
from sdrt.errors import OutputError
from sdrt.network.devices import graph_precision
from sdrt.packs.manifest import MANIFEST, ModelPack
from sdrt.packs.search import verify_file

NOTES = ("training", "prior", "graphs", "verified", "int8")
"""Fields of a manifest that tell people how a pack was made and measured; no reader needs them."""

_DATE = (1980, 1, 1, 0, 0, 0)
"""Of the files in a zip: the same pack gives the same bytes."""


@dataclass(frozen=True)
class Shipment:
    """What was written: a folder or a zip file, the names in it, and its size in bytes."""

    path: Path
    files: tuple[str, ...]
    bytes: int


def ship(pack: ModelPack, destination: Path, *, precision: str | None = None, decoder_only: bool = False) -> Shipment:
    """Writes ``pack`` in one ``precision`` (None: what a CPU runs) to a folder, or to a zip if the name ends in .zip.

    The zip holds one folder of the zip's name: unpacked where packs are looked for, it is found.

    Raises ModelError if the pack lacks a file or one is altered, OutputError if the destination exists already or
    cannot be written.
    """
    precision = precision or graph_precision("cpu", None, pack.precisions)
    graphs = [] if decoder_only else [pack.encoder_path(precision)]
    paths = [*graphs, pack.decoder_path(precision), pack.prior_path]
    paths = [verify_file(pack, path.name) for path in paths]
    manifest = {key: value for key, value in pack.manifest.items() if key not in NOTES}
    manifest["files"] = {path.name: pack.manifest["files"][path.name] for path in paths}
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    names = (*(path.name for path in paths), MANIFEST)
    if destination.suffix == ".zip":
        return Shipment(destination, names, _write_zip(destination, paths, text))
    return Shipment(destination, names, _write_folder(destination, paths, text))


def _write_folder(folder: Path, paths: list[Path], manifest: str) -> int:
    """All of it or nothing; a folder that exists stays the same folder, for it may be mounted or somebody's own."""
    try:
        there_already = folder.exists()
        if there_already and (not folder.is_dir() or any(folder.iterdir())):
            raise OutputError(f"{folder} exists already and is not an empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            part = folder / f".sdrt-{os.urandom(8).hex()}.tmp"
            with scratch(part):
                part.mkdir()
                for path in paths:
                    shutil.copyfile(path, part / path.name)
                (part / MANIFEST).write_text(manifest, encoding="utf-8", newline="\n")
                for name in (*(path.name for path in paths), MANIFEST):  # the manifest last: until then it is no pack
                    (part / name).rename(folder / name)
        except BaseException:
            if not there_already:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return sum(entry.stat().st_size for entry in folder.iterdir())
    except OSError as error:
        raise OutputError(f"cannot write the model pack {folder}: {error.strerror or error}") from None


def _write_zip(archive: Path, paths: list[Path], manifest: str) -> int:
    with atomic_file(archive, overwrite=False) as file, zipfile.ZipFile(cast(BinaryIO, file), "w") as entries:
        contents = {**{path.name: path.read_bytes() for path in paths}, MANIFEST: manifest.encode()}
        for name, content in contents.items():
            entry = zipfile.ZipInfo(f"{archive.stem}/{name}", _DATE)
            entry.external_attr = 0o644 << 16
            entries.writestr(entry, content, zipfile.ZIP_DEFLATED, 9)
    return archive.stat().st_size
