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
    _need_modules()
    answer: Answer = json.loads(_run([find_node(), WEB / "test" / "browser.mjs", find_chromium()], json.dumps(job)))
    return answer


def served(folder: Path, addresses: Iterable[str]) -> list[int]:
    """The status with which the server of web/site.mjs answers each address, one after another."""
    _need_modules()
    script = """
        import { readFileSync } from "node:fs";
        import { get } from "node:http";
        const [site, folder, addresses] = JSON.parse(readFileSync(0, "utf8"));
        const { serve } = await import(site);
        const { port } = new URL(await serve({ "/": folder }));
        const ask = (path) => new Promise((answer, fail) => get({ port, path }, (response) => {
          response.resume();
          answer(response.statusCode);
        }).on("error", fail));
        const statuses = [];
        for (const path of addresses) statuses.push(await ask(path));
        console.log(JSON.stringify(statuses));
        process.exit(0);
    """
    told = json.dumps([(WEB / "site.mjs").as_uri(), str(folder), list(addresses)])
    statuses: list[int] = json.loads(_run([find_node(), "--input-type=module", "-e", script, "test"], told))
    return statuses


def _need_modules() -> None:
    if not (WEB / "node_modules").is_dir():
        pytest.skip("needs web/node_modules: npm ci --prefix web")


def _run(command: list[str | Path], text: str) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=150, check=False)
    assert not done.returncode, done.stderr
    return done.stdout
