"""Laws of imports at run time: light to start, never torch, no socket. (`make lint` checks the floors.)"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNTIME = ROOT / "runtime" / "sdrt"
GOLDEN = ROOT / "tests" / "golden" / "codec" / "161x97-low.sdl"


def run_python(code: str, *, stream: str = "stdout") -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "runtime"),
            "SDRT_MODELS": str(ROOT / "tests" / "data"),
        },
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    text: bytes = getattr(done, stream)
    return text.decode()


def loaded_after(code: str) -> set[str]:
    """Top-level modules in sys.modules after ``code``."""
    names = "{name.partition('.')[0] for name in sys.modules}"
    return set(run_python(f"{code}\nimport sys; print(*{names}, file=sys.stderr)", stream="stderr").split())


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return names


def modules_named_in_calls(path: Path) -> set[str]:
    """What a file hands to ``import_module`` and its like as a string."""
    return {
        str(node.args[0].value)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "importorskip"))
        if node.args and isinstance(node.args[0], ast.Constant)
    }


def test_engines_have_one_door_each() -> None:
    """Each engine is imported in one module, by everything that is ours: there its telemetry is turned off before.

    import-linter cannot see it, for they are imported by name.
    """
    engines = ("onnxruntime", "openvino", "tensorrt")
    roots = ("runtime", "export", "training", "batch", "bench", "tests")
    paths = [path for root in roots for path in (ROOT / root).rglob("*.py")]
    homes = {
        (name, path.relative_to(ROOT).as_posix())
        for path in paths
        if any(engine in path.read_text(encoding="utf-8") for engine in engines)  # most need not be parsed
        for name in imports_of(path) | modules_named_in_calls(path)
        if name.partition(".")[0] in engines
    }
    assert homes == {
        ("onnxruntime", "runtime/sdrt/network/onnxruntime_session.py"),
        ("openvino", "runtime/sdrt/network/openvino_session.py"),
    }


def test_import_sdrt_is_light() -> None:
    """``import sdrt`` loads neither torch nor diffusers nor an engine, not even numpy or Pillow."""
    heavy = {"torch", "diffusers", "onnxruntime", "openvino", "onnx", "numpy", "PIL", "constriction", "sdrt_export"}
    assert loaded_after("import sdrt; sdrt.SdrtError; dir(sdrt)").isdisjoint(heavy)


def test_info_needs_no_engine_and_no_arrays() -> None:
    """``sdrt info`` reads headers with the standard library alone."""
    code = f"from sdrt.command.cli import main; main(['info', {str(GOLDEN)!r}])"
    assert loaded_after(code).isdisjoint({"torch", "onnxruntime", "openvino", "numpy", "PIL", "constriction"})


def test_encoding_and_decoding_never_meet_torch() -> None:
    """The whole road runs with torch and diffusers out of reach, though they are installed here."""
    code = (
        "import sys; sys.modules.update(torch=None, diffusers=None, onnx=None, openvino=None)\n"
        "import numpy as np, sdrt\n"
        "data = sdrt.encode(np.zeros((20, 30, 3), np.uint8), model='testpack', device='cpu')\n"
        "print(sdrt.decode(data, device='cpu').size)"
    )
    assert run_python(code).strip() == "(30, 20)"


def test_integers_need_no_engine() -> None:
    """With onnxruntime out of reach: integers are decoded as ever; pictures are refused with the install line."""
    code = (
        "import sys, hashlib; sys.modules.update(onnxruntime=None, openvino=None)\n"
        "import sdrt\n"
        f"print(hashlib.sha256(sdrt.Codec().symbols({str(GOLDEN)!r}).astype('<i4').tobytes()).hexdigest())\n"
        "try:\n"
        f"    sdrt.decode({str(GOLDEN)!r}, device='cpu')\n"
        "except sdrt.EngineError as error:\n"
        "    print(error)"
    )
    digest, error = run_python(code).splitlines()
    assert digest in (ROOT / "tests" / "golden" / "codec" / "expected.json").read_text()
    assert "pip install 'sdrt[cpu]'" in error


def test_the_runtime_opens_no_socket() -> None:
    """No module of the runtime imports anything that talks to a network, and Python code cannot at run time either.

    What libraries do by themselves is seen from outside only: tests/test_process.py.
    """
    network = {
        "socket",
        "ssl",
        "http",
        "urllib",
        "ftplib",
        "smtplib",
        "asyncio",
        "requests",
        "httpx",
        "huggingface_hub",
    }
    for path in RUNTIME.rglob("*.py"):
        assert not {name.partition(".")[0] for name in imports_of(path)} & network, path
    code = (
        "import sys\n"
        "def audit(event, _):\n"
        "    assert not event.startswith(('socket.', 'urllib.', 'http.')), event\n"
        "sys.addaudithook(audit)\n"
        "import numpy as np, sdrt\n"
        "data = sdrt.encode(np.zeros((20, 30, 3), np.uint8), model='testpack', device='cpu')\n"
        "print(sdrt.decode(data, device='cpu').size)"
    )
    assert run_python(code).strip() == "(30, 20)"


def test_info_starts_fast() -> None:
    """A whole process that tells a file's info takes a fraction of a second: measured in processor time."""
    code = f"import time; import sdrt; sdrt.info({str(GOLDEN)!r}); print(time.process_time())"
    best = min(float(run_python(code)) for _ in range(3))
    assert best < 0.5, f"{best:.2f} s of processor time"


def test_decoding_leaves_out_what_only_reports_need() -> None:
    """A process that decodes loads no importlib.metadata, logging or tempfile (together a tenth of its start) but those
    that the libraries themselves load: numpy 1.26 does, numpy 2 does not."""
    libraries = run_python("import sys, numpy, PIL.Image, constriction; print(*sys.modules)").split()
    loaded = run_python(
        "import sys; from sdrt.command.cli import main\n"
        f"main(['decode', {str(GOLDEN)!r}, '-o', '-', '--device', 'cpu'])\n"
        "print(*sys.modules, file=sys.stderr)",
        stream="stderr",
    ).split()
    assert "sdrt.network.onnxruntime_session" in loaded and "onnxruntime" in loaded
    unwanted = {"importlib.metadata", "email", "logging", "tempfile", "socket", "openvino"}
    assert not (set(loaded) - set(libraries)) & unwanted
