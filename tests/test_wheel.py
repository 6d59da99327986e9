"""Laws of what users install: the wheel alone does the main job where torch has never been heard of.

The wheel's dependencies are read from its own metadata and linked from this environment, so that no network is needed
and whatever the metadata forget is missing there.
"""

from __future__ import annotations

import email
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout without a network."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment that holds the wheel, what its metadata ask for with [cpu], and nothing else."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    install = [*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, timeout=120)
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    site = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    for name in dependencies_of(wheel):
        link_distribution(name, site)
    return python


def dependencies_of(wheel: Path) -> set[str]:
    """Names of the distributions that ``pip install sdrt[cpu]`` would bring, from the wheel's own metadata on."""
    from packaging.requirements import Requirement

    with zipfile.ZipFile(wheel) as archive:
        (name,) = [entry for entry in archive.namelist() if entry.endswith(".dist-info/METADATA")]
        asked = email.message_from_bytes(archive.read(name)).get_all("Requires-Dist", [])
    found: set[str] = set()
    queue = [(text, "cpu") for text in asked]
    while queue:
        text, extra = queue.pop()
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        assert requirement.specifier.contains(metadata.version(requirement.name), prereleases=True), text
        if requirement.name not in found:
            found.add(requirement.name)
            queue += [(text, "") for text in metadata.requires(requirement.name) or []]
    return found


def link_distribution(name: str, site: Path) -> None:
    """Link what a distribution of this environment has put into site-packages."""
    distribution = metadata.distribution(name)
    for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}:
        source = Path(str(distribution.locate_file(top)))
        if not (site / top).exists():
            (site / top).symlink_to(source, target_is_directory=source.is_dir())


def run(python: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command ``sdrt`` of that environment, far from the sources."""
    hidden = ("PYTHONPATH", "SDRT_MODELS")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    command = [str(python.with_name("sdrt")), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_wheel_holds_the_runtime_and_its_pack_only(wheel: Path) -> None:
    """sdrt with py.typed and the pack tiny, and sdrt_batch; no export, training, tests or bench; at most 20 MB."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"sdrt", "sdrt_batch"}
    for wanted in (
        "py.typed",
        "command/cli.py",
        "packs/tiny/manifest.json",
        "packs/tiny/decoder.onnx",
        "packs/tiny/prior.npz",
    ):
        assert f"sdrt/{wanted}" in names
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pt", ".pyc"))]
    assert wheel.stat().st_size < 60e6  # PyPI takes 100 MB


def test_nobody_gets_torch(wheel: Path) -> None:
    """The dependencies are numpy, pillow, constriction and one onnxruntime with what it needs itself."""
    names = dependencies_of(wheel)
    assert {"numpy", "pillow", "constriction", "onnxruntime"} <= names
    assert not names & {"torch", "diffusers", "transformers", "onnx", "scipy", "onnxruntime-gpu"}


def test_the_main_job_in_a_fresh_environment(installed: Path, tmp_path: Path) -> None:
    """Encode, info, decode and doctor work with the installed wheel and its own pack; torch is not to be had there."""
    y, x = np.mgrid[0:150, 0:203]
    rgb = np.stack([x, y, 255 - x], 2).clip(0, 255).astype(np.uint8)
    Image.fromarray(rgb).save(tmp_path / "photo.jpg", quality=95)
    for arguments in (
        ["--version"],
        ["encode", "photo.jpg", "--target-size", "2k"],
        ["info", "photo.sdl", "--json"],
        ["decode", "photo.sdl"],
        ["doctor"],
    ):
        done = run(installed, *arguments, folder=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "photo.sdl").stat().st_size <= 2000
    back = np.asarray(Image.open(tmp_path / "photo.png"))
    assert back.shape == rgb.shape and np.abs(back.astype(float) - rgb).mean() < 25

    where = "import sdrt, numpy; print(sdrt.__file__)"
    done = subprocess.run([str(installed), "-c", where], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ROOT not in Path(done.stdout.strip()).parents
    for absent in ("torch", "diffusers", "sdrt_metrics", "sdrt_export", "sdrt_train"):
        command = [str(installed), "-c", f"import {absent}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert "ModuleNotFoundError" in done.stderr
