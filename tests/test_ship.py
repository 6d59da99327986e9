"""``sdrt pack``: what is shipped is small, complete, decodes, and never overwrites."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.command import one_line, sdrt

from sdrt.codec import Codec
from sdrt.command.cli import main
from sdrt.command.ship import NOTES
from sdrt.errors import ModelError, OutputError
from sdrt.packs.manifest import ModelPack
from sdrt.packs.search import find_pack, load_pack
from sdrt_export.pack_writer import update_manifest


@pytest.fixture
def pack(make_pack: Callable[..., ModelPack]) -> ModelPack:
    """The tests' pack with a second precision and notes in its manifest."""
    folder = make_pack("whole").folder
    for half in ("encoder", "decoder"):
        shutil.copyfile(folder / f"{half}.onnx", folder / f"{half}.int8.onnx")
    return update_manifest(folder, training={"steps": 1}, verified={"parity": []}, int8={"graphs": []})


def ship(pack: ModelPack, out: Path, *arguments: str) -> int:
    return main(["pack", str(pack.folder), "--out", str(out), *arguments])


def test_a_shipped_pack_holds_one_precision_and_no_notes(
    pack: ModelPack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both halves or the decoder alone, as a CPU takes them unasked, the prior, a manifest that keeps all meaning; the
    size said is the size."""
    for arguments, files in (
        ((), ["decoder.int8.onnx", "encoder.int8.onnx", "prior.npz"]),
        (("--decoder-only",), ["decoder.int8.onnx", "prior.npz"]),
        (("--decoder-only", "--precision", "w16"), ["decoder.onnx", "prior.npz"]),
    ):
        out = tmp_path / "-".join(("out", *arguments))
        assert ship(pack, out, *arguments) == 0
        shipped = load_pack(out)
        assert sorted(shipped.files) == files
        assert sorted(path.name for path in out.iterdir()) == sorted([*files, "manifest.json"])
        kept = {key: value for key, value in pack.manifest.items() if key not in (*NOTES, "files")}
        assert {key: value for key, value in shipped.manifest.items() if key != "files"} == kept
        assert f"{sum(path.stat().st_size for path in out.iterdir()):,} bytes" in capsys.readouterr().out


@pytest.mark.parametrize("value", ['"\\ud800"', "[" * 100_000 + "]" * 100_000], ids=["half a character", "nested"])
def test_a_manifest_that_cannot_be_written_again_is_one_line(
    value: str, pack: ModelPack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What stands in a field that no reader looks into is no surprise when the pack is shipped."""
    path = pack.folder / "manifest.json"
    path.write_text(path.read_text().replace("{", f'{{"remark": {value},', 1))
    assert ship(pack, tmp_path / "out") == ModelError.exit_code
    line = capsys.readouterr().err
    assert "manifest.json" in line and line.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_shipped_decodes_what_the_pack_encoded(pack: ModelPack, photo: Any, tmp_path: Path) -> None:
    """The decoder alone, in the precision that GPUs do not ask for, paints the same pixels and refuses to encode."""
    data = Codec(pack.folder, device="cpu", threads=1).encode(photo)
    expected = Codec(pack.folder, device="cpu", threads=1).decode_picture(data).rgb
    assert ship(pack, tmp_path / "small", "--decoder-only", "--precision", "int8") == 0
    codec = Codec(tmp_path / "small", device="cpu", threads=1)
    np.testing.assert_array_equal(codec.decode_picture(data).rgb, expected)
    with pytest.raises(ModelError, match="decoder-only"):
        codec.encode(photo)


def test_a_zip_installs_by_unpacking_and_is_reproducible(
    pack: ModelPack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unpacked into a folder of packs it is found by its identities; the same pack gives the same bytes."""
    first, second = tmp_path / "a" / "least.zip", tmp_path / "b" / "least.ZIP"
    for path in (first, second):
        path.parent.mkdir()
        assert ship(pack, path, "--decoder-only") == 0
        assert f"{path.stat().st_size:,} bytes" in capsys.readouterr().out
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        archive.extractall(tmp_path / "models")
    monkeypatch.setenv("SDRT_MODELS", str(tmp_path / "models"))
    assert find_pack(pack.space.identity, pack.prior_identity).folder == tmp_path / "models" / "least"


def test_nothing_is_overwritten_and_refusals_are_one_line(
    pack: ModelPack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder with anything in it, a zip that exists, a missing precision, an altered file: refused, nothing left."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    (tmp_path / "there.zip").write_text("mine")
    for code, out, arguments in (
        (10, "full", ()),
        (10, "there.zip", ()),
        (10, "no/such/folder.zip", ()),
        (7, "new", ("--precision", "fp16")),
    ):
        assert ship(pack, tmp_path / out, *arguments) == code
        assert capsys.readouterr().err.count("\n") == 1
    data = bytearray((pack.folder / "decoder.int8.onnx").read_bytes())
    data[-1] ^= 1
    (pack.folder / "decoder.int8.onnx").write_bytes(bytes(data))
    assert ship(pack, tmp_path / "new") == 7
    assert "altered" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "full" / "file").read_text() == (tmp_path / "there.zip").read_text() == "mine"


@pytest.mark.parametrize("name", ["new", "there"])
def test_a_pack_that_cannot_be_finished_leaves_no_part_of_itself(
    name: str, pack: ModelPack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where some files have their names already: a second try finds the folder as the first one did."""
    out = tmp_path / "out"
    (out / "there").mkdir(parents=True)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "manifest.json":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    assert ship(pack, out / name) == OutputError.exit_code
    assert [path.relative_to(out).as_posix() for path in out.rglob("*")] == ["there"]
    monkeypatch.undo()
    assert ship(pack, out / name) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("name", ["new", "there", "pack.zip"])
def test_a_full_disk_leaves_no_half_pack(name: str, pack: ModelPack, tmp_path: Path) -> None:
    """One line and its code; a new folder is gone again, an empty one that was there is empty still."""
    out = tmp_path / "out"
    (out / "there").mkdir(parents=True)

    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    done = sdrt("pack", pack.folder, "--out", out / name, preexec_fn=limit)
    assert done.returncode == OutputError.exit_code and os.strerror(errno.EFBIG) in one_line(done.stderr.decode())
    assert [path.relative_to(out).as_posix() for path in out.rglob("*")] == ["there"]
    assert sdrt("pack", pack.folder, "--out", out / name).returncode == 0
