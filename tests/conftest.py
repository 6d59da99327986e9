"""What tests share: the data beside the checkout, the tests' own model pack, and a small picture."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import stat
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import pluggy
import pytest
from numpy.typing import NDArray

from sdrt.network.devices import DEVICE_FACTS
from sdrt.packs.manifest import ModelPack
from sdrt.packs.search import load_pack

Pixels = NDArray[np.uint8]
Unprivileged = Callable[[Path], contextlib.AbstractContextManager[None]]
TESTS = Path(__file__).parent

if importlib.util.find_spec("torch") is None:  # the runtime alone, as users install it: see tests/matrix.py
    collect_ignore_glob = ["test_export*.py", "test_bench*.py", "test_effort.py", "test_gradient.py", "test_seams.py"]

if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup: tests of signals start processes that die of it

_HARDWARE = [device for device in DEVICE_FACTS if device not in ("cpu", "openvino")]
ALLOWED_SKIPS = {
    r"/shared\b": "pictures and weights beside the checkout are not part of it",
    r"needs to mount files": "a container may forbid it, to root too",
    r"has no files without a name": "not every file system has O_TMPFILE",
    rf"({'|'.join(_HARDWARE)}) is (not )?here|TensorRT is here|no bf16 on this CPU": "hardware",
    r"onnxruntime_\w+ is not installed": "plugins have wheels for some platforms only",
    r"needs the package index": "nothing can be downloaded without a network",
}
"""What may be skipped where SDRT_REQUIRE_ALL=1: patterns of the words of a skip, each with its reason."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, pluggy.Result[pytest.TestReport], None]:
    """A test that skips where all must run has failed."""
    outcome = yield
    _refuse_skip(outcome.get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report() -> Generator[None, pluggy.Result[pytest.CollectReport], None]:
    """And so has a file of tests that skips as a whole."""
    outcome = yield
    _refuse_skip(outcome.get_result())


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("SDRT_REQUIRE_ALL") != "1" or not report.skipped or hasattr(report, "wasxfail"):
        return
    words = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(re.search(pattern, words) for pattern in ALLOWED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"skipped where SDRT_REQUIRE_ALL=1 allows it to few (tests/conftest.py): {words}"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder shared/ beside the checkout; tests that need it are skipped where it is absent."""
    folder = TESTS.parents[1] / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"needs {folder}, which is not here")
    return folder


@pytest.fixture(scope="session")
def kodak(shared: Path) -> list[Path]:
    """The 24 Kodak images, in order."""
    images = sorted((shared / "data" / "kodak").glob("*.png"))
    if len(images) != 24:
        pytest.skip(f"needs the 24 Kodak images in {shared / 'data' / 'kodak'}, found {len(images)}")
    return images


@pytest.fixture
def testpack(monkeypatch: pytest.MonkeyPatch) -> ModelPack:
    """The tests' own model pack (see tests/testpack.py), found by its name and by files that name it."""
    monkeypatch.setenv("SDRT_MODELS", str(TESTS / "data"))
    return load_pack(TESTS / "data" / "testpack")


@pytest.fixture
def make_pack(tmp_path: Path) -> Callable[..., ModelPack]:
    """``make_pack("name", ...)`` writes a variant of the tests' pack to a temporary folder; see tests/testpack.py."""
    from tests import testpack as writer  # needs onnx, which only tests of such variants should need

    return lambda name, **variant: writer.write(tmp_path / "packs" / name, name=name, **variant)


@pytest.fixture(scope="session")
def make_photo() -> Callable[[int, int], Pixels]:
    """``make_photo(height_px, width_px)``: uint8 (height, width, 3), neither trivial for a transform nor hopeless."""
    return synthetic_photo


@pytest.fixture(scope="session")
def photo() -> Pixels:
    """A picture (97, 161, 3) with flat parts, edges, a texture and noise: sides that no grid divides."""
    return synthetic_photo(97, 161)


def synthetic_photo(height_px: int, width_px: int) -> Pixels:
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0:height_px, 0:width_px].astype(np.float32)
    red = 90 + 70 * np.sin(x / 23) + 30 * np.cos(y / 11)
    green = 120 + 60 * ((x // 40 + y // 30) % 2) - 20 * np.sin((x + y) / 9)
    blue = 200 - 120 * (y / max(height_px, 2)) + 15 * np.sin(x * y / 500)
    noise = rng.normal(scale=4, size=(height_px, width_px, 1))
    return np.clip(np.stack([red, green, blue], 2) + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors lose more time to torch's second thread than they gain, most of all beside other work."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def unprivileged() -> Unprivileged:
    """``with unprivileged(folder):`` runs as somebody who is not root and may go to ``folder`` in /tmp."""
    if not hasattr(os, "geteuid"):
        pytest.skip("needs POSIX users")
    return _as_nobody if os.geteuid() == 0 else lambda _: contextlib.nullcontext()


@contextlib.contextmanager
def _as_nobody(folder: Path) -> Iterator[None]:
    closed = [place for place in (folder, *folder.parents) if not place.stat().st_mode & stat.S_IXOTH]
    modes = [stat.S_IMODE(place.stat().st_mode) for place in closed]
    for place in closed:
        place.chmod(0o711)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        for place, mode in zip(closed, modes, strict=True):
            place.chmod(mode)
