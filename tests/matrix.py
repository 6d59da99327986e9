"""The runtime's quick tests where it is promised to run: ``python -m tests.matrix``, part of ``make test-all``.

Two environments, made anew under ``out/matrix``: *lowest* has the oldest Python that is here with exactly the lower
bounds of pyproject.toml (``uv pip compile --resolution lowest-direct``); *newest* has the newest Python and the newest
versions that the bounds allow. Pythons are those on the PATH and of pyenv; none is downloaded.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST = (3, 10)
"""As ``requires-python`` says."""
NEWEST = (3, 14)
"""The newest that the classifiers of the workflow's matrix name."""

Version = tuple[int, int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if the tests pass in every environment asked for, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__, allow_abbrev=False)
    parser.add_argument("environments", nargs="*", choices=("lowest", "newest", []), help="both without a word")
    parser.add_argument("--pytest", default="", help="more arguments for pytest, in one word")
    options = parser.parse_args(arguments)
    found = {version: path for version, path in pythons() if OLDEST <= version <= NEWEST}
    if not found:
        raise SystemExit(f"no Python from {_text(OLDEST)} to {_text(NEWEST)} is here")
    wanted = {"lowest": (min(found), OLDEST, "lowest-direct"), "newest": (max(found), NEWEST, "highest")}
    failed = []
    for name in options.environments or list(wanted):
        version, hoped, resolution = wanted[name]
        remark = "" if version == hoped else f" ({_text(hoped)} is not here)"
        print(f"matrix: {name}, Python {_text(version)}{remark}", flush=True)
        python = environment(name, found[version], resolution)
        if _run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *options.pytest.split()]):
            failed.append(name)
    print(f"matrix: failed in {', '.join(failed)}" if failed else "matrix: passed")
    return 1 if failed else 0


def pythons() -> Iterator[tuple[Version, Path]]:
    """Every Python that answers: on the PATH by its version, and of pyenv."""
    on_path = [shutil.which(f"python3.{minor}") for minor in range(OLDEST[1], NEWEST[1] + 1)]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for path in [*map(Path, filter(None, on_path)), *sorted(pyenv.glob("versions/*/bin/python")), Path(sys.executable)]:
        asked = subprocess.run(
            [path, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=False
        )
        if asked.returncode == 0:  # a shim of pyenv's answers only for versions that are switched on
            major, minor = map(int, asked.stdout.split())
            yield (major, minor), path


def environment(name: str, python: Path, resolution: str) -> Path:
    """A new environment ``out/matrix/NAME`` with the checkout and the runtime's dependencies; returns its Python.

    Raises SystemExit where something cannot be resolved or installed; uv has said why.
    """
    folder = ROOT / "out" / "matrix" / name
    pins = folder.with_suffix(".txt")
    folder.parent.mkdir(parents=True, exist_ok=True)
    uv = [sys.executable, "-m", "uv", "--quiet"]
    inside = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    extras = ["--extra", "cpu", "--group", "runtime-test"]
    for command in (
        [*uv, "venv", "--clear", "--seed", "--python", python, folder],
        [*uv, "pip", "compile", "--python", inside, "--resolution", resolution, *extras, "-o", pins, "pyproject.toml"],
        [*uv, "pip", "install", "--python", inside, "--requirement", pins],
        [*uv, "pip", "install", "--python", inside, "--no-deps", "--no-build-isolation", "--editable", "."],
    ):
        if _run(command):
            raise SystemExit(f"matrix: {name} could not be set up")
    return inside


def _run(command: Sequence[str | Path]) -> int:
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def _text(version: Version) -> str:
    return ".".join(map(str, version))


if __name__ == "__main__":
    raise SystemExit(main())
