"""Where bench finds pictures and leaves what it makes."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""
OUT = ROOT / "out"
"""Reports and caches; not in the repository."""
RESULTS = ROOT / "bench" / "results"
"""Records that are kept; see bench.record."""
PHOTOS = ROOT / "bench" / "photos"
"""Photographs that come with the repository."""
DATA = ROOT.parent / "shared" / "data"
"""Pictures beside the checkout that are measured with and never shipped: kodak, hard, train."""
