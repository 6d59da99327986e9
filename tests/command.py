"""The command ``sdrt`` as tests start it: a process of its own that knows the tests' pack and no other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TESTS = Path(__file__).parent
HEALTHY = TESTS / "golden" / "codec" / "161x97-low.sdl"
COMMAND = (sys.executable, "-m", "sdrt")
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(TESTS.parent / "runtime"),
    "SDRT_MODELS": str(TESTS / "data"),
    "XDG_DATA_HOME": "/nowhere",
}


def one_line(text: str) -> str:
    """The only line of ``text``; fails where there is another or none, or a traceback."""
    lines = text.splitlines()
    assert len(lines) == 1 and lines[0].startswith("sdrt"), text
    assert "Traceback" not in text and "unexpected" not in text
    return lines[0]


def sdrt(*arguments: str | Path, timeout: float = 60, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run the command to its end."""
    options = {"env": ENVIRONMENT, "capture_output": True, "timeout": timeout, **options}
    return subprocess.run([*COMMAND, *map(str, arguments)], check=False, **options)  # type: ignore[call-overload, no-any-return]


def shell(line: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash, in which $sdrt is the command."""
    options = {"env": ENVIRONMENT, "capture_output": True, "timeout": 60, **options}
    line = f'sdrt="{" ".join(COMMAND)}"; {line}'
    return subprocess.run(["bash", "-c", line], check=False, **options)  # type: ignore[call-overload, no-any-return]


def start(arguments: Sequence[str | Path], **options: object) -> subprocess.Popen[bytes]:
    """Start a process that heeds interrupts, though the tests may be a background job, which shells make deaf to them.

    ``arguments``: those of the command, or after "-c" those of Python.
    """
    heed = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    command = COMMAND if arguments[0] != "-c" else COMMAND[:1]
    options = {"env": ENVIRONMENT, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, "-c", heed, *command, *map(str, arguments)], **options)  # type: ignore[call-overload, no-any-return]
