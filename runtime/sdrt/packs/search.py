"""Where model packs are found, and whether their files are what the manifest says."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from sdrt.errors import EngineError, ModelError, SdrtError
from sdrt.packs.manifest import GRADIENT, MANIFEST, PRIOR, ModelPack, read_pack
from sdrt.packs.regular_file import read_regular_file


def search_paths() -> list[Path]:
    """Folders that may hold packs, in order: $SDRT_MODELS, the wheel's own, the checkout's models/, the user's.

    None of them need exist, and one that cannot be looked at holds no packs.
    """
    package = Path(__file__).resolve().parents[1]
    named = [_with_home(entry) for entry in os.environ.get("SDRT_MODELS", "").split(os.pathsep) if entry]
    paths = [path for path in named if path is not None]
    paths.append(package / "packs")
    if package.parent.name == "runtime":
        paths.append(package.parents[1] / "models")
    users = _user_folder()
    return paths if users is None else [*paths, users / "sdrt" / "models"]


def _user_folder() -> Path | None:
    if sys.platform == "win32":
        return _with_home(os.environ.get("LOCALAPPDATA") or "~/AppData/Local")
    if sys.platform == "darwin":
        return _with_home("~/Library/Application Support")
    return _with_home(os.environ.get("XDG_DATA_HOME") or "~/.local/share")


def _with_home(path: str | Path) -> Path | None:
    """``path`` with its ~ replaced; None where that names nobody, or where nobody knows this user's home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return None


def load_pack(name_or_folder: str | Path) -> ModelPack:
    """Reads the pack of this name on the search paths, or the pack in this folder.

    Raises ModelError: not found (the message lists the paths searched), unreadable, a newer format, a file that
    is missing or has another size than the manifest says.
    """
    text = str(name_or_folder)
    separators = [separator for separator in (os.sep, os.altsep) if separator]
    if isinstance(name_or_folder, str) and text not in ("", ".", "..") and not any(s in text for s in separators):
        for folder in _pack_folders():
            if folder.name == text:
                return read_pack(folder)
    asked = _with_home(name_or_folder)
    if asked is not None:
        try:
            is_pack, is_folder = (asked / MANIFEST).is_file(), asked.is_dir()
        except OSError as error:
            raise ModelError(f"cannot read {asked}: {error.strerror or error}") from None
        if is_pack:
            return read_pack(asked)
        if is_folder:
            raise ModelError(f"{asked} is no model pack: it has no {MANIFEST}")
    searched = ", ".join(str(path) for path in search_paths())
    raise ModelError(f"no model pack named {text!r}; searched {searched} (set SDRT_MODELS to add folders)")


def _pack_folders() -> list[Path]:
    folders: list[Path] = []
    for path in search_paths():
        if _has_manifest(path):
            folders.append(path)
            continue
        try:
            folders.extend(sorted(entry for entry in path.iterdir() if _has_manifest(entry)))
        except OSError:  # no folder, or none that we may look into
            continue
    return folders


def _has_manifest(folder: Path) -> bool:
    try:
        return (folder / MANIFEST).is_file()
    except OSError:
        return False


def scan_packs() -> tuple[list[ModelPack], list[ModelError]]:
    """Every pack on the search paths, in order, and why the others cannot be used."""
    packs: list[ModelPack] = []
    refusals: list[ModelError] = []
    for folder in _pack_folders():
        try:
            packs.append(read_pack(folder))
        except ModelError as error:
            refusals.append(error)
    return packs, refusals


def list_packs() -> list[ModelPack]:
    """Every usable pack on the search paths, in order."""
    return scan_packs()[0]


def read_prior(pack: ModelPack) -> bytes:
    """The file of the pack's prior. Raises ModelError if there is none, or it is missing or altered."""
    return read_verified(pack, pack.prior_path.name)


def read_gradient(pack: ModelPack) -> tuple[Path, bytes]:
    """The graph of the decoder and its gradient, and the path that messages name.

    The pack stores the nodes that the gradient adds, as a part of an ONNX model. Messages of protobuf are joined by
    putting one after the other: the decoder's bytes and these are the whole graph, and weights are stored once.

    Raises ModelError if the pack has none, or one of another decoder, or a file is missing or altered.
    """
    command = f"python -m sdrt_export gradient {pack.folder}"
    decoder = pack.decoder_path().name
    if GRADIENT not in pack.files:
        raise ModelError(f"model pack {pack.name!r} has no {GRADIENT}, which --effort needs: {command}")
    note = pack.manifest.get("gradient")
    if not isinstance(note, dict) or note.get("decoder") != pack.files[decoder]:
        raise ModelError(f"model pack {pack.name!r}: {GRADIENT} is of another decoder: {command}")
    return pack.folder / GRADIENT, read_verified(pack, decoder) + read_verified(pack, GRADIENT)


def find_pack(
    space_identity: bytes, prior_identity: bytes, check: Callable[[ModelPack], object] = read_prior
) -> ModelPack:
    """The first pack that has both identities and stands ``check``: one that only claims them must not hide a good one.

    ``check`` raises ModelError or EngineError for a pack that cannot be used.

    Raises ModelError that names what is wanted and what is here, or what ``check`` raised for the first pack.
    """
    packs, refusals = scan_packs()
    here: list[str] = []
    claims: list[SdrtError] = []
    for pack in packs:
        prior = pack.prior_identity if PRIOR in pack.files else b""
        if (pack.space.identity, prior) == (space_identity, prior_identity):
            try:
                check(pack)
            except (ModelError, EngineError) as error:
                claims.append(error)
                continue
            return pack
        here.append(f"{pack.name} ({pack.space.id}: space {pack.space.identity.hex()}, prior {prior.hex() or 'none'})")
    if claims:
        raise claims[0]
    broken = "".join(f"; unusable: {refusal}" for refusal in refusals)
    raise ModelError(
        f"the file wants latent space {space_identity.hex()} and prior {prior_identity.hex()}; "
        f"here: {', '.join(here) or 'no model packs'}{broken}"
    )


def read_verified(pack: ModelPack, name: str) -> bytes:
    """The contents of a file of the pack, hashed: use these bytes, for the file may be another one a moment later.

    Raises ModelError if the manifest does not list it, or it is missing or altered.
    """
    if name not in pack.files:
        raise ModelError(f"model pack {pack.name!r} in {pack.folder} has no {name}")
    path = pack.folder / name
    data = read_regular_file(path, pack.manifest["files"][name]["bytes"])
    digest = hashlib.sha256(data).hexdigest()
    if digest != pack.files[name]:
        raise ModelError(
            f"{path} is altered: the manifest says sha256 {pack.files[name][:16]}..., it has {digest[:16]}..."
        )
    return data
