"""``python -m sdrt_export``: a checkpoint becomes a pack, the pack is proven, and errors are one line."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sdrt.errors import ModelError
from sdrt.network.devices import DEVICE_FACTS
from sdrt.network.engine import Engine
from sdrt.packs.manifest import graph_file_name
from sdrt.packs.search import load_pack, read_verified
from sdrt_export import int8, parity
from sdrt_export import pack_writer as packs
from sdrt_export.__main__ import main
from sdrt_export.exported_pack import report_parities
from sdrt_export.parity import TOLERANCES, Parity, Wished, measure, report, table
from sdrt_export.precision import PRECISIONS
from sdrt_export.spaces import SPACES

pytest.importorskip("diffusers")

import diffusers
from tests import small_autoencoders as small

ROOT = Path(__file__).resolve().parents[1]


pytestmark = pytest.mark.usefixtures("one_thread")


def save_kl(folder: Path, seed: int = 1, **changes: Any) -> Path:
    """A small AutoencoderKL saved by diffusers, whose configuration says nothing about force_upcast."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "force_upcast": False,
    }
    diffusers.AutoencoderKL(**{**settings, **changes}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_kl(tmp_path_factory.mktemp("source") / "model")


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs") / "small"
    assert main(["graph", str(checkpoint), "--out", str(folder), "--precision", "w16", "fp16"]) == 0
    return folder


@pytest.fixture
def fresh(exported: Path, tmp_path: Path) -> Path:
    """The exported pack, to be changed."""
    return Path(shutil.copytree(exported, tmp_path / "small"))


def test_graph_writes_a_pack_that_loads(exported: Path, checkpoint: Path) -> None:
    """After ``graph`` the runtime reads the pack, every file's hash holds, and the manifest names the source."""
    pack = load_pack(exported)
    assert (pack.name, pack.precisions, pack.latent_distribution, pack.halo) == ("small", ("w16", "fp16"), True, None)
    graphs = ["decoder.fp16.onnx", "decoder.onnx", "encoder.fp16.onnx", "encoder.onnx", "gradient.onnx"]
    assert sorted(pack.files) == graphs
    for name in pack.files:
        read_verified(pack, name)
    assert pack.manifest["source"]["location"] == str(checkpoint)
    assert pack.manifest["source"]["class"] == "AutoencoderKL"
    assert pack.manifest["graphs"]["opset"] == 18


def test_verify_proves_the_pack_and_writes_down_how_close(fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``verify`` finds the source by the manifest, exits with 0, and leaves its figures there."""
    assert main(["verify", str(fresh), "--device", "cpu"]) == 0
    verified = load_pack(fresh).manifest["verified"]
    rows = {row["precision"]: row for row in verified["parity"]}
    assert set(rows) == {"w16", "fp16"}
    for name, row in rows.items():
        tolerance = verified["tolerances"][name]
        assert row["passed"]
        assert row["device"] == "cpu"
        assert 0 < row["latents_relative"] <= tolerance["latents_relative"]
        assert 0 < row["picture_max_abs"] <= tolerance["picture_max_abs"]
        assert row["picture_psnr_db"] >= tolerance["picture_psnr_db"]
        assert [row["encoder_bytes"], row["decoder_bytes"]] == [
            (fresh / graph_file_name(half, name)).stat().st_size for half in ("encoder", "decoder")
        ]
        assert row["output"] == "float32"
    assert rows["w16"]["fp16_peak"] is None
    assert 0 < rows["fp16"]["fp16_peak"] < 32752
    assert {case[0] for case in verified["cases"]} == {1, 2}
    assert "ok" in capsys.readouterr().out


def test_verify_measures_every_precision_and_either_output(
    checkpoint: Path, tmp_path: Path, make_photo: Callable[[int, int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs in int8 and decoders that give pixels are compared with torch too, and have their sizes in the table."""
    monkeypatch.setattr(int8, "MIN_PSNR_DB", 30.0)  # random weights amplify what trained ones damp
    monkeypatch.setattr(int8, "MAX_LOST_DB", 1.0)
    folder, photographs = tmp_path / "pack", tmp_path / "photographs"
    photographs.mkdir()
    for index in range(4):
        Image.fromarray(make_photo(20 + index, 28)).save(photographs / f"{index}.png")
    assert main(["graph", str(checkpoint), "--out", str(folder)]) == 0
    assert main(["int8", str(folder), "--images", str(photographs)]) == 0
    assert main(["output", str(folder), "uint8"]) == 0
    assert main(["verify", str(folder), "--device", "cpu"]) == 0
    rows = {row["precision"]: row for row in load_pack(folder).manifest["verified"]["parity"]}
    assert {row["output"] for row in rows.values()} == {"uint8"}
    assert rows["int8"]["picture_psnr_db"] < rows["w16"]["picture_psnr_db"]


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_verify_fails_for_graphs_of_another_checkpoint(fresh: Path, tmp_path: Path, half: str) -> None:
    """A pack whose graph computes something else fails with exit code 1, and the manifest says so."""
    other = tmp_path / "other"
    assert main(["graph", str(save_kl(tmp_path / "source", seed=2)), "--out", str(other)]) == 0
    shutil.copyfile(other / f"{half}.onnx", fresh / f"{half}.onnx")
    packs.update_manifest(fresh)
    assert main(["verify", str(fresh), "--device", "cpu"]) == 1
    rows = {row["precision"]: row["passed"] for row in load_pack(fresh).manifest["verified"]["parity"]}
    assert rows == {"w16": False, "fp16": True}


def test_verify_refuses_an_altered_file(fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A graph that changed after the export is refused by hash before it runs."""
    path = fresh / "decoder.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    assert main(["verify", str(fresh), "--device", "cpu"]) == 7
    error = capsys.readouterr().err
    assert "altered" in error
    assert error.count("\n") == 1


def test_verify_refuses_a_source_of_another_space(fresh: Path, tmp_path: Path, capsys: Any) -> None:
    """Another encoder is another latent space: comparing pictures with it would mean nothing."""
    other = save_kl(tmp_path / "source", seed=2)
    assert main(["verify", str(fresh), "--source", str(other), "--device", "cpu"]) == 7
    assert "has latent space" in capsys.readouterr().err


def test_fp16_is_refused_where_numbers_leave_its_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What happens inside decides, not ``force_upcast``; w16 is not concerned; ``--allow-overflow`` warns.

    And after the graphs the gradient is named, with what it is for.
    """
    tame = ["graph", str(save_kl(tmp_path / "tame", force_upcast=True)), "--out", str(tmp_path / "pack")]
    assert main([*tame, "--precision", "fp16"]) == 0
    save_kl(tmp_path / "wild")
    wild = diffusers.AutoencoderKL.from_pretrained(tmp_path / "wild")
    with torch.no_grad():
        wild.decoder.up_blocks[0].resnets[0].conv2.weight *= 2e5  # fp16 holds that, but not what comes of it
    wild.save_pretrained(tmp_path / "wild")
    arguments = ["graph", str(tmp_path / "wild"), "--out", str(tmp_path / "xl")]
    capsys.readouterr()
    assert main([*arguments, "--precision", "w16", "fp16"]) == 7
    assert "fp16 holds 65504" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "xl").exists()
    assert main([*arguments, "--precision", "w16"]) == 0
    assert "gradient.onnx is for sdrt encode --effort" in capsys.readouterr().out
    assert main([*arguments, "--precision", "fp16", "--allow-overflow"]) == 0
    assert "warning: fp16 will overflow" in capsys.readouterr().err
    assert load_pack(tmp_path / "xl").precisions == ("fp16",)
    assert main(["verify", str(tmp_path / "xl"), "--device", "cpu"]) == 1


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("narrow file", ["--norm-groups", "4", "--scale", "0.4", "--shift", "0.1"]),
        ("tiny file", ["--space", "sd1"]),
        ("tiny pair", ["--space", "sdxl"]),
        ("tiny pair", []),
        ("wan folder", []),
        ("folder under another model's", []),
    ],
)
def test_verify_needs_no_word_that_graph_was_told(tmp_path: Path, form: str, said: list[str]) -> None:
    """The manifest keeps what a person said about a source: ``verify`` opens the same autoencoder by itself."""
    source = tmp_path / "source"
    source.mkdir()
    tiny = small.make("AutoencoderTiny", small.TAESD_LIKE)
    if form == "narrow file":
        save_file(small.make_kl().state_dict(), source / "vae.safetensors")
        location = str(source / "vae.safetensors")
    elif form == "tiny file":
        save_file(tiny.state_dict(), source / "tiny.safetensors")
        location = str(source / "tiny.safetensors")
    elif form == "tiny pair":
        small.save_pair(tiny, source, "taesd")
        small.save_pair(tiny, source, "other")
        location = str(source / "taesd_decoder.pth")
    elif form == "wan folder":
        small.make("AutoencoderKLWan", small.VIDEO).save_pretrained(source)
        location = str(source)
    else:
        small.make_kl().save_pretrained(source / "vae")
        (source / "config.json").write_text('{"_class_name": "CLIPModel"}')
        location = str(source)
    assert main(["graph", location, "--out", str(tmp_path / "pack"), *said]) == 0
    assert main(["verify", str(tmp_path / "pack"), "--device", "cpu"]) == 0


def test_a_prior_survives_an_export_of_the_same_space_only(fresh: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Exporting again keeps the prior that files were written with; another space does not inherit it."""
    (fresh / "prior.npz").write_bytes(b"fitted")
    packs.update_manifest(fresh, prior={"images": 2}, quality_range=(600, 200), default_step=333)
    before = load_pack(fresh)
    assert main(["graph", str(checkpoint), "--out", str(fresh)]) == 0
    after = load_pack(fresh)
    assert after.prior_identity == before.prior_identity
    assert (after.quality_range, after.default_step, after.manifest["prior"]) == ((600, 200), 333, {"images": 2})
    assert after.precisions == ("w16",)
    assert main(["graph", str(save_kl(tmp_path / "other", seed=2)), "--out", str(fresh)]) == 7
    assert load_pack(fresh) == after


def test_every_refusal_of_the_command_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No source, no pack, no place to write: exit code of its error, one line, no traceback."""
    (tmp_path / "file").write_text("in the way")
    commands = {
        7: [
            ["graph", str(tmp_path), "--out", str(tmp_path / "x")],
            ["verify", str(tmp_path)],
            ["graph", "no\x1b[31mpe", "--out", str(tmp_path / "x")],
        ],
        10: [["graph", str(save_kl(tmp_path / "model")), "--out", str(tmp_path / "file" / "pack")]],
    }
    capsys.readouterr()
    for code, attempts in commands.items():
        for arguments in attempts:
            assert main(arguments) == code
            error = capsys.readouterr().err
            refusal = [line for line in error.splitlines() if "assumed:" not in line]
            assert len(refusal) == 1
            assert refusal[0].startswith("sdrt_export: ") and refusal[0].isprintable()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_an_interrupted_export_ends_a_shells_loop(tmp_path: Path) -> None:
    """It says that it was interrupted, and how to go on, and dies of SIGINT."""
    environment = {"PYTHONPATH": f"{ROOT / 'runtime'}:{ROOT / 'export'}"}
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from sdrt_export import __main__ as export, prior_command\n"
        "prior_command.main = lambda arguments: signal.raise_signal(signal.SIGINT)\n"
        "import sys; sys.argv[1:] = ['prior']\n"
        "export.process()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == "sdrt_export: interrupted; the same command resumes\n"


@pytest.mark.parametrize(
    ("source", "words"),
    [("a hub", "source is no object"), ({"location": 5}, "the field location of source is 5"), ({"kind": []}, "kind")],
)
def test_a_source_that_no_export_wrote_is_one_line(
    make_pack: Callable[..., Any], source: object, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The manifest's word of where a pack comes from is read as any other input."""
    folder = make_pack("small").folder
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "source": source}))
    assert main(["verify", str(folder)]) == 7
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_a_file_that_the_system_refuses_is_one_line(
    make_pack: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as a photograph that is a link to nowhere: its name and the system's reason, no traceback."""
    for name in "abcd":
        (tmp_path / f"{name}.png").symlink_to(tmp_path / "nowhere")
    assert main(["prior", str(make_pack("small").folder), "--images", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"sdrt_export: {tmp_path / 'a.png'}: No such file or directory\n"


def test_offline_the_whole_command_fails_in_one_line(tmp_path: Path) -> None:
    """What ``make export`` runs first: without network it ends at once, in one line, and writes nothing."""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "cache"), "PATH": ""}
    environment["PYTHONPATH"] = f"{ROOT / 'runtime'}:{ROOT / 'export'}"
    out = tmp_path / "sd15"
    command = [sys.executable, "-m", "sdrt_export", "graph", "stabilityai/sd-vae-ft-mse", "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert result.returncode == 7
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "put both into models/sources/stabilityai/sd-vae-ft-mse/" in result.stderr
    assert not out.exists()


def test_the_page_states_the_tolerances_in_force() -> None:
    """docs/PACKS.md promises what ``verify`` enforces, for every precision, and names every known space."""
    page = (ROOT / "docs" / "PACKS.md").read_text(encoding="utf-8")
    assert set(TOLERANCES) == {*PRECISIONS, "int8", "bf16"}
    for name, tolerance in TOLERANCES.items():
        limits = (tolerance.latents_relative, tolerance.picture_max_abs, tolerance.picture_psnr_db)
        assert "| `{}` | {:g} | {:g} | {:g} dB |".format(name, *limits) in page
    assert all(f"`{name}`" in page for name in SPACES)


def test_a_graph_is_judged_by_the_arithmetic_that_its_device_computes_in() -> None:
    """An NPU computes floats in fp16, whatever the graph says, and OpenVINO in bf16 if its engine says so; 8 bits are
    8 bits everywhere."""
    for device, floats in (("openvino", "w16"), ("qnn", "fp16"), ("cpu", "w16"), ("cuda", "w16")):
        assert parity.arithmetic("w16", device) == floats
        assert parity.arithmetic("int8", device) == "int8"
    assert parity.arithmetic("bf16", "openvino") == "bf16"


def test_a_device_is_measured_in_what_it_takes_and_leaves_other_figures_alone(
    make_pack: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All precisions, but on a device of 8 bits int8 alone: rows of others stay. Nothing to measure is no pass."""
    folder = make_pack("plain").folder
    for half in ("encoder", "decoder"):
        shutil.copyfile(folder / f"{half}.onnx", folder / f"{half}.int8.onnx")
    monkeypatch.setattr(
        parity, "measure", lambda _pack, name, device, *_, **__: Parity(name, name, device, "-", *[1] * 7, ())
    )
    facts = DEVICE_FACTS["qnn"]
    monkeypatch.setitem(DEVICE_FACTS, "qnn", replace(facts, graphs=("int8",), only_these=True))
    pack = packs.update_manifest(folder)
    for device, measured, kept in (("cpu", ["w16", "int8"], {"cpu"}), ("qnn", ["int8"], {"cpu", "qnn"})):
        parities = parity.measure_all(pack, device, [], wished=[], peak=pytest.fail)
        assert [row.precision for row in parities] == measured
        assert report_parities(pack, parities) == 0
        pack = load_pack(folder)
        rows, tolerances = (pack.manifest["verified"][key] for key in ("parity", "tolerances"))
        assert {row["device"] for row in rows} == kept
        assert sorted(row["precision"] for row in rows) == sorted(tolerances) == ["int8", "w16"]
    with pytest.raises(ModelError, match=r"device qnn takes none of the graphs of \S+: w16"):
        parity.measure_all(make_pack("other"), "qnn", [], wished=[], peak=pytest.fail)


def test_a_row_that_failed_names_the_figure_that_decided(make_pack: Callable[..., Any]) -> None:
    """A picture of few latents is in no column: a row says what failed of it, and the limit; and the peak of fp16."""
    pack = make_pack("plain")
    cell = pack.space.downscale
    samples = [np.full((1, 3, side * cell, side * cell), 0.5, np.float32) for side in (3, 1)]
    encoder, decoder = (
        Engine(pack.folder / name, device="cpu", threads=1) for name in ("encoder.onnx", "decoder.onnx")
    )
    latents = [encoder.run(sample)[:, : pack.space.channels] for sample in samples]
    true = [Wished(each, decoder.run(each)) for each in latents]
    passed = measure(pack, "w16", "cpu", samples, wished=true)
    assert (passed.passed, passed.faults, table([passed])[1].split()[-1]) == (True, (), "ok")
    black = Wished(latents[1], np.full_like(true[1].picture, -1))
    failed = measure(pack, "w16", "cpu", samples, wished=[true[0], black], peak=40000.0)
    row = table([failed])[1]
    assert failed.picture_max_abs == passed.picture_max_abs
    assert not failed.passed
    assert re.search(r"FAILED: max \S+ > 40 of 255 \(fewer than 4 latents\), PSNR \S+ < 35 dB \(fewer", row)
    assert row.endswith("fp16 peak 4e+04 > 32752")
    assert table([replace(passed, precision="fp32", arithmetic="bf16")])[1].startswith("fp32 in bf16  cpu")
    broken = measure(pack, "w16", "cpu", samples, wished=true, peak=float("nan"))
    assert not broken.passed
    json.dumps(report([broken]), allow_nan=False)  # as a manifest holds it


@pytest.mark.slow
def test_the_true_sd_15_configuration_exports_and_verifies(tmp_path: Path) -> None:
    """SD 1.5's own widths and depths, random weights: w16 and fp16 pass, the decoder of 49.5 M weights fits 100 MB."""
    source = save_kl(
        tmp_path / "source",
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=32,
    )
    out = tmp_path / "pack"
    arguments = ["graph", str(source), "--out", str(out), "--precision", "w16", "fp16", "--space", "sd1"]
    assert main(arguments) == 0
    assert main(["verify", str(out), "--device", "cpu"]) == 0
    pack = load_pack(out)
    assert pack.space.id == "sd1"
    assert pack.decoder_path().stat().st_size < 99.1e6
    assert json.loads((out / "manifest.json").read_text())["verified"]["parity"][0]["passed"]
