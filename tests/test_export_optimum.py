"""The real optimum-onnx, both ways: its export becomes a pack, and our graphs paint its pipeline's picture.

optimum-onnx 0.1.0 wants older transformers and diffusers than ours, so it lives in an environment of its own, made
here: 200 MB from the package index, torch and ONNX Runtime being those of the tests.
"""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from sdrt.packs.search import load_pack
from sdrt_export.__main__ import main
from sdrt_export.sources import open_source
from sdrt_export.verify import verify_pack

pytest.importorskip("diffusers")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

PACKAGES = (
    "optimum-onnx==0.1.0",
    "optimum>=2.0,<2.1",
    "transformers>=4.57,<4.58",
    "diffusers>=0.35,<0.36",
    "huggingface-hub>=0.34,<1",
    "tokenizers>=0.22,<0.23",
)
SCRIPT = Path(__file__).with_name("optimum_pipeline.py")


@pytest.fixture(scope="module")
def optimum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with optimum-onnx; what it lacks it finds in the tests' own."""
    folder = tmp_path_factory.mktemp("optimum") / "env"
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    ask = [str(python), "-c", "import site; print(site.getsitepackages()[0])"]
    own = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    (own / "zz_shared.pth").write_text("\n".join(site.getsitepackages()))
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", *PACKAGES]
    result = subprocess.run(install, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f"needs the package index for optimum-onnx: {result.stderr.strip().splitlines()[-1:]}")
    return python


def run(python: Path, *arguments: str | Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [str(python), str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "HF_HUB_OFFLINE": "1"},
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_a_pipeline_of_optimum_goes_both_ways(optimum: Path, tmp_path: Path) -> None:
    """``from-onnx`` reads its export as diffusers reads the weights; ``optimum`` puts our graphs into its pipeline.

    The picture of the whole pipeline is the same to 0.01 levels of 255 with fp32, to 0.2 with w16, to 2 with fp16.
    """
    run(optimum, "make", tmp_path)
    pack = tmp_path / "pack"
    assert main(["from-onnx", str(tmp_path / "onnx"), "--out", str(pack), "--precision", "w16", "fp16", "fp32"]) == 0
    source = open_source(str(tmp_path / "torch"))
    assert (source.space.scale, load_pack(pack).space.scale) == (0.3, 0.3)
    for parity in verify_pack(
        load_pack(pack), source.encoder, source.decoder, against=source.reference(), device="cpu"
    ):
        assert parity.passed, parity

    run(optimum, "paint", tmp_path / "onnx", tmp_path / "theirs.npy")
    theirs = np.load(tmp_path / "theirs.npy")
    for precision, most in (("fp32", 0.01), ("w16", 0.2), ("fp16", 2.0)):
        ours = tmp_path / precision
        shutil.copytree(tmp_path / "onnx", ours)
        assert main(["optimum", str(pack), "--out", str(ours), "--precision", precision]) == 0
        run(optimum, "paint", ours, tmp_path / "ours.npy")
        difference = 255 * np.abs(np.load(tmp_path / "ours.npy") - theirs).max()
        print(f"{precision}: {difference:.4f} levels of 255")
        assert difference <= most
