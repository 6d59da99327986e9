"""What careless and hostile people do to the commands that came last: a line, an exit code, and nothing lost."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.command import HEALTHY, one_line
from tests.conftest import Unprivileged

from sdrt.codec import Codec
from sdrt.command import cli
from sdrt.container import sdl
from sdrt.errors import CorruptError, ImageError, LimitError, OutputError
from sdrt.limits import DEFAULT_MAX_SIDE_PX
from sdrt.network.engine import Engine
from sdrt.packs.manifest import ModelPack
from sdrt.pixels.load import load

pytestmark = pytest.mark.usefixtures("testpack")
LONG = "y" * 300
"""No file system takes such a name, and pathlib's questions about it raise."""
SDL = HEALTHY.read_bytes()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a.sdl, a.npz with its latents, file (one), and $XDG_CACHE_HOME."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copy(HEALTHY, "a.sdl")
    Path("file").touch()
    assert cli.main(["latents", "a.sdl"]) == 0
    return tmp_path


def refused(line: str, code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """Its one line on stderr."""
    assert cli.main(line.split()) == code
    return one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("latents a.sdl --out-dir file", 10),
        ("latents a.sdl --out-dir nul\0", 10),
        ("encode file --out-dir nul\0", 10),
        ("latents a.sdl --out-dir /proc/x", 10),
        (f"latents a.sdl --out-dir {LONG}", 10),
        (f"latents {LONG}.sdl", 9),
        (f"thumbnail {LONG}.sdl", 9),
        ("thumbnail a.sdl file/x.png", 10),
        (f"install {LONG}", 7),
        (f"install {LONG}.zip", 7),
        ("install . --name=\u00a0", 7),
    ],
)
def test_places_that_cannot_be_are_one_line(
    line: str, code: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file for a folder, a name too long, a folder that nobody may make."""
    refused(line, code, capsys)


def test_a_file_of_the_longest_name_has_latents(folder: Path) -> None:
    """Whether something lies beside it under a name that is too long is no error."""
    name = "x" * 251
    Path(f"{name}.sdl").write_bytes(SDL)
    assert cli.main(["latents", f"{name}.sdl"]) == 0
    assert Path(f"{name}.npz").exists()


@pytest.mark.parametrize("way", ["itself", "symbolic link", "hard link"])
def test_no_command_writes_over_its_input(way: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--force or not, under any name of it."""
    for source, line in (("a.sdl", "thumbnail a.sdl {}"), ("a.npz", "latents {} --to npz-grid --force")):
        before, name = Path(source).read_bytes(), source
        if way != "itself":
            name = f"b{Path(source).suffix}"
            (os.symlink if way == "symbolic link" else os.link)(source, name)
        assert "would be overwritten" in refused(line.format(name), 10, capsys)
        assert Path(source).read_bytes() == before


def test_a_thumbnail_replaces_thumbnails_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``sdrt thumbnail *.sdl`` names a second input where the output belongs; errors name the file."""
    photo = io.BytesIO()
    Image.new("RGB", (8, 8)).save(photo, "PNG")
    for name, data in (("b.sdl", SDL), ("b.png", photo.getvalue())):
        Path(name).write_bytes(data)
        assert "is no thumbnail" in refused(f"thumbnail a.sdl {name}", 10, capsys)
        assert Path(name).read_bytes() == data
    assert cli.main(["thumbnail", "a.sdl", "t.png"]) == cli.main(["thumbnail", "a.sdl", "t.png", "16"]) == 0
    assert "t.png: not an .sdl file" in refused("thumbnail t.png", 3, capsys)


def test_a_dash_is_stdout_to_a_thumbnail_too(folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """As to every other command that writes one picture: no file of that name."""
    assert cli.main(["thumbnail", "a.sdl", "-", "16"]) == 0
    assert load(io.BytesIO(capfdbinary.readouterr().out)).rgb.shape == (10, 16, 3)
    assert not Path("-").exists()


def test_latents_look_at_the_first_bytes_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An endless file that is called .sdl is not read to its end."""
    Path("endless.sdl").symlink_to("/dev/zero")
    refused("latents endless.sdl", 3, capsys)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("decode in.png -o z.png --truth in.png --force", 2),
        ("decode in.png -o z.png --truth ./z.png --force", 2),
        ("decode a.sdl --truth a.png --force", 2),
        ("decode in.png -o z.png --truth link.png --force", 10),
    ],
)
def test_a_truth_map_is_a_file_of_its_own(
    line: str, code: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under whatever name, it replaces neither the input nor the picture, the output that nobody named included."""
    codec = Codec("testpack")
    data = codec.encode(np.full((40, 40, 3), 90, np.uint8), truth=True)
    Path("in.png").write_bytes(data)
    Path("link.png").symlink_to("z.png")
    assert "--truth needs one input" in refused(line, code, capsys) or code == 10
    assert Path("in.png").read_bytes() == data
    if code == 10:
        assert load("z.png").rgb.std() < 5


def test_tiles_smaller_than_a_cell_are_cells(folder: Path) -> None:
    """--tile 1 is as little memory as there can be."""
    decoded = []
    for tile in ("1", "1000"):
        assert cli.main(["decode", "a.sdl", "-o", f"{tile}.png", "--tile", tile]) == 0
        decoded.append(load(f"{tile}.png").rgb)
    assert (decoded[0] == decoded[1]).all()


def test_two_inputs_never_share_their_latents(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first is kept, with --force too; a tar with two samples of one name would be read as one."""
    Path("other").mkdir()
    shutil.copy(HEALTHY, "other/a.sdl")
    for where in ("--out-dir out", "-o out.tar"):
        assert "just written" in refused(f"latents a.sdl other/a.sdl {where} --force", 10, capsys)
    with tarfile.open("out.tar") as tar:
        assert tar.getnames() == ["a.npz"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_tar_that_cannot_be_written_ends_the_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, not one for each input; nothing is written behind the gap."""
    for name in "bcdef":
        shutil.copy(HEALTHY, f"{name}.sdl")
    Path("full.tar").symlink_to("/dev/full")
    line = refused("latents a.sdl b.sdl c.sdl d.sdl e.sdl f.sdl -o full.tar --force", 10, capsys)
    assert line.endswith("cannot write full.tar: No space left on device")


def test_a_tar_of_nothing_replaces_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--force gives leave to replace it by its like, not by an error."""
    assert cli.main(["latents", "a.sdl", "-o", "out.tar"]) == 0
    before = Path("out.tar").read_bytes()
    for output in ("out.tar", "new.tar"):
        refused(f"latents absent.sdl -o {output} --force", 9, capsys)
    assert Path("out.tar").read_bytes() == before and not Path("new.tar").exists()


def write_tar(name: str, *entries: tuple[tarfile.TarInfo, bytes]) -> None:
    with tarfile.open(name, "w", format=tarfile.PAX_FORMAT) as tar:
        for entry, data in entries:
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


@pytest.mark.parametrize("kind", [b"L", b"x"])
def test_headers_in_headers_of_a_tar_are_damage(kind: bytes, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """tarfile reads each within the one before."""
    data = b"12 a=bbbbbb\n"
    header = tarfile.TarInfo("p")
    header.type, header.size = kind, len(data)
    Path("deep.tar").write_bytes((header.tobuf(tarfile.GNU_FORMAT) + data.ljust(512, b"\0")) * 2000)
    assert "not a complete tar" in refused("latents deep.tar --out-dir out", CorruptError.exit_code, capsys)


def test_a_sparse_file_in_a_tar_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A thousand bytes would become a gigabyte of zeros."""
    entry = tarfile.TarInfo("x.sdl")
    sizes = {"major": "1", "minor": "0", "realsize": "1000000000", "name": "y.sdl"}
    entry.pax_headers = {f"GNU.sparse.{key}": value for key, value in sizes.items()}
    write_tar("sparse.tar", (entry, b"1\n0\n0\n".ljust(512, b"\0")))
    assert "sparse" in refused("latents sparse.tar --out-dir out", CorruptError.exit_code, capsys)


def test_names_in_a_tar_become_no_names_that_hide_or_color(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """None that leads elsewhere, is empty, or has characters that a terminal obeys; the others are written."""
    names = ("../a", "/a", "a\x1b[31m", "a\nb", "", "a\\b", "good/one")
    write_tar("names.tar", *((tarfile.TarInfo(f"{name}.sdl"), SDL) for name in names))
    assert cli.main(["latents", "names.tar", "--out-dir", "out"]) == OutputError.exit_code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(names) - 1
    assert all(line.isprintable() and "is not a valid file name" in line for line in lines)
    assert [path.name for path in Path("out").rglob("*") if path.is_file()] == ["one.npz"]


@pytest.mark.parametrize("size", ["99999999999999999999", "-99999999999999999999", "9" * 5000, "1e400", "true", "[]"])
def test_sizes_beside_latents_are_numbers_of_pixels(
    size: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What no array holds is refused where it is read."""
    Path("a.latent.json").write_text(f'{{"original_size": [{size}, 2]}}')
    assert "holds no sizes" in refused("latents a.sdl --force", CorruptError.exit_code, capsys)


def test_a_desktop_whose_program_is_broken(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files are written; a line says that the program cannot be run."""
    program = folder / "bin" / "update-mime-database"
    program.parent.mkdir()
    program.write_text("no program")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "data"))
    assert cli.main(["desktop", "install"]) == 0
    assert "cannot be run" in capsys.readouterr().err


def test_a_thumbnail_in_a_folder_that_is_gone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An absolute path has one as ever, a relative one fails in a line."""
    Path("gone").mkdir()
    monkeypatch.chdir("gone")
    (folder / "gone").rmdir()
    assert cli.main(["thumbnail", str(folder / "a.sdl")]) == 0
    refused("thumbnail a.sdl", 9, capsys)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray Data: pip install 'sdrt[batch]'")
def test_a_careless_batch_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names in it are printable, what it cannot look at is said, and a strange record is of other settings."""
    from sdrt_batch.__main__ import main

    (folder / "out").mkdir()
    (folder / "out" / "_run.json").write_bytes(b"\xff\xfe")
    for arguments, code in (
        (["encode", "no\x1b[31mpe", "--out", "new"], 9),
        (["encode", LONG, "--out", "new"], 9),
        (["decode", "a.sdl", "--out", "out"], 10),
        (["decode", "a.sdl", "--out", LONG], 10),
    ):
        assert main(arguments) == code
        assert one_line(capsys.readouterr().err).isprintable()
    for option in (["--max-pixels", "-3"], ["--gpus", "nan"], ["--gpus", "-1"], ["--workers", "9" * 5000]):
        with pytest.raises(SystemExit) as left:
            main(["decode", "a.sdl", "--out", "new", *option])
        assert left.value.code == 2
    assert not (folder / "new").exists()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray Data: pip install 'sdrt[batch]'")
def test_a_folder_that_a_batch_cannot_read_is_said(folder: Path, unprivileged: Unprivileged) -> None:
    """Its pictures would be missing without a word; hidden ones are nobody's."""
    from sdrt_batch.units import find_units

    for name in (".secret", "secret"):
        Path(name).mkdir()
        Path(name).chmod(0)
        folder.chmod(0o755)
        with unprivileged(folder):
            if name == "secret":
                with pytest.raises(ImageError, match="secret: Permission denied"):
                    find_units(["."], [".sdl"])
            else:
                assert len(find_units(["."], [".sdl"])) == 1


def test_tiles_of_nothing_are_painted_once(testpack: ModelPack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work follows what was coded, not what a few bytes claim: equal tiles behind each other run the network once."""
    codec = Codec("testpack", device="cpu", threads=1, tile_px=128)
    data = codec.encode_latents(np.zeros((12, 64, 64), np.float32), 512, 512)
    shapes = []
    monkeypatch.setattr(
        Engine, "run", lambda self, frame, run=Engine.run: shapes.append(frame.shape) or run(self, frame)
    )
    picture = np.asarray(codec.decode(data))
    assert len(shapes) == 1 and shapes[0][2] < 64
    assert picture.shape == (512, 512, 3) and np.ptp(picture.reshape(-1, 3), axis=0).max() <= 1


def test_no_side_is_endless_unless_that_is_wanted() -> None:
    """A picture one pixel wide is coded as wide as a cell: whoever limits pixels limits sides too."""
    thin = sdl.unpack(SDL)
    data = sdl.pack(replace(thin, width_px=1, height_px=DEFAULT_MAX_SIDE_PX + 1))
    with pytest.raises(LimitError, match=str(DEFAULT_MAX_SIDE_PX)):
        sdl.unpack(data)
    assert sdl.unpack(data, max_pixels=None).height_px == DEFAULT_MAX_SIDE_PX + 1
    assert sdl.unpack(sdl.pack(replace(thin, width_px=1, height_px=DEFAULT_MAX_SIDE_PX))).width_px == 1
    with pytest.raises(LimitError, match=str(DEFAULT_MAX_SIDE_PX)):
        load(np.zeros((1, DEFAULT_MAX_SIDE_PX + 1, 3), np.uint8))
