"""Packs that travel: zips are read in place, ``sdrt install`` puts packs where they belong, no prior orphans a file."""

from __future__ import annotations

import json
import random
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import Pixels
from tests.fake_onnxruntime import FakeRuntime

import sdrt
from sdrt.codec import Codec
from sdrt.command.cli import main
from sdrt.command.ship import ship
from sdrt.errors import EngineError, ModelError, OutputError
from sdrt.model_cache import ModelCache
from sdrt.packs import archive
from sdrt.packs.install import install
from sdrt.packs.known_spaces import NAMES
from sdrt.packs.manifest import MANIFEST, ModelPack, older_prior, read_pack
from sdrt.packs.search import find_pack, load_pack, read_verified, scan_packs
from sdrt_export.pack_writer import update_manifest, write_prior_file
from sdrt_export.spaces import SPACES

TESTPACK = Path(__file__).parent / "data" / "testpack"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of packs, not made yet; no other folder has packs but the checkout."""
    monkeypatch.setattr("sdrt.packs.search._user_folder", lambda: tmp_path / "data")
    monkeypatch.delenv("SDRT_MODELS", raising=False)
    return tmp_path / "data" / "sdrt" / "models"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The tests' pack as ``sdrt pack`` ships it."""
    return ship(read_pack(TESTPACK), tmp_path / "mine.zip").path


def rezipped(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A zip with the entries of ``source``, changed."""
    with zipfile.ZipFile(source) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    change(entries)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in entries.items():
            new.writestr(name, data)
    return target


def test_an_installed_pack_is_found_and_decodes_as_the_original(
    mine: Path, models: Path, photo: Pixels, capsys: pytest.CaptureFixture[str]
) -> None:
    """A zip and a folder install alike: by the name that is told, and by the files written with it."""
    data = Codec(TESTPACK).encode(photo)
    with pytest.raises(ModelError, match=f"searched .*{models}.*sdrt install"):
        Codec().decode(data)
    assert main(["install", str(mine)]) == 0
    assert "--model mine" in capsys.readouterr().out
    assert Codec("mine").encode(photo) == data
    assert Codec().decode_picture(data).rgb.tobytes() == Codec(TESTPACK).decode_picture(data).rgb.tobytes()
    assert main(["install", str(TESTPACK), "--name", "other"]) == 0
    assert {pack.called for pack in scan_packs()[0]} >= {"mine", "other"}
    assert sorted(path.name for path in models.iterdir()) == ["mine", "other"]
    assert (models / "mine" / MANIFEST).read_bytes() != (models / "other" / MANIFEST).read_bytes()


def test_a_zip_is_a_pack_where_it_lies(
    mine: Path, models: Path, photo: Pixels, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its path, in a folder of $SDRT_MODELS, and as an entry of it; nothing is unpacked to a disk."""
    data = Codec(TESTPACK).encode(photo)
    before = sorted(mine.parent.rglob("*"))
    assert Codec(mine).encode(photo) == Codec(str(mine)).encode(photo) == data
    for entry in (mine, mine.parent):
        monkeypatch.setenv("SDRT_MODELS", str(entry))
        assert Codec("mine").encode(photo) == data
        assert Codec().decode(data).size == (161, 97)
        assert sdrt.info(data).model == "testpack"
        assert main(["models", "--json"]) == 0
        told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [load_pack(pack["model"]).folder for pack in told] == [Path(pack["folder"]) for pack in told]
        assert told[0]["model"] == "mine"
    assert sorted(mine.parent.rglob("*")) == before and not models.exists()


def test_a_name_finds_one_pack_and_the_others_are_told_by_their_path(
    mine: Path, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``sdrt models`` prints what ``--model`` takes, also for a pack whose name an earlier one has."""
    assert main(["install", str(mine)]) == 0
    monkeypatch.setenv("SDRT_MODELS", str(mine))
    assert main(["install", str(mine), "--force"]) == 0
    assert f"finds {mine} first" in capsys.readouterr().err
    assert main(["models"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert told == ["mine", "tiny", str(models / "mine")]


def replaced(name: str, data: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda entries: entries.update({name: data})


def moved(old: str, new: str) -> Callable[[dict[str, bytes]], None]:
    return lambda entries: entries.update({new: entries.pop(old)})


DISEASES: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "leads upwards": (moved("mine/decoder.onnx", "../decoder.onnx"), "outside"),
    "leads upwards from its folder": (moved("mine/decoder.onnx", "mine/../../decoder.onnx"), "outside"),
    "absolute": (moved("mine/decoder.onnx", "/decoder.onnx"), "outside"),
    "backslash": (moved("mine/decoder.onnx", "mine\\..\\decoder.onnx"), "outside"),
    "two folders": (moved("mine/decoder.onnx", "yours/decoder.onnx"), "2 folders"),
    "unlisted": (replaced("mine/setup.py", b"import os"), r"'setup\.py', which its manifest\.json does not list"),
    "no manifest": (lambda entries: entries.pop("mine/manifest.json"), r"no manifest\.json"),
    "a file is absent": (lambda entries: entries.pop("mine/decoder.onnx"), r"no decoder\.onnx"),
    "another size": (replaced("mine/decoder.onnx", b"short"), "altered"),
    "bomb": (replaced("mine/decoder.onnx", bytes(1 << 24)), "100 times"),
    "many entries": (lambda entries: entries.update({f"mine/{n}": b"" for n in range(100)}), "64 entries"),
}


@pytest.mark.parametrize("disease", DISEASES)
def test_a_zip_that_is_no_pack_is_refused_before_anything_is_written(
    disease: str, mine: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, by ``install`` and by ``--model``, and nothing is left."""
    change, named = DISEASES[disease]
    bad = rezipped(mine, mine.with_name("bad.zip"), change)
    with pytest.raises(ModelError, match=named):
        load_pack(bad)
    assert main(["install", str(bad)]) == ModelError.exit_code
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(models.rglob("*"))


def test_one_changed_byte_in_a_zip_is_refused(mine: Path, models: Path) -> None:
    """The bytes that are used are those that were hashed: sizes and the zip's own checksums may be right."""

    def flip(entries: dict[str, bytes]) -> None:
        entries["mine/decoder.onnx"] = entries["mine/decoder.onnx"][:-1] + b"?"

    bad = rezipped(mine, mine.with_name("bad.zip"), flip)
    with pytest.raises(ModelError, match="altered"):
        install(bad)
    with pytest.raises(ModelError, match="altered"):
        read_verified(load_pack(bad), "decoder.onnx")
    assert not list(models.rglob("*"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_links_encryption_and_repeated_names_are_refused(mine: Path, models: Path) -> None:
    """What zipfile itself would read is refused where a pack has no such thing."""
    bad = mine.with_name("bad.zip")
    for attribute, value, named in (
        ("external_attr", (stat.S_IFLNK | 0o777) << 16, "not a regular file"),
        ("flag_bits", 1, "encrypted"),
        ("compress_type", zipfile.ZIP_BZIP2, "deflated"),
        ("filename", "mine/decoder.onnx", "twice"),
    ):
        with zipfile.ZipFile(mine) as old, zipfile.ZipFile(bad, "w") as new:
            for entry in old.infolist():
                data = old.read(entry)
                if entry.filename == "mine/encoder.onnx" and attribute != "flag_bits":
                    setattr(entry, attribute, value)
                new.writestr(entry, data)
        if attribute == "flag_bits":
            data = bytearray(bad.read_bytes())
            data[data.index(b"PK\1\2") + 8] |= 1
            bad.write_bytes(bytes(data))
        with pytest.raises(ModelError, match=named):
            load_pack(bad)


def test_a_mutated_zip_is_refused_or_is_the_same_pack(mine: Path, models: Path) -> None:
    """Whatever bytes change, are lost or repeated: ModelError, or all files are those that the manifest vouches for."""
    whole, rng = mine.read_bytes(), random.Random(5)
    directory = whole.index(b"PK\1\2")
    pack = load_pack(mine)
    good = {name: read_verified(pack, name) for name in pack.files}
    bad = mine.with_name("bad.zip")
    refused = 0
    for number in range(400):
        data = bytearray(whole)
        at = rng.randrange(directory if number % 2 else 0, len(data))
        if number % 5:
            data[at] ^= 1 << rng.randrange(8)
        else:
            data[at : at + rng.randrange(1, 9)] = rng.choice([b"", b"\xff\xff\xff\xff", bytes(data[at - 4 : at])])
        bad.write_bytes(bytes(data))
        try:
            assert {name: read_verified(load_pack(bad), name) for name in good} == good
        except ModelError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 200


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "zip64", "fifo"])
def test_what_is_no_zip_is_refused_at_once(kind: str, mine: Path, models: Path) -> None:
    """Whatever carries the name: one ModelError."""
    bad = mine.with_name("bad.zip")
    if kind == "fifo":
        import os

        if not hasattr(os, "mkfifo"):
            pytest.skip("needs fifos")
        os.mkfifo(bad)
    else:
        whole = mine.read_bytes()
        locator = b"PK\6\7" + bytes(16)
        bad.write_bytes(
            {"empty": b"", "text": b"text" * 9, "cut": whole[:-30], "zip64": whole[:-22] + locator + whole[-22:]}[kind]
        )
    with pytest.raises(ModelError):
        load_pack(bad)
    with pytest.raises(ModelError):
        install(bad)


def test_a_folder_with_anything_else_in_it_is_refused(tmp_path: Path, models: Path) -> None:
    """Unlisted files, folders and links do not travel."""
    source = tmp_path / "source"
    shutil.copytree(TESTPACK, source)
    (source / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match=r"notes\.txt"):
        install(source)
    (source / "notes.txt").unlink()
    (source / "decoder.onnx").unlink()
    (source / "decoder.onnx").symlink_to(TESTPACK / "decoder.onnx")
    with pytest.raises(ModelError, match="not a regular file"):
        install(source)
    assert not list(models.rglob("*"))


def test_nothing_is_replaced_unasked_and_a_failure_leaves_what_was_there(
    mine: Path, models: Path, make_pack: Callable[..., ModelPack], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--force replaces a pack whole; where the new one is bad, or cannot get its name, the old one is there still."""
    install(mine)
    before = (models / "mine" / MANIFEST).read_bytes()
    other = make_pack("other", base_step=2.0)
    for name in ("..", "a/b", "-x", "a\nb"):
        with pytest.raises(OutputError, match="--name"):
            install(mine, name=name)
    with pytest.raises(OutputError, match="--force"):
        install(other.folder, name="mine")
    (other.folder / "decoder.onnx").write_bytes(bytes((other.folder / "decoder.onnx").stat().st_size))
    with pytest.raises(ModelError, match="altered"):
        install(other.folder, name="mine", replace=True)
    shutil.copy(TESTPACK / "decoder.onnx", other.folder)
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fails)
        with pytest.raises(OutputError, match="No space"):
            install(other.folder, name="mine", replace=True)
    assert (models / "mine" / MANIFEST).read_bytes() == before
    done = install(other.folder, name="mine", replace=True)
    assert done.lost_priors == (read_pack(TESTPACK).prior_identity,)
    assert read_pack(models / "mine").prior_identity == other.prior_identity
    assert [path.name for path in models.iterdir()] == ["mine"]


def test_a_new_prior_orphans_no_file(
    make_pack: Callable[..., ModelPack], models: Path, photo: Pixels, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A pack writes with its first prior and reads with all, by name and by identities; so does its shipment."""
    pack = make_pack("grown")
    new = (make_pack("donor", base_step=2.0).folder / "prior.npz").read_bytes()
    shutil.rmtree(tmp_path / "packs" / "donor")
    old = pack.prior_identity
    first = Codec(pack.folder).encode(photo)
    picture = Codec(pack.folder).decode_picture(first).rgb
    write_prior_file(pack, new)
    pack = update_manifest(pack.folder, prior={"photos": 1})
    assert list(pack.priors) == [pack.prior_identity, old] and pack.priors[old] == older_prior(old)
    second = Codec(pack.folder).encode(photo)
    assert second != first and sdrt.info(first, max_pixels=None).model is None
    shipped = ship(pack, tmp_path / "packs.zip", decoder_only=True).path
    for place in (pack.folder, shipped):
        monkeypatch.setenv("SDRT_MODELS", str(place))
        for codec in (Codec(), Codec(place)):
            assert codec.decode_picture(first).rgb.tobytes() == picture.tobytes()
            assert codec.decode(second).size == (161, 97)
        assert sdrt.info(second).quality == 50.0 and sdrt.info(first).quality is None
        assert find_pack(pack.space.identity, old).folder == place


def test_a_prior_that_returns_or_replaces_leaves_no_second_copy(make_pack: Callable[..., ModelPack]) -> None:
    """The same prior once more changes nothing; an older one that writes again is kept once; --replace drops all."""
    pack = make_pack("p")
    one = (pack.folder / "prior.npz").read_bytes()
    two = (make_pack("q", base_step=2.0).folder / "prior.npz").read_bytes()
    for data, replace, count in ((one, False, 1), (two, False, 2), (two, False, 2), (one, False, 2), (two, True, 1)):
        write_prior_file(pack, data, replace=replace)
        pack = update_manifest(pack.folder)
        assert (pack.folder / "prior.npz").read_bytes() == data
        assert len(pack.priors) == len(list(pack.folder.glob("prior*"))) == count


def test_a_file_whose_pack_is_absent_names_it(models: Path, photo: Pixels, make_pack: Callable[..., ModelPack]) -> None:
    """By the name of its latent space where that is known, else by its numbers; and where packs were looked for."""
    with pytest.raises(ModelError, match=r"e17fefd1 \(sd1: Stable Diffusion 1 and 2.*searched .*models"):
        find_pack(SPACES["sd1"].identity, b"1234")
    newer = make_pack("newer", base_step=2.0)
    install(newer.folder)
    with pytest.raises(ModelError, match="another version of newer has that prior"):
        Codec().decode(Codec(TESTPACK).encode(photo))


def test_every_known_space_has_its_name() -> None:
    """What the exporter knows by name, and the default pack's space, the runtime names."""
    identity = read_pack(TESTPACK.parents[2] / "models" / "tiny").space.identity.hex()
    assert identity in NAMES, f'known_spaces.py lacks "{identity}": "tiny of sdrt {sdrt.__version__}"'
    assert {space.identity.hex(): space.id for space in SPACES.values()}.items() <= {
        identity: name.partition(":")[0] for identity, name in NAMES.items()
    }.items()


def test_tensorrt_asks_for_files_of_their_own(mine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An engine that is built from a path has nothing to build from in a zip, and says what to do."""
    FakeRuntime.install(monkeypatch, tmp_path / "cache")
    cache = ModelCache(mine, device="tensorrt", precision=None, threads=None)
    with pytest.raises(EngineError, match="sdrt install"):
        cache.engine(cache.encoding_pack(), "decoder")


def test_limits_are_far_from_what_packs_are() -> None:
    """The default pack uses a tenth of what a zip may have."""
    pack = read_pack(Path(__file__).parents[1] / "models" / "tiny")
    assert 10 * len(pack.files) <= archive.MAX_ENTRIES
