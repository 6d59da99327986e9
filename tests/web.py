"""How tests run web/: under node, and in a headless Chromium. Both skip where something is not installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

WEB = Path(__file__).parents[1] / "web"

Answer = dict[str, Any]


def find_node() -> str:
    """The program node; skips the test without it."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("needs node, which is not installed")
    return found


def find_chromium() -> str:
    """A Chromium, or the program that $CHROMIUM names; skips the test without it."""
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("needs Chromium, which is not installed")
    return found


def under_node(cases: Iterable[Mapping[str, Any]]) -> list[Answer]:
    """What web/test/integers.mjs answers for each of several cases."""
    lines = "".join(json.dumps(case) + "\n" for case in cases)
    return [json.loads(line) for line in _run([find_node(), WEB / "test" / "integers.mjs"], lines).splitlines()]


def in_browser(job: Mapping[str, Any]) -> Answer:
    """What web/test/browser.mjs answers for a job."""
    if not (WEB / "node_modules").is_dir():
        pytest.skip("needs web/node_modules: npm ci --prefix web")
    answer: Answer = json.loads(_run([find_node(), WEB / "test" / "browser.mjs", find_chromium()], json.dumps(job)))
    return answer


def _run(command: list[str | Path], text: str) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=150, check=False)
    assert not done.returncode, done.stderr
    return done.stdout
