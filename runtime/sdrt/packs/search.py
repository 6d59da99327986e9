"""Finds model packs on the search paths and checks their files against the manifest."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from sdrt.errors import EngineError, ModelError, SdrtError
from sdrt.packs.archive import archived_bytes, is_archive, read_pack_file
from sdrt.packs.known_spaces import in_words
from sdrt.packs.manifest import GRADIENT, MANIFEST, ModelPack, called, read_pack
from sdrt.user_folders import DATA, user_folder


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
    users = user_models()
    return paths if users is None else [*paths, users]


def user_models() -> Path | None:
    """The user's pack folder; None if the home folder is unknown."""
    folder = _user_folder()
    return None if folder is None else folder / "sdrt" / "models"


def _user_folder() -> Path | None:
    if sys.platform == "win32":
        return _with_home(os.environ.get("LOCALAPPDATA") or "~/AppData/Local")
    if sys.platform == "darwin":
        return _with_home("~/Library/Application Support")
    return _with_home(user_folder(*DATA))


def _with_home(path: str | Path) -> Path | None:
    """``path`` with ~ expanded; None if that user does not exist or has no known home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return None


def load_pack(name_or_folder: str | Path) -> ModelPack:
    """Reads the pack of this name on the search paths, or the pack in this folder or zip file.

    Raises ModelError: not found (the message lists the paths searched), unreadable, a newer format, a file that
    is missing or has another size than the manifest says.
    """
    text = str(name_or_folder)
    separators = [separator for separator in (os.sep, os.altsep) if separator]
    if isinstance(name_or_folder, str) and text not in ("", ".", "..") and not any(s in text for s in separators):
        for folder in _pack_folders():
            if called(folder) == text:
                return read_pack(folder)
    asked = _with_home(name_or_folder)
    if asked is not None:
        try:
            is_zip = is_archive(asked) and asked.exists()
            is_pack, is_folder = is_zip or (asked / MANIFEST).is_file(), asked.is_dir()
        except OSError as error:
            raise ModelError(f"cannot read {asked}: {error.strerror or error}") from None
        if is_pack:
            return read_pack(asked)
        if is_folder:
            raise ModelError(f"{asked} is not a model pack: it has no {MANIFEST}")
    raise ModelError(f"no model pack named {text!r}; {_searched()}")


def _searched() -> str:
    paths = ", ".join(str(path) for path in search_paths())
    return f"searched {paths} (sdrt install adds a pack, SDRT_MODELS adds folders)"


def _pack_folders() -> list[Path]:
    folders: list[Path] = []
    for path in search_paths():
        if _is_pack(path):
            folders.append(path)
            continue
        try:
            entries = (entry for entry in path.iterdir() if not entry.name.startswith("."))  # unfinished ones do
            folders.extend(sorted(entry for entry in entries if _is_pack(entry)))
        except OSError:  # no folder, or none that we may look into
            continue
    return folders


def _is_pack(place: Path) -> bool:
    """Whether to read ``place`` as a pack: a folder or a zip with a manifest, or a damaged zip."""
    try:
        if not is_archive(place):
            return (place / MANIFEST).is_file()
        return place.exists() and MANIFEST in archived_bytes(place)
    except OSError:
        return False
    except ModelError:  # reading it raises the reason
        return True


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


def prior_name(pack: ModelPack, identity: bytes | None = None) -> str:
    """The file of the prior of this identity (None: of the one that writes). Raises ModelError if there is none."""
    if identity is None:
        return pack.prior_path.name
    if identity not in pack.priors:
        has = ", ".join(prior.hex() for prior in pack.priors) or "none"
        raise ModelError(f"model pack {pack.name!r} in {pack.folder} has no prior {identity.hex()}, it has {has}")
    return pack.priors[identity]


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
    space_identity: bytes, prior_identity: bytes, check: Callable[[ModelPack], object] | None = None
) -> ModelPack:
    """The first pack with both identities that passes ``check``: a pack that only claims them must not hide a good one.

    ``check`` raises ModelError or EngineError for a pack that cannot be used; None: reads the prior.

    Raises ModelError: names the wanted and the available packs and the search paths, or is what ``check`` raised for
    the first pack.
    """
    packs, refusals = scan_packs()
    found: list[str] = []
    claims: list[SdrtError] = []
    for pack in packs:
        priors = ", ".join(prior.hex() for prior in pack.priors) or "none"
        if pack.space.identity == space_identity and prior_identity in pack.priors:
            try:
                if check is None:
                    read_prior(pack, prior_identity)
                else:
                    check(pack)
            except (ModelError, EngineError) as error:
                claims.append(error)
                continue
            return pack
        found.append(f"{pack.called} ({pack.space.id}: space {pack.space.identity.hex()}, prior {priors})")
    if claims:
        raise claims[0]
    broken = "".join(f"; unusable: {refusal}" for refusal in refusals)
    kin = [pack.called for pack in packs if pack.space.identity == space_identity]
    advice = f"; another version of {kin[0]} has that prior" if kin else ""
    raise ModelError(
        f"the file needs latent space {in_words(space_identity)} and prior {prior_identity.hex()}{advice}; "
        f"found: {', '.join(found) or 'no model packs'}{broken}; {_searched()}"
    )


def read_prior(pack: ModelPack, identity: bytes | None = None) -> bytes:
    """The file of a prior, as ``prior_name`` finds it. Raises ModelError if it does not exist or is altered."""
    return read_verified(pack, prior_name(pack, identity))


def read_verified(pack: ModelPack, name: str) -> bytes:
    """The contents of a file of the pack, checked by hash. Use these bytes: the file on disk may change later.

    Raises ModelError if the manifest does not list it, or it is missing or altered.
    """
    if name not in pack.files:
        raise ModelError(f"model pack {pack.name!r} in {pack.folder} has no {name}")
    path = pack.folder / name
    data = read_pack_file(pack.folder, name, pack.manifest["files"][name]["bytes"])
    digest = hashlib.sha256(data).hexdigest()
    if digest != pack.files[name]:
        raise ModelError(
            f"{path} is altered: the manifest says sha256 {pack.files[name][:16]}..., it has {digest[:16]}..."
        )
    return data
