"""The effort pack: perceptual networks for ``--effort`` with ``--tune eyes``. Optional, and never in the wheel.

A folder ``effort`` on the search paths of model packs. It is not a model pack and has no latent space: ``effort.json``
lists its one graph. ``python -m sdrt_export effort`` builds it; docs/EFFORT.md describes it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from sdrt.errors import ModelError
from sdrt.packs.manifest import MANIFEST_LIMIT_BYTES, MAX_PACK_FILE_BYTES
from sdrt.packs.regular_file import read_regular_file
from sdrt.packs.search import search_paths

NAME = "effort"
LIST = "effort.json"
GRAPH = "networks.onnx"
FORMAT = 1
COMMAND = "python -m sdrt_export effort"


def read_effort_graph() -> tuple[Path, bytes]:
    """The path and the bytes of the first effort pack's graph.

    Raises ModelError if there is none, or it is of a newer format, damaged or altered.
    """
    for folder in search_paths():
        path = folder / NAME / LIST
        try:
            here = path.is_file()
        except OSError:
            continue
        if here:
            return path.with_name(GRAPH), _read(path)
    raise ModelError(f"--effort needs the effort pack, unless --tune psnr: {COMMAND} builds it")


def _read(path: Path) -> bytes:
    try:
        listed = json.loads(read_regular_file(path, MANIFEST_LIMIT_BYTES).decode())
        version, digest = listed["format"], listed["files"][GRAPH]["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ModelError(f"{path} is not the manifest of an effort pack: {COMMAND} builds it again") from None
    if version != FORMAT:
        raise ModelError(f"{path} has format {version!r}, this version of sdrt reads {FORMAT}: {COMMAND}")
    data = read_regular_file(path.with_name(GRAPH), MAX_PACK_FILE_BYTES)
    if hashlib.sha256(data).hexdigest() != digest:
        raise ModelError(f"{path.with_name(GRAPH)} is altered: {COMMAND} builds it again")
    return data
