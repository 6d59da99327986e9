"""Laws of the command as a process, looked at from outside: signals, standard streams, sockets, what is left behind."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.command import COMMAND, ENVIRONMENT, HEALTHY, one_line, sdrt, shell, start

from sdrt.command import cli
from sdrt.container import sdl
from sdrt.errors import OutputError
from sdrt.network import onnxruntime_session, openvino_session
from sdrt.packs.manifest import ModelPack

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX processes"),
    pytest.mark.usefixtures("testpack"),
]

Pixels = NDArray[np.uint8]


@pytest.fixture
def folder(tmp_path: Path, photo: Pixels) -> Path:
    """With photo.png, two.gif (two frames, which is worth a note) and noisy.tif (damaged: libtiff speaks up)."""
    Image.fromarray(photo).save(tmp_path / "photo.png")
    frames = [Image.new("RGB", (31, 17), (200, 30, 90 * n)) for n in range(2)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    fax = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).random((64, 64)) > 0.5).save(fax, "TIFF", compression="group4")
    (tmp_path / "noisy.tif").write_bytes(fax.getvalue()[:60] + b"\xff" * 8 + fax.getvalue()[68:])
    return tmp_path


def strace(trace: Path) -> list[str]:
    """The command that writes down sockets and files opened; skips where that is not to be had."""
    tracer = ["strace", "-f", "-qq", "-o", str(trace), "-e", "trace=%network,open,openat,creat"]
    if shutil.which("strace") is None or subprocess.run([*tracer, "true"], check=False).returncode:
        pytest.skip("needs strace")
    return tracer


@pytest.mark.parametrize("device", ["cpu", "openvino"])
@pytest.mark.parametrize("seconds", [0, pytest.param(30, marks=pytest.mark.slow)])
def test_no_socket_and_no_file_but_the_output(device: str, seconds: int, folder: Path) -> None:
    """A process that encodes and decodes calls nobody and writes nothing besides its output, in no user's folder."""
    if device == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("needs openvino")
    home = folder / "home"
    home.mkdir()
    code = (
        "import sys, time; from sdrt.codec import Codec; from sdrt.atomic import write_atomic\n"
        f"end, codec = time.monotonic() + {seconds}, Codec('testpack', device={device!r}, threads=1)\n"
        "while True:\n"
        "    data = codec.encode('photo.png'); codec.decode(data)\n"
        "    if time.monotonic() >= end: break\n"
        "    time.sleep(0.5)\n"
        "write_atomic('out.sdl', data)\n"
    )
    hidden = ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "ORT_DISABLE_TELEMETRY", "CI")
    environment = {key: value for key, value in ENVIRONMENT.items() if key not in hidden}
    environment |= {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*strace(folder / "trace"), sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=60 + seconds, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert list(home.iterdir()) == []
    calls = (folder / "trace").read_text().splitlines()
    assert [line for line in calls if re.search(r"\b(socket|connect|send\w*)\(", line)] == []
    opened = [line for line in calls if re.search(r"O_WRONLY|O_RDWR|O_CREAT", line) and " = -1 " not in line]
    strangers = [line for line in opened if str(folder) not in line and '"."' not in line and "/dev/null" not in line]
    assert strangers == [] and len(opened) >= 1


@pytest.mark.parametrize("arguments", [["decode", HEALTHY, "-o", "-"], ["encode", "photo.png", "--model", "testpack"]])
def test_a_home_that_cannot_be_written_is_not_missed(arguments: list[str | Path], folder: Path) -> None:
    """No word about it, with --quiet or without."""
    environment = {**ENVIRONMENT, "HOME": "/proc/nowhere", "XDG_CACHE_HOME": ""}
    done = sdrt(*arguments, cwd=folder, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("unbuffered", "line"),
    [
        ("", f"decode {HEALTHY} -o - --format ppm"),
        ("1", f"decode {HEALTHY} -o - --format ppm"),
        ("1", f"decode {HEALTHY} -o - --format bmp"),
        ("1", "encode photo.png --model testpack --quality 100 -o -"),
        ("1", f"info {f'{HEALTHY} ' * 40}--json"),
        ("", "encode --help"),
    ],
)
def test_a_disk_that_fills_up_under_stdout(unbuffered: str, line: str, folder: Path) -> None:
    """What does not go to stdout whole is an error, with Python's buffers and without them (as in containers)."""
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # a write beyond it is cut short, the next one fails

    with (folder / "disk").open("wb") as disk:
        options = {"stdout": disk, "stderr": subprocess.PIPE, "capture_output": False, "preexec_fn": limit}
        done = sdrt(*line.split(), cwd=folder, env={**ENVIRONMENT, "PYTHONUNBUFFERED": unbuffered}, **options)
    assert one_line(done.stderr.decode()).endswith(f"stdout: {os.strerror(errno.EFBIG)}")
    assert done.returncode == OutputError.exit_code


def until_pipe(pipe: int, process: subprocess.Popen[bytes], *, holds_any: bool) -> None:
    """Wait until a pipe, one end of which is given, holds unread bytes, or none, and a moment longer for what follows;
    no longer than the process lives."""
    import fcntl
    import termios

    while process.poll() is None and any(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))) != holds_any:
        time.sleep(0.01)
    time.sleep(0.2)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into pipes as Linux lets one")
def test_standard_streams_that_do_not_wait(folder: Path, make_photo: Callable[[int, int], Pixels]) -> None:
    """Pipes in non-blocking mode, as an event loop leaves them behind, carry whole files both ways."""
    Image.fromarray(make_photo(200, 200)).save(folder / "photo.png")  # 120 kB of pixels: twice a pipe's size
    for line in ("encode photo.png --model testpack", "decode photo.sdl -o photo.ppm"):
        assert sdrt(*line.split(), cwd=folder).returncode == 0
    for arguments, source, result in (
        (["encode", "-", "--model", "testpack"], "photo.png", "photo.sdl"),
        (["decode", "-", "--format", "ppm"], "photo.sdl", "photo.ppm"),
    ):
        stdin, feed = os.pipe()
        drain, stdout = os.pipe()
        os.set_blocking(stdin, False)
        os.set_blocking(stdout, False)
        process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=folder, env=ENVIRONMENT, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE
        )
        os.close(stdin)  # else a process that has gone leaves us waiting for ourselves
        os.close(stdout)
        data, expected = (folder / source).read_bytes(), (folder / result).read_bytes()
        alarm = threading.Timer(15, process.kill)
        alarm.start()
        try:
            with os.fdopen(drain, "rb") as output, os.fdopen(feed, "wb", buffering=0) as stream:
                stream.write(data[:100])
                until_pipe(feed, process, holds_any=False)  # the next read finds nothing
                with contextlib.suppress(BrokenPipeError):  # it has gone: its words below say why
                    stream.write(data[100:])
                stream.close()
                until_pipe(drain, process, holds_any=True)  # the next write finds little room
                got = output.read()
            _, err = process.communicate()
        finally:
            alarm.cancel()
            process.kill()
        assert (process.returncode, err, got) == (0, b"", expected)


@pytest.mark.parametrize("name", ["two.gif", "noisy.tif"])
def test_with_stderr_closed_nothing_else_goes_into_the_output(name: str, testpack: ModelPack, folder: Path) -> None:
    """Notes and a library's own words are lost then; the output, on stdout or in a file, holds the output alone."""
    done = shell(f"$sdrt encode {name} --model testpack -o - 2>&-", cwd=folder)
    assert sdl.unpack(done.stdout).space_identity == testpack.space.identity
    assert shell(f"$sdrt encode {name} --model testpack -o a.sdl 2>&-", cwd=folder).returncode == 0
    assert (folder / "a.sdl").read_bytes() == done.stdout


@pytest.mark.parametrize("line", ["encode absent.png -o -", "encode"])
def test_with_stderr_closed_errors_are_codes(line: str) -> None:
    """Neither an error's line, nor usage, nor a developer's traceback goes to stdout instead."""
    done = shell(f"SDRT_TRACEBACK=1 $sdrt {line} 2>&-")
    assert done.stdout == b"" and done.returncode in (2, 9)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("line", "code"), [("encode two.gif --model testpack", 0), ("encode absent.png -o -", 9), ("encode", 2)]
)
def test_words_that_cannot_be_written_change_no_exit_code(line: str, code: int, folder: Path) -> None:
    """On a full disk under stderr notes, errors and usage are lost, and nothing else."""
    done = shell(f"$sdrt {line} 2>/dev/full", cwd=folder)
    assert (done.returncode, done.stdout) == (code, b"")


def test_what_a_library_says_itself_is_one_line_of_ours(folder: Path) -> None:
    """libtiff writes to stderr past everybody: its first words become a note, --quiet keeps them away."""
    for options, lines in (([], 1), (["--quiet"], 0)):
        done = sdrt("encode", "noisy.tif", "--model", "testpack", "--force", *options, cwd=folder)
        words = done.stderr.decode().splitlines()
        assert done.returncode == 0 and len(words) == lines
        assert all(line.startswith("noisy.tif: ") for line in words)


def test_descriptors_by_their_names(folder: Path) -> None:
    """/dev/stdout, /dev/fd/1 and a shell's >( ) and <( ) are streams; a file behind one keeps what it holds."""
    right = sdrt("decode", HEALTHY, "-o", "-").stdout
    for name in ("/dev/stdout", "/dev/fd/1"):
        assert sdrt("decode", HEALTHY, "-o", name).stdout == right
    done = shell(
        f"$sdrt decode {HEALTHY} -o >(cat >out.png; touch done); while [ ! -e done ]; do sleep .1; done", cwd=folder
    )
    assert done.stderr == b"" and (folder / "out.png").read_bytes() == right
    done = shell(f"echo before >log; $sdrt decode {HEALTHY} -f -o /dev/stdout >>log", cwd=folder)
    assert done.stderr == b"" and (folder / "log").read_bytes() == b"before\n" + right
    done = shell(f"$sdrt info <(cat {HEALTHY})", cwd=folder)
    assert done.stderr == b"" and b"161" in done.stdout


def test_little_memory_is_enough_for_a_little_file(folder: Path) -> None:
    """Reading takes the memory of what is there, not of the format's largest file (1 GiB)."""
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (5 * 10**8, 5 * 10**8))

    assert sdrt("info", HEALTHY, preexec_fn=limit).returncode == 0
    with HEALTHY.open("rb") as stdin:
        assert sdrt("info", "-", preexec_fn=limit, stdin=stdin).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_of_the_work(number: signal.Signals, folder: Path) -> None:
    """The command dies of it, at once: a shell's loop ends as well. No file, no temporary file, no word."""
    fifo = folder / "slow.png"
    os.mkfifo(fifo)
    before = sorted(folder.iterdir())
    process = start(["encode", fifo, "-o", folder / "out.sdl", "--model", "testpack"])
    with fifo.open("wb"):  # returns when the other side has opened it: the work has begun
        time.sleep(0.1)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (-number, b"")
    assert sorted(folder.iterdir()) == before


def test_who_is_told_to_ignore_a_signal_does(folder: Path) -> None:
    """Under nohup, and as a background job, the command goes on."""
    fifo = folder / "slow.png"
    os.mkfifo(fifo)
    line = f"trap '' INT HUP; exec $sdrt encode {fifo} --model testpack -o out.sdl"
    line = line.replace("$sdrt", " ".join(COMMAND))
    process = subprocess.Popen(["bash", "-c", line], cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE)
    with fifo.open("wb") as stream:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGHUP)
        stream.write((folder / "photo.png").read_bytes())
    assert process.communicate(timeout=30)[1] == b"" and process.returncode == 0
    assert (folder / "out.sdl").exists()


def test_an_interrupt_at_any_time_is_one(folder: Path) -> None:
    """Once it has begun, imports included, the command dies of SIGINT without a traceback or another excuse."""
    code = (
        "import sys; from sdrt.command import process; begin = process.begin; from sdrt.__main__ import main\n"
        "process.begin = lambda: (begin(), sys.stdout.write('.'), sys.stdout.flush())\n"
        "sys.argv[1:] = ['encode', 'photo.png', '--model', 'testpack', '--force']; raise SystemExit(main())"
    )
    ends = set()
    for delay_s in (0, *np.geomspace(0.01, 0.5, 11)):
        process = start(["-c", code], cwd=folder, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.read(1)
        time.sleep(delay_s)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert err == b""
        ends.add(process.returncode)
    assert ends <= {-signal.SIGINT, 0} and -signal.SIGINT in ends


@pytest.mark.parametrize(
    "load",
    [
        onnxruntime_session.load,
        openvino_session.load,
        lambda: onnxruntime_session.find_plugin("webgpu", "onnxruntime_ep_webgpu", ModuleType("onnxruntime")),
    ],
)
def test_an_interrupted_import_is_no_missing_package(
    load: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For callers in Python too: behind an extension module's ImportError the interrupt is found."""

    def interrupted(_name: str) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as interrupt:
            raise ImportError("initialization failed") from interrupt

    monkeypatch.setattr("sdrt.network.onnxruntime_session.importlib.import_module", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load()


def test_a_folder_that_is_gone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder that was deleted, other paths work as ever, and those in it fail in one line."""
    shutil.copy(HEALTHY, folder / "a.sdl")
    (folder / "gone").mkdir()
    monkeypatch.chdir(folder / "gone")
    (folder / "gone").rmdir()
    for line in ("info ../a.sdl", "decode ../a.sdl -o ../b.png", f"decode {folder}/a.sdl", "models"):
        assert cli.main(line.split()) == 0
        assert capsys.readouterr().err == ""
    for line in ("decode a.sdl", "encode a.png", "decode ../a.sdl -o b.png", "encode ../photo.png -o b.sdl"):
        assert cli.main(line.split()) in (9, 10)
        assert "no such file" in one_line(capsys.readouterr().err).lower()


def test_a_folder_given_as_input_is_refused_by_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder itself, its parent and the root, for an input, are refused by name; the others are done."""
    shutil.copy(HEALTHY, folder / "a.sdl")
    monkeypatch.chdir(folder)
    for name in (".", "..", "/"):
        for command in ("decode", "encode", "info"):
            assert cli.main([command, name]) == 9
            assert f"cannot read {name}: Is a directory" in one_line(capsys.readouterr().err)
    assert cli.main(["decode", ".", "a.sdl"]) == 9
    assert (folder / "a.png").exists()
