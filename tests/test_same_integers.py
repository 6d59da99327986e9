"""What may change with the engine and what may not: integers never, pixels by one level at most."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sdrt import model_cache
from sdrt.codec import Codec
from sdrt.network.engine import Engine

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "bench" / "photos" / "astronaut.webp"
SETTINGS = {"one thread": (1, True), "two threads": (2, True), "no optimization": (1, False)}
ABSENT = """
import hashlib, sys
sys.modules.update(onnxruntime=None, openvino=None)
from sdrt.codec import Codec
print(hashlib.sha256(Codec().symbols(sys.argv[1]).astype("<i4").tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph in the default pack, of sides that no tile divides."""
    with Image.open(PHOTO) as image:
        photo = image.convert("RGB").crop((90, 40, 90 + 203, 40 + 155))
    path = tmp_path_factory.mktemp("file") / "photo.sdl"
    path.write_bytes(Codec("tiny", device="cpu", threads=1).encode(photo, quality=70))
    return path


def digest(symbols: NDArray[np.int32]) -> str:
    return hashlib.sha256(symbols.astype("<i4").tobytes()).hexdigest()


@pytest.mark.parametrize("precision", ["w16", "int8"])
def test_integers_are_the_same_and_pixels_nearly(precision: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file under 1 and 2 threads and without graph optimization: one array of integers, pixels one level apart.

    With onnxruntime out of reach the integers are the same as well: they need numpy and the coder only. In int8 the
    threads agree exactly; without optimization its steps are played in floats, where a tie may fall to the other side
    and move others after it, so that the picture differs as it does from float32: in the mean by less than half a
    level.
    """
    integers: dict[str, str] = {}
    pixels: dict[str, NDArray[np.int16]] = {}
    for name, (threads, optimize) in SETTINGS.items():
        monkeypatch.setattr(model_cache, "Engine", functools.partial(Engine, optimize=optimize))
        codec = Codec(device="cpu", precision=precision, threads=threads)
        pixels[name] = np.asarray(codec.decode(file)).astype(np.int16)
        integers[name] = digest(codec.symbols(file))
    done = subprocess.run(
        [sys.executable, "-c", ABSENT, str(file)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
        capture_output=True,
        text=True,
        check=True,
    )
    integers["no onnxruntime"] = done.stdout.strip()
    assert len(set(integers.values())) == 1, integers
    apart = {name: np.abs(picture - pixels["one thread"]) for name, picture in pixels.items()}
    if precision == "w16":
        assert max(difference.max() for difference in apart.values()) <= 1
    else:
        assert apart["two threads"].max() == 0 and apart["no optimization"].mean() < 0.5
    assert np.ptp(pixels["one thread"]) > 100, "a picture, not a gray field"
