"""Every bad input gets one clear line and its exit code, and loses nothing: no traceback, partial output or hang."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.command import HEALTHY, TESTS, one_line, sdrt
from tests.make_container_golden import bad_files
from tests.make_diseases import IN_ANCILLARY

from sdrt import errors
from sdrt.codec import Codec
from sdrt.command import cli
from sdrt.container import sdl
from sdrt.packs.manifest import ModelPack

Pixels = NDArray[np.uint8]
DISEASES = TESTS / "diseases"

EXPECTED: dict[str, tuple[type[errors.SdrtError], str]] = {
    "alpha-cut-short.sdl": (errors.CorruptError, "alpha"),
    "alpha-of-another-size.sdl": (errors.CorruptError, ""),
    "payload-ends-in-zero.sdl": (errors.CorruptError, "payload"),
    "payload-goes-on.sdl": (errors.CorruptError, "payload"),
    "payload-too-short.sdl": (errors.CorruptError, "payload of 0 bytes is too short"),
    "payload-too-short-for-25-megapixels.sdl": (errors.CorruptError, "payload of 0 bytes is too short"),
    "steps-beyond-seven.sdl": (errors.CorruptError, "beyond 7"),
    "steps-flat.sdl": (errors.CorruptError, "flat"),
    "steps-go-on.sdl": (errors.CorruptError, "step map does not end"),
    "patches-av1-as-vp8l.sdl": (errors.CorruptError, "VP8L"),
    "patches-av1-bomb.sdl": (errors.CorruptError, "32 x 16 pixels, the mask says 24 x 16"),
    "patches-av1-broken-frame.sdl": (errors.CorruptError, "AVIF stream"),
    "patches-av1-cut.sdl": (errors.CorruptError, "truncated"),
    "patches-av1-two-frames.sdl": (errors.CorruptError, "one frame"),
    "patches-av1-without-frame.sdl": (errors.CorruptError, "one frame"),
    "patches-empty.sdl": (errors.CorruptError, "kind of patches"),
    "patches-fade-into-nothing.sdl": (errors.CorruptError, "fade"),
    "patches-larger-than-picture.sdl": (errors.CorruptError, "24 x 17 pixels, the mask says 24 x 16"),
    "patches-mask-goes-on.sdl": (errors.CorruptError, "mask of the patches"),
    "patches-mask-longer-than-chunk.sdl": (errors.CorruptError, "mask of the patches does not fit"),
    "patches-mask-missing.sdl": (errors.CorruptError, "length of the patches' mask"),
    "patches-mask-of-nothing.sdl": (errors.CorruptError, "marks no cell"),
    "patches-newer-coding.sdl": (errors.UnsupportedError, "update sdrt"),
    "patches-not-halved.sdl": (errors.CorruptError, "24 x 16 pixels, the mask says 12 x 8"),
    "patches-reserved-bit.sdl": (errors.CorruptError, "reserved"),
    "patches-vp8l-bomb.sdl": (errors.CorruptError, "16384 x 16384"),
    "patches-vp8l-cut.sdl": (errors.CorruptError, "WebP stream cannot be decoded"),
    "patches-vp8l-none.sdl": (errors.CorruptError, "VP8L"),
    "other-latent-space.sdl": (errors.ModelError, "deadbeef"),
    "other-prior.sdl": (errors.ModelError, "deadbeef"),
    "empty.png": (errors.ImageError, "empty.png"),
    "text.jpg": (errors.ImageError, "not a picture"),
    "truncated.jpg": (errors.ImageError, "truncated"),
    "too-many-pixels.png": (errors.LimitError, "pixels"),
}


def test_every_ill_file_is_expected() -> None:
    """Folder and table name the same files, and with the container's each error that a file can cause has one."""
    assert {path.name for path in DISEASES.iterdir()} == set(EXPECTED) | set(IN_ANCILLARY)
    caused = {error.__name__ for error, _ in EXPECTED.values()} | {leaf for leaf, _ in bad_files().values()}
    by_situation = {"SdrtError", "ArgumentError", "MissingFileError", "EngineError", "OutputError"}
    leaves = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == "sdrt.errors"
    }
    assert caused == leaves - by_situation


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_an_ill_file_gets_one_line(
    name: str, testpack: ModelPack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error's own exit code, one line that says what is wrong, nothing on stdout, nothing written."""
    error, words = EXPECTED[name]
    command = ["decode"] if name.endswith(".sdl") else ["encode", "--model", "testpack"]
    code = cli.main([*command, str(DISEASES / name), "-o", str(tmp_path / "out.png")])
    out, err = capsys.readouterr()
    assert code == error.exit_code
    assert words in one_line(err) and not out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("disease", bad_files())
def test_an_ill_container_gets_one_line(
    disease: str, testpack: ModelPack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """decode and info refuse the container's golden errors with the leaf's exit code; nothing is written."""
    leaf, _ = bad_files()[disease]
    path = str(TESTS / "golden" / "errors" / f"{disease}.sdl")
    for command in (["decode", path, "-o", str(tmp_path / "out.png")], ["info", path]):
        assert cli.main(command) == getattr(errors, leaf).exit_code
        out, err = capsys.readouterr()
        assert one_line(err) and not out
    assert list(tmp_path.iterdir()) == []


def test_any_payload_is_a_picture_or_corrupt(testpack: ModelPack) -> None:
    """Whatever bytes stand for the payload, under a checksum that is right: a picture comes out, or CorruptError."""
    healthy = sdl.unpack(HEALTHY.read_bytes())
    rng = np.random.default_rng(3)
    codec = Codec()
    payloads = [b"", bytes(500), b"\xff" * 500, *(rng.bytes(int(size)) for size in rng.integers(1, 600, 20))]
    for payload in payloads:
        try:
            assert codec.decode(sdl.pack(replace(healthy, payload=payload))).size == (161, 97)
        except errors.CorruptError as error:
            assert "\n" not in str(error)


def test_truncation_at_any_byte_and_any_flipped_bit(
    testpack: ModelPack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No prefix of a file decodes, nor any copy with one bit flipped; each is refused by a leaf of SdrtError."""
    data = (TESTS / "golden" / "codec" / "1x1.sdl").read_bytes()
    ill = [data[:length] for length in range(len(data))]
    ill += [data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] for at in range(len(data)) for bit in range(8)]
    known = {error.exit_code for error in (errors.NotSdlError, errors.UnsupportedError, errors.CorruptError)}
    path = tmp_path / "ill.sdl"
    for copy in ill:
        path.write_bytes(copy)
        assert cli.main(["decode", str(path)]) in known
        one_line(capsys.readouterr().err)
        assert not (tmp_path / "ill.png").exists()


def test_a_missing_input_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], testpack: ModelPack) -> None:
    """A missing input, and a folder in its place, are named."""
    for command in (["decode"], ["encode", "--model", "testpack"], ["info"]):
        for source in (tmp_path / "absent", tmp_path):
            assert cli.main([*command, str(source)]) == errors.ImageError.exit_code
            assert str(source) in one_line(capsys.readouterr().err)


def test_an_existing_output_stays(testpack: ModelPack, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --force a file that exists stays as it is; with it, it is replaced."""
    out = tmp_path / "out.png"
    out.write_text("precious")
    assert cli.main(["decode", str(HEALTHY), "-o", str(out)]) == errors.OutputError.exit_code
    assert "--force" in one_line(capsys.readouterr().err) and out.read_text() == "precious"
    assert cli.main(["decode", str(HEALTHY), "-o", str(out), "--force"]) == 0
    assert Image.open(out).size == (161, 97)


def test_no_folder_for_the_output(testpack: ModelPack, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing folder and a folder in the file's place are said before the work is done."""
    for out in (tmp_path / "absent" / "out.png", tmp_path):
        assert cli.main(["decode", str(HEALTHY), "-o", str(out)]) == errors.OutputError.exit_code
        assert str(out) in one_line(capsys.readouterr().err)


def test_an_output_that_cannot_hold_the_picture(
    testpack: ModelPack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A suffix that nobody knows, and transparency into JPEG, are refused without a file."""
    alpha = TESTS / "golden" / "codec" / "161x97-alpha.sdl"
    for source, out in ((HEALTHY, "out.xyz"), (alpha, "out.jpg")):
        assert cli.main(["decode", str(source), "-o", str(tmp_path / out)]) == errors.OutputError.exit_code
        one_line(capsys.readouterr().err)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("ill", "words"),
    [
        ("decoder missing", "decoder.onnx"),
        ("decoder altered", "altered"),
        ("decoder grown", "altered"),
        ("prior missing", "prior.npz"),
        ("prior altered", "altered"),
        ("manifest missing", "no manifest.json"),
        ("manifest not JSON", "JSON"),
        ("manifest of the future", "update sdrt"),
    ],
)
def test_an_altered_pack_is_refused_by_name(
    ill: str, words: str, testpack: ModelPack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pack with a missing, altered or unreadable part is refused by name, and nothing is written."""
    folder = tmp_path / "pack"
    shutil.copytree(testpack.folder, folder)
    part, *how = ill.split(" ", 1)
    path = folder / {"decoder": "decoder.onnx", "prior": "prior.npz", "manifest": "manifest.json"}[part]
    if how == ["missing"]:
        path.unlink()
    elif how == ["altered"]:
        path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    elif how == ["grown"]:
        path.write_bytes(path.read_bytes() + b"\0")
    elif how == ["not JSON"]:
        path.write_text("{")
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    assert cli.main(["decode", str(HEALTHY), "--model", str(folder), "-o", str(tmp_path / "out.png")]) == 7
    assert words in one_line(capsys.readouterr().err)
    assert not (tmp_path / "out.png").exists()


def test_a_decoder_only_pack_does_not_encode(
    testpack: ModelPack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pack without an encoder decodes, and says so when asked to encode."""
    folder = tmp_path / "half"
    shutil.copytree(testpack.folder, folder)
    (folder / "encoder.onnx").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["encoder.onnx"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    picture = tmp_path / "back.png"
    assert cli.main(["decode", str(HEALTHY), "--model", str(folder), "-o", str(picture)]) == 0
    assert cli.main(["encode", str(picture), "--model", str(folder)]) == errors.ModelError.exit_code
    assert "decoder-only" in one_line(capsys.readouterr().err)


def test_a_device_that_cannot_be_had(testpack: ModelPack, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An explicit device is used or refused with the install line, never replaced."""
    from sdrt.network.devices import DEVICE_FACTS
    from sdrt.network.installed import available_devices

    for report in available_devices():
        if not report.available:
            arguments = ["decode", str(HEALTHY), "--device", report.device, "-o", str(tmp_path / "out.png")]
            assert cli.main(arguments) == errors.EngineError.exit_code
            assert DEVICE_FACTS[report.device].install in one_line(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line_with_its_exit_code(testpack: ModelPack) -> None:
    """A device without room, as stdout, as -o and under text: one line, code 10."""
    with Path("/dev/full").open("wb") as full:
        for arguments in (["decode", HEALTHY, "-o", "-"], ["info", HEALTHY], ["models"]):
            done = sdrt(*arguments, capture_output=False, stdout=full, stderr=subprocess.PIPE)
            assert done.returncode == errors.OutputError.exit_code
            assert os.strerror(errno.ENOSPC) in one_line(done.stderr.decode())
    done = sdrt("decode", HEALTHY, "-o", "/dev/full", "--force")
    assert done.returncode == errors.OutputError.exit_code and one_line(done.stderr.decode())


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_disk_that_fills_up_midway(testpack: ModelPack, tmp_path: Path) -> None:
    """A write that stops in the middle leaves neither a partial file nor a temporary one."""
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = sdrt("decode", HEALTHY, "-o", tmp_path / "out.png", preexec_fn=limit)
    assert done.returncode == errors.OutputError.exit_code
    one_line(done.stderr.decode())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("decode - <&-", errors.ImageError.exit_code, "stdin is closed"),
        ("encode - --model testpack <&-", errors.ImageError.exit_code, "stdin is closed"),
        ("info - <&-", errors.ImageError.exit_code, "stdin is closed"),
        ("decode - </dev/null", errors.NotSdlError.exit_code, "not an .sdl"),
        ("encode - --model testpack </dev/null", errors.ImageError.exit_code, "it is empty"),
        ("decode {healthy} -o - >&-", errors.OutputError.exit_code, "stdout is closed"),
        ("info {healthy} >&-", errors.OutputError.exit_code, "stdout is closed"),
    ],
)
def test_closed_streams_end_the_command_in_one_line(line: str, code: int, words: str, testpack: ModelPack) -> None:
    """A closed or empty stdin and a closed stdout end at once, in one line."""
    command = f"{sys.executable} -m sdrt {line.format(healthy=HEALTHY)}"
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent / "runtime"), "SDRT_MODELS": str(TESTS / "data")}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == code
    assert words in one_line(done.stderr.decode())


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX pipes")
def test_a_reader_that_goes_away(testpack: ModelPack) -> None:
    """A pipe whose reader is gone: one line, no traceback at the interpreter's end."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        for arguments in (["decode", HEALTHY, "-o", "-"], ["models"]):
            done = sdrt(*arguments, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
            assert done.returncode == errors.OutputError.exit_code
            assert os.strerror(errno.EPIPE) in one_line(done.stderr.decode())
    finally:
        os.close(writing)


@pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals")
def test_a_terminal_gets_no_binary(testpack: ModelPack) -> None:
    """Bytes of a picture are not thrown at a person, nor is a person asked to type them."""
    import pty

    master, slave = pty.openpty()
    try:
        done = sdrt("decode", HEALTHY, "-o", "-", capture_output=False, stdout=slave, stderr=subprocess.PIPE)
        assert done.returncode == errors.OutputError.exit_code and "terminal" in one_line(done.stderr.decode())
        done = sdrt("info", "-", capture_output=False, stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert done.returncode == errors.ImageError.exit_code and "terminal" in one_line(done.stderr.decode())
    finally:
        os.close(master)
        os.close(slave)


def test_a_surprise_is_one_line_too(
    testpack: ModelPack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """An error that nobody foresaw gets a line and code 1; SDRT_TRACEBACK=1 shows developers where it was."""
    from sdrt.pixels import tensors

    def surprise(*_: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(tensors, "sample_region", surprise)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)).save(tmp_path / "photo.png")
    arguments = ["encode", str(tmp_path / "photo.png"), "--model", "testpack"]
    assert cli.main(arguments) == 1
    err = capsys.readouterr().err
    assert "of all things" in err and len(err.splitlines()) == 1
    monkeypatch.setenv("SDRT_TRACEBACK", "1")
    assert cli.main(arguments) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.slow
def test_no_odd_picture_is_a_surprise(
    shared: Path, testpack: ModelPack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What people and enemies feed an image tool is encoded and decoded, or refused in one line; nothing else."""
    out = [str(tmp_path / name) for name in ("x.sdl", "x.png")]
    codes = []
    for i, path in enumerate(sorted((shared / "data" / "odd").rglob("*.*"))):
        options = ["--force", "--quiet", "--model", "testpack"]
        if i % 8:  # the search for patches takes seconds where there is type
            options += ["--protect", "none"]
        codes.append(cli.main(["encode", str(path), "-o", out[0], *options]))
        if codes[-1] == 0:
            assert cli.main(["decode", out[0], "-o", out[1], "--force"]) == 0
            assert capsys.readouterr().err == ""
        else:
            assert codes[-1] in (errors.ImageError.exit_code, errors.LimitError.exit_code), path
            one_line(capsys.readouterr().err)
    assert codes.count(0) > 400
