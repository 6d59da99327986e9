"""Laws of the command line: what people expect from cwebp, cjxl and avifenc."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests import command
from tests.command import one_line, shell

import sdrt
from sdrt.command import cli, console, convert_arguments
from sdrt.network import installed
from sdrt.network.devices import DEVICE_FACTS
from sdrt.packs import search
from sdrt.packs.manifest import ModelPack

Pixels = NDArray[np.uint8]
ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(testpack: ModelPack, photo: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with photo.png and logo.gif (animated, transparent)."""
    Image.fromarray(photo).save(tmp_path / "photo.png")
    frames = [Image.new("RGBA", (31, 17), (200, 30, 30 * n, 255)) for n in range(3)]
    frames[0].save(tmp_path / "logo.gif", save_all=True, append_images=frames[1:])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str | Path) -> int:
    return cli.main([str(argument) for argument in arguments])


def encode(*arguments: str | Path) -> int:
    return run("encode", *arguments, "--model", "testpack")


def test_the_result_lies_beside_the_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """photo.png -> photo.sdl -> photo.png, and success says nothing."""
    assert encode("photo.png") == 0
    (folder / "photo.png").unlink()
    assert run("decode", "photo.sdl") == 0
    assert sorted(path.name for path in folder.iterdir()) == ["logo.gif", "photo.png", "photo.sdl"]
    assert Image.open("photo.png").size == (161, 97)
    assert capsys.readouterr() == ("", "")


def test_stdin_and_stdout(folder: Path) -> None:
    """``sdrt encode photo.png -o - | sdrt decode - -o back.png`` in processes of their own; - to - as well."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "runtime")}
    command = f"{sys.executable} -m sdrt"
    line = f"{command} encode photo.png --model testpack -o - | {command} decode - -o back.png"
    subprocess.run(["sh", "-c", line], env=environment, check=True, timeout=60)
    line = f"{command} encode - --model testpack <photo.png | {command} decode - --format webp >back.webp"
    subprocess.run(["sh", "-c", line], env=environment, check=True, timeout=60)
    assert Image.open("back.webp").format == "WEBP"
    np.testing.assert_array_equal(np.asarray(Image.open("back.png")), np.asarray(Image.open("back.webp")))


def test_the_suffix_chooses_the_format(folder: Path) -> None:
    """-o picks the format by its suffix, --format where there is none."""
    assert encode("photo.png") == 0
    for name, kind in (("a.webp", "WEBP"), ("a.jpg", "JPEG"), ("a.tiff", "TIFF"), ("a.bmp", "BMP"), ("a", "PNG")):
        assert run("decode", "photo.sdl", "-o", name) == 0
        assert Image.open(name).format == kind
    assert run("decode", "photo.sdl", "--format", "webp") == 0
    assert Image.open("photo.webp").format == "WEBP"


def test_rates(folder: Path) -> None:
    """-q, --target-size and --target-bpp do what they say about the file on disk."""
    sizes = {}
    for quality in ("0", "50", "100"):
        assert encode("photo.png", "-q", quality, "--force") == 0
        sizes[quality] = Path("photo.sdl").stat().st_size
    assert sizes["0"] < sizes["50"] < sizes["100"]
    assert encode("photo.png", "--target-size", "1.2k", "--force") == 0
    assert 1176 <= Path("photo.sdl").stat().st_size <= 1200
    assert encode("photo.png", "--target-bpp", "0.5", "--force") == 0
    assert 0.49 <= 8 * Path("photo.sdl").stat().st_size / (161 * 97) <= 0.5


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4980", 4980),
        ("5k", 5000),
        ("4.9k", 4900),
        ("5K", 5000),
        ("5kB", 5000),
        ("2Ki", 2048),
        ("1M", 10**6),
        ("1MiB", 2**20),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    """k is 1000, Ki is 1024, a trailing B changes nothing."""
    assert convert_arguments.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "k", "-5", "5x", "0", "nan", "inf", "1e3", "5 0", "0.4", "9" * 30])
def test_other_sizes_are_refused(text: str) -> None:
    """What is no size is a usage error."""
    with pytest.raises(argparse.ArgumentTypeError):
        convert_arguments.parse_size(text)


def test_every_option_of_an_encode_has_a_flag() -> None:
    """Each field of EncodeOptions is parsed under its own name, with its own default."""
    parsed = vars(cli._parser().parse_args(["encode", "photo.png"]))
    asked = {**parsed, "exact_alpha": parsed["alpha"] == "exact", "regions": tuple(parsed["regions"])}
    assert dataclasses.asdict(sdrt.EncodeOptions()).items() <= asked.items()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["transmogrify"],
        ["encode"],
        ["encode", "photo.png", "-q", "101"],
        ["encode", "photo.png", "-q", "nan"],
        ["encode", "photo.png", "-q", "50", "--target-size", "5k"],
        ["encode", "photo.png", "--target-bpp", "0"],
        ["encode", "photo.png", "--device", "abacus"],
        ["encode", "photo.png", "--threads", "0"],
        ["encode", "photo.png", "--strip", "--keep-metadata"],
        ["encode", "photo.png", "--tile", "0"],
        ["encode", "photo.png", "--max-pixels", "-5"],
        ["decode", "photo.sdl", "--max-pixels", "1e6"],
        ["encode", "photo.png", "--target-bpp", "nan"],
        ["encode", "photo.png", "--target-bpp", "inf"],
        ["encode", "photo.png", "--alpha", "none"],
        ["encode", "photo.png", "logo.gif", "-o", "both.sdl"],
        ["encode", "photo.png", "-o", "a.sdl", "--out-dir", "."],
        ["encode", "photo.png", "-o", "photo.png"],
        [],
        ["photo.png"],
        ["encode"],
        ["encode", "photo.png", "--lossless"],
        ["encode", "photo.png", "photo.png"],
        ["encode", "-", "-", "--out-dir", "."],
        ["decode", "photo.sdl", "--crop", "1,2,3"],
        ["decode", "photo.sdl", "--format", "xyz"],
        ["decode", "photo.sdl", "-v", "--quiet"],
    ],
)
def test_wrong_usage_is_code_2(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be meant is refused before anything is read or written."""
    before = sorted(folder.iterdir())
    try:
        code = cli.main(arguments)
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    assert code == 2
    assert "error" in one_line(capsys.readouterr().err) and sorted(folder.iterdir()) == before


def test_an_unknown_option_names_the_help_of_its_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the options of that command stand, wherever the unknown one stands."""
    for line in ("encode photo.png --lossless", "encode --lossless photo.png", "info photo.sdl --lossless"):
        with pytest.raises(SystemExit, match="2"):
            run(*line.split())
        error = one_line(capsys.readouterr().err)
        assert "unrecognized arguments: --lossless" in error and f"sdrt {line.split(maxsplit=1)[0]} --help" in error


@pytest.mark.parametrize(
    "line", ["encode photo.png photo.sdl", "encode photo.png other.sdl", "decode a.sdl a.png", "decode a.sdl b.JPG"]
)
def test_an_output_without_its_option_is_named(line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second name that means the output, as for cjxl, is told from an input, and the option that it needs is said."""
    shutil.copy(command.HEALTHY, folder / "a.sdl")
    before = sorted(folder.iterdir())
    assert run(*line.split()) == 2
    assert f"-o {line.rsplit(maxsplit=1)[-1]} makes it the output" in one_line(capsys.readouterr().err)
    assert sorted(folder.iterdir()) == before


def test_an_input_that_is_not_there_is_said_before_its_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whether its output exists already or has no folder: the name of the input is what has to be mended."""
    (folder / "gone.sdl").write_bytes(b"")
    for name in ("gone.jpg", "nowhere/gone.jpg", "https://example.com/gone.jpg"):
        assert run("encode", name) == 9
        assert f"cannot read {name}: no such file" in one_line(capsys.readouterr().err)
    assert (folder / "gone.sdl").read_bytes() == b""


@pytest.mark.parametrize("name", ["decode", "info", "encode"])
def test_an_empty_file_is_called_empty(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As it comes out of a pipe whose first half failed, or of a full disk."""
    (folder / "nothing").write_bytes(b"")
    assert run(name, "nothing") == (9 if name == "encode" else 3)
    assert "it is empty" in one_line(capsys.readouterr().err)


def test_several_inputs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All inputs are tried; the bad ones get a line each; the code is the first error's; the folder is made."""
    (folder / "bad.jpg").write_text("no picture")
    assert encode("photo.png", "bad.jpg", "absent.png", "logo.gif", "--out-dir", "out/deep", "--quiet") == 9
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2 and "bad.jpg" in err[0] and "absent.png" in err[1]
    assert sorted(path.name for path in (folder / "out" / "deep").iterdir()) == ["logo.sdl", "photo.sdl"]
    assert run("decode", "out/deep/photo.sdl", "out/deep/logo.sdl", "--out-dir", "back") == 0
    assert sorted(path.name for path in (folder / "back").iterdir()) == ["logo.png", "photo.png"]


@pytest.mark.parametrize("way", ["..", "symbolic link", "hard link", "link to the folder"])
def test_an_input_is_never_overwritten(way: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not with --force either: files are compared, not names."""
    names = {"..": "sub/../photo.png", "link to the folder": "folder/photo.png"}
    (folder / "sub").mkdir()
    (folder / "folder").symlink_to(folder)
    out = names.get(way, "link.png")
    if way == "symbolic link":
        (folder / out).symlink_to("photo.png")
    elif way == "hard link":
        (folder / out).hardlink_to(folder / "photo.png")
    before = (folder / "photo.png").read_bytes()
    assert encode("photo.png", "-o", out, "--force") == 2
    assert "is an input and would be overwritten" in capsys.readouterr().err
    assert (folder / "photo.png").read_bytes() == before


@pytest.mark.parametrize("line", ["encode photo.png -f -o", "encode photo.png --out-dir", "encode", "info", "latents"])
def test_a_circle_of_links_is_one_line(line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As an input, an output or a folder: refused by name, as whatever else cannot be opened."""
    for name, target in (("ring.sdl", "other.sdl"), ("other.sdl", "ring.sdl")):
        (folder / name).symlink_to(target)
    assert run(*line.split(), "ring.sdl") in (9, 10)
    assert "ring.sdl" in one_line(capsys.readouterr().err)


def test_an_empty_name_is_no_default(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """-o "" is what a script with an unset variable says: refused, not written elsewhere."""
    before = sorted(folder.iterdir())
    assert encode("photo.png", "-o", "") == 10
    assert "cannot write" in one_line(capsys.readouterr().err)
    assert sorted(folder.iterdir()) == before


def test_an_input_on_stdin_is_one(folder: Path) -> None:
    """A file that comes by redirection is an input, and one that stdout goes to is an output."""
    for line in ("encode - -o photo.png -f <photo.png", "encode photo.png -o - >>photo.png"):
        before = (folder / "photo.png").read_bytes()
        done = shell(f"$sdrt {line} --model testpack", cwd=folder)
        assert done.returncode == 2 and "is an input" in one_line(done.stderr.decode())
        assert (folder / "photo.png").read_bytes() == before


def test_two_inputs_never_share_an_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two names that turn out to be one file's when it is there (letters of either case, links) are not written
    twice."""
    shutil.copy("photo.png", "other.png")
    for name in ("photo.sdl", "other.sdl"):
        (folder / name).symlink_to("one.sdl")
    assert encode("photo.png", "other.png", "--force") == 10
    assert "other.sdl was just written from photo.png" in capsys.readouterr().err
    assert encode("photo.png", "other.png", "--force") == 2  # now it is there, and known beforehand


def test_names_that_a_terminal_cannot_show(
    folder: Path, testpack: ModelPack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bytes that are no text and control characters in names are written as escapes, on stdout and stderr alike."""
    encode("photo.png")
    name = os.fsdecode(b"x\xff\x1b[31m\xc3\xa9\n.sdl")
    shutil.copy("photo.sdl", name)
    assert run("info", name) == 0
    assert capsys.readouterr().out.splitlines()[0] == "x\\udcff\\x1b[31mé\\n.sdl:"
    for absent in (name + "x", "two  spaces\tand a tab\n"):
        assert run("info", absent) == 9
        assert console.printable(absent) in one_line(capsys.readouterr().err)
    with pytest.raises(SystemExit):
        run("info", "--json", name, "--" + name)
    assert "\x1b" not in capsys.readouterr().err
    shutil.copytree(testpack.folder, folder / "packs" / name)
    monkeypatch.setenv("SDRT_MODELS", str(folder / "packs"))
    for arguments in (["models"], ["models", "--json"], ["doctor"]):
        run(*arguments)
        out, err = capsys.readouterr()
        assert "udcff" in out and "\x1b" not in out + err


def test_names_in_a_plain_terminal(folder: Path) -> None:
    """Where the terminal shows ASCII alone, other letters are escapes, and no error."""
    encode("photo.png")
    shutil.copy("photo.sdl", "é.sdl")
    environment = {**command.ENVIRONMENT, "PYTHONIOENCODING": "ascii"}
    assert command.sdrt("info", "é.sdl", cwd=folder, env=environment).stdout.startswith(b"\\xe9.sdl:\n")


def test_notes_and_verbosity(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An animation's first frame is said so; --quiet is silent; -v tells size, rate, device and time."""
    assert encode("logo.gif") == 0
    assert "only the first" in capsys.readouterr().err
    assert encode("logo.gif", "--quiet", "--force") == 0
    assert capsys.readouterr().err == ""
    assert encode("photo.png", "-v") == 0
    err = capsys.readouterr().err
    assert all(word in err for word in ("photo.sdl", "bytes", "bpp", "quality 50", "cpu", " s"))


def test_metadata(folder: Path, photo: Pixels) -> None:
    """Metadata are kept with --keep-metadata only, and --strip leaves them out on the way back."""
    exif = Image.Exif()
    exif[0x010F] = "maker"
    Image.fromarray(photo).save("camera.jpg", exif=exif)
    assert encode("camera.jpg", "--strip", "-o", "bare.sdl") == encode("camera.jpg", "-o", "default.sdl") == 0
    assert Path("bare.sdl").read_bytes() == Path("default.sdl").read_bytes()
    assert encode("camera.jpg", "--keep-metadata", "-o", "kept.sdl") == 0
    for name, options, maker in (("bare", [], None), ("kept", [], "maker"), ("kept", ["--strip"], None)):
        assert run("decode", f"{name}.sdl", "-o", "back.jpg", "--force", *options) == 0
        assert Image.open("back.jpg").getexif().get(0x010F) == maker


def test_metadata_never_cost_the_picture(folder: Path, photo: Pixels, capsys: pytest.CaptureFixture[str]) -> None:
    """XMP that is too large for a file is left out with one line on stderr."""
    Image.fromarray(photo).save("camera.webp", xmp=bytes(2**20 + 4))
    assert encode("camera.webp", "--keep-metadata", "-o", "kept.sdl") == encode("camera.webp", "-o", "bare.sdl") == 0
    assert Path("kept.sdl").read_bytes() == Path("bare.sdl").read_bytes()
    assert capsys.readouterr().err == "camera.webp: XMP has 1048580 bytes, at most 1048576 fit: not kept\n"


def test_exact_alpha(folder: Path, photo: Pixels) -> None:
    """--alpha exact brings every level back, also partly transparent ones that the default may move a little."""
    rgba = np.dstack([photo, photo[::-1, :, 1]])
    Image.fromarray(rgba).save("soft.png")
    for options, most in (([], 8), (["--alpha", "exact"], 0)):
        assert encode("soft.png", "--force", *options) == run("decode", "soft.sdl", "-f", "-o", "back.png") == 0
        error = np.abs(np.asarray(Image.open("back.png"))[:, :, 3].astype(int) - rgba[:, :, 3]).max()
        assert error <= most and (error > 0) == (most > 0)


def test_crop(folder: Path) -> None:
    """--crop x,y,w,h writes that part, equal to the same cut of the whole."""
    assert encode("photo.png") == run("decode", "photo.sdl", "-o", "whole.png") == 0
    assert run("decode", "photo.sdl", "--crop", "20,30,50,40", "-o", "part.png") == 0
    np.testing.assert_array_equal(
        np.asarray(Image.open("part.png")), np.asarray(Image.open("whole.png").crop((20, 30, 70, 70)))
    )
    assert run("decode", "photo.sdl", "--crop", "150,0,50,40", "-o", "beyond.png") == 4
    assert not Path("beyond.png").exists()


def test_info(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """info --json is one object a line with everything the header says; the plain form names the same."""
    encode("photo.png", "--target-size", "900")
    encode("logo.gif", "--quiet")
    assert run("info", "photo.sdl", "logo.sdl", "--json") == 0
    about = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["file"] for entry in about] == ["photo.sdl", "logo.sdl"]
    assert about[0]["width_px"] == 161 and about[0]["height_px"] == 97 and about[0]["model"] == "testpack"
    assert about[0]["file_bytes"] == Path("photo.sdl").stat().st_size <= 900
    assert run("info", "photo.sdl") == 0
    out = capsys.readouterr().out
    assert all(key in out for key in about[0] if key != "file")


def test_info_without_the_pack(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file whose model is not here still tells what it is."""
    encode("photo.png")
    monkeypatch.setattr(search, "search_paths", list)
    assert run("info", "photo.sdl", "--json") == 0
    about = json.loads(capsys.readouterr().out)
    assert about["model"] is None and about["quality"] is None and about["width_px"] == 161


def test_models_lists_packs(
    folder: Path, testpack: ModelPack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """models names each pack and its folder; a broken one is named on stderr with code 7; none at all is said."""
    assert run("models", "--json") == 0
    packs = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    mine = next(pack for pack in packs if pack["name"] == "testpack")
    assert mine["folder"] == str(testpack.folder) and mine["encodes"] and mine["channels"] == 12
    assert run("models") == 0 and str(testpack.folder) in capsys.readouterr().out

    (folder / "packs" / "broken").mkdir(parents=True)
    (folder / "packs" / "broken" / "manifest.json").write_text("{")
    monkeypatch.setattr(search, "search_paths", lambda: [folder / "packs"])
    assert run("models") == 7
    assert "broken" in capsys.readouterr().err
    monkeypatch.setattr(search, "search_paths", lambda: [folder / "nothing"])
    assert run("models") == 0 and "searched" in capsys.readouterr().out


def test_doctor(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """doctor finds nothing here; two onnxruntime packages, an altered pack and no engine are problems with advice."""
    monkeypatch.setattr(search, "search_paths", lambda: [ROOT / "tests" / "data"])
    assert run("doctor") == 0
    out = capsys.readouterr().out
    assert "no problems found" in out and "onnxruntime" in out and "testpack" in out

    monkeypatch.setattr(installed, "installed_onnxruntimes", lambda: ["onnxruntime 1.2", "onnxruntime-gpu 1.2"])
    assert run("doctor") == 1
    out = capsys.readouterr().out
    assert "! onnxruntime" in out and "pip uninstall -y onnxruntime onnxruntime-gpu" in out
    assert all(facts.install in out for facts in DEVICE_FACTS.values() if facts.engine == "onnxruntime")

    monkeypatch.setattr(installed, "installed_onnxruntimes", list)
    reports = [installed.DeviceReport("cpu", False, "ONNX Runtime is not installed")]
    monkeypatch.setattr(installed, "available_devices", lambda: reports)
    monkeypatch.setattr(search, "search_paths", list)
    assert run("doctor") == 1
    out = capsys.readouterr().out
    assert "pip install 'sdrt[cpu]'" in out and "none found" in out


def test_progress_is_for_terminals_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture of many tiles shows a percentage on a terminal, and nothing in a log file or with --quiet."""
    from sdrt.network import transform

    monkeypatch.setattr(transform, "FRAME_PX", 64 * 64)
    assert encode("photo.png") == 0
    assert capsys.readouterr().err == ""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for options, shown in (([], True), (["--quiet"], False)):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        assert encode("photo.png", "--force", *options) == 0
        assert ("%" in terminal.getvalue()) == shown


def test_version_and_help() -> None:
    """--version names the version; every command has a help."""
    for arguments in (
        ["--version"],
        ["--help"],
        *([c, "--help"] for c in ("encode", "decode", "info", "models", "doctor")),
    ):
        with pytest.raises(SystemExit) as leaving:
            cli.main(arguments)
        assert leaving.value.code == 0


def test_the_version_is_the_changelog_s_first() -> None:
    """Whoever raises the version says what changed, and the other way round."""
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert headings[0].split()[1] == sdrt.__version__


def test_python_dash_m(testpack: ModelPack) -> None:
    """``python -m sdrt`` is the command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "runtime")}
    done = subprocess.run([sys.executable, "-m", "sdrt", "--version"], env=environment, capture_output=True, check=True)
    assert done.stdout.decode().strip() == f"sdrt {sdrt.__version__}"
