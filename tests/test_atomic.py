"""Laws of writing: all or nothing, one line per error, nothing left behind."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import numpy as np
import pytest

from sdrt.atomic import atomic_file, write_atomic
from sdrt.errors import OutputError
from sdrt.pixels.picture import Picture
from sdrt.pixels.save import save

PICTURE = Picture(np.random.default_rng(6).integers(0, 256, (300, 300, 3), np.uint8))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_written_whole_and_alone(tmp_path: Path) -> None:
    """The file holds the data, and no other file is left in its folder."""
    write_atomic(tmp_path / "a.sdl", b"data")
    write_atomic(str(tmp_path / "a.sdl"), b"newer")
    assert (tmp_path / "a.sdl").read_bytes() == b"newer"
    assert names(tmp_path) == ["a.sdl"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_failure_leaves_what_was_there(failure: BaseException, overwrite: bool, tmp_path: Path) -> None:
    """Whatever interrupts the writing, the old file stays as it was, a new one does not appear, no temporary stays."""
    path = tmp_path / "a.sdl"
    if overwrite:
        path.write_bytes(b"old")
    before = names(tmp_path)
    with pytest.raises((RuntimeError, KeyboardInterrupt, OutputError)), atomic_file(path, overwrite=overwrite) as file:
        file.write(b"half")
        assert len(names(tmp_path)) == len(before) + 1
        raise failure
    assert names(tmp_path) == before
    assert not overwrite or path.read_bytes() == b"old"


def test_existing_file_is_kept_without_overwrite(tmp_path: Path) -> None:
    """With overwrite False an existing file is an OutputError before anything is written."""
    path = tmp_path / "a.sdl"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="exists"), atomic_file(path, overwrite=False):
        pytest.fail("the block must not run")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With overwrite False a file that appears while ours is written stays, also where there are no hard links."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    path = tmp_path / "a.sdl"
    with pytest.raises(OutputError, match="exists"), atomic_file(path, overwrite=False) as file:
        file.write(b"ours")
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    assert names(tmp_path) == ["a.sdl"]
    write_atomic(tmp_path / "b.sdl", b"ours", overwrite=False)
    assert (tmp_path / "b.sdl").read_bytes() == b"ours"
    assert names(tmp_path) == ["a.sdl", "b.sdl"]


@pytest.mark.parametrize("place", ["absent/a.png", "file/a.png", "folder", "x" * 300 + ".png", "nul\0.png"])
def test_wrong_places_are_one_line(place: str, tmp_path: Path) -> None:
    """A missing folder, a file for a folder, a folder for a file and impossible names are OutputErrors in one line."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    before = names(tmp_path)
    for write in (lambda path: write_atomic(path, b"data"), lambda path: save(PICTURE, path)):
        with pytest.raises(OutputError, match="cannot write") as caught:
            write(str(tmp_path / place))
        assert "\n" not in str(caught.value)
    assert names(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_is_one_line(tmp_path: Path) -> None:
    """A folder that may not be written to is an OutputError."""
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="ermission"):
        write_atomic(tmp_path / "a.sdl", b"data")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_a_full_disk_is_one_line(suffix: str, tmp_path: Path) -> None:
    """A full disk is an OutputError that says so, for plain data and for every encoder of Pillow."""
    with pytest.raises(OutputError, match=r"[Nn]o space"):
        write_atomic("/dev/full", bytes(10**6))
    with pytest.raises(OutputError, match=r"[Nn]o space"):
        save(PICTURE, "/dev/full", suffix=suffix)
    assert Path("/dev/full").is_char_device()


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_permissions(tmp_path: Path) -> None:
    """A new file has the permissions that any program would give it, a replaced one keeps its own."""
    (tmp_path / "plain").write_bytes(b"")
    write_atomic(tmp_path / "new", b"data")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    (tmp_path / "new").chmod(0o640)
    write_atomic(tmp_path / "new", b"newer")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_symbolic_links_keep_pointing(tmp_path: Path) -> None:
    """Writing to a link replaces the file that it points to, also a file that is not there yet."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "target")
    for data in (b"one", b"two"):
        write_atomic(tmp_path / "link", data)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "folder" / "target").read_bytes() == data
    assert names(tmp_path / "folder") == ["target"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_written_to_not_replaced(tmp_path: Path) -> None:
    """A named pipe gets the data and stays a pipe, even with overwrite False."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_atomic(pipe, b"data", overwrite=False)
    reader.join(10)
    assert read == [b"data"]
    assert pipe.is_fifo()
