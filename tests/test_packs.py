"""sdrt.packs.search: identities, manifests, where packs are found."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests import testpack
from tests.conftest import Unprivileged

import sdrt
from sdrt.codec import Codec
from sdrt.errors import EngineError, ModelError
from sdrt.network import tensorrt_cache
from sdrt.packs.manifest import MANIFEST_LIMIT_BYTES, LatentSpace, ModelPack
from sdrt.packs.search import find_pack, list_packs, load_pack, read_verified, scan_packs, search_paths
from sdrt_export.pack_writer import update_manifest, write_pack

SPACE = LatentSpace("sd1", 4, 8, 0.18215, 0.0)
FILES = {"encoder.onnx": b"encoder", "decoder.onnx": b"decoder", "prior.npz": b"prior"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the search paths that is the only one with packs."""
    monkeypatch.setattr("sdrt.packs.search.search_paths", lambda: [tmp_path])
    return tmp_path


def make(folder: Path, space: LatentSpace = SPACE, **files: bytes) -> ModelPack:
    content = {**FILES, **{name.replace("_", "."): data for name, data in files.items()}}
    return write_pack(folder, name=folder.name, space=space, files=content)


def test_identity_is_the_same_on_every_machine_for_ever() -> None:
    """The identity of a latent space is in every file ever written: it never changes."""
    assert SPACE.canonical_json() == '{"channels":4,"downscale":8,"id":"sd1","scale":0.18215,"shift":0.0}'
    assert SPACE.identity.hex() == "e17fefd1"
    page = (Path(__file__).parents[1] / "docs" / "PACKS.md").read_text(encoding="utf-8")
    assert f"`{SPACE.canonical_json()}`, identity `{SPACE.identity.hex()}`" in page


@pytest.mark.parametrize("change", [{"id": "x"}, {"channels": 5}, {"downscale": 16}, {"scale": 0.2}, {"shift": 0.1}])
def test_identity_depends_on_every_field(change: dict[str, Any]) -> None:
    """Two spaces that differ in any field have different identities."""
    assert replace(SPACE, **change).identity != SPACE.identity


def test_equal_spaces_have_equal_identities_whatever_the_number_type() -> None:
    """A scale read from JSON as the integer 1 is the float 1.0."""
    assert LatentSpace("a", 4, 8, 1, 0).identity == LatentSpace("a", 4, 8, 1.0, 0.0).identity


def test_a_written_pack_reads_back(tmp_path: Path) -> None:
    """What write_pack was given is what load_pack returns."""
    halo = {"encoder_px": 3, "decoder_latents": 2}
    made = write_pack(
        tmp_path / "p",
        name="pack",
        space=SPACE,
        files=FILES,
        latent_distribution=True,
        halo=halo,
        quality_range=(700, 300),
        default_step=500,
    )
    pack = load_pack(tmp_path / "p")
    assert pack == made
    assert (pack.name, pack.space, pack.halo, pack.quality_range) == ("pack", SPACE, halo, (700, 300))
    assert (pack.default_step, pack.latent_distribution, pack.precisions) == (500, True, ("w16",))
    assert pack.prior_identity == bytes.fromhex(pack.files["prior.npz"])[:4]
    assert read_verified(pack, "decoder.onnx") == b"decoder"


def test_a_pack_is_found_by_its_name(home: Path) -> None:
    """A bare name is looked for on the search paths, a path is taken as it is."""
    pack = make(home / "one")
    assert load_pack("one") == pack == load_pack(home / "one") == load_pack(str(home / "one"))
    assert list_packs() == [pack]


def test_search_paths_come_from_the_environment_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """$SDRT_MODELS is a list of folders that come before all others."""
    monkeypatch.setenv("SDRT_MODELS", f"{tmp_path}:/nowhere")
    assert search_paths()[:2] == [tmp_path, Path("/nowhere")]
    make(tmp_path / "mine")
    assert load_pack("mine").folder == tmp_path / "mine"


@pytest.mark.parametrize("entry", ["~nobody-of-this-name/packs", "x" * 300, "/dev/null", "/proc/1/nothing", "no/such"])
def test_a_place_that_cannot_be_looked_at_holds_no_packs(
    entry: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever is wrong with one place, the packs of the others are found; asked for by name, it is refused."""
    monkeypatch.setenv("SDRT_MODELS", f"{entry}{os.pathsep}{tmp_path}")
    make(tmp_path / "mine")
    assert load_pack("mine").folder == tmp_path / "mine"
    assert tmp_path / "mine" in [pack.folder for pack in scan_packs()[0]]
    with pytest.raises(ModelError):
        load_pack(entry)


def test_folders_of_others_hold_no_packs(
    unprivileged: Unprivileged, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An entry, the user's home and a folder among good ones that may not be looked into: the good packs are found."""
    make(tmp_path / "packs" / "mine")
    closed = [tmp_path / "home", tmp_path / "entry", tmp_path / "packs" / "closed"]
    for folder in closed:
        folder.mkdir(mode=0o000)
    monkeypatch.setenv("SDRT_MODELS", f"{tmp_path / 'entry'}{os.pathsep}{tmp_path / 'packs'}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    with unprivileged(tmp_path):
        assert load_pack("mine").folder == tmp_path / "packs" / "mine"
        assert tmp_path / "packs" / "mine" in [pack.folder for pack in scan_packs()[0]]
        with pytest.raises(ModelError, match="ermission"):
            load_pack(tmp_path / "entry" / "pack")


def test_a_user_without_a_home_has_no_packs_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where nobody knows the user, as in many containers, other places are searched; a cache must then be named."""

    def nobody(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("SDRT_MODELS", str(tmp_path))
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "SDRT_CACHE", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    make(tmp_path / "mine")
    before = search_paths()
    monkeypatch.setattr(Path, "expanduser", nobody)
    monkeypatch.setattr(Path, "home", lambda: nobody(Path()))
    assert search_paths() == before[1:-1]
    monkeypatch.setattr(Path, "expanduser", lambda self: nobody(self) if str(self).startswith("~") else self)
    assert search_paths() == before[:-1] and load_pack("mine").folder == tmp_path / "mine"
    with pytest.raises(EngineError, match="SDRT_CACHE"):
        tensorrt_cache.cache_root()


def test_a_missing_pack_names_the_paths_searched(home: Path) -> None:
    """Who looks for a pack in vain learns where it was looked for."""
    with pytest.raises(ModelError, match=f"no model pack named 'none'; searched {home}"):
        load_pack("none")


def test_a_folder_without_manifest_is_no_pack(tmp_path: Path) -> None:
    """A folder that is no pack is refused by what it lacks."""
    with pytest.raises(ModelError, match=r"no manifest\.json"):
        load_pack(tmp_path)


def test_a_missing_file_is_refused_on_load(tmp_path: Path) -> None:
    """A pack that lost a file is refused before anything is decoded with it."""
    make(tmp_path / "p")
    (tmp_path / "p" / "decoder.onnx").unlink()
    with pytest.raises(ModelError, match=r"decoder\.onnx"):
        load_pack(tmp_path / "p")


def test_a_file_of_another_size_is_refused_on_load(tmp_path: Path) -> None:
    """A truncated file is refused without reading it."""
    make(tmp_path / "p")
    (tmp_path / "p" / "decoder.onnx").write_bytes(b"decode")
    with pytest.raises(ModelError, match="7 bytes, it has 6"):
        load_pack(tmp_path / "p")


def test_a_file_altered_in_place_is_refused_by_hash(tmp_path: Path) -> None:
    """One changed byte is noticed before the file is used, also after a good check of the same file."""
    pack = make(tmp_path / "p")
    read_verified(pack, "decoder.onnx")
    (tmp_path / "p" / "decoder.onnx").write_bytes(b"DEcoder")
    with pytest.raises(ModelError, match="altered"):
        read_verified(load_pack(tmp_path / "p"), "decoder.onnx")


def test_find_pack_takes_the_pack_with_both_identities(home: Path) -> None:
    """A pack that agrees in the space but not in the prior cannot read the file's integers."""
    make(home / "a", prior_npz=b"other")
    wanted = make(home / "b")
    assert find_pack(wanted.space.identity, wanted.prior_identity) == wanted


def test_a_pack_that_only_claims_an_identity_hides_no_good_one(home: Path, photo: Any) -> None:
    """Packs of the same identities are tried in order: one whose prior or decoder is not what it says is passed over.

    Where none is left, the first one's fault is told.
    """
    good = testpack.write(home / "z", name="good")
    data = Codec(good.folder).encode(photo)
    for name, part, content in (
        ("a", "prior.npz", bytes(good.prior_path.stat().st_size)),
        ("b", "decoder.onnx", bytes(good.decoder_path().stat().st_size)),
    ):
        shutil.copytree(good.folder, home / name)
        (home / name / part).write_bytes(content)
    shutil.copytree(good.folder, home / "c")
    (home / "c" / "decoder.onnx").write_bytes(b"a graph of another kind, under its own hash")
    update_manifest(home / "c")
    for device in ("auto", "cpu"):
        codec = Codec(device=device)
        assert codec.symbols(data).shape == (12, 13, 21)
        assert codec.decode(data).size == (161, 97)
    assert sdrt.info(data).model == "good"
    shutil.rmtree(good.folder)
    with pytest.raises(ModelError, match=r"a.prior\.npz is altered"):
        Codec().decode(data)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails what would wait or read for ever."""

    def late(*_: object) -> NoReturn:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs fifos")
@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "/dev/null", "folder"])
@pytest.mark.parametrize("name", ["manifest.json", "decoder.onnx", "prior.npz"])
def test_what_is_no_file_is_refused_at_once(name: str, kind: str, home: Path) -> None:
    """A fifo, a device or a folder in a file's place neither waits nor ends the memory, and hides no other pack."""
    pack = make(home / "odd", **{name.replace(".", "_"): b""} if name != "manifest.json" else {})
    good = make(home / "z", decoder_onnx=b"another", prior_npz=b"another")
    path = pack.folder / name
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(kind)
    with within(5):
        with pytest.raises(ModelError, match=r"not a regular file|Is a directory|not a model pack|altered"):
            read_verified(load_pack(pack.folder), name)
        with pytest.raises(ModelError):
            read_verified(pack, name)
        assert list_packs() == [good]


def test_find_pack_names_what_is_wanted_and_what_is_here(home: Path) -> None:
    """A mismatch is refused with both sides named, broken packs too."""
    here = make(home / "here")
    make(home / "torn")
    (home / "torn" / "prior.npz").unlink()
    with pytest.raises(ModelError) as caught:
        find_pack(b"\x01\x02\x03\x04", b"\xaa\xbb\xcc\xdd")
    message = str(caught.value)
    for part in ("01020304", "aabbccdd", "here", here.space.identity.hex(), here.prior_identity.hex(), "torn"):
        assert part in message
    assert "\n" not in message
    assert len(scan_packs()[1]) == 1


def test_a_pack_without_prior_says_how_to_fit_it(tmp_path: Path) -> None:
    """An export without prior is a pack, but names the next step where a prior is needed."""
    pack = write_pack(tmp_path / "p", name="p", space=SPACE, files={"encoder.onnx": b"e", "decoder.onnx": b"d"})
    with pytest.raises(ModelError, match="python -m sdrt_export prior"):
        _ = pack.prior_identity
    (tmp_path / "p" / "prior.npz").write_bytes(b"fitted")
    fitted = update_manifest(tmp_path / "p", prior={"images": 3}, quality_range=(640, 256), default_step=400)
    assert fitted.manifest["prior"] == {"images": 3}
    assert (fitted.quality_range, fitted.default_step) == ((640, 256), 400)
    assert len(fitted.prior_identity) == 4


def test_a_precision_that_is_not_here_is_refused(tmp_path: Path) -> None:
    """Asking for another precision never falls back to the default one."""
    pack = make(tmp_path / "p", decoder_fp16_onnx=b"half")
    assert pack.precisions == ("w16", "fp16")
    assert pack.decoder_path("fp16").name == "decoder.fp16.onnx"
    with pytest.raises(ModelError, match=r"no decoder\.int8\.onnx"):
        pack.decoder_path("int8")


def _set(*path: str, to: object) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = to

    return change


ENTRY = {"bytes": 1, "sha256": "0" * 64}
DISEASES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "newer_format": (_set("format", to=2), "update sdrt"),
    "format_no_number": (_set("format", to="1"), "format"),
    "format_true": (_set("format", to=True), "format"),
    "space_missing": (lambda m: m.pop("space"), "space"),
    "no_channels": (_set("space", "channels", to=0), "channels"),
    "downscale_huge": (_set("space", "downscale", to=1 << 40), "downscale"),
    "scale_zero": (_set("space", "scale", to=0), "scale"),
    "scale_beyond_float": (_set("space", "scale", to=10**400), "scale"),
    "scale_beyond_float32": (_set("space", "scale", to=1e39), "scale"),
    "scale_below_float32": (_set("space", "scale", to=1e-39), "scale"),
    "shift_beyond_float32": (_set("space", "shift", to=-3.5e38), "shift"),
    "scale_text": (_set("space", "scale", to="1"), "scale"),
    "shift_null": (_set("space", "shift", to=None), "shift"),
    "identity_of_another_space": (_set("space", "identity", to="00000000"), "identity"),
    "identity_a_number": (_set("space", "identity", to=1), "identity"),
    "quality_input_text": (_set("quality_input", to="yes"), "quality_input"),
    "id_two_lines": (_set("space", "id", to="a\nb"), "id"),
    "name_empty": (_set("name", to=""), "name"),
    "quality_rises": (_set("quality_range", to=[100, 900]), "quality_range"),
    "quality_one": (_set("quality_range", to=[100]), "quality_range"),
    "step_1024": (_set("default_step", to=1024), "default_step"),
    "distribution_text": (_set("latent_distribution", to="no"), "latent_distribution"),
    "halo_negative": (_set("halo", to={"encoder_px": -1, "decoder_latents": 0}), "encoder_px"),
    "path_escapes": (_set("files", "../decoder.onnx", to=ENTRY), "plain file name"),
    "path_absolute": (_set("files", "/etc/passwd", to=ENTRY), "plain file name"),
    "path_windows": (_set("files", "..\\x", to=ENTRY), "plain file name"),
    "path_drive": (_set("files", "c:x", to=ENTRY), "plain file name"),
    "path_surrogate": (_set("files", "\ud800", to=ENTRY), "plain file name"),
    "path_control": (_set("files", "a\x7f", to=ENTRY), "plain file name"),
    "path_hidden": (_set("files", "..", to=ENTRY), "plain file name"),
    "hash_short": (_set("files", "decoder.onnx", to={"bytes": 7, "sha256": "00"}), "sha256"),
    "hash_upper": (_set("files", "decoder.onnx", to={"bytes": 7, "sha256": "A" * 64}), "sha256"),
    "bytes_beyond_a_graph": (_set("files", "decoder.onnx", to={"bytes": 2**31, "sha256": "0" * 64}), "bytes"),
    "bytes_negative": (_set("files", "decoder.onnx", to={"bytes": -1, "sha256": "0" * 64}), "bytes"),
    "files_list": (_set("files", to=[]), "files"),
}


@pytest.mark.parametrize("disease", DISEASES)
def test_a_bad_manifest_is_refused_by_field(tmp_path: Path, disease: str) -> None:
    """Every field that the runtime uses is checked, and the message names it in one line."""
    make(tmp_path / "p")
    path = tmp_path / "p" / "manifest.json"
    manifest = json.loads(path.read_text())
    change, named = DISEASES[disease]
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=named) as caught:
        load_pack(tmp_path / "p")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"format": NaN}',
        b'{"x": 1e999}',
        b"[" * 100_000,
        b" " * (MANIFEST_LIMIT_BYTES + 1),
    ],
    ids=["empty", "torn", "list", "null", "not_utf8", "nan", "infinite", "deep", "large"],
)
def test_a_manifest_that_is_no_manifest_is_refused(tmp_path: Path, text: bytes) -> None:
    """Damage of any kind is a ModelError, never another exception."""
    (tmp_path / "manifest.json").write_bytes(text)
    with pytest.raises(ModelError):
        load_pack(tmp_path)
