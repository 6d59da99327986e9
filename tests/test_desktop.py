"""``sdrt desktop`` and ``sdrt thumbnail``: what file managers, ``man``, ``file`` and shells are given works there."""

from __future__ import annotations

import argparse
import configparser
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.command import ENVIRONMENT, HEALTHY, TESTS, one_line, sdrt
from tests.conftest import Pixels

from sdrt.codec import Codec
from sdrt.command import cli, manual
from sdrt.command.cli import main
from sdrt.command.desktop import desktop_files
from sdrt.command.thumbnail import cache_place
from sdrt.network import preview, tensorrt_cache
from sdrt.packs import search
from sdrt.packs.manifest import ModelPack
from sdrt.pixels.picture import Strips
from sdrt.pixels.thumbnail import reduce_preview, reduce_strips, thumbnail_sides

PARSER = cli._parser()
COMMANDS = manual.commands_of(PARSER)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$XDG_DATA_HOME, where the command has been installed."""
    folder = tmp_path / "data with space"
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    assert main(["desktop", "install"]) == 0
    return folder


def test_every_file_is_told_and_remove_takes_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--dry-run says the same and writes nothing; what others have put there stays."""
    data = tmp_path / "data"
    monkeypatch.setenv("XDG_DATA_HOME", str(data))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["pytest"])

    def told(*arguments: str) -> list[str]:
        assert main(["desktop", *arguments]) == 0
        return capsys.readouterr().out.splitlines()

    planned = told("install", "--dry-run")
    assert not data.exists()
    wrote = told("install")
    assert [f"would {line}" for line in wrote] == planned
    files = {path for path in data.rglob("*") if path.is_file()}
    assert {line.removeprefix("write ") for line in wrote} == {str(path) for path in files} and len(files) == 7
    assert told("install") == wrote
    (data / "mime" / "packages" / "other.xml").write_text("mine")
    assert len(told("remove", "--dry-run")) == 7
    assert {line.removeprefix("remove ") for line in told("remove")} == {str(path) for path in files}
    assert [path.name for path in data.rglob("*") if path.is_file()] == ["other.xml"]
    assert told("remove") == []


def test_relative_folders_of_the_user_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The XDG specification says to ignore them: else a folder that one stands in would give packs."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, ".")
    monkeypatch.delenv("SDRT_CACHE", raising=False)
    for folder in (search.user_models(), cache_place(Path("/x"), 256), tensorrt_cache.cache_root()):
        assert folder is not None and folder.is_relative_to(tmp_path)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """Exit code 10, as for every output."""
    (tmp_path / "file").write_text("")
    done = sdrt("desktop", "install", env={**ENVIRONMENT, "XDG_DATA_HOME": str(tmp_path / "file")})
    assert done.returncode == 10 and "cannot make the folder" in one_line(done.stderr.decode())


def test_a_file_manager_finds_its_thumbnail(
    data: Path, tmp_path: Path, testpack: ModelPack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The installed entry, run as the specification says, gives the PNG that the cache's layout asks for."""
    entry = configparser.ConfigParser(interpolation=None)
    entry.read(data / "thumbnailers" / "sdrt.thumbnailer")
    assert entry["Thumbnailer Entry"]["MimeType"] == "image/x-sdl;"
    assert os.access(entry["Thumbnailer Entry"]["TryExec"], os.X_OK)
    photo = tmp_path / "fotos" / "süß & 100%.sdl"
    photo.parent.mkdir()
    shutil.copy(HEALTHY, photo)
    os.utime(photo, (1_700_000_000.9,) * 2)
    place = tmp_path / "cache" / "thumbnails" / "normal" / f"{hashlib.md5(photo.as_uri().encode()).hexdigest()}.png"
    place.parent.mkdir(parents=True)
    place.touch()
    open_before = place.open("rb")
    values = {"%i": str(photo), "%o": str(place), "%s": "128", "%u": photo.as_uri()}
    words = [values.get(word, word) for word in shlex.split(entry["Thumbnailer Entry"]["Exec"])]
    subprocess.run(words, check=True, env=ENVIRONMENT, timeout=60)
    with open_before, Image.open(open_before) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (128, 77), "RGB")
        assert image.text["Thumb::URI"] == photo.as_uri() and "%C3%9F" in photo.as_uri()  # type: ignore[attr-defined]
        assert image.text["Thumb::MTime"] == "1700000000"  # type: ignore[attr-defined]
        assert image.text["Thumb::Image::Width"] == "161"  # type: ignore[attr-defined]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = place.read_bytes()
    place.unlink()
    assert main(["thumbnail", str(photo)]) == 0
    large = cache_place(photo, 256)
    assert large.parent.name == "large" and Image.open(large).size == (161, 97)
    assert main(["thumbnail", str(photo), str(place), "128"]) == 0
    assert place.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
@pytest.mark.parametrize("before", [b"\x89PNG\r\n\x1a\n, a good picture", b""])
def test_a_disk_that_fills_up_leaves_what_was_there(before: bytes, tmp_path: Path) -> None:
    """A thumbnail that cannot be written whole leaves the file that had its name, and an empty one empty."""
    import resource

    place = tmp_path / "thumbnail.png"
    place.write_bytes(before)
    done = sdrt("thumbnail", HEALTHY, place, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)))
    assert done.returncode == 10 and str(place) in one_line(done.stderr.decode())
    assert place.read_bytes() == before and list(tmp_path.iterdir()) == [place]


def test_the_command_may_lie_anywhere() -> None:
    """Spaces and quotes in its path are one word to a shell; a percent sign is doubled."""
    program = '/home/me/50% "new" env/sdrt'
    entry = configparser.ConfigParser(interpolation=None)
    entry.read_string(desktop_files(PARSER, [program, "-x"])["thumbnailers/sdrt.thumbnailer"])
    words = shlex.split(entry["Thumbnailer Entry"]["Exec"])
    assert [word.replace("%%", "%") for word in words[:3]] == [program, "-x", "thumbnail"]
    assert "%%" in words[0] and words[3:] == ["%i", "%o", "%s"]


def test_the_cache_has_a_folder_for_each_size() -> None:
    """The smallest that takes the thumbnail, as the specification has them."""
    folders = [cache_place(Path("/x"), size).parent.name for size in (1, 128, 129, 512, 1024)]
    assert folders == ["normal", "normal", "large", "x-large", "xx-large"]


@pytest.mark.parametrize("name", ["truncated-payload", "empty", "png-instead"])
def test_what_is_broken_has_no_thumbnail(name: str, tmp_path: Path) -> None:
    """One line, an exit code, and the file that was to be written is as it was."""
    out = tmp_path / "out.png"
    done = sdrt("thumbnail", TESTS / "golden" / "errors" / f"{name}.sdl", out, "128")
    assert done.returncode in (3, 5) and one_line(done.stderr.decode())
    assert not out.exists()


@pytest.mark.parametrize("side_px", [4, 7, 20, 64, 200])
def test_strips_reduce_as_the_whole_picture_does(side_px: int, photo: Pixels) -> None:
    """Whatever the strips, and within 6 levels of one filter over all; colors under alpha 0 do not show."""
    alpha = np.zeros(photo.shape[:2], np.uint8)
    alpha[:, 80:] = 255
    sides = thumbnail_sides(161, 97, side_px)
    expected = Image.fromarray(np.dstack([photo, alpha])).resize(sides, Image.Resampling.LANCZOS)
    cut = [photo[first : first + 10] for first in range(0, len(photo), 10)]
    for rows in ([photo], cut):
        got = reduce_strips(Strips(width_px=161, height_px=97, rows=iter(rows), alpha=alpha), side_px)
        assert (got.rgb.shape[1], got.rgb.shape[0]) == expected.size
        assert got.alpha is not None
        error = np.dstack([got.rgb, got.alpha]).astype(int) - np.asarray(expected)
        assert np.abs(error[got.alpha > 250]).max(initial=0) <= 6 and np.abs(error[..., 3]).mean() < 2


@pytest.mark.parametrize("width_px", [96, 91])
def test_unseen_colors_do_not_shine_into_a_preview(width_px: int) -> None:
    """Beside green that is seen lies red that is not: no pixel of the thumbnail that is seen has a red fringe."""
    preview = np.zeros((12, 12, 3), np.uint8)
    preview[:, :6, 1], preview[:, 6:, 0] = 255, 255
    alpha = np.zeros((96, width_px), np.uint8)
    alpha[:, :48] = 255
    got = reduce_preview(preview, (0, 0, width_px / 8, 12), alpha, (9, 9))
    assert got.alpha is not None and 20 < np.count_nonzero(got.alpha) < 60
    assert got.rgb[got.alpha > 8][:, 1].min() > 250 and got.rgb[got.alpha > 8][:, 0].max() < 5
    exact = np.asarray(Image.fromarray(alpha).resize((9, 9), Image.Resampling.LANCZOS))
    assert np.abs(got.alpha.astype(int) - exact).max() < 40


def test_a_preview_looks_like_the_picture(testpack: ModelPack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large file the thumbnail comes from latents, within 30 dB of the reduced picture; alpha is its own."""
    y, x = np.mgrid[0:700, 0:1100].astype(np.float32)
    planes = [128 + 90 * np.sin(x / a) * np.cos(y / b) for a, b in ((91, 77), (130, 50), (61, 200))]
    alpha = np.where(x + y < 900, 255, 60).astype(np.uint8)
    picture = np.dstack([*planes, alpha]).astype(np.uint8)
    codec = Codec(testpack.folder, device="cpu", threads=1)
    data = codec.encode(picture, quality=60)
    exact = codec.thumbnail(data, 128)
    monkeypatch.setattr(preview, "EXACT_PX", 1000)
    got = codec.thumbnail(data, 128)
    assert got.rgb.shape == exact.rgb.shape == (81, 128, 3)
    opaque = exact.alpha == 255
    mse = ((got.rgb.astype(float) - exact.rgb)[opaque] ** 2).mean()
    assert 0 < mse < 65  # 30 dB
    assert got.alpha is not None and exact.alpha is not None
    assert np.abs(got.alpha.astype(int) - exact.alpha).mean() < 1


def test_a_preview_is_taken_where_it_has_pixels_enough(testpack: ModelPack) -> None:
    """Small files and large thumbnails are decoded; otherwise the coarsest preview that has the side's pixels."""
    assert preview.subdivision(testpack, 1024, 1024, 16) is None
    assert [preview.subdivision(testpack, 4000, 3000, side) for side in (500, 501, 1001, 2001)] == [1, 2, 4, None]


def test_the_manual_names_every_option(tmp_path: Path) -> None:
    """Commands, options, exit codes; ``man`` has no warning to give where it is installed."""
    page = manual.manual(PARSER, "1.2.3")
    for command in COMMANDS:
        assert f".SH SDRT {command.name.upper()}\n" in page
        for flag in command.flags:
            assert flag.replace("-", "\\-") in page
    assert "130 interrupted" in page and "1.2.3" in page.splitlines()[0]
    if shutil.which("man") is None or shutil.which("groff") is None:
        pytest.skip("needs man and groff: their warnings were not looked at")
    (tmp_path / "sdrt.1").write_text(page)
    done = subprocess.run(
        ["man", "--warnings", "-l", tmp_path / "sdrt.1"],
        capture_output=True,
        check=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    assert not done.stderr and b"--target-size" in done.stdout


def complete(line: str, data: Path) -> list[str]:
    """What bash offers at the end of ``line``."""
    script = data / "bash-completion" / "completions" / "sdrt"
    code = (
        'source "$1"; read -ra COMP_WORDS <<< "$2"; [[ $2 == *" " ]] && COMP_WORDS+=(""); '
        'COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _sdrt; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", code, "-", script, line], capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_offers_what_the_parsers_know(data: Path) -> None:
    """Commands first, then their options and the values of these; file names where the word is none of them."""
    assert complete("sdrt enc", data) == ["encode"]
    assert set(complete("sdrt ", data)) == {*(command.name for command in COMMANDS), "--help", "--version"}
    for command in COMMANDS:
        assert set(complete(f"sdrt {command.name} --", data)) == {f for f in command.flags if f.startswith("--")}
    assert complete("sdrt encode photo.jpg --tune ", data) == ["eyes", "psnr"]
    assert complete("sdrt desktop i", data) == ["install"]
    assert complete("sdrt decode ph", data) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_are_programs_of_their_shell(shell: str, data: Path) -> None:
    """The shell's own parser accepts them."""
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}, which is not installed")
    (path,) = [path for path in data.rglob("*sdrt*") if path.is_file() and shell in str(path.relative_to(data))]
    subprocess.run([shell, "-n", path], check=True)


@pytest.mark.skipif(shutil.which("file") is None, reason="needs file(1)")
def test_file_knows_ours_and_nothing_else(data: Path) -> None:
    """Every golden file by its first bytes, whatever its name; not what only begins with our letters."""
    magic = ["file", "-b", "--mime-type", "-m", str(data / "sdrt" / "magic")]
    ours = sorted((TESTS / "golden").glob("*/*.sdl"))
    refused = {"empty", "lower-case-magic", "png-instead", "magic-only", "version-0", "version-2"}
    answers = subprocess.run([*magic, *ours], capture_output=True, text=True, check=True).stdout.splitlines()
    for path, answer in zip(ours, answers, strict=True):
        broken = path.parent.name == "errors"
        assert answer == "image/x-sdl" or broken, path
        if path.stem in refused:
            assert answer != "image/x-sdl", path


@pytest.mark.skipif(shutil.which("gio") is None or shutil.which("update-mime-database") is None, reason="needs gio")
def test_a_desktop_knows_ours_without_its_suffix(data: Path, tmp_path: Path) -> None:
    """By shared-mime-info's own reader: the name's end, and the magic where the name has none."""
    for name in ("photo.sdl", "photo"):
        shutil.copy(HEALTHY, tmp_path / name)
        command = ["gio", "info", "-a", "standard::content-type", tmp_path / name]
        environment = {**os.environ, "XDG_DATA_HOME": str(data)}
        assert (
            "image/x-sdl" in subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
        )


def test_nothing_is_left_out_of_the_completions() -> None:
    """Every parser has a name, and a help that all four pages can show."""
    (subparsers,) = (action for action in PARSER._actions if isinstance(action, argparse._SubParsersAction))
    assert [command.name for command in COMMANDS] == list(subparsers.choices)
    assert all(command.help and "\n" not in command.help for command in COMMANDS)
    for name, content in desktop_files(PARSER, ["/usr/bin/sdrt"]).items():
        assert content.endswith("\n") and "None" not in content, name
