"""Target ``archive``: packs in zips. The zip's records are mutated, or what lies in it, its checksums mended."""

from __future__ import annotations

import atexit
import io
import shutil
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from random import Random

from tests.fuzz import manifests
from tests.fuzz.mutations import mutated
from tests.fuzz.target import Target

from sdrt.packs.archive import MAX_ENTRIES, archived_bytes, read_pack_file
from sdrt.packs.manifest import MANIFEST, read_pack
from sdrt.packs.search import read_verified

LIMIT_BYTES = 1 << 20


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="sdrt-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _zip(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return made.getvalue()


def mutate(data: bytes, rng: Random) -> bytes:
    """A byte anywhere, one of the directory at the end, or an entry's name or contents."""
    choice = rng.random()
    if choice < 0.3:
        return mutated(data, rng)
    if choice < 0.6:
        at = max(data.rfind(b"PK\1\2"), 0)
        return data[:at] + mutated(data[at:], rng)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {info.filename: archive.read(info)[:LIMIT_BYTES] for info in archive.infolist()[:MAX_ENTRIES]}
        name = rng.choice(list(entries))
        if rng.random() < 0.3:
            other = mutated(name.encode(), rng).decode("utf-8", "replace")
            entries[other] = entries.pop(name)
        else:
            change = manifests.mutate if name.endswith(MANIFEST) else mutated
            entries[name] = change(entries[name], rng)
        return _zip(entries, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)))
    except Exception:  # it is no zip any more
        return mutated(data, rng)


def run(data: bytes) -> None:
    """A file has the size that was told before it was read. A pack holds what its manifest lists, and nothing else."""
    place = _folder() / "pack.zip"
    place.write_bytes(data)
    sizes = archived_bytes(place)
    assert len(sizes) <= MAX_ENTRIES
    for name, size in sizes.items():
        if size <= LIMIT_BYTES:
            assert len(read_pack_file(place, name, LIMIT_BYTES)) == size
    pack = read_pack(place)
    assert {MANIFEST, *pack.files} == set(sizes)
    for name in pack.files:
        assert read_verified(pack, name) == manifests.FILES[name]


def seeds() -> list[bytes]:
    """A pack at the top of its zip and in a folder."""
    contents = {MANIFEST: manifests.seeds()[0], **manifests.FILES}
    return [_zip({folder + name: content for name, content in contents.items()}) for folder in ("", "pack/")]


TARGET = Target("archive", seeds, mutate, run)
