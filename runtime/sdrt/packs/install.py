"""Installs a pack: verifies a folder or a zip and copies it to the user's pack folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sdrt.atomic import scratch
from sdrt.errors import ModelError, OutputError
from sdrt.packs import search
from sdrt.packs.archive import is_archive, read_pack_file
from sdrt.packs.manifest import MANIFEST, MANIFEST_LIMIT_BYTES, ModelPack, check_listed, read_pack


@dataclass(frozen=True)
class Installed:
    """The installed pack, and the priors that only the pack it replaced had."""

    pack: ModelPack
    lost_priors: tuple[bytes, ...] = ()


def install(source: Path, *, name: str | None = None, replace: bool = False) -> Installed:
    """Copy the pack ``source``, a folder or a zip, to the user's folder of packs.

    Every file is hashed while it is copied, and the pack gets its name when it is complete. With ``replace`` a pack of
    that name is moved away before, and restored if the move fails; for a moment there is neither.

    Args:
        source: The pack.
        name: Of the folder that it gets; None: that of the source.
        replace: Whether a pack of that name may be replaced.

    Raises:
        ModelError: ``source`` is no pack, or one that is altered, or holds anything that its manifest does not list.
        OutputError: A pack of that name is there and ``replace`` is False, or the folder cannot be written.
    """
    pack = _read_strictly(source)
    models = search.user_models()
    if models is None:
        raise OutputError("this user's pack folder is unknown: set XDG_DATA_HOME or HOME")
    target = models / _checked_name(name or pack.called)
    if os.path.lexists(target) and not replace:
        raise OutputError(f"{target} already exists: --force replaces it")
    before = _priors_of(target)
    part = models / f".sdrt-{os.urandom(8).hex()}.tmp"
    try:
        models.mkdir(parents=True, exist_ok=True)
        with scratch(part):
            part.mkdir()
            for file_name in pack.files:
                _write(part / file_name, search.read_verified(pack, file_name))
            _write(part / MANIFEST, read_pack_file(pack.folder, MANIFEST, MANIFEST_LIMIT_BYTES))
            read_pack(part)  # the manifest may have changed since it was read
            _give_name(part, target)
    except OSError as error:
        raise OutputError(f"cannot write the model pack {target}: {error.strerror or error}") from None
    installed = read_pack(target)
    return Installed(installed, tuple(before - set(installed.priors)))


def _read_strictly(source: Path) -> ModelPack:
    """The pack in a folder or zip that holds nothing else; in a folder no links either. Raises ModelError."""
    try:
        if not source.is_dir():
            if not is_archive(source):
                raise ModelError(f"{source} is not a model pack: neither a folder nor a .zip file")
            return read_pack(source)
        source = source.resolve()
        pack = read_pack(source)
        entries = list(os.scandir(source))
    except OSError as error:
        raise ModelError(f"cannot read {source}: {error.strerror or error}") from None
    check_listed(pack, [entry.name for entry in entries])
    for entry in entries:
        if not entry.is_file(follow_symlinks=False):
            raise ModelError(f"{entry.path} is not a regular file")
    return pack


def _checked_name(name: str) -> str:
    strange = not name.isprintable() or name != name.strip() or any(c in '/\\:*?"<>|' for c in name)
    if strange or name.startswith((".", "-")):
        raise OutputError(f"{name!r} cannot be a pack's name: choose another with --name")
    return name


def _priors_of(target: Path) -> set[bytes]:
    try:
        return set(read_pack(target).priors)
    except ModelError:
        return set()


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _give_name(part: Path, target: Path) -> None:
    if not os.path.lexists(target):
        part.rename(target)
        return
    old = target.with_name(f"{part.name}.old")  # not scratch yet: what ends us now must not take it away
    target.rename(old)
    try:
        part.rename(target)
    except BaseException:
        old.rename(target)
        raise
    with scratch(old):
        pass
