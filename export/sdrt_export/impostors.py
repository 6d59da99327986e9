"""Detects files that are not what their suffix states, before a parser sees them. No torch here.

The most common ones in place of weights or graphs: a Git LFS pointer, a web page, half a download.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sdrt.errors import ModelError, first_line

_HEAD_BYTES = 1024
_NAMED = 3
"""How many things a message names."""


def refuse_impostor(path: Path) -> bytes:
    """The first bytes of a file. Raises ModelError if they show that it is something else."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from None
    start = head.lstrip()[:64].lower()
    if not head:
        raise ModelError(f"{path} is empty: the download did not finish")
    if start.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path} is a Git LFS pointer, not the file: run `git lfs pull` in its repository")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelError(f"{path} is a web page: the download was refused or requires a login")
    if head.startswith(b"GGUF"):
        raise ModelError(f"{path} is a GGUF file, whose quantized weights are not read: use the .safetensors version")
    return head


def read_json(path: Path) -> dict[str, object]:
    """An object of a JSON file. Raises ModelError, which states what the file is instead."""
    refuse_impostor(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {path}: {first_line(error)}") from None
    if not isinstance(data, dict):
        raise ModelError(f"cannot read {path}: an object was expected")
    return data


def some(names: Sequence[str]) -> str:
    """The first few of some names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
