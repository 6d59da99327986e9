"""Laws of writing: all or nothing, one line per error, nothing left behind.

Each holds where the system knows files without a name, and where a temporary name must do.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import Unprivileged

from sdrt import atomic
from sdrt.atomic import atomic_file, replaces, write_atomic
from sdrt.errors import OutputError
from sdrt.pixels.picture import Picture
from sdrt.pixels.save import save

PICTURE = Picture(np.random.default_rng(6).integers(0, 256, (300, 300, 3), np.uint8))


ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True, params=["nameless", "named"])
def nameless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether an unfinished file has no name."""
    if request.param == "nameless" and not hasattr(os, "O_TMPFILE"):
        pytest.skip("this system has no files without a name")
    if request.param == "named":
        monkeypatch.setattr(atomic, "_O_TMPFILE", None)
    return request.param == "nameless"


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
def test_a_failure_leaves_what_was_there(
    failure: BaseException, overwrite: bool, nameless: bool, tmp_path: Path
) -> None:
    """Whatever interrupts the writing, the old file stays as it was, a new one does not appear, no temporary stays."""
    path = tmp_path / "a.sdl"
    if overwrite:
        path.write_bytes(b"old")
    before = names(tmp_path)
    with pytest.raises((RuntimeError, KeyboardInterrupt, OutputError)), atomic_file(path, overwrite=overwrite) as file:
        file.write(b"half")
        assert len(names(tmp_path)) == len(before) + (not nameless)
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


def test_no_permission_is_one_line(unprivileged: Unprivileged, tmp_path: Path) -> None:
    """A folder that may not be written to is an OutputError for a new file, as is one that may not be looked into; both
    are known beforehand."""
    (tmp_path / "closed").mkdir(mode=0o000)
    tmp_path.chmod(0o555)
    with unprivileged(tmp_path):
        for name in ("a.sdl", "closed/a.sdl"):
            with pytest.raises(OutputError, match="ermission"):
                write_atomic(tmp_path / name, b"data")
            with pytest.raises(OutputError, match="ermission"):
                replaces(tmp_path / name)


IN_PLACE = {
    "runtime/sdrt/atomic.py": "the one way to write, and a device or pipe",
    "runtime/sdrt/command/console.py": "the null device",
    "runtime/sdrt/command/ship.py": "scratch folder, renamed",
    "runtime/sdrt/command/thumbnail.py": "a file that is empty",
    "runtime/sdrt/network/probe.py": "temporary folder",
    "runtime/sdrt/network/tensorrt_cache.py": "scratch folder, renamed",
    "runtime/sdrt/packs/install.py": "scratch folder, renamed",
    "runtime/sdrt/latents/webdataset.py": "a tar into a file that another has opened",
    "export/sdrt_export/reference.py": "temporary folder",
    "batch/sdrt_batch/attempts.py": "a line at a time, for as long as a unit of work is being done",
}
"""Modules that open files to write to them otherwise than by sdrt.atomic, and why nothing is lost there."""


def writes_in_place(call: ast.Call) -> bool:
    """Whether a call may change a file that has its name already."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    words = [*call.args, *(keyword.value for keyword in call.keywords)]
    modes = [word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)]
    writing = any(re.fullmatch(r"[wax][bt+]*|r[bt]*\+[bt]*", mode) for mode in modes)
    return name in ("write_bytes", "write_text", "copyfile") or (name == "open" and writing)


def test_nobody_else_writes_in_place() -> None:
    """Every module that opens a file to write goes by sdrt.atomic, or is known to lose nothing."""
    found = set()
    for root in ("runtime", "export", "batch"):
        for path in (ROOT / root).rglob("*.py"):
            calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
            if any(map(writes_in_place, calls)):
                found.add(path.relative_to(ROOT).as_posix())
    assert found == set(IN_PLACE)


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
def test_a_file_has_the_permissions_of_any_new_file_or_keeps_its_own(tmp_path: Path) -> None:
    """A new file has the permissions that any program would give it, a replaced one keeps its own."""
    (tmp_path / "plain").write_bytes(b"")
    write_atomic(tmp_path / "new", b"data")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    for mode in (0o640, 0o444, 0o600):
        (tmp_path / "new").chmod(mode)
        with atomic_file(tmp_path / "new") as file:
            file.write(b"newer")
            # While it is written nobody else may read what replaces a file that nobody else may read.
            for unfinished in tmp_path.glob(".sdrt-*"):
                assert stat.S_IMODE(unfinished.stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == mode


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
    (tmp_path / "lost").symlink_to(Path("absent") / "target")
    with pytest.raises(OutputError, match=f"there is no folder {tmp_path}/absent$"):
        write_atomic(tmp_path / "lost", b"three")


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


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs names of descriptors")
def test_names_of_descriptors_are_written_to_not_replaced(tmp_path: Path) -> None:
    """/dev/fd/N, and a link to it as /dev/stdout is one, is the open file itself: it is written where it stands."""
    path = tmp_path / "log"
    path.write_bytes(b"before ")
    with path.open("ab") as log:
        (tmp_path / "link").symlink_to(f"/proc/self/fd/{log.fileno()}")
        ways = ["/dev/fd", "/proc/self/fd", "/proc/thread-self/fd", f"/proc/{os.getpid()}/task/{os.getpid()}/fd"]
        for name in (*(f"{way}/{log.fileno()}" for way in ways), tmp_path / "link"):
            write_atomic(name, b"data ", overwrite=False)
    assert path.read_bytes() == b"before " + 5 * b"data "
    assert names(tmp_path) == ["link", "log"]
    with pytest.raises(OutputError, match="cannot write /dev/fd/987: Bad file descriptor"):
        write_atomic("/dev/fd/987", b"data")


@contextlib.contextmanager
def mounted(file: Path, on: Path) -> Iterator[None]:
    """``file`` bound to the name ``on``, as containers get single files."""
    done = subprocess.run(["mount", "--bind", str(file), str(on)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("needs to mount files")
    try:
        yield
    finally:
        subprocess.run(["umount", str(on)], check=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs bind mounts")
def test_a_mounted_file_is_written_in_place(tmp_path: Path) -> None:
    """A file that is mounted by itself cannot be replaced: it gets the content, and only once that is whole."""
    (tmp_path / "outside").write_bytes(b"long before")
    (tmp_path / "inside").touch()
    with mounted(tmp_path / "outside", tmp_path / "inside"):
        with pytest.raises(RuntimeError), atomic_file(tmp_path / "inside") as file:
            file.write(b"half")
            raise RuntimeError
        assert (tmp_path / "outside").read_bytes() == b"long before"
        write_atomic(tmp_path / "inside", b"data")
        assert (tmp_path / "outside").read_bytes() == b"data"
    assert names(tmp_path) == ["inside", "outside"]


def test_a_file_in_a_folder_that_takes_none_is_written_in_place(unprivileged: Unprivileged, tmp_path: Path) -> None:
    """Where no second file may lie beside it, a file that may be written to gets the content all the same."""
    path = tmp_path / "a.sdl"
    path.write_bytes(b"long before")
    path.chmod(0o666)
    tmp_path.chmod(0o555)
    with unprivileged(tmp_path):
        write_atomic(path, b"data")
        assert path.read_bytes() == b"data"
        with pytest.raises(OutputError, match="ermission"):
            write_atomic(tmp_path / "new.sdl", b"data")
    assert names(tmp_path) == ["a.sdl"]


def test_the_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash of the machine just afterwards must not leave the new name with half of the content or none."""
    path = tmp_path / "a.sdl"
    path.write_bytes(b"old")
    synced: list[bytes] = []

    def sync(descriptor: int) -> None:
        assert os.fstat(descriptor).st_size == 4
        synced.append(path.read_bytes())

    monkeypatch.setattr(os, "fsync", sync)
    write_atomic(path, b"data")
    assert synced == [b"old"] and path.read_bytes() == b"data"


def test_a_scratch_file_that_cannot_be_removed_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error is told once: a signal later on removes nothing, when the name may be somebody else's."""
    path = tmp_path / "scratch"
    path.touch()

    def refuse(_path: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(PermissionError), atomic.scratch(path):
        pass
    assert not atomic._scratch


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_killed_process_leaves_nothing(number: signal.Signals, nameless: bool, tmp_path: Path) -> None:
    """Killed in the middle of the writing, a process dies of just that signal; the old file stays, and nothing else but
    the named file of a SIGKILL, after which nobody can clean up."""
    path = tmp_path / "a.sdl"
    path.write_bytes(b"old")
    code = (
        f"import sys, time; sys.path.insert(0, {str(ROOT / 'runtime')!r}); from sdrt import atomic\n"
        f"{'' if nameless else 'atomic._O_TMPFILE = None'}\n"
        f"with atomic.atomic_file({str(path)!r}) as file:\n"
        "    file.write(bytes(100000)); print('half', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"half\n"
        assert len(names(tmp_path)) == 1 + (not nameless)
        process.send_signal(number)
        assert process.wait(30) == -number
    left = 1 + (number == signal.SIGKILL and not nameless)
    assert len(names(tmp_path)) == left and path.read_bytes() == b"old"


def test_what_a_kill_has_left_goes_a_day_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where files without a name are not to be had; what is not ours, or may still be written, stays."""
    monkeypatch.setattr("sdrt.atomic._O_TMPFILE", None)
    day_s = 86400
    names = {f".sdrt-{'a' * 16}.tmp": 2 * day_s, f".sdrt-{'b' * 16}.tmp": 0, ".sdrt-notes.tmp": 2 * day_s}
    for name, age_s in names.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    (tmp_path / f".sdrt-{'c' * 16}.tmp").symlink_to(tmp_path / ".sdrt-notes.tmp")
    write_atomic(tmp_path / "new", b"new")
    left = {f".sdrt-{'b' * 16}.tmp", f".sdrt-{'c' * 16}.tmp", ".sdrt-notes.tmp", "new"}
    assert {path.name for path in tmp_path.iterdir()} == left
