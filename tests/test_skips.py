"""Where SDRT_REQUIRE_ALL=1, a skip that nobody allowed is a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
SKIPS = """
import pytest
def test_a_tool_is_missing(): pytest.skip("needs chromium")
def test_data_are_missing(): pytest.skip("needs /somewhere/shared, which is not here")
@pytest.mark.skipif(True, reason="tesseract is not installed")
def test_of_a_mark(): pass
@pytest.mark.xfail(reason="a law that does not hold yet")
def test_that_may_fail(): assert False
"""


@pytest.mark.parametrize(("require", "failed", "skipped"), [("0", 0, 4), ("1", 3, 1)])
def test_a_skip_that_is_not_allowed_fails(require: str, failed: int, skipped: int, tmp_path: Path) -> None:
    """In a test, in a mark, of a whole file; what is allowed still skips, and an expected failure is none."""
    (tmp_path / "conftest.py").write_bytes(CONFTEST.read_bytes())
    (tmp_path / "test_skips.py").write_text(SKIPS)
    (tmp_path / "test_whole.py").write_text('import pytest\npytest.importorskip("no_such_module")\n')
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    environ = {**os.environ, "SDRT_REQUIRE_ALL": require, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*command, "--continue-on-collection-errors"], env=environ, capture_output=True, text=True, check=False
    )
    counts = done.stdout.splitlines()[-1]
    # The file that cannot be collected counts among the failed or the skipped.
    assert counts.count("1 xfailed") == 1
    said = {
        word: int(counts.split(f" {word}")[0].split()[-1]) if f" {word}" in counts else 0
        for word in ("failed", "error", "skipped")
    }
    assert (said["failed"] + said["error"], said["skipped"]) == (failed, skipped), done.stdout
